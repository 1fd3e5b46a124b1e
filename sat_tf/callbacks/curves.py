"""The activations of a network, drawn: the function and its derivative."""

import json
from collections.abc import Iterable, Sequence

import keras
import numpy as np
import tensorflow as tf
from PIL import Image, ImageDraw, ImageFont

from sat_tf import injection

_LIMIT, _NUM_POINTS = 4.0, 321
_PANEL, _MARGIN, _HEADER = (400, 230), 40, 50
_SHARP = 3  # drawn this much larger, then reduced: smooth lines
_INK, _GRID, _PAPER = (32, 33, 36), (218, 220, 224), (255, 255, 255)
_FIRST, _LAST = np.array([26, 115, 232]), np.array([217, 48, 37])


def activation_layers(network: keras.Model) -> list[keras.layers.Layer]:
    """Finds the activation layers of a network, those of nested models too.

    These are the layers whose class lives in a module named `activations` (Keras' and this
    project's own), except those that `injection` takes for gates and heads.
    """
    found = {}
    for layer in network.layers:
        if isinstance(layer, keras.Model):
            found |= {id(inner): inner for inner in activation_layers(layer)}
        elif "activations" in type(layer).__module__.split(".") and not injection.is_gate(layer):
            found[id(layer)] = layer
    return list(found.values())


def evaluate(layer: keras.layers.Layer, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Computes the activation and its derivative; with weights a channel, their mean.

    Args:
      layer: acts on every element by itself.
      points: float32 [P].

    Returns:
      Two float32 arrays [P].
    """
    channels = max((w.shape[-1] for w in layer.weights if len(w.shape)), default=1)
    x = tf.tile(tf.constant(points, tf.float32)[:, None, None, None], [1, 1, 1, channels])
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch(x)
        y = tf.cast(layer(x, training=False), tf.float32)
        total = tf.reduce_sum(y)
    slope = tape.gradient(total, x)
    return tuple(tf.reduce_mean(v, axis=(1, 2, 3)).numpy() for v in (y, slope))


def draw(layers: Sequence[keras.layers.Layer]) -> np.ndarray:
    """Draws f and f' over [-4, 4], a line for every layer that differs from the others.

    Layers without weights and with equal settings share a line; trainable ones have one each, from
    blue at the first to red at the last.

    Returns:
      uint8 [height, width, 3].
    """
    kinds = _distinct(layers)
    points = np.linspace(-_LIMIT, _LIMIT, _NUM_POINTS, dtype=np.float32)
    lines = [evaluate(layer, points) for layer in kinds]
    width, height = _PANEL
    size = (width, _HEADER + 2 * height)
    page = Image.new("RGB", (size[0] * _SHARP, size[1] * _SHARP), _PAPER)
    for row, title in enumerate(("f(x)", "f'(x)")):
        curves = [line[row] for line in lines]
        _panel(ImageDraw.Draw(page), _HEADER + row * height, title, points, curves)
    _header(ImageDraw.Draw(page), kinds, len(layers))
    reduced = page.resize(size, Image.Resampling.LANCZOS)
    return np.asarray(reduced)


def _distinct(layers):
    kinds = {}
    for layer in layers:
        settings = {k: v for k, v in layer.get_config().items() if k != "name"}
        key = (type(layer), json.dumps(settings, sort_keys=True, default=str))
        kinds.setdefault((*key, id(layer)) if layer.weights else key, layer)
    return list(kinds.values())


def _colour(index, count):
    share = index / max(count - 1, 1)
    return tuple(int(v) for v in np.rint(_FIRST + share * (_LAST - _FIRST)))


def _header(pen, kinds, num_layers):
    font = ImageFont.load_default(size=14 * _SHARP)
    names = list(dict.fromkeys(_title(layer) for layer in kinds))
    layers = "one layer" if num_layers == 1 else f"{num_layers} layers"
    pen.text((_MARGIN * _SHARP, 6 * _SHARP), f"{', '.join(names)} in {layers}", _INK, font)
    if len(kinds) < 2:
        return
    for index, which in ((0, "first"), (len(kinds) - 1, "last")):
        place = (_MARGIN, "la") if index == 0 else (_PANEL[0] - 12, "ra")
        text, colour = f"{which}: {kinds[index].name}", _colour(index, len(kinds))
        pen.text((place[0] * _SHARP, 26 * _SHARP), text, colour, font, anchor=place[1])


def _title(layer):
    spec = getattr(layer, "spec", None)  # what this project's layers were made from
    function = getattr(layer, "activation", None)
    return spec or getattr(function, "__name__", type(layer).__name__)


def _panel(pen, top, title, points, curves):
    width, height = _PANEL
    low = min(float(c.min()) for c in curves)
    high = max(float(c.max()) for c in curves)
    pad = 0.06 * max(high - low, 1e-3)
    low, high = low - pad, high + pad
    font = ImageFont.load_default(size=13 * _SHARP)

    def place(x, y):
        across = _MARGIN + (x + _LIMIT) / (2 * _LIMIT) * (width - _MARGIN - 12)
        down = top + 6 + (high - y) / (high - low) * (height - 30)
        return across * _SHARP, down * _SHARP

    for x in round_ticks(-_LIMIT, _LIMIT):
        pen.line([place(x, low), place(x, high)], _GRID, _SHARP)
        pen.text(place(x, low), f"{x:g}", _INK, font, anchor="ma")
    for y in round_ticks(low, high):
        pen.line([place(-_LIMIT, y), place(_LIMIT, y)], _GRID, _SHARP)
        pen.text(place(-_LIMIT - 0.08, y), f"{y:g}", _INK, font, anchor="rm")
    pen.text(place(-_LIMIT + 0.15, high - 0.02 * (high - low)), title, _INK, font)
    for index, curve in enumerate(curves):
        path = [place(float(x), float(y)) for x, y in zip(points, curve, strict=True)]
        pen.line(path, _colour(index, len(curves)), 2 * _SHARP, joint="curve")


def round_ticks(low: float, high: float) -> Iterable[float]:
    """Returns about five round numbers between two bounds."""
    raw = (high - low) / 5
    power = 10.0 ** np.floor(np.log10(raw))
    step = power * min((m for m in (1, 2, 5, 10) if m * power >= raw), default=10)
    return [
        round(float(i * step), 10) for i in range(int(np.ceil(low / step)), int(high // step) + 1)
    ]
