"""Requests that TensorFlow Serving replays when it loads a version, before it lets anyone ask it.

`assets.extra/tf_serving_warmup_requests` is a TFRecord of `PredictionLog` messages, one for every
signature and batch size: the first request of a form pays for memory and kernels, and the server
pays it here. The messages are written by the rules of the wire format (a field is its number, its
length and its bytes), as TensorFlow lacks their classes: so every export has a warm-up, whether the
package tensorflow-serving-api is there or not.

Source: tensorflow_serving/apis/prediction_log.proto, predict.proto and model.proto.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

import tensorflow as tf

from export import expectations, signatures

REQUESTS = "tf_serving_warmup_requests"


def write(
    directory: Path, name: str, image_shape: Sequence[int], batch_sizes: Sequence[int]
) -> None:
    """Writes the file into `assets.extra`, the directory.

    Args:
      name: of the model, as the server knows it.
      image_shape: (H, W, C) of the network.
      batch_sizes: the numbers of pictures that requests will have.
    """
    with tf.io.TFRecordWriter(str(directory / REQUESTS)) as file:
        for signature, inputs in requests(image_shape, batch_sizes):
            file.write(prediction_log(name, signature, inputs))


def requests(
    image_shape: Sequence[int], batch_sizes: Sequence[int]
) -> Iterator[tuple[str, dict[str, object]]]:
    """Yields (signature, {input: TensorProto}) for every signature and batch size.

    Pixels are all 128, a value that the message holds once whatever the shape. Pictures are one
    JPEG of about twice the network's size, so that decoding and resizing are warm as well.
    """
    height, width, channels = image_shape
    for size in batch_sizes:
        for signature, dtype in ((signatures.FLOAT, tf.float32), (signatures.UINT8, tf.uint8)):
            yield signature, {"pixels": tf.make_tensor_proto(128, dtype, [size, *image_shape])}
        if channels in signatures.ENCODED_CHANNELS:
            larger = expectations.smooth_pictures(1, 2 * height + 1, 2 * width + 1, channels)
            jpeg = tf.io.encode_jpeg(larger[0]).numpy()
            inputs = {"image_bytes": tf.make_tensor_proto([jpeg] * size, tf.string)}
            yield signatures.ENCODED, inputs


def prediction_log(name: str, signature: str, inputs: dict[str, object]) -> bytes:
    """Returns a `PredictionLog` message that holds one `PredictRequest`."""
    model_spec = _message({1: name.encode(), 3: signature.encode()})
    request = _message({1: model_spec})
    for key, tensor in inputs.items():  # a map is a repeated field of (key, value)
        request += _message({2: _message({1: key.encode(), 2: tensor.SerializeToString()})})
    return _message({6: _message({1: request})})


def _message(fields: dict[int, bytes]) -> bytes:
    """Returns {number: bytes} as fields of the wire type 2, "length-delimited"."""
    return b"".join(bytes([8 * k + 2]) + _varint(len(v)) + v for k, v in fields.items())


def _varint(number: int) -> bytes:
    """Returns a number in groups of seven bits, the lowest first; all but the last have bit 8."""
    groups = [number & 127]
    while number := number >> 7:
        groups[-1] |= 128
        groups.append(number & 127)
    return bytes(groups)
