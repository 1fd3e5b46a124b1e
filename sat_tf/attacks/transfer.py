"""Attacks computed on another network, the surrogate, as of one who cannot see the network."""

from collections.abc import Callable
from typing import Any

import tensorflow as tf

from sat_tf.attacks.own import OwnAttack
from sat_tf.attacks.pgd import PGD
from sat_tf.attacks.targeted import SteppedTargetedPGD, TargetedPGD


class Transferred(OwnAttack):
    """An attack of one step, in which the surrogate is evaluated at every step of its own."""

    @property
    def step_cost(self) -> int:
        """How many evaluations of a network, the surrogate's or its own, a step takes an image."""
        return 1 + self.steps_of_surrogate


def make(attack: Any, surrogate: Callable[..., tf.Tensor], source: str) -> Transferred:
    """Makes an attack of one step: it shows the network the surrogate's last iterate.

    The surrogate is attacked to the last step whatever it says on the way: a point that just breaks
    it seldom breaks another network. The verdict is the network's own, on that one point.

    Source: Papernot et al. 2016, arXiv 1605.07277; the last iterate as Madry et al. 2018, arXiv
    1706.06083, section 5, have it.

    Args:
      attack: `PGD` or `SteppedTargetedPGD` of an evaluation.
      surrogate: maps the same pixels to logits of the same classes and takes `training`.
      source: tells the surrogate from others, so that no evaluation takes up another's verdicts.

    Raises:
      ValueError: another attack, which would stop where the surrogate breaks.
    """
    if isinstance(attack, PGD):
        name, run = f"pgd-{attack.steps}", attack
    elif isinstance(attack, SteppedTargetedPGD):
        name, pgd = attack.name, attack.pgd
        settings = {key: getattr(pgd, key) for key in ("epsilon", "step_size", "steps", "norm")}
        run = TargetedPGD(attack.target, **settings)
    else:
        raise ValueError(
            f"--surrogate does not apply to {attack.name}, which stops where the surrogate breaks; "
            "use pgd-STEPS, pgd-STEPS-random or pgd-STEPS-least_likely"
        )

    def computed(network, images, labels, seed):
        del network
        return run(surrogate, images, labels, seed)

    ball = {"epsilon": attack.epsilon, "norm": attack.norm}
    made = Transferred(computed, name=f"{name}-transferred", **ball)
    vars(made)["source"] = source
    steps = getattr(run, "pgd", run)
    made.step_size, made.steps_of_surrogate = steps.step_size, steps.steps
    # Which class is the least likely, the surrogate is asked first.
    made.steps_of_surrogate += getattr(run, "target", None) == "least_likely"
    return made
