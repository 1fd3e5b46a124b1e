"""What a checkpoint is taken for: by the flags, its released name and its family."""

import dataclasses
import pathlib
from typing import Any

from sat_tf import activations
from sat_tf.released.names import MODELS, RELEASES, Release, is_efficientnet


@dataclasses.dataclass(frozen=True)
class Choice:
    """What the checkpoint is taken for; `ema` is None where nothing says it."""

    model: str
    activation: str
    image_size: int
    channel_order: str
    ema: bool | None

    @property
    def eval_resize(self) -> str:
        """How the released evaluation of this family cuts its images."""
        return "center_crop" if is_efficientnet(self.model) else "shorter_side"


def choose(given: Any) -> Choice:
    """Completes the flags by the released name, of the checkpoint or of its directory.

    Args:
      given: the parsed flags of `flags.convert`.

    Raises:
      ValueError: something is neither given nor known, or contradicts the name or the family.
    """
    name, release = _release(given.checkpoint)
    model = given.model or (release and release.model)
    if model not in MODELS:
        came = f"--model={model} is not known"
        if model is None:
            came = f"--model is not given and {given.checkpoint} is no released name"
        raise ValueError(f"{came}; use one of: {', '.join(MODELS)}")
    known = release or next(one for one in RELEASES.values() if one.model == model)
    efficient = is_efficientnet(model)
    activation = given.activation or (known.activation if release or efficient else None)
    if activation is None:
        raise ValueError(
            "--activation is not given and the checkpoint's name is no released one: give the one "
            "it was trained with, such as --activation=swish"
        )
    _refuse_contradictions(given, model, activation, name or model, known, bool(release))
    return Choice(
        model,
        activation,
        given.image_size or known.image_size,
        given.channel_order or ("rgb" if efficient else "bgr"),
        release.ema if release and given.ema is None else given.ema,
    )


def _release(prefix: str) -> tuple[str | None, Release | None]:
    path = pathlib.Path(prefix)
    for name in (path.name, path.parent.name):
        if name in RELEASES:
            return name, RELEASES[name]
    return None, None


def _refuse_contradictions(given, model, activation, name, known, released):
    efficient, function = is_efficientnet(model), activations.parse(activation)[0]
    if model != known.model:
        raise ValueError(
            f"--model={model} contradicts {name}, which is {known.model}; rename the checkpoint if "
            "it is another"
        )
    if function != known.activation and (released or efficient):
        raise ValueError(
            f"--activation={activation} contradicts {name}, which has {known.activation}; leave "
            "--activation out"
        )
    if given.channel_order == "bgr" and efficient:
        raise ValueError(f"--channel_order=bgr does not apply to {model}, which takes RGB")
    if given.ema and not efficient:
        raise ValueError(f"--ema does not apply to {model}, which has no averaged weights")
