"""How smooth each activation is: a table, and a picture of the curves and their derivatives."""

import argparse
import sys
from dataclasses import dataclass

import keras
import numpy as np
import tensorflow as tf

from sat_tf import activations, quiet

DEFAULT = (
    *(n for n in activations.NAMES if n != "silu"),
    "elu:alpha=1.6",
    "celu:alpha=1.6",
)
# Holds 0 and every other simple number, where piecewise functions change their formula.
_GRID = np.arange(-8000, 8001) / 1000
_BESIDE = 1e-9


@dataclass(frozen=True)
class Smoothness:
    """What the table says of an activation.

    Attributes:
      value: f(0).
      slope: f'(0).
      curvature: max|f''| over [-8, 8]; infinite where f' jumps.
      where: the x of that maximum, or of the jump.
      order: 0 if f' jumps, 1 if f' is continuous and f'' jumps, 2 if neither does.
    """

    value: float
    slope: float
    curvature: float
    where: float
    order: int


def smoothness(spec: str) -> Smoothness:
    """Measures an activation in float64 at its initial parameters.

    Jumps are looked for at the multiples of 0.001, by values 1e-9 to the left and to the right.

    Raises:
      ValueError: as `activations.make`.
    """
    layer = _float64(spec)
    value, slope, _ = _derivatives(layer, np.zeros(1))
    _, *left = _derivatives(layer, _GRID - _BESIDE)
    _, *right = _derivatives(layer, _GRID + _BESIDE)
    jumps = [np.abs(r - b) for b, r in zip(left, right, strict=True)]
    # A continuous f' moves by 2e-9 f'' between the two sides, far less than this.
    if jumps[0].max() > 1e-4:
        return Smoothness(value[0], slope[0], np.inf, _GRID[jumps[0].argmax()], 0)
    bend = np.maximum(np.abs(left[1]), np.abs(right[1]))
    order = 1 if jumps[1].max() > 1e-3 * bend.max() else 2
    return Smoothness(value[0], slope[0], bend.max(), _GRID[bend.argmax()], order)


def _float64(spec: str) -> keras.layers.Layer:
    layer = activations.make(spec)
    layer.dtype_policy = keras.DTypePolicy("float64")
    return layer


def _derivatives(layer: keras.layers.Layer, x: np.ndarray) -> list[np.ndarray]:
    """Computes f, f' and f'' at every x."""
    x = tf.constant(x, tf.float64)
    with tf.GradientTape() as outer:
        outer.watch(x)
        with tf.GradientTape() as inner:
            inner.watch(x)
            y = layer(x)
        first = inner.gradient(y, x)
    second = outer.gradient(first, x, unconnected_gradients=tf.UnconnectedGradients.ZERO)
    return [t.numpy() for t in (y, first, second)]


def table(specs: tuple[str, ...]) -> str:
    """Formats one line of `Smoothness` for each spec."""
    lines = [f"{'activation':24}{'f(0)':>9}{'f′(0)':>8}{'max|f″|':>10}{'at x =':>9}  smoothness"]
    said = ("C0: f′ jumps", "C1: f″ jumps", "C2 or smoother")
    for spec in specs:
        s = smoothness(spec)
        lines.append(
            f"{spec:24}{s.value:9.4f}{s.slope:8.3f}{s.curvature:10.3f}{s.where:9.3f}  "
            f"{said[s.order]}"
        )
    return "\n".join(lines)


def draw(specs: tuple[str, ...], path: str) -> None:
    """Writes a picture with one panel for each spec: f, f' and f'' over ReLU."""
    # Imported here: the table alone needs no plotting library.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    x = np.linspace(-4, 4, 2001)
    columns = 4
    rows = -(-len(specs) // columns)
    figure = Figure(figsize=(3 * columns, 2.4 * rows), layout="constrained")
    FigureCanvasAgg(figure)
    for axes, spec in zip(figure.subplots(rows, columns, squeeze=False).flat, specs, strict=False):
        y, first, second = _derivatives(_float64(spec), x)
        axes.plot(x, np.maximum(x, 0), color="0.8", linewidth=4, label="relu")
        axes.plot(x, y, label="f")
        axes.plot(x, first, label="f′")
        axes.plot(x, second, label="f″", linewidth=0.8)
        axes.set(title=spec, ylim=(-1.2, 2.2), xlim=(-4, 4))
        axes.title.set_fontsize(9)
        axes.grid(alpha=0.3)
    for axes in list(figure.axes)[len(specs) :]:
        axes.remove()
    figure.axes[0].legend(fontsize=7, loc="upper left")
    figure.savefig(path, dpi=120)


_EXAMPLES = """examples:
  python -m sat_tf.activations
  python -m sat_tf.activations relu swish celu:alpha=1.6
  python -m sat_tf.activations swish package.module:mine --picture=curves.png
"""


def main(arguments: list[str] | None = None) -> None:
    """Prints the table of the given specs, and draws them where `--picture` says."""
    parser = argparse.ArgumentParser(
        prog="python -m sat_tf.activations",
        description="Prints value, slope and curvature of activations.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("specs", nargs="*", default=DEFAULT, help="such as celu:alpha=1.6")
    parser.add_argument("--picture", help="a file to draw the curves into: .png, .svg or .pdf")
    given = parser.parse_args(arguments)
    try:
        print(table(tuple(given.specs)))
        if given.picture:
            draw(tuple(given.specs), given.picture)
            print(given.picture)
    except (ValueError, OSError) as error:
        parser.exit(2, f"{quiet.program(sys.orig_argv)}: {error}\n")
