"""Networks of `keras.applications`: pixels in, logits out, their preprocessing inside."""

import contextlib
import inspect
import sys
import warnings
from collections.abc import Callable, Iterator

import keras
import numpy as np
from keras.src.utils import file_utils  # Keras has no public switch of its downloads.

from sat_tf import specs

PREFIX = "keras.applications:"  # of a source
NAMES = tuple(name for name in dir(keras.applications) if name[0].isupper())

# What `build` says itself.
_TAKEN = frozenset(
    "include_top input_tensor input_shape pooling classes classifier_activation name "
    "include_preprocessing".split()
)


def build(
    spec: str,
    *,
    weights: str | None,
    download: bool = False,
    num_classes: int | None = None,
    image_size: int | None = None,
    num_channels: int = 3,
) -> keras.Model:
    """Builds a network of `keras.applications` that takes pixels in [0, 255] and gives logits.

    What `preprocess_input` of its module does to pixels is made of layers at its beginning. Grey
    images are repeated to the three channels that these networks take.

    Args:
      spec: one of `NAMES`, with options of its function after a colon: "MobileNetV2:alpha=0.5", or
        "ConvNeXtTiny:weights=FILE" for weights in a file.
      weights: unless the spec says them, "imagenet", or None for random ones.
      download: whether Keras may fetch weights that are not in its cache.
      num_classes: of a new dense layer, "logits", on the pooled features, as Keras recommends for
        other classes; None takes the whole classifier, with its 1000 classes and its own size.
      image_size: side of the images in pixels; for a number of classes only.
      num_channels: 3, or 1; for a number of classes only.

    Raises:
      ValueError: an unknown name or option, weights that are not there, a size too small.
    """
    name, options = specs.parse(spec)
    make = getattr(keras.applications, specs.one_of("network of keras.applications", name, NAMES))
    valid = [option for option in inspect.signature(make).parameters if option not in _TAKEN]
    for option in options:
        specs.one_of(f"option of {name}", option, valid)
    options = {"weights": weights, **options}
    with _named_errors(name), contextlib.nullcontext() if download else _no_download(name):
        if num_classes is None:
            whole = make(classifier_activation=None, **options)
            pixels = keras.Input(whole.input_shape[1:], name="pixels")
            return keras.Model(pixels, whole(_prepared(make, pixels)), name=whole.name)
        pixels = keras.Input((image_size, image_size, num_channels), name="pixels")
        colours = pixels
        if num_channels == 1:
            colours = keras.layers.Concatenate(name="repeat", dtype="float32")([pixels] * 3)
        body = make(
            include_top=False,
            input_tensor=_prepared(make, colours),
            input_shape=colours.shape[1:],
            pooling="avg",
            **options,
        )
    logits = keras.layers.Dense(num_classes, dtype="float32", name="logits")(body.output)
    return keras.Model(pixels, logits, name=body.name)


def _prepared(make: Callable, images: keras.KerasTensor) -> keras.KerasTensor:
    """Applies `preprocess_input` of a network's module, as layers.

    It is `a x + b` for each channel, in their order or in the reverse one, and is asked for a, b
    and the order: what it does to black and to a pixel that is full in the first channel alone.
    """
    prepare = sys.modules[make.__module__].preprocess_input
    probes = np.zeros((4, 1, 1, 3), np.float32)
    probes[1:, 0, 0] = 255 * np.eye(3)
    black, *full = np.float64(prepare(probes.copy()))[:, 0, 0]
    slopes = (np.stack(full) - black) / 255  # [channel in, channel out]
    if slopes[0, 2]:
        images = keras.ops.flip(images, axis=-1)
        slopes = slopes[::-1]
    scale = np.diag(slopes)
    if (scale == 1).all() and not black.any():
        return images
    return keras.layers.Rescaling(
        scale.tolist(), black.tolist(), dtype="float32", name="preprocess"
    )(images)


@contextlib.contextmanager
def _named_errors(name: str) -> Iterator[None]:
    """Makes one line of an error; what Keras warns of is said where there is none."""
    try:
        with warnings.catch_warnings(record=True) as said:
            yield
    except Exception as error:  # Keras raises a bare Exception where it cannot fetch
        brief = " ".join(str(error).split())[:600]
        raise ValueError(f"keras.applications.{name} cannot be made: {brief}") from error
    for one in said:
        warnings.warn_explicit(one.message, one.category, one.filename, one.lineno)


@contextlib.contextmanager
def _no_download(name: str) -> Iterator[None]:
    """Refuses what Keras would fetch, and keeps it from saying that it does."""

    def refuse(origin, target, *_):
        raise ValueError(
            f"its weights are not at {target}, and nothing is downloaded unless python -m "
            "sat_tf.train is given --download, with --initial_network=keras.applications:… for "
            f"what other programs take; or put {origin} there, or name a file: {name}:weights=FILE"
        )

    fetch, talks = file_utils.urlretrieve, keras.config.is_interactive_logging_enabled()
    file_utils.urlretrieve = refuse
    keras.config.disable_interactive_logging()
    try:
        yield
    finally:
        file_utils.urlretrieve = fetch
        if talks:
            keras.config.enable_interactive_logging()
