"""One attack over a data set: which images it had, and what it found."""

import dataclasses
from typing import Any

import numpy as np


@dataclasses.dataclass
class Pass:
    """An attack, and what it did to every image so far.

    Attributes:
      key: names the pass within a run.
      attack: a `stepped.SteppedAttack`.
      done: bool [N], whether the image's verdict is known.
      broken: bool [N], misclassified at the point that the attack returned, by a second evaluation.
      steps: int32 [N], evaluations until the image left.
      distance: float32 [N], norm of the perturbation in pixels.
      unconfirmed: bool [N], called broken by the attack and not by the second evaluation.
      wrong: bool [N, steps] for trajectories: which iterates are misclassified; else [N, 0].
      seconds: wall time.
      slot_steps: evaluations paid for, slots times steps.
    """

    key: str
    attack: Any
    done: np.ndarray
    broken: np.ndarray
    steps: np.ndarray
    distance: np.ndarray
    unconfirmed: np.ndarray
    wrong: np.ndarray
    seconds: float = 0.0
    slot_steps: int = 0

    @property
    def image_steps(self) -> int:
        """Returns the evaluations that the images needed."""
        return int(self.steps.sum())

    @classmethod
    def blank(cls, key: str, attack: Any, num_images: int, columns: int = 0) -> "Pass":
        """Returns a pass that has seen no image."""
        return cls(
            key=key,
            attack=attack,
            done=np.zeros(num_images, bool),
            broken=np.zeros(num_images, bool),
            steps=np.zeros(num_images, np.int32),
            distance=np.zeros(num_images, np.float32),
            unconfirmed=np.zeros(num_images, bool),
            wrong=np.zeros([num_images, columns], bool),
        )
