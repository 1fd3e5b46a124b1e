"""Where an adversarial image may lie: the ball around its clean image, and the pixel range."""

import numpy as np

from sat_tf.attacks import geometry


class OutsideBall(ValueError):
    """An attack returned an image outside the ball or the pixel range: a defect, no result."""


def assert_inside(
    image: np.ndarray, adversarial: np.ndarray, epsilon: float, norm: str, who: str
) -> float:
    """Computes the norm of a perturbation in float64 and holds it against epsilon.

    Rounding is allowed for as `tolerance` says; the pixel range is held exactly.

    Args:
      image, adversarial: [H, W, C] in pixels.
      epsilon: radius in pixels.
      norm: "linf", "l2" or "l1".
      who: what the message begins with, such as "apgd-ce on image 3".

    Returns:
      The norm in pixels.

    Raises:
      OutsideBall: outside the ball or the range, or not a number.
    """
    low, high = float(adversarial.min()), float(adversarial.max())
    distance = perturbation_norm(image, adversarial, norm)
    if not (geometry.PIXEL_MIN <= low and high <= geometry.PIXEL_MAX):
        raise OutsideBall(
            f"{who}: pixels run from {low:.9g} to {high:.9g}; they must lie in [0, 255]"
        )
    if not distance <= epsilon + tolerance(epsilon, norm, image.size):
        raise OutsideBall(
            f"{who}: the {norm} distance {distance:.6g} is beyond epsilon, which is {epsilon:g} "
            "pixels"
        )
    return distance


def tolerance(epsilon: float, norm: str, dimension: int) -> float:
    """Returns how far float32 rounding may carry an image out of the ball, in pixels.

    A pixel below 256 is rounded by at most 2^-17; twice that for each coordinate, summed as the
    norm sums, and a hundred-thousandth of epsilon for the norm's own rounding.
    """
    terms = {"linf": 1.0, "l2": dimension**0.5, "l1": float(dimension)}[norm]
    return 2.0**-16 * terms + (0.0 if norm == "linf" else 1e-5 * epsilon)


def perturbation_norm(image: np.ndarray, adversarial: np.ndarray, norm: str) -> float:
    """Computes the norm of `adversarial - image` in float64, in pixels."""
    flat = np.abs(adversarial.astype(np.float64) - image).ravel()
    if norm == "linf":
        return float(flat.max())
    return float(np.sqrt(np.sum(flat**2)) if norm == "l2" else np.sum(flat))


def whole_pixels(
    image: np.ndarray, adversarial: np.ndarray, epsilon: float, norm: str
) -> np.ndarray:
    """Rounds an adversarial image to uint8 without leaving the ball around the clean image.

    L-inf: to the nearest whole number in `[image - epsilon, image + epsilon]`, pixel by pixel.
    L2 and L1: towards the clean pixel, `image + trunc(adversarial - image)`, as no `|delta|` may
    grow; this weakens the attack by up to one pixel everywhere, and it needs whole clean pixels.

    Args:
      image, adversarial: [..., H, W, C] in pixels.
      epsilon: radius in pixels.
      norm: "linf", "l2" or "l1".

    Raises:
      ValueError: clean pixels between whole numbers, where rounding would leave the ball.
    """
    clean = image.astype(np.float64)
    if norm == "linf":
        low = np.ceil(np.maximum(clean - epsilon, geometry.PIXEL_MIN))
        high = np.floor(np.minimum(clean + epsilon, geometry.PIXEL_MAX))
        possible = bool((low <= high).all())
        rounded = np.clip(np.rint(adversarial), low, high)
    else:
        possible = bool((clean == np.rint(clean)).all())
        rounded = clean + np.trunc(adversarial - clean)
    if not possible:
        raise ValueError(
            f"the clean images are not whole pixels (resized, say), so no image in uint8 is sure "
            f"to stay inside the {norm} ball of {epsilon:g} pixels; take --image_type=float32"
        )
    return rounded.astype(np.uint8)
