"""An optimiser of Keras 2 ("legacy") as one of Keras 3."""

from collections.abc import Callable, Iterator
from typing import Any

import keras
import tensorflow as tf


class LegacyOptimizer(keras.optimizers.Optimizer):
    """Updates weights as a legacy optimiser does; schedules, state and replicas are Keras 3's.

    Keras 3 sums the gradients of replicas, counts the steps and knows the learning rate. For every
    weight it then calls `update_step`, and the legacy optimiser, which otherwise does all of this
    itself, only computes: `_resource_apply_dense` on the weight's own `tf.Variable`. What it keeps
    of a weight, its slots, are variables of this optimiser, so they are in a run's checkpoints.

    Under a mirrored strategy each replica updates its own copies, as Keras 3's optimisers do.

    Args:
      learning_rate: a number or a schedule of Keras 3.
      make: makes the legacy optimiser from a `Bridge`, by which it makes its class, and sets its
        learning rate to `bridge.learning_rate`.
      decays: whether a weight is decayed, where the legacy optimiser does that.
    """

    def __init__(
        self,
        learning_rate: float | keras.optimizers.schedules.LearningRateSchedule,
        make: Callable[["Bridge"], Any],
        *,
        decays: Callable[[keras.Variable], bool] = lambda variable: True,
        name: str = "legacy",
    ):
        super().__init__(learning_rate, name=name)
        self._bridge = Bridge(self, make, decays)

    def build(self, variables: list[keras.Variable]) -> None:
        """Makes the legacy optimiser and the slots of the weights."""
        super().build(variables)
        self._bridge.build(variables)

    def update_step(self, gradient, variable, learning_rate) -> None:
        """Updates one weight, a `tf.Variable`."""
        del learning_rate  # the legacy optimiser asks for it
        self._bridge.legacy._resource_apply_dense(tf.convert_to_tensor(gradient), variable)

    def slot(self, kind: str, name: str, variable: keras.Variable | tf.Variable) -> keras.Variable:
        """Returns what an optimiser of the class `kind` keeps of a weight under a name."""
        return self._bridge.slots[kind, name, self._get_variable_index(variable)]


class Bridge:
    """What a legacy optimiser asks for, answered by one of Keras 3.

    Attributes:
      legacy: the legacy optimiser, once it is built.
      slots: {(class, slot's name, weight's index): variable}.
    """

    def __init__(self, outer, make, decays):
        self.outer, self._make, self._decays = outer, make, decays
        self.slots: dict[tuple[str, str, int], keras.Variable] = {}
        self.legacy = None

    def learning_rate(self) -> tf.Tensor:
        """Returns the learning rate of the step."""
        return self.outer.learning_rate

    def class_of(self, kind: type) -> type:
        """Returns a legacy optimiser's class whose slots and masks are kept here."""
        bridge, outer, label = self, self.outer, kind.__name__

        class Bridged(kind):
            def add_slot(self, var, slot_name, initializer="zeros", shape=None):
                return bridge.add_slot(label, var, slot_name, initializer, shape)

            def get_slot(self, var, slot_name):
                return outer.slot(label, slot_name, var).value

            def _do_use_weight_decay(self, var):
                return bridge.decays(var)

            def _do_layer_adaptation(self, var):
                # LAMB scales a step by its weight's norm, but for what is not decayed, as Addons
                # does by name: a bias that starts at 0 would never leave it.
                return bridge.decays(var)

        return Bridged

    def build(self, variables: list[keras.Variable]) -> None:
        """Makes the legacy optimiser, its constants and its slots."""
        self.variables = variables
        self.legacy = self._make(self)
        for one in _with_inner(self.legacy):
            one.iterations = self.outer.iterations.value
        self.legacy._create_hypers()
        self.legacy._create_slots([variable.value for variable in variables])

    def add_slot(self, kind, var, name, initializer, shape) -> tf.Variable:
        """Makes a slot of a weight, unless it is there."""
        index = self.outer._get_variable_index(var)
        if (kind, name, index) not in self.slots:
            value = _initial_value(initializer, shape or var.shape, var.dtype)
            path = self.variables[index].path.replace("/", "_")
            with tf.distribute.get_strategy().extended.colocate_vars_with(var):
                self.slots[kind, name, index] = self.outer.add_variable(
                    shape=value.shape,
                    initializer=lambda shape, dtype: tf.cast(value, dtype),
                    dtype=value.dtype.name,
                    name=f"{path}_{kind}_{name}",
                )
        return self.slots[kind, name, index].value

    def decays(self, var) -> bool:
        """Tells if a weight is decayed."""
        return self._decays(self.variables[self.outer._get_variable_index(var)])


def _with_inner(optimizer) -> Iterator:
    """Yields a legacy optimiser, the one that it wraps, and so on."""
    while optimizer is not None:
        yield optimizer
        optimizer = getattr(optimizer, "_optimizer", None)


def _initial_value(initializer, shape, dtype) -> tf.Tensor:
    if isinstance(initializer, str):  # "zeros" in all of them
        initializer = keras.initializers.get(initializer)
    if callable(initializer):
        initializer = initializer(shape, dtype=dtype)
    return tf.convert_to_tensor(initializer)  # a number, or the weight itself
