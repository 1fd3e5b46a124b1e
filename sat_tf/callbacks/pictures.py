"""A grid that shows what the attack does: clean image, perturbation, adversarial image."""

from collections.abc import Callable, Sequence

import numpy as np
import tensorflow as tf
from PIL import Image, ImageDraw, ImageFont

from sat_tf.attacks import losses, soft_labels

GREY = 128  # where nothing is perturbed
_MIN_SIDE = 128  # smaller images are enlarged by a whole factor, without interpolation
_MIN_CELL = 152  # wide enough for a caption
_GAP, _LINE, _HEADER = 8, 19, 30
_CAPTION_LINES = 2
_INK, _RIGHT, _WRONG, _PAPER = "#202124", "#137333", "#c5221f", "#eceff1"


class PictureGrid:
    """Attacks a few images, always the same ones, and draws the result.

    A row an image; columns clean, perturbation (amplified around grey by one factor for the whole
    grid, named at the top) and adversarial, with the true class and the predicted ones. The seed
    is fixed, so pictures of different epochs differ only by the network.

    Args:
      images: float32 [N, H, W, 1 or 3] in pixels, N about 4 to 8, of the validation data.
      labels: int [N], or float [N, num_classes]: the attack gets them as they are, and the true
        class is the most probable one.
      attack: `attack(network, images, labels, seed) -> images`.
      class_names: names of the classes; default their numbers.
      seed: of the attack's noise.

    Raises:
      ValueError: images that are not a batch with 1 or 3 channels, or labels that do not match.
    """

    def __init__(
        self,
        images,
        labels,
        attack: Callable[..., tf.Tensor],
        *,
        class_names: Sequence[str] | None = None,
        seed: int = 0,
    ):
        self.images = np.asarray(images, np.float32)
        labels = np.asarray(labels)
        if self.images.ndim != 4 or self.images.shape[-1] not in (1, 3):
            raise ValueError(
                f"pictures are drawn of images [N, H, W, 1 or 3]; got {list(self.images.shape)}"
            )
        if labels.shape[:1] != self.images.shape[:1] or labels.ndim > 2 or 1 in labels.shape[1:]:
            raise ValueError(
                f"pictures need one label an image: got labels {list(labels.shape)} for "
                f"{len(self.images)} images"
            )
        self.labels = labels.astype(np.float32 if soft_labels.are_soft(labels) else np.int32)
        self.attack = attack
        self.class_names = class_names
        self.seed = seed
        self._network = self._attacked = None

    def __call__(self, network) -> np.ndarray:
        """Returns the grid, uint8 [height, width, 3]."""
        if network is not self._network:  # traced once, not run op by op every epoch
            self._network, self._attacked = network, self._made_for(network)
        seed = tf.constant([self.seed, 0], tf.int32)
        adversarial, *found = self._attacked(
            tf.constant(self.images), tf.constant(self.labels), seed
        )
        found = tuple(probabilities.numpy() for probabilities in found)
        classes = soft_labels.classes(self.labels).numpy()
        return draw(self.images, adversarial.numpy(), classes, found, self.class_names)

    def _made_for(self, network):
        def attacked(images, labels, seed):
            adversarial = tf.convert_to_tensor(self.attack(network, images, labels, seed))
            logits = (network(x, training=False) for x in (images, adversarial))
            return adversarial, *map(losses.probabilities, logits)

        return tf.function(attacked, autograph=False)


def cell(row: int, column: int, height: int, width: int) -> tuple[int, int, int, int]:
    """Returns left, top, right and bottom of a picture inside the grid.

    Args:
      row: of the image.
      column: 0 clean, 1 perturbation, 2 adversarial.
      height: of the images before they are enlarged.
      width: likewise.
    """
    scale = _scale(height, width)
    cell_width = max(width * scale, _MIN_CELL)
    cell_height = height * scale + _CAPTION_LINES * _LINE
    left = _GAP + column * (cell_width + _GAP)
    top = _HEADER + row * (cell_height + _GAP)
    return left, top, left + width * scale, top + height * scale


def draw(
    clean: np.ndarray,
    adversarial: np.ndarray,
    labels: np.ndarray,
    probabilities: tuple[np.ndarray, np.ndarray],
    class_names: Sequence[str] | None = None,
) -> np.ndarray:
    """Draws the grid.

    The perturbation is shown as `128 + factor * (adversarial - clean)`, with the largest factor
    that clips nothing, rounded down.

    Args:
      clean: float32 [N, H, W, C] in pixels, C 1 or 3.
      adversarial: same shape.
      labels: int [N].
      probabilities: of the clean and of the adversarial images, [N, num_classes] each; a row that
        is not finite is wrong, whatever its largest entry.
      class_names: names of the classes; default their numbers.

    Returns:
      uint8 [height, width, 3].
    """
    delta = adversarial - clean
    factor = _amplification(np.abs(delta).max(initial=0.0))
    columns = (clean, GREY + factor * delta, adversarial)
    num_rows, height, width, _ = clean.shape
    _, _, right, bottom = cell(num_rows - 1, 2, height, width)
    right = max(right, cell(0, 2, height, width)[0] + _MIN_CELL)
    size = (right + _GAP, bottom + _CAPTION_LINES * _LINE + _GAP)
    page = Image.new("RGB", size, _PAPER)
    pen = ImageDraw.Draw(page)
    font = ImageFont.load_default(size=15)
    cell_width = max(width * _scale(height, width), _MIN_CELL)

    titles = ("clean", f"perturbation x {factor:g}", "adversarial")
    for column, (title, pictures) in enumerate(zip(titles, columns, strict=True)):
        left = cell(0, column, height, width)[0]
        pen.text((left, 7), title, _INK, font)
        for row, picture in enumerate(pictures):
            left, top, _, bottom = cell(row, column, height, width)
            page.paste(_enlarge(picture), (left, top))
            lines = _caption(column, labels[row], delta[row], [p[row] for p in probabilities])
            for line, (text, name, colour) in enumerate(lines):
                name = "" if name is None else _name(name, class_names)
                text = _fit(text, name, font, cell_width)
                pen.text((left, bottom + 1 + line * _LINE), text, colour, font)
    return np.asarray(page)


def _caption(column, label, delta, probabilities):
    """Returns lines of (format with one place for a class name, class or None, colour)."""
    if column == 1:
        largest, length = np.abs(delta).max(), np.sqrt(np.square(delta, dtype=np.float64).sum())
        return [
            (f"largest change {largest:.3g}", None, _INK),
            (f"L2 norm {length:,.{0 if length >= 100 else 1}f}", None, _INK),
        ]
    predicted = probabilities[column // 2]
    if np.isfinite(predicted).all():
        best = int(predicted.argmax())
        colour = _RIGHT if best == label else _WRONG
        guess = ("says {}, " + f"{100 * predicted[best]:.0f} %", best, colour)
    else:
        guess = ("says nothing finite", None, _WRONG)
    return [("true {}", int(label), _INK), guess] if column == 0 else [guess]


def _name(index, class_names):
    return str(index) if class_names is None else str(class_names[index])


def _fit(text, name, font, width):
    """Shortens the name until the text is no wider than `width`."""
    shown = name
    while font.getlength(text.format(shown)) > width and len(name) > 1:
        name = name[:-1]
        shown = name.rstrip() + "..."
    return text.format(shown)


def _amplification(largest):
    if largest == 0:
        return 1.0
    factor = (255 - GREY) / float(largest)
    return float(np.floor(factor)) if factor >= 1 else factor


def _enlarge(picture):
    pixels = np.rint(np.clip(picture, 0, 255)).astype(np.uint8)
    pixels = np.broadcast_to(pixels, (*pixels.shape[:2], 3))
    scale = _scale(*pixels.shape[:2])
    return Image.fromarray(pixels.repeat(scale, axis=0).repeat(scale, axis=1))


def _scale(height, width):
    return max(1, -(-_MIN_SIDE // min(height, width)))
