"""Matches the classes of a data set with those of a network."""

import pathlib
from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from sat_tf.data import Info


def labelled(
    dataset: tf.data.Dataset,
    info: Info,
    num_classes: int | None,
    class_names: Sequence[str] | None,
    path: str | None,
) -> tf.data.Dataset:
    """Makes labels the numbers of the network's classes.

    Args:
      dataset: batches `(images, labels)` with the data's own numbers.
      info: the data's classes.
      num_classes: of the network; None where it is not known.
      class_names: of the network, in the order of its logits; None where they are not known.
      path: a text file with a line for each class of the data: the network's class that it is, by
        name or by number from 0; what is both is a name. None: they are the same.

    Raises:
      ValueError: the classes differ and there is no file; a file that does not fit.
    """
    if path is None:
        info.check_classes(num_classes, class_names)
        return dataset
    numbers = tf.constant(_numbers(path, info, num_classes, class_names), tf.int32)
    return dataset.map(lambda images, labels: (images, tf.gather(numbers, labels)))


def _numbers(path, info, num_classes, class_names):
    try:
        lines = pathlib.Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"the list of classes {path} cannot be read: {error}") from error
    if len(lines) != info.num_classes:
        raise ValueError(
            f"{path} has {len(lines)} lines and {info.name} {info.num_classes} classes; write one "
            f"line a class, in this order: {', '.join(info.class_names)}"
        )
    return np.array([_number(line.strip(), path, num_classes, class_names) for line in lines])


def _number(line, path, num_classes, class_names):
    names = list(class_names or ())
    if line in names:
        return names.index(line)
    if line.isdecimal() and (num_classes is None or int(line) < num_classes):
        return int(line)
    known = f"one of its names, such as {names[0]!r}" if names else "it has no known names"
    raise ValueError(
        f"{path}: {line!r} is no class of the network; write a number from 0 to "
        f"{'…' if num_classes is None else num_classes - 1}, or {known}"
    )
