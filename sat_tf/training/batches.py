"""Batches as people have them: what a trainer takes, casts, and refuses in words."""

import warnings
from collections.abc import Callable, Iterator

import keras
import tensorflow as tf

from sat_tf.attacks import geometry, soft_labels

# A row of float16 over a thousand classes sums to 1 within this.
_TOLERANCE = 1e-3


def unpacked(data, num_classes: int) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns a batch's images as float32 [N, ...] and its labels as int32 [N] or float32 [N, C].

    Labels of two axes are soft: a probability for each class of the network, one-hot rows of
    integers among them.

    Raises:
      ValueError: weights of images or classes; no labels; labels that are neither integers [N] nor
        numbers [N, C].
    """
    parts = data if isinstance(data, tuple | list) else (data,)
    if len(parts) == 3:
        raise ValueError(
            "a batch has images, labels and weights (sample_weight or class_weight), but attack "
            "and objectives count every image alike; leave the weights out, and let the stream "
            "hold images of rare classes more often"
        )
    if len(parts) != 2:
        raise ValueError(f"a batch has {len(parts)} parts; expected two, images and labels")
    images, labels = map(tf.convert_to_tensor, parts)
    if not (images.dtype.is_floating or images.dtype.is_integer):
        raise ValueError(f"images are {images.dtype.name}; expected pixels, numbers in [0, 255]")
    return tf.cast(images, tf.float32), _labels(labels, num_classes)


def _labels(labels, num_classes):
    rank = labels.shape.rank
    if labels.dtype.is_integer and rank in (1, None):
        return tf.ensure_shape(tf.cast(labels, tf.int32), [None])
    numbers = labels.dtype.is_integer or labels.dtype.is_floating
    if numbers and (rank is None or labels.shape.is_compatible_with([None, num_classes])):
        return tf.ensure_shape(tf.cast(labels, tf.float32), [None, num_classes])
    raise ValueError(
        f"labels are {labels.dtype.name} of shape {labels.shape}; expected integers [N] from 0 on "
        f"(labels[:, 0] of [N, 1], labels.astype(int) of whole numbers) or rows of probabilities "
        f"[N, {num_classes}], one for each class of the network"
    )


def count(images: tf.Tensor) -> int | tf.Tensor:
    """Returns the number of images, a float32 tensor where it is not known before the run, or 0."""
    return images.shape[0] or tf.cast(tf.shape(images)[0], tf.float32)  # to be divided by


def global_count(images: tf.Tensor) -> int | tf.Tensor:
    """Returns the number of images of all replicas."""
    context, own = tf.distribute.get_replica_context(), count(images)
    if context.num_replicas_in_sync == 1 or not (tf.is_tensor(own) or tf.executing_eagerly()):
        return own * context.num_replicas_in_sync
    return context.all_reduce(tf.distribute.ReduceOp.SUM, tf.cast(own, tf.float32))


def pieces(
    images: tf.Tensor, labels: tf.Tensor, num_pieces: int
) -> Iterator[tuple[tf.Tensor, tf.Tensor]]:
    """Cuts a batch into pieces whose sizes differ by one image at most."""
    size = images.shape[0]
    if size is not None and size % num_pieces == 0:
        sizes = num_pieces
    else:
        whole = tf.shape(images)[0]
        sizes = whole // num_pieces + tf.cast(tf.range(num_pieces) < whole % num_pieces, tf.int32)
    cut = (tf.split(part, sizes, num=num_pieces) for part in (images, labels))
    return zip(*cut, strict=True)


def are_classes(labels: tf.Tensor, num_classes: int) -> tf.Tensor:
    """Tells which labels are numbers of classes or rows of probabilities, bool [N]."""
    if not soft_labels.are_soft(labels):
        return (labels >= 0) & (labels < num_classes)
    one = tf.abs(tf.reduce_sum(labels, 1) - 1.0) <= _TOLERANCE
    return one & tf.reduce_all(labels >= 0, 1)


def masked(labels: tf.Tensor, known: tf.Tensor) -> tf.Tensor:
    """Returns labels with zeros where they are not `known` [N]."""
    known = known[:, None] if soft_labels.are_soft(labels) else known
    return tf.where(known, labels, tf.zeros_like(labels))


class Watch:
    """Sees in every batch what its types do not tell, and says it after the fact.

    Counting costs next to nothing and, unlike TensorFlow's assertions, it works under XLA.
    """

    def __init__(self):
        names = ("batches", "no class", "no row", "empty", "outside", "dark")
        self._sums = {name: keras.metrics.Sum(name) for name in names}

    def look(self, images: tf.Tensor, labels: tf.Tensor, num_classes: int, num_pieces: int) -> None:
        """Counts what is wrong with a replica's batch; 0 pieces allow it to have no image."""
        allowed = (images >= geometry.PIXEL_MIN) & (images <= geometry.PIXEL_MAX)
        kind = "no row" if soft_labels.are_soft(labels) else "no class"
        found = {
            "batches": True,
            kind: ~are_classes(labels, num_classes),
            "empty": tf.shape(images)[0] < num_pieces,
            "outside": ~tf.reduce_all(allowed),
            "dark": tf.reduce_all(images <= 1),
        }
        for name, value in found.items():
            self._sums[name].update_state(tf.cast(value, tf.float32))

    def report(self, num_classes: int) -> None:
        """Warns of pixels, and forgets what it saw.

        Raises:
          ValueError: labels that are no class; a batch with fewer images than its pieces.
        """
        found = {name: int(metric.result()) for name, metric in self._sums.items()}
        for metric in self._sums.values():
            metric.reset_state()
        if found["no class"]:
            raise ValueError(
                f"{found['no class']} labels are not among 0 to {num_classes - 1}, the classes of "
                "the network: count classes from 0 (labels - 1), leave out images without a "
                "label, or build the network with more classes"
            )
        if found["no row"]:
            raise ValueError(
                f"{found['no row']} soft labels are no probabilities: a row [{num_classes}] is at "
                "least 0 everywhere and sums to 1; give labels / labels.sum(-1, keepdims=True) of "
                "counts, the softmax of scores, or integers [N]"
            )
        if found["empty"]:
            raise ValueError(
                "a batch had fewer images than replicas times accumulated pieces, and batch norm "
                "has no statistics of none: drop the last batch (drop_remainder=True)"
            )
        if found["outside"]:
            warnings.warn("pixels leave [0, 255], to which attacks clip them", stacklevel=2)
        elif 0 < found["batches"] == found["dark"]:
            warnings.warn(
                "no pixel is above 1: these look like images in [0, 1], for which epsilon in "
                "pixels is enormous; give pixels in [0, 255]",
                stacklevel=2,
            )

    def after_first(self, step: Callable, num_classes: int) -> Callable:
        """Makes a training step that reports once, after its first call."""
        reported = []

        def watched(iterator):
            logs = step(iterator)
            if not reported:
                reported.append(True)
                self.report(num_classes)
            return logs

        return watched
