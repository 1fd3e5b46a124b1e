"""What a served network answers to: float pixels, uint8 pixels, encoded pictures."""

from collections.abc import Callable, Sequence

import tensorflow as tf

from sat_tf.data import crops

RESIZES = ("fit", "center_crop", "shorter_side")
ENCODED_CHANNELS = (1, 3)
FLOAT, UINT8, ENCODED = "serving_default", "uint8_pixels", "encoded_images"


def decode(
    image_bytes: tf.Tensor,
    image_shape: Sequence[int],
    resize: str = "fit",
    max_pixels: int = crops.MAX_PIXELS,
) -> tf.Tensor:
    """Turns one encoded picture into the pixels that the network takes.

    The picture is decoded to the network's channels: a grey picture is repeated to RGB, RGB is
    weighted to grey, transparency is dropped; of 16 bits a channel the upper eight are taken, of an
    animated PNG the first picture. Then its size is changed as `resize` says:

    "fit": the largest centred part of the network's aspect ratio, bilinear and antialiased;
      unchanged where the picture has the network's size. For a picture of that aspect ratio this
      is what evaluation calls "whole".
    "center_crop", "shorter_side": the evaluation of ImageNet; see `sat_tf.data.crops`.

    Args:
      image_bytes: string [], a JPEG or PNG.
      image_shape: (H, W, C) of the network, C 1 or 3.
      resize: one of `RESIZES`.
      max_pixels: that the picture may have; its header is read before memory is taken for it.

    Returns:
      float32 [H, W, C] in pixels.

    Raises:
      tf.errors.InvalidArgumentError: cut off or damaged, larger, or neither JPEG nor PNG.
    """
    height, width, channels = image_shape
    if resize != "fit":
        return crops.evaluation_image(image_bytes, height, resize, channels, max_pixels)
    image = crops.decode(image_bytes, channels, max_pixels)
    return tf.ensure_shape(crop_and_resize(image, height, width), image_shape)


def crop_and_resize(image: tf.Tensor, height: int, width: int) -> tf.Tensor:
    """Resizes the largest centred part that has the aspect ratio of height to width.

    Args:
      image: [rows, columns, channels], any number type, in pixels.

    Returns:
      float32 [height, width, channels] in pixels.
    """
    rows, columns = tf.unstack(tf.shape(image)[:2])
    crop_rows = tf.maximum(1, tf.minimum(rows, columns * height // width))
    crop_columns = tf.maximum(1, tf.minimum(columns, rows * width // height))
    top, left = (rows - crop_rows) // 2, (columns - crop_columns) // 2
    image = image[top : top + crop_rows, left : left + crop_columns]
    return crops.bilinear(image, height, width)


class Servable(tf.Module):
    """The network as plain TensorFlow: no Keras class is needed to load what is saved of it.

    `serve(pixels)` maps float32 [N, H, W, C] in pixels to float32 logits [N, K] and has gradients.
    The signatures answer with a dictionary: logits, probabilities, classes (int64, the most
    probable one) and, where class names are known, labels (their names).

    Args:
      network: maps pixels to logits and takes `training`.
      image_shape: (H, W, C).
      class_names: K names, or None.
      resize, max_pixels: what becomes of encoded pictures; see `decode`.
    """

    def __init__(
        self,
        network,
        image_shape: Sequence[int],
        class_names: Sequence[str] | None = None,
        resize: str = "fit",
        max_pixels: int = crops.MAX_PIXELS,
    ):
        super().__init__()
        self.image_shape = tuple(image_shape)
        # Tracked one by one: tracking the network would save its Keras objects as well.
        self.network_variables = [variable.value for variable in network.variables]
        names = None if class_names is None else tf.constant(list(class_names), tf.string)

        def serve(pixels):
            return tf.cast(network(pixels, training=False), tf.float32)

        def answer(pixels):
            logits = serve(pixels)
            classes = tf.argmax(logits, axis=-1, output_type=tf.int64)
            answers = {"logits": logits, "probabilities": tf.nn.softmax(logits), "classes": classes}
            return answers if names is None else answers | {"labels": tf.gather(names, classes)}

        def answer_uint8(pixels):
            return answer(tf.cast(pixels, tf.float32))

        def answer_encoded(image_bytes):
            pixel_spec = tf.TensorSpec(self.image_shape, tf.float32)
            return answer(
                tf.map_fn(
                    lambda one: decode(one, self.image_shape, resize, max_pixels),
                    image_bytes,
                    fn_output_signature=pixel_spec,
                )
            )

        float_spec = tf.TensorSpec([None, *self.image_shape], tf.float32, name="pixels")
        uint8_spec = tf.TensorSpec([None, *self.image_shape], tf.uint8, name="pixels")
        self.serve = tf.function(serve, input_signature=[float_spec])
        self.answers: dict[str, Callable] = {
            FLOAT: tf.function(answer, input_signature=[float_spec]),
            UINT8: tf.function(answer_uint8, input_signature=[uint8_spec]),
        }
        if self.image_shape[-1] in ENCODED_CHANNELS:
            # TF Serving's REST interface takes base64 under any name; `_bytes` says so.
            bytes_spec = tf.TensorSpec([None], tf.string, name="image_bytes")
            self.answers[ENCODED] = tf.function(answer_encoded, input_signature=[bytes_spec])
