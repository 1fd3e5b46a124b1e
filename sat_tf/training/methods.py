"""Training methods by name: which objective, which attack, which trainer."""

import dataclasses
from collections.abc import Callable

import keras
import tensorflow as tf

from sat_tf import attacks
from sat_tf.attacks.divergence import DivergencePGD
from sat_tf.training import AdversarialTrainer, awp, free, gradient_quality, objectives

NAMES = ("pgd_at", "trades", "mart", "free")


@dataclasses.dataclass(frozen=True)
class Method:
    """A way of training against a given attack.

    - pgd_at: the loss on the attack's images (Madry et al.; with one step FGSM with random start).
    - trades: the divergence between clean and adversarial predictions (Zhang et al.).
    - mart: TRADES that minds images which the network gets wrong anyway (Wang et al.).
    - free: each batch several times, one backward pass for weights and images (Shafahi et al.).

    Attributes:
      name: one of `NAMES`.
      beta: weight of the divergence; default 6 for trades, 5 for mart.
      num_replays: times that free trains on a batch in a row; default 8.
      awp_gamma: relative size of the adversarial weight perturbation; 0: none.
      attack_gradient: function whose derivative the attack sees in place of the activation's own.
      update_gradient: likewise for the weight update.

    Raises:
      ValueError: an unknown name, a setting that the method has no use for.
    """

    name: str = "pgd_at"
    beta: float | None = None
    num_replays: int | None = None
    awp_gamma: float = 0.0
    attack_gradient: str | None = None
    update_gradient: str | None = None

    def __post_init__(self):
        if self.name not in NAMES:
            raise ValueError(f"method {self.name!r} is unknown; use one of: {', '.join(NAMES)}")
        if self.beta is not None and self.name not in ("trades", "mart"):
            raise ValueError(f"beta is of trades and mart; the method is {self.name}: leave it out")
        if self.num_replays is not None and self.name != "free":
            raise ValueError(f"replays are of free; the method is {self.name}: leave them out")
        if self.num_replays is not None and self.num_replays < 1:
            raise ValueError(f"the number of replays is {self.num_replays}; give at least 1")
        if self.name == "free" and self.attack_gradient != self.update_gradient:
            raise ValueError(
                "free adversarial training has one backward pass for attack and update; give both "
                "the same gradient, or use the method pgd_at"
            )

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
          attack: the attack inside training; trades keeps its ball and steps but maximises the
            divergence, free takes its ball and step size.
          batch_size: images in a global batch.
          label_smoothing: of the cross-entropy in the objective.
          **options: of `AdversarialTrainer`.

        Raises:
          ValueError: an attack or a setting that the method cannot use.
        """
        objective = self._objective(label_smoothing)
        if self.update_gradient:
            view = gradient_quality.backward_view(network, self.update_gradient)
            objective = gradient_quality.on_view(view, objective)
        if self.awp_gamma:
            objective = awp.perturbed(objective, self.awp_gamma)
        options["objective"] = objective
        if self.name == "free":
            ball = _pgd(self.name, attack)
            if ball.norm != "linf":
                raise ValueError(f"free adversarial training knows the norm linf, not {ball.norm}")
            return free.FreeTrainer(
                network,
                batch_size=batch_size,
                epsilon=ball.epsilon,
                step_size=ball.step_size,
                **options,
            )
        if self.name == "trades":
            attack = _divergence_attack(_pgd(self.name, attack))
        if self.attack_gradient:
            view = gradient_quality.backward_view(network, self.attack_gradient)
            attack = gradient_quality.on_view(
                view, _pgd(f"{self.name} with attack_gradient", attack)
            )
        return AdversarialTrainer(network, attack, **options)

    def batches(self, load: Callable[[int], tf.data.Dataset], start_step: int) -> tf.data.Dataset:
        """Makes the training stream, one element an optimiser step.

        Args:
          load: makes the stream of the data from a batch's number on.
          start_step: optimiser steps that a resumed run has done.
        """
        if self.name != "free":
            return load(start_step)
        num_replays = self.num_replays or 8
        batches = load(start_step // num_replays)
        return free.replay(batches, num_replays, start_step % num_replays)

    def _objective(self, label_smoothing):
        beta = {} if self.beta is None else {"beta": self.beta}
        if self.name == "trades":
            return objectives.trades(**beta, label_smoothing=label_smoothing)
        if self.name == "mart":
            if label_smoothing:
                raise ValueError(
                    f"mart has no label smoothing, got {label_smoothing}: set it to 0, as its "
                    "weights are the probability of the one true class"
                )
            return objectives.mart(**beta)
        return objectives.adversarial_cross_entropy(label_smoothing)


def _pgd(name, attack):
    if not isinstance(attack, attacks.PGD):
        raise ValueError(f"the method {name} needs a ball and gradient steps: the attack pgd")
    return attack


def _divergence_attack(pgd):
    if not pgd.random_start:
        raise ValueError(
            "trades starts at a random point, as its divergence has no gradient at the image "
            "itself; leave random_start on"
        )
    names = ("epsilon", "step_size", "steps", "norm", "batch_norm")
    return DivergencePGD(**{name: getattr(pgd, name) for name in names})
