"""The replicas that share the slots of a packed attack."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import tensorflow as tf

from sat_tf.attacks import stepped


class Replicas:
    """Splits arrays over the replicas of a strategy and joins what they return.

    Args:
      strategy: None is one replica, the default device.
    """

    def __init__(self, strategy: tf.distribute.Strategy | None):
        self.strategy = strategy
        self.count = 1 if strategy is None else strategy.num_replicas_in_sync

    def function(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Makes a function that every replica calls on its own part, as a graph.

        The graph is that of the first arguments, on one device for any number of rows; others of
        another shape are refused, not traced.
        """
        graph = None

        def call(*parts):
            nonlocal graph
            if graph is None:
                graph = tf.function(self._on_replicas(function), autograph=False)
                first = tf.nest.map_structure(_any_rows, parts) if self.strategy is None else parts
                graph = graph.get_concrete_function(*first)
            return graph(*parts)

        return call

    def _on_replicas(self, function):
        if self.strategy is None:
            return function
        return lambda *parts: self.strategy.run(function, args=parts)

    def split(self, *arrays: np.ndarray) -> tuple[Any, ...]:
        """Returns each array as the replicas get it: an even part each, in their order."""
        if self.strategy is None:
            return tuple(map(tf.constant, arrays))

        def distributed(array):
            parts = np.split(array, self.count)
            return self.strategy.experimental_distribute_values_from_function(
                lambda context: tf.constant(parts[context.replica_id_in_sync_group])
            )

        return tuple(map(distributed, arrays))

    def local(self, value: Any) -> tuple[tf.Tensor, ...]:
        """Returns each replica's own part of a value."""
        if self.strategy is None:
            return (value,)
        return self.strategy.experimental_local_results(value)

    def join(self, value: Any) -> np.ndarray:
        """Returns the parts of all replicas as one array."""
        return np.concatenate([part.numpy() for part in self.local(value)])

    def parts(self, state: stepped.State, num_slots: int) -> Iterator[tuple[int, stepped.State]]:
        """Yields each replica's first slot and its part of the state."""
        local = {name: self.local(value) for name, value in state.items()}
        for replica in range(self.count):
            part = {name: values[replica] for name, values in local.items()}
            yield replica * num_slots // self.count, part


def _any_rows(tensor):
    return tf.TensorSpec([None, *tensor.shape[1:]], tensor.dtype)
