"""One attack over a data set: which images it had, and what it found."""

import dataclasses
from typing import Any

import numpy as np

from sat_tf.evaluation.packing.packed import Verdict


@dataclasses.dataclass
class Sweep:
    """An attack, and what it did to every image so far.

    Attributes:
      key: names the sweep within an evaluation.
      title: what its progress is headed.
      noise: names its noise: an image's depends on the seed, its position and this text.
      attack: a `stepped.SteppedAttack`.
      done: bool [N], whether the image's verdict is known.
      broken: bool [N], misclassified at the point that the attack returned, by a second evaluation.
      steps: int32 [N], evaluations until the image left.
      distance: float32 [N], norm of the perturbation in pixels.
      in_top5: bool [N], whether the label is among the five largest logits at the point that the
        attack returned; None where an older version began the sweep, which did not look.
      unconfirmed: bool [N], called broken by the attack and not by the second evaluation.
      misclassified: bool [N, steps] for trajectories: which iterates are; else [N, 0].
      seconds: wall time.
      slot_steps: evaluations paid for, slots times steps.
    """

    key: str
    title: str
    noise: str
    attack: Any
    done: np.ndarray
    broken: np.ndarray
    steps: np.ndarray
    distance: np.ndarray
    unconfirmed: np.ndarray
    misclassified: np.ndarray
    in_top5: np.ndarray | None
    seconds: float = 0.0
    slot_steps: int = 0

    @property
    def image_steps(self) -> int:
        """Returns the evaluations that the images needed."""
        return int(self.steps.sum())

    @property
    def is_trajectory(self) -> bool:
        """Returns whether every iterate is judged, not only the point that is returned."""
        return self.misclassified.shape[1] > 0

    @classmethod
    def blank(
        cls, key: str, attack: Any, num_images: int, *, title: str, noise: str, columns: int = 0
    ) -> "Sweep":
        """Returns a sweep that has seen no image; a trajectory has a column for each iterate."""
        return cls(
            key=key,
            title=title,
            noise=noise,
            attack=attack,
            done=np.zeros(num_images, bool),
            broken=np.zeros(num_images, bool),
            steps=np.zeros(num_images, np.int32),
            distance=np.zeros(num_images, np.float32),
            unconfirmed=np.zeros(num_images, bool),
            misclassified=np.zeros([num_images, columns], bool),
            in_top5=np.ones(num_images, bool),
        )

    def emptied(self) -> "Sweep":
        """Returns the same attack with the same noise, which has seen no image."""
        columns = self.misclassified.shape[1]
        named = {"title": self.title, "noise": self.noise, "columns": columns}
        return Sweep.blank(self.key, self.attack, len(self.done), **named)

    def take(self, other: "Sweep", images: np.ndarray) -> None:
        """Takes over what another process noted of some images, bool [N]; its cost is its own."""
        for name in ("done", "broken", "steps", "distance", "unconfirmed", "misclassified"):
            getattr(self, name)[images] = getattr(other, name)[images]
        if self.in_top5 is None or other.in_top5 is None:
            self.in_top5 = None
        else:
            self.in_top5[images] = other.in_top5[images]

    def note(self, verdict: Verdict, seconds: float) -> None:
        """Takes down the verdict of an image, and the time since the one before."""
        index = verdict.index
        self.done[index] = True
        self.broken[index] = verdict.confirmed
        self.unconfirmed[index] = verdict.broken and not verdict.confirmed
        self.steps[index] = verdict.steps
        self.distance[index] = verdict.distance
        if self.in_top5 is not None:
            self.in_top5[index] = verdict.in_top5
        if self.is_trajectory:
            self.misclassified[index] = verdict.entries["wrong"]
        self.seconds += seconds
        self.slot_steps += verdict.slot_steps
