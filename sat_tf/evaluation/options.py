"""How an evaluation goes about it."""

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import tensorflow as tf

from sat_tf.evaluation import kept_images


@dataclasses.dataclass(frozen=True)
class Options:
    """How `evaluate` goes about it.

    Attributes:
      restarts: random starts of each PGD; the worst counts, for each image.
      last_iterate: whether PGD runs to its last step on every image, as the paper; otherwise an
        image leaves as soon as it is broken, which is faster, and only "any iterate" is known.
      curve: attacks for each of several radii in pixels, for accuracy over epsilon; an image that
        is broken at one radius counts as broken at each larger one. Where they are the attacks of
        the evaluation themselves, these verdicts are taken and nothing is run again.
      batch_size: images evaluated at once, over all replicas.
      num_images: how many images from the beginning of the data set; None takes all.
      fold_batch_norm: whether to attack the network with batch norm folded into the layers before
        it, which is faster; what breaks is confirmed by the network as it was given.
      seed: where all noise comes from; an image's noise depends on it, on the image's position in
        the data set and on the attack, not on its batch.
      left_out: attacks that are missing from the list, with why, for the report to say so.
      strategy: replicas that share the work; the network must have been made in its scope.
      verdict_file: where verdicts are kept on the way, so that a killed run can go on; or None.
      image_file: where the adversarial images are kept, an `.npy` file that outlives the run; or
        None. Memory does not depend on their number.
      image_type: "float32", or "uint8": rounded inside the ball, see `ball.whole_pixels`.
      landscape: whether to evaluate the loss around the first image that is classified right.
      overwrite: whether to ignore and replace what these files hold.
      save_every: seconds between saves.
      show_progress: whether to write progress to stderr.
    """

    restarts: int = 1
    last_iterate: bool = True
    curve: Mapping[float, Sequence[Any]] = dataclasses.field(default_factory=dict)
    batch_size: int = 128
    num_images: int | None = None
    fold_batch_norm: bool = True
    seed: int = 0
    left_out: Mapping[str, str] = dataclasses.field(default_factory=dict)
    strategy: tf.distribute.Strategy | None = None
    verdict_file: str | pathlib.Path | None = None
    image_file: str | pathlib.Path | None = None
    image_type: str = "float32"
    landscape: bool = False
    overwrite: bool = False
    save_every: float = 30.0
    show_progress: bool = False

    def __post_init__(self):
        if self.restarts < 1:
            raise ValueError(f"restarts is {self.restarts}; give at least 1")
        kept_images.check_type(self.image_type)
