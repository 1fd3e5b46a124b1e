"""Adversarial training: perturb, then learn."""

from sat_tf.training.trainer import AdversarialTrainer

__all__ = ["AdversarialTrainer"]
