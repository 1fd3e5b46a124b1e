"""Checks of a network and of what attacks found: what can make it look more robust than it is."""

import dataclasses
import itertools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from sat_tf.attacks import losses, scaling
from sat_tf.evaluation.outcome import Outcome
from sat_tf.evaluation.stream import Batch

# Thresholds of AutoAttack (auto-attack a392200), but for the gap.
_REPEATS, _SAME_LOGITS = 5, 1e-4
_SUM_TO_ONE = 1e-5
_SQUARE_GAIN = 0.002
# Honest networks lose 3-6 points from PGD to AutoAttack; more than this marks masked gradients.
_PGD_GAP = 0.10


@dataclasses.dataclass(frozen=True)
class Check:
    """One check.

    Attributes:
      name: what is looked at.
      passed: whether all is well; None where the check did not run.
      found: what was seen, in words and numbers.
      consequence: what follows for the figures where it did not pass, what would run it where it
        did not run, else "".
    """

    name: str
    passed: bool | None
    found: str
    consequence: str = ""


def before(
    network: Callable[..., Any],
    forward: Callable[[Any], tf.Tensor],
    batch: Batch,
    finite: np.ndarray,
) -> list[Check]:
    """Looks at the network before any attack: at the first batch, and at whose logits are finite.

    Args:
      network: maps pixels to logits and takes `training`.
      forward: the same, as a graph in inference mode.
      batch: the first images.
      finite: bool [N] over all images, whether every logit of the clean image is finite.
    """
    images, labels = batch.images, tf.constant(batch.labels)
    logits = np.stack([forward(images).numpy()[: batch.count] for _ in range(_REPEATS)])
    zeroed = np.where(np.isfinite(logits), logits, 0.0)
    return [
        _finite(finite),
        _deterministic(logits, zeroed, batch.labels[: batch.count]),
        _not_probabilities(zeroed[0]),
        _pixels(images[: batch.count]),
        _gradients(network, tf.constant(images), labels, batch.count),
    ]


def after(outcomes: Sequence[Outcome], clean: np.ndarray, left_out: dict[str, str]) -> list[Check]:
    """Looks at what the attacks found.

    Args:
      outcomes: in the order in which the attacks ran.
      clean: bool [N], clean images classified right.
      left_out: attacks that could not run, with why.
    """
    return [_classes(left_out), _confirmed(outcomes), _square(outcomes), _gap(outcomes, clean)]


def _finite(finite):
    bad = int((~finite).sum())
    return Check(
        "finite logits",
        bad == 0,
        f"{bad} of {len(finite)} images give a logit that is not a number or infinite",
        ""
        if bad == 0
        else "they count as misclassified, and no figure means anything: mend the network first",
    )


def _deterministic(logits, zeroed, labels):
    """5 evaluations must agree in accuracy and in logits scaled to length 1."""
    scaled = zeroed / np.maximum(np.linalg.norm(zeroed, axis=2, keepdims=True), 1e-12)
    spread = float(np.max(np.ptp(scaled, axis=0)))
    accuracies = [1 - losses.misclassified(one, labels).numpy().mean() for one in logits]
    passed = spread <= _SAME_LOGITS and float(np.ptp(accuracies)) == 0
    return Check(
        "deterministic",
        passed,
        f"{_REPEATS} evaluations of {len(labels)} images differ by {spread:.2g} in logits of "
        f"length 1 and by {100 * np.ptp(accuracies):.2g} points in accuracy",
        ""
        if passed
        else "the network is random: gradients point at noise and verdicts change from one "
        "evaluation to the next; take --attacks=rand, which averages gradients",
    )


def _not_probabilities(logits):
    within = logits.min() >= 0 and logits.max() <= 1
    sums = bool(np.all(np.abs(logits.sum(1) - 1) <= _SUM_TO_ONE))
    passed = not (within and sums)
    return Check(
        "logits",
        passed,
        f"outputs run from {logits.min():.4g} to {logits.max():.4g} and rows "
        f"{'sum to 1' if sums else 'do not sum to 1'}",
        ""
        if passed
        else "these are probabilities: where they saturate, the loss has no gradient and the "
        "network looks more robust than it is; remove the softmax from the network's end",
    )


def _pixels(images):
    low, high = float(images.min()), float(images.max())
    passed = high > 1
    return Check(
        "pixels",
        passed,
        f"images run from {low:.4g} to {high:.4g}",
        ""
        if passed
        else "these look like images in [0, 1], for which epsilon in pixels is enormous; "
        "give pixels in [0, 255]",
    )


def _gradients(network, images, labels, count):
    """Gradients of the cross-entropy must be finite, and no image's may be zero everywhere."""
    gradient = tf.function(lambda: _ascent(network, images, labels), autograph=False)()
    moved = scaling.finite(gradient).numpy()[:count].reshape(count, -1).any(1)
    known = np.isfinite(gradient.numpy()[:count]).reshape(count, -1).all(1)
    zero, broken = int((~moved).sum()), int((~known).sum())
    consequence = ""
    if zero:
        consequence = (
            "PGD and APGD-CE cannot move these images, which says nothing about robustness; "
            "look at apgd-dlr, apgd-t and square instead"
        )
    elif broken:
        consequence = (
            "attacks take 0 for NaN and move the other pixels, so they may see too little; mend "
            "the derivative (of a square root at 0, say), or look at square"
        )
    return Check(
        "gradients",
        zero == broken == 0,
        f"of {count} images {zero} have a gradient of the cross-entropy that is zero everywhere, "
        f"and {broken} one with entries that are not finite",
        consequence,
    )


def _ascent(network, images, labels):
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch(images)
        logits = tf.cast(network(images, training=False), tf.float32)
    return scaling.raw_gradient(tape, logits, images, losses.ascent(logits, labels))[0]


def _classes(left_out):
    return Check(
        "classes",
        not left_out,
        "; ".join(f"{name} is left out: {why}" for name, why in left_out.items())
        or "every attack can run",
        "" if not left_out else "the rest is a weaker set of attacks; name it in any comparison",
    )


def _confirmed(outcomes):
    count = sum(outcome.unconfirmed for outcome in outcomes)
    return Check(
        "confirmed",
        count == 0,
        f"{count} images were called broken and classified right when evaluated again",
        ""
        if count == 0
        else "they count as standing; the network is random, or rounds differently from batch "
        "to batch at a tie",
    )


def _square(outcomes):
    """Square needs no gradient: it should break next to nothing that the others left."""
    for number, outcome in enumerate(outcomes):
        if outcome.name == "square" and number > 0:
            lost = _lost(outcomes[number - 1].standing, outcome.standing)
            passed = lost <= _SQUARE_GAIN
            return Check(
                "square",
                passed,
                f"square, which uses no gradient, broke another {100 * lost:.2f} points",
                ""
                if passed
                else "the gradients are masked: attacks that use them see too little, "
                "and the true accuracy may be lower still; add an adaptive attack",
            )
    return Check(
        "square",
        None,
        "square did not run after a gradient attack",
        "--attacks=apgd-ce,square, or autoattack, runs it: masked gradients would show",
    )


def _gap(outcomes, clean):
    # What PGD leaves of the survivors of another attack is no figure of PGD.
    pgd = list(itertools.takewhile(lambda outcome: outcome.name.startswith("pgd-"), outcomes))
    if not pgd or len(pgd) == len(outcomes):
        return Check(
            "pgd gap",
            None,
            "it takes PGD and, after it, another kind of attack",
            "--attacks=pgd-50,autoattack runs both: masked gradients would show",
        )
    gap = _lost(min((one.standing for one in pgd), key=np.sum), outcomes[-1].standing)
    passed = gap <= _PGD_GAP
    return Check(
        "pgd gap",
        passed,
        f"all attacks together leave {100 * gap:.2f} points less than PGD alone "
        f"(clean {100 * clean.mean():.2f})",
        ""
        if passed
        else "3-6 points are usual; more than 10 mark masked gradients: do not quote "
        "the PGD figure",
    )


def _lost(before, after):
    """Returns the fraction of all images that fell in between, without rounding on the way."""
    return (int(before.sum()) - int(after.sum())) / len(before)
