"""Training methods by name: which objective, which attack, which trainer."""

import dataclasses
from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from sat_tf import attacks
from sat_tf.attacks.divergence import DivergencePGD
from sat_tf.training import AdversarialTrainer, awp, free, gradient_quality, objectives


@dataclasses.dataclass(frozen=True, kw_only=True)
class Method:
    """Learns from the images of a given attack (Madry et al.): the method `pgd_at`.

    With one step of the attack it is FGSM with random start. The other methods are what they change
    of this one, and add settings of their own.

    Attributes:
      awp_gamma: relative size of the adversarial weight perturbation; 0: none.
      attack_gradient: function whose derivative the attack sees in place of the activation's own.
      update_gradient: likewise for the weight update.
    """

    awp_gamma: float = 0.0
    attack_gradient: str | None = None
    update_gradient: str | None = None

    def trainer(
        self,
        network: keras.Model,
        attack: attacks.Attack,
        *,
        batch_size: int,
        label_smoothing: float = 0.0,
        **options,
    ) -> AdversarialTrainer:
        """Makes the trainer.

        Args:
          network: functional model, pixels to logits; its validation uses no view of it.
          attack: the attack inside training.
          batch_size: images in a global batch.
          label_smoothing: of the cross-entropy in the objective.
          **options: of `AdversarialTrainer`.

        Raises:
          ValueError: an attack or a setting that the method cannot use.
        """
        objective = self.objective(label_smoothing)
        if self.update_gradient:
            view = gradient_quality.backward_view(network, self.update_gradient)
            objective = gradient_quality.on_view(view, objective)
        if self.awp_gamma:  # outermost: the perturbed weights are those that the view reads too
            objective = awp.perturbed(objective, self.awp_gamma)
        return self.assembled(network, attack, batch_size, objective=objective, **options)

    def assembled(
        self, network: keras.Model, attack: attacks.Attack, batch_size: int, **options
    ) -> AdversarialTrainer:
        """Makes the trainer from its network, the given attack and its other parts."""
        del batch_size  # of those that keep something for every image of a batch
        attack = self.attack(attack)
        if self.attack_gradient:
            view = gradient_quality.backward_view(network, self.attack_gradient)
            attack = gradient_quality.on_view(view, _pgd("attack_gradient", attack))
        return AdversarialTrainer(network, attack, **options)

    def objective(self, label_smoothing: float) -> objectives.Objective:
        """Makes the loss of clean and adversarial images."""
        return objectives.adversarial_cross_entropy(label_smoothing)

    def attack(self, given: attacks.Attack) -> attacks.Attack:
        """Makes the attack inside training from the one that was asked for."""
        return given

    def batches(self, load: Callable[[int], tf.data.Dataset], start_step: int) -> tf.data.Dataset:
        """Makes the training stream, one element an optimiser step.

        Args:
          load: makes the stream of the data from a batch's number on.
          start_step: optimiser steps that a resumed run has done.
        """
        return load(start_step)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Trades(Method):
    """The divergence between clean and adversarial predictions (Zhang et al.).

    Keeps the ball and the steps of the given attack, but maximises the divergence.

    Attributes:
      beta: weight of the divergence.
    """

    beta: float = 6.0

    def objective(self, label_smoothing: float) -> objectives.Objective:
        """Makes the loss of clean and adversarial images."""
        return objectives.trades(self.beta, label_smoothing)

    def attack(self, given: attacks.Attack) -> attacks.Attack:
        """Makes the attack on the divergence.

        Raises:
          ValueError: the given one is not PGD from a random start.
        """
        pgd = _pgd("trades", given)
        if not pgd.random_start:
            raise ValueError(
                "trades starts at a random point, as its divergence has no gradient at the image "
                "itself; leave --random_start on"
            )
        names = ("epsilon", "step_size", "steps", "norm", "batch_norm")
        return DivergencePGD(**{name: getattr(pgd, name) for name in names})


@dataclasses.dataclass(frozen=True, kw_only=True)
class Mart(Method):
    """TRADES that minds images which the network gets wrong anyway (Wang et al.).

    Attributes:
      beta: weight of the divergence.
    """

    beta: float = 5.0

    def objective(self, label_smoothing: float) -> objectives.Objective:
        """Makes the loss of clean and adversarial images.

        Raises:
          ValueError: label smoothing.
        """
        if label_smoothing:
            raise ValueError(
                f"mart has no label smoothing, got {label_smoothing}: set it to 0, as its paper "
                "has none"
            )
        return objectives.mart(self.beta)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Free(Method):
    """Each batch several times, one backward pass for weights and images (Shafahi et al.).

    Takes the ball and the step size of the given attack.

    Attributes:
      replays: how often it trains on a batch in a row; the paper's word for each time is "replay".
    """

    replays: int = 8

    def __post_init__(self):
        if self.replays < 1:
            raise ValueError(f"the number of replays is {self.replays}; give at least 1")
        if self.attack_gradient != self.update_gradient:
            raise ValueError(
                "free adversarial training has one backward pass for attack and update; give both "
                "the same gradient, or use the method pgd_at"
            )

    def assembled(
        self, network: keras.Model, attack: attacks.Attack, batch_size: int, **options
    ) -> AdversarialTrainer:
        """Makes the trainer, which keeps a perturbation for every image of a batch.

        Raises:
          ValueError: the given attack is not PGD in L-inf.
        """
        ball = _pgd("free", attack)
        if ball.norm != "linf":
            raise ValueError(f"free adversarial training knows the norm linf, not {ball.norm}")
        options |= {"epsilon": ball.epsilon, "step_size": ball.step_size}
        return free.FreeTrainer(network, batch_size=batch_size, **options)

    def batches(self, load: Callable[[int], tf.data.Dataset], start_step: int) -> tf.data.Dataset:
        """Makes the training stream, one element a replay, which is an optimiser step."""
        first, replays_done = divmod(start_step, self.replays)
        return free.replay(load(first), self.replays, replays_done)


METHODS = {"pgd_at": Method, "trades": Trades, "mart": Mart, "free": Free}


def make(name: str, **settings: Any) -> Method:
    """Makes a method by name.

    Args:
      name: of `METHODS`.
      **settings: attributes of the methods; None leaves one at the method's own default.

    Raises:
      ValueError: an unknown name, a setting that the method has no use for.
    """
    if name not in METHODS:
        raise ValueError(f"--method is {name!r}; use one of: {', '.join(METHODS)}")
    settings = {setting: value for setting, value in settings.items() if value is not None}
    for setting in settings:
        owners = [other for other, kind in METHODS.items() if setting in _settings(kind)]
        if name not in owners:
            raise ValueError(
                f"--{setting} is of {' and '.join(owners)}; and --method={name}: leave it out"
            )
    return METHODS[name](**settings)


def _settings(kind):
    return [field.name for field in dataclasses.fields(kind)]


def _pgd(user, attack):
    if not isinstance(attack, attacks.PGD):
        raise ValueError(f"{user} needs a ball and gradient steps: the attack pgd, in one norm")
    return attack
