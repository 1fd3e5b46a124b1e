"""What Keras's `fit` needs around a training step, and nothing of what the step computes."""

from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from sat_tf.training import averages, batches


class Fittable(keras.Model):
    """Trains a network: the running means, the look at every batch, what is kept of a run.

    Args:
      network: functional model, which has all the weights.
      means: names of the running means that are logged.
    """

    def __init__(self, network: keras.Model, means: tuple[str, ...]):
        super().__init__(name=f"{network.name}_trainer")
        self.network = network
        self.average: keras.Model | None = None
        self.hold: Callable[[Any], None] = lambda pipeline: None  # gets each of `fit`'s pipelines
        self._means = {name: keras.metrics.Mean(name) for name in means}
        self._watch = batches.Watch()
        self.built = True  # the network is; nothing else has weights

    @property
    def best_network(self) -> keras.Model:
        """The network to validate, evaluate and export: the average if there is one."""
        return self.network if self.average is None else self.average

    @property
    def num_classes(self) -> int:
        """How many classes the network tells apart."""
        return self.network.output_shape[-1]

    @property
    def state(self) -> list[keras.Variable]:
        """Everything a run must restore to continue as if it had never stopped."""
        average = [] if self.average is None else self.average.variables
        return [*self.network.variables, *average, *self.optimizer.variables]

    @property
    def metrics(self) -> list[keras.metrics.Metric]:
        """The running means that Keras resets at every epoch."""
        return list(self._means.values())

    def received(self, data: Any, num_pieces: int) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns a batch's images and labels (`batches.unpacked`) after a look at them."""
        images, labels = batches.unpacked(data, self.num_classes)
        self._watch.look(images, labels, self.num_classes, num_pieces)
        return images, labels

    def note(self, **values: tf.Tensor) -> None:
        """Moves running means by what was found of each image [N]."""
        for name, value in values.items():
            self._means[name].update_state(value)

    def logs(self, *names: str) -> dict[str, tf.Tensor]:
        """Returns running means."""
        return averages.logs_over_replicas([self._means[name] for name in names])

    def call(self, images, training=None):
        """Returns the network's logits."""
        return self.network(images, training=training)

    def compile(
        self, *, jit_compile: bool = False, steps_per_execution: int = 1, **options
    ) -> None:
        """Sets what `keras.Model.compile` does.

        Raises:
          ValueError: several steps at a time on several replicas.
        """
        replicas = self.distribute_strategy.num_replicas_in_sync
        if steps_per_execution > 1 and replicas > 1:
            raise ValueError(
                f"--steps_per_execution={steps_per_execution} with {replicas} replicas; "
                "TensorFlow fails there in Keras's loop over several steps: leave it at 1"
            )
        super().compile(jit_compile=jit_compile, steps_per_execution=steps_per_execution, **options)

    def execute(self, num_steps: int) -> None:
        """Has the device do so many steps at a time from now on."""
        if num_steps != self.steps_per_execution:
            self.steps_per_execution = num_steps
            self.make_train_function(force=True)
            self.make_test_function(force=True)

    def make_train_function(self, force: bool = False) -> None:
        """Makes the function of a step, whose first call says if the batch was none to train on."""
        fresh = force or self.train_function is None
        super().make_train_function(force)
        if fresh:
            self.train_function = self._watch.after_first(self.train_function, self.num_classes)

    def get_metrics_result(self) -> dict:
        """Returns the running means at the end of an epoch or a validation.

        Raises:
          ValueError: some labels were not among the network's classes.
        """
        self._watch.report(self.num_classes)
        return super().get_metrics_result()

    def save(self, *arguments, **options):
        """Refuses: what was trained is the network, and only that can be evaluated and exported.

        Raises:
          ValueError: always, with what to save.
        """
        raise ValueError(
            "the trainer is no network; save what it has trained: trainer.best_network.save("
            '"mine.keras")'
        )

    def _maybe_symbolic_build(self, iterator=None, data_batch=None):
        # By this method `fit` builds a model whose shapes it does not know yet. Here nothing is
        # left to build, and Keras's way to find out breaks with several workers
        # (keras-team/keras#20585). It is also the one place that shows `fit`'s own iterator.
        self.hold(iterator)
