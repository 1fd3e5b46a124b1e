"""The optimisers of TensorFlow Addons by name: `tfa:LAMB`, `tfa:Lookahead(tfa:LAMB):sync_period=5`.

    spec   = "tfa:" name ["(" spec ")"] [":" option {"," option}]

The spec in parentheses is the optimiser that another one wraps: `sgd` or a `tfa:` name.

| name | options with their defaults | kernels are decayed |
|---|---|---|
| AdaBelief | beta_1=0.9, beta_2=0.999, epsilon=1e-14, rectify=true | in the loss |
| AdamW | beta_1=0.9, beta_2=0.999, epsilon=1e-7 | by itself |
| LAMB | beta_1=0.9, beta_2=0.999, epsilon=1e-6 | by itself |
| NovoGrad | beta_1=0.9, beta_2=0.999, epsilon=1e-7 | in the loss |
| RectifiedAdam | beta_1=0.9, beta_2=0.999, epsilon=1e-7 | in the loss |
| SGDW | none: momentum and nesterov are the recipe's | by itself |
| Yogi | beta1=0.9, beta2=0.999, epsilon=1e-3, initial_accumulator_value=1e-6 | in the loss |
| Lookahead(…) | sync_period=6, slow_step_size=0.5 | as the one inside |
| SWA(…) | start_averaging=0, average_period=10 | as the one inside |

Learning rate and its schedule are the recipe's. So is the coefficient of weight decay: AdamW, LAMB
and SGDW take it into their steps, `w <- w - rate * weight_decay * w` for AdamW and SGDW, and then
it is not in the loss; it concerns kernels in either place. (Addons itself wants `rate *
weight_decay` as the `weight_decay` of AdamW and SGDW, and leaves it to the caller to follow the
schedule.)

Source: tensorflow_addons.optimizers, version 0.23.
"""

from collections.abc import Callable

import keras
import tensorflow as tf

from sat_tf.addons.legacy import Bridge, LegacyOptimizer
from sat_tf.addons.opening import legacy_keras, tensorflow_addons
from sat_tf.addons.optimizer_specs import NAMES, Spec, name_of, parse

__all__ = ["NAMES", "make", "name_of", "parse"]


def make(
    spec: str,
    learning_rate: keras.optimizers.schedules.LearningRateSchedule,
    *,
    momentum: float = 0.9,
    nesterov: bool = True,
    weight_decay: float = 0.0,
    decays: Callable[[keras.Variable], bool] = lambda variable: True,
) -> LegacyOptimizer:
    """Makes an optimiser of TensorFlow Addons.

    Args:
      spec: as above.
      learning_rate: a schedule.
      momentum: of `sgd` and SGDW.
      nesterov: of `sgd` and SGDW.
      weight_decay: what AdamW, LAMB and SGDW take into their step; the others have no use for it.
      decays: which weights are decayed.

    Raises:
      ValueError: as `parse`; TensorFlow Addons is not installed.
    """
    parsed = parse(spec)
    classes = tensorflow_addons().optimizers
    momenta = {"momentum": momentum, "nesterov": nesterov}

    def legacy(one: Spec, bridge: Bridge):
        if one.name == "sgd":
            kind = legacy_keras().optimizers.legacy.SGD
            return bridge.class_of(kind)(bridge.learning_rate, **momenta)
        kind = bridge.class_of(getattr(classes, one.name))
        if one.inner is not None:
            return kind(legacy(one.inner, bridge), **one.options)
        options = dict(one.options)
        if one.name == "SGDW":
            options |= momenta
        if one.name == "LAMB":
            options["weight_decay"] = weight_decay
        elif one.decays:
            options["weight_decay"] = lambda: weight_decay * bridge.learning_rate()
        return kind(learning_rate=bridge.learning_rate, **options)

    made = {"make": lambda bridge: legacy(parsed, bridge), "decays": decays, "name": parsed.name}
    for one in parsed.chain:
        if one.name == "SWA":
            return _Averaging(one.options["start_averaging"], learning_rate, **made)
    return LegacyOptimizer(learning_rate, **made)


class _Averaging(LegacyOptimizer):
    """Knows the average that SWA keeps of each weight."""

    def __init__(self, start: int, learning_rate, **options):
        super().__init__(learning_rate, **options)
        self._start = start

    def averaged(self, weight: keras.Variable) -> tf.Tensor:
        """Returns the average of a weight; itself before the first of what is averaged."""
        average = self.slot("SWA", "average", weight).value
        return tf.where(self.iterations.value > self._start, average, weight.value)
