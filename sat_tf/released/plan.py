"""Which tensor of a checkpoint becomes which weight, and what does not fit."""

import dataclasses
from collections.abc import Mapping
from typing import NamedTuple

from sat_tf.released.names import AVERAGED, some, tensor_names, why_ignored


class Tensor(NamedTuple):
    """Shape and type of an array, such as ((7, 7, 3, 64), "float32")."""

    shape: tuple[int, ...]
    dtype: str = "float32"

    def __str__(self) -> str:
        return f"{self.dtype} {list(self.shape)}"


@dataclasses.dataclass(frozen=True)
class Plan:
    """A checkpoint held against a network.

    Attributes:
      model: the network's name.
      weights: shape of each weight, by its path.
      tensors: what the checkpoint holds.
      used: the tensor of each weight, by its path.
      ignored: reason of each tensor that may be left out.
    """

    model: str
    weights: Mapping[str, tuple[int, ...]]
    tensors: Mapping[str, Tensor]
    used: Mapping[str, str]
    ignored: Mapping[str, str]

    @property
    def missing(self) -> list[str]:
        """Tensors that the network needs and the checkpoint lacks."""
        return [name for name in self.used.values() if name not in self.tensors]

    @property
    def extra(self) -> list[str]:
        """Tensors that nothing uses and no reason excuses."""
        used = set(self.used.values())
        return [name for name in self.tensors if name not in used and name not in self.ignored]

    @property
    def misshapen(self) -> list[str]:
        """Tensors of another shape or type than their weight, with both."""
        return [
            f"{name} ({self.tensors[name]}, expected float32 {list(self.weights[weight])})"
            for weight, name in self.used.items()
            if name in self.tensors and not self._fits(weight, self.tensors[name])
        ]

    def check(self) -> None:
        """Raises ValueError unless every weight has its tensor and every tensor its place."""
        faults = [
            f"{len(names)} {fault}: {some(names)}"
            for fault, names in (
                ("missing", self.missing),
                ("not known", self.extra),
                ("of another shape", self.misshapen),
            )
            if names
        ]
        if faults:
            raise ValueError(
                f"the checkpoint does not fit {self.model}: tensors {'; '.join(faults)}. "
                f"{self._advice()}"
            )

    def table(self) -> str:
        """Lists every tensor in a line: its name and shape, and what becomes of it."""
        lines = []
        for weight, name in self.used.items():
            tensor = self.tensors.get(name, "missing")
            lines.append(f"{name}  {tensor}  ->  {weight} {list(self.weights[weight])}")
        lines += [f"{n}  {self.tensors[n]}  ignored: {why}" for n, why in self.ignored.items()]
        lines += [f"{name}  {self.tensors[name]}  not known" for name in self.extra]
        return "\n".join(lines)

    def _fits(self, weight, tensor):
        shape = self.weights[weight]
        # The released EfficientNets keep a batch norm's C numbers as [1, 1, 1, 1, C].
        batch_norm = weight.rpartition("/")[0].endswith("_bn")
        shapes = (shape, (1, 1, 1, 1, *shape)) if batch_norm else (shape,)
        return tensor.dtype == "float32" and tensor.shape in shapes

    def _advice(self):
        extra, missing = "\n".join(self.extra), "\n".join(self.missing)
        if "smoothrelu_beta" in extra:
            return "It was trained with --activation=smoothrelu"
        if "smoothrelu_beta" in missing:
            return "It was not trained with --activation=smoothrelu"
        if AVERAGED in extra:
            return "It holds averaged weights beside the others: choose --ema or --noema"
        if AVERAGED in missing:
            return "Its weights are not averaged: give --noema"
        return "Is --model right? --list prints every tensor"


def plan(
    model: str,
    weights: Mapping[str, tuple[int, ...]],
    tensors: Mapping[str, Tensor],
    ema: bool | None = False,
) -> Plan:
    """Gives every weight its tensor; `Plan.check` tells whether all fits.

    Args:
      model: one of `names.MODELS`.
      weights: shape of each weight of the network, by its path.
      tensors: all that the checkpoint holds, by name.
      ema: take the averaged weights, of which the others are then ignored, or the other way round;
        None if there are none, so that they count as not known.

    Raises:
      ValueError: a weight that no released checkpoint has.
    """
    used = tensor_names(model, weights, bool(ema))
    other = set() if ema is None else set(tensor_names(model, weights, not ema).values())
    other -= set(used.values())
    weight_tensors = other | set(used.values())
    reason = "not averaged (--ema)" if ema else "averaged (--noema)"
    ignored = {}
    for name in tensors:
        why = reason if name in other else why_ignored(name, weight_tensors)
        if why and name not in used.values():
            ignored[name] = why
    return Plan(model, dict(weights), dict(tensors), used, ignored)
