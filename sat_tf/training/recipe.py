"""A recipe: everything that a run is made from, by name."""

import dataclasses
import math
import pathlib
import sys
from typing import Any

from sat_tf.attacks import geometry

# CIFAR and ImageNet as RobustBench; that of the digits is ours: 8 x 8 pixels can bear more.
_EPSILONS = {"digits": 32.0, "cifar10": 8.0, "cifar100": 8.0, "imagenet2012": 4.0}


@dataclasses.dataclass(frozen=True)
class Recipe:
    """The values of a run. Each is the flag of its name: the file of its group says what it does.

    `sat_tf.training.parts` makes the parts of a run from it; None is what the flag's help says.
    """

    # flags/model.py
    model: str | None
    activation: str | None
    synchronized_batch_norm: bool
    initial_network: str | None
    freeze: list[str]
    body_learning_rate_multiplier: float

    # flags/data.py
    dataset: str
    data_dir: str | None
    download: bool
    max_pixels: int
    image_size: int | None
    augment: str | None
    mixup: float
    cutmix: float
    extra_data: str | None
    extra_fraction: float | None
    eval_resize: str | None
    lanes: int
    data_service: str | None

    # flags/attack.py
    attack: str
    norm: str
    norms: list[str]
    epsilons: list[str]
    norm_combination: str
    epsilon: float | None
    epsilon_warmup_epochs: float
    attack_steps: int
    step_size: float | None
    random_start: bool
    clean_start: float
    attack_batch_norm: str
    validation_steps: int

    # flags/method.py
    method: str
    beta: float | None
    replays: int | None
    awp_gamma: float
    attack_gradient: str | None
    update_gradient: str | None
    on_overfitting: str

    # flags/training.py
    epochs: int
    batch_size: int
    optimizer: str
    learning_rate: float
    learning_rate_base_size: int
    schedule: str
    warmup_epochs: float | None
    boundary: list[float]
    factor: float
    decay_epochs: float
    decay_factor: float
    momentum: float
    nesterov: bool
    weight_decay: float
    activation_weight_decay: float
    label_smoothing: float
    ema_decay: float
    gradient_accumulation: int

    # flags/run.py
    workdir: str | None
    overwrite: bool
    seed: int
    strategy: str
    cluster: str
    worker_timeout: float
    logical_cpus: int
    threads: int
    precision: str
    deterministic: bool
    jit_compile: bool
    remat: bool
    steps_per_execution: int
    profile: tuple[int, int] | None
    checkpoint_every: int
    picture_grid: int
    test_steps: int

    @classmethod
    def of(cls, given: Any) -> "Recipe":
        """Reads the attributes of any object, such as absl's FLAGS."""
        return cls(**{field.name: getattr(given, field.name) for field in dataclasses.fields(cls)})

    def settled(self, deterministic_was_asked_for: bool) -> "Recipe":
        """Lets what was asked for win: op determinism is on by default, and XLA cannot have it.

        Raises:
          ValueError: both were asked for.
        """
        if not (self.jit_compile and self.deterministic):
            return self
        if deterministic_was_asked_for:
            raise ValueError(
                "--jit_compile and --deterministic exclude each other: TensorFlow compiles no step "
                "while operations are to be deterministic; leave one out"
            )
        print("note: --jit_compile is given, so --nodeterministic holds", file=sys.stderr)
        return dataclasses.replace(self, deterministic=False)

    def completed(self) -> "Recipe":
        """Fills in the network, the radius of the ball and the workdir where they are not given.

        Raises:
          ValueError: there is no usual radius.
        """
        model, activation = self.model, self.activation
        if model is None and self.initial_network is None:
            model = "resnet8"
        if activation is None:
            activation = "keep" if model is None else "swish"
        balls, workdir = several_balls(self), self.workdir
        norm, epsilon = balls[0] if balls else (self.norm, self.epsilon)
        if epsilon is None:
            epsilon = default_epsilon(self.dataset, self.norm)
        if workdir is None:
            workdir = f"runs/{pathlib.Path(self.dataset.removeprefix('folder:')).name}"
        return dataclasses.replace(
            self, model=model, activation=activation, norm=norm, epsilon=epsilon, workdir=workdir
        )


def default_epsilon(dataset: str, norm: str) -> float:
    """Returns the L-inf radius in pixels that the literature uses for a data set.

    Raises:
      ValueError: no custom for this data set, or another norm.
    """
    if norm != "linf":
        raise ValueError(
            f"there is no default epsilon for {norm}; give one in pixels: what others write as "
            "0.5 for images in [0, 1] is --epsilon=127.5"
        )
    if dataset not in _EPSILONS:
        raise ValueError(
            f"there is no usual epsilon for {dataset}; give one in pixels, such as --epsilon=8"
        )
    return _EPSILONS[dataset]


def several_balls(recipe: Any) -> tuple[tuple[str, float], ...]:
    """Returns (norm, radius) of each ball where there are several, else nothing.

    Raises:
      ValueError: norms and radii that do not fit, or beside them what is of one ball.
    """
    given = f"--norms={','.join(recipe.norms)} and --epsilons={','.join(recipe.epsilons)}"
    example = "--norms=linf,l1 --epsilons=8,3060"
    if len(recipe.norms) != len(recipe.epsilons) or len(recipe.norms) == 1:
        raise ValueError(f"{given}; give two norms or more and a radius for each: {example}")
    if len(set(recipe.norms)) < len(recipe.norms):
        raise ValueError(f"{given}; give each norm once: {example}")
    if recipe.norms and recipe.step_size is not None:
        raise ValueError(f"--step_size is of one ball; leave it out beside {given}")
    found = []
    for norm, text in zip(recipe.norms, recipe.epsilons, strict=True):
        try:
            radius = float(text)
        except ValueError:
            radius = math.nan
        if not 0 < radius < math.inf:
            raise ValueError(f"{given}; {text!r} is no radius in pixels: {example}")
        found.append((geometry.check_norm(norm), radius))
    return tuple(found)
