"""The trainer: a Keras model whose step is "perturb, then learn"."""

from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from sat_tf import activations, injection
from sat_tf.attacks import Attack, noise
from sat_tf.attacks.losses import misclassified
from sat_tf.runs import distribution
from sat_tf.training import batches
from sat_tf.training.objectives import (
    Objective,
    adversarial_cross_entropy,
    cross_entropy,
    own_losses,
)

_ACTIVATION_SCALARS = tuple(name for one in activations.TRAINED.values() for name in one.scalars)


class AdversarialTrainer(keras.Model):
    """Trains a network on the adversarial images that an attack finds for it.

    One step: `x_adv = attack(f, x, y)`; then one optimiser update of the mean over the global
    batch of `objective(f, x, x_adv, y)` plus `0.5 * weight_decay * sum |kernel|^2` plus what the
    network's own layers add: `kernel_regularizer`, `activity_regularizer`, `add_loss`. Works under
    any `tf.distribute` strategy: build it, and call `compile`, inside the strategy's scope.

    The layers' own terms are those of the objective's last call of the network (in TRADES and MART
    that on adversarial images), and like everything else averaged over replicas and accumulated
    pieces. A regulariser of weights comes beside `weight_decay`, not in its place.

    Batch norm takes its mean and variance from a replica's images, but its moving statistics are
    those of all replicas. In float16 a step whose gradients overflow on any replica is skipped by
    all of them, and the scale of the loss is halved.

    Training logs `loss` (the objective without decay and layers' own terms) and
    `adversarial_accuracy`, validation `loss`, `clean_accuracy`, `adversarial_accuracy` and
    `attack_gain` (the mean cross-entropy on adversarial minus that on clean images).

    Batches are (images, labels): pixels of any number type, labels of any integer type [N]; other
    forms and weights of images are refused. A label that is no class of the network gives a loss
    that is not a number and, after the first batch or at the epoch's end, a ValueError; pixels in
    [0, 1] or outside [0, 255] are warned of. The last batch may be smaller.

    Random numbers depend on `seed`, the optimiser's step and the replica only, so a resumed run
    draws what the uninterrupted one would have drawn.

    Args:
      network: functional model, pixels float32 [N, H, W, C] to logits [N, num_classes].
      attack: perturbs the training images.
      validation_attack: perturbs the validation images; default `attack`, which shows progress,
        but no robust accuracy worth reporting: give a stronger one.
      objective: the loss; default `adversarial_cross_entropy()`.
      seed: of the attack's noise.
    """

    def __init__(
        self,
        network: keras.Model,
        attack: Attack,
        *,
        validation_attack: Attack | None = None,
        objective: Objective | None = None,
        seed: int = 0,
    ):
        super().__init__(name=f"{network.name}_trainer")
        self.network = network
        self.average: keras.Model | None = None
        self.attack = attack
        self.validation_attack = validation_attack or attack
        self.objective = objective or adversarial_cross_entropy()
        self.seed = seed
        self.hold: Callable[[Any], None] = lambda pipeline: None  # gets each of `fit`'s pipelines
        self._means = {
            name: keras.metrics.Mean(name)
            for name in ("loss", "adversarial_accuracy", "clean_accuracy", "attack_gain")
        }
        self._watch = batches.Watch()
        self.built = True  # the network is; nothing else has weights

    def compile(
        self,
        optimizer: keras.optimizers.Optimizer,
        *,
        weight_decay: float = 0.0,
        activation_weight_decay: float = 0.0,
        ema_decay: float = 0.0,
        gradient_accumulation: int = 1,
        **options,
    ) -> None:
        """Sets how the weights are updated.

        Args:
          optimizer: any Keras optimiser.
          weight_decay: coefficient of `0.5 * |kernel|^2`, coupled (part of the loss), on kernels
            only: not on biases and batch-norm scales.
          activation_weight_decay: the same on the trained scalars of `activations.TRAINED`.
          ema_decay: d of the average `a <- d a + (1 - d) w` over all weights, batch-norm
            statistics included; what is no real number, such as a count, is taken over as it is.
            0 keeps none. The average is made here, so layers such as `Normalization` are to be
            adapted before; it is what is validated and exported.
          gradient_accumulation: number of pieces that a replica's batch is cut into, equal up to
            one image; gradients are averaged over the images and memory falls, batch-norm
            statistics are a piece's.
          **options: of `keras.Model.compile`; `jit_compile` is off by default because XLA halves
            the speed of convolutions on a CPU.
        """
        options.setdefault("jit_compile", False)
        super().compile(optimizer=optimizer, **options)
        self.optimizer.build(self.network.trainable_variables)  # float16 has wrapped it
        self.weight_decay = weight_decay
        self.activation_weight_decay = activation_weight_decay
        if activation_weight_decay and not self._named(*_ACTIVATION_SCALARS):
            raise ValueError(
                f"activation_weight_decay is {activation_weight_decay}, but the network has no "
                f"trained activation; use it with {' or '.join(activations.TRAINED)}, or set 0"
            )
        self.ema_decay = ema_decay
        self.gradient_accumulation = gradient_accumulation
        self.average = None
        if ema_decay:
            self.average = injection.copy(self.network)

    def save(self, *arguments, **options):
        """Refuses: what was trained is the network, and only that can be evaluated and exported.

        Raises:
          ValueError: always, with what to save.
        """
        raise ValueError(
            "the trainer is no network; save what it has trained: trainer.best_network.save("
            '"mine.keras")'
        )

    @property
    def metrics(self) -> list[keras.metrics.Metric]:
        """The running means that Keras resets at every epoch."""
        return list(self._means.values())

    @property
    def best_network(self) -> keras.Model:
        """The network to validate, evaluate and export: the average if there is one."""
        return self.network if self.average is None else self.average

    @property
    def state(self) -> list[keras.Variable]:
        """Everything a run must restore to continue as if it had never stopped."""
        average = [] if self.average is None else self.average.variables
        return [*self.network.variables, *average, *self.optimizer.variables]

    def _maybe_symbolic_build(self, iterator=None, data_batch=None):
        self.hold(iterator)
        # There is nothing left to build, and Keras's way to find out breaks with several workers
        # (keras-team/keras#20585).
        pass

    def make_train_function(self, force: bool = False) -> None:
        """Makes the function of a step, whose first call says if the batch was none to train on."""
        fresh = force or self.train_function is None
        super().make_train_function(force)
        if fresh:
            self.train_function = self._watch.after_first(self.train_function, self._num_classes)

    def get_metrics_result(self) -> dict:
        """Returns the running means at the end of an epoch or a validation.

        Raises:
          ValueError: some labels were not among the network's classes.
        """
        self._watch.report(self._num_classes)
        return super().get_metrics_result()

    @property
    def _num_classes(self):
        return self.network.output_shape[-1]

    def call(self, images, training=None):
        """Returns the network's logits."""
        return self.network(images, training=training)

    def train_step(self, data) -> dict[str, tf.Tensor]:
        """Perturbs a batch, learns from it and returns the logs."""
        num_pieces = self.gradient_accumulation
        batch = batches.unpacked(data)
        self._watch.look(*batch, self._num_classes, num_pieces)
        total = batches.global_count(batch[0])
        gradients = None
        for index, (images, labels) in enumerate(batches.pieces(*batch, num_pieces)):
            if gradients is not None:
                # One piece after the other: only so does memory fall.
                with tf.control_dependencies([g for g in gradients if g is not None]):
                    images = tf.identity(images)
            parts = total / batches.count(images)
            seed = noise.fold_in(self._step_seed(), index)
            more = self._gradients(images, labels, seed, parts)
            gradients = more if gradients is None else list(map(_sum, gradients, more))
        if isinstance(self.optimizer, keras.optimizers.LossScaleOptimizer):
            gradients = distribution.overflow_everywhere(gradients)
        self.optimizer.apply_gradients(
            zip(gradients, self.network.trainable_variables, strict=True)
        )
        self._average_statistics()
        self._update_average()
        return self._logs("loss", "adversarial_accuracy")

    def _gradients(self, images, labels, seed, parts):
        adversarial = self.attack(self.network, images, labels, seed)
        with tf.GradientTape() as tape:
            loss = self._loss(images, adversarial, labels, parts)
        return tape.gradient(loss, self.network.trainable_variables)

    def _loss(self, images, adversarial, labels, parts):
        known = batches.are_classes(labels, self._num_classes)
        losses, logits = self.objective(
            self.network, images, adversarial, tf.where(known, labels, 0)
        )
        own = own_losses(self.network)  # before anything that another replica waits for
        losses = tf.where(known, losses, float("nan"))
        self._means["loss"].update_state(losses)
        self._means["adversarial_accuracy"].update_state(_correct(logits, labels))
        return self.optimizer.scale_loss(self._share_of_global_mean(losses, own, parts))

    def test_step(self, data) -> dict[str, tf.Tensor]:
        """Measures clean and adversarial images and returns the logs."""
        images, labels = batches.unpacked(data)
        self._watch.look(images, labels, self._num_classes, num_pieces=0)
        known = batches.are_classes(labels, self._num_classes)
        network = self.best_network
        seed = tf.constant([self.seed, -1], tf.int32)
        adversarial = self.validation_attack(network, images, labels, seed)
        clean_logits = network(images, training=False)
        logits = network(adversarial, training=False)
        losses, clean_losses = (
            tf.where(known, cross_entropy(z, tf.where(known, labels, 0)), float("nan"))
            for z in (logits, clean_logits)
        )
        gain = losses - clean_losses
        self._means["loss"].update_state(losses)
        self._means["attack_gain"].update_state(gain)
        self._means["clean_accuracy"].update_state(_correct(clean_logits, labels))
        self._means["adversarial_accuracy"].update_state(_correct(logits, labels))
        return self._logs(*self._means)

    def _step_seed(self):
        context = tf.distribute.get_replica_context()
        step = tf.cast(self.optimizer.iterations, tf.int32) * context.num_replicas_in_sync
        seed = tf.constant([self.seed, 0], tf.int32)
        return noise.fold_in(seed, step + tf.cast(context.replica_id_in_sync_group, tf.int32))

    def _share_of_global_mean(self, losses, own, parts):
        # Keras sums gradients over replicas: together the parts of a batch weigh 1.
        loss = tf.reduce_mean(losses) + own
        decays = (
            (self.weight_decay, self._named("kernel")),
            (self.activation_weight_decay, self._named(*_ACTIVATION_SCALARS)),
        )
        for decay, variables in decays:
            if decay:
                loss += decay * tf.add_n([tf.nn.l2_loss(tf.cast(v, tf.float32)) for v in variables])
        return loss / parts

    def _named(self, *endings):
        return [v.value for v in self.network.trainable_variables if v.name.endswith(endings)]

    def _average_statistics(self):
        # Keras moves each replica's batch-norm statistics by that replica's images alone, and saves
        # those of the first.
        context = tf.distribute.get_replica_context()
        names = ("moving_mean", "moving_variance")
        statistics = [v.value for v in self.network.variables if v.name in names]
        if context.num_replicas_in_sync == 1 or not statistics:
            return
        means = context.all_reduce(tf.distribute.ReduceOp.MEAN, list(map(tf.identity, statistics)))
        for variable, mean in zip(statistics, means, strict=True):
            variable.assign(mean)

    def _update_average(self):
        if self.average is None:
            return
        keep = self.ema_decay

        def moved(average, weight):
            if not average.dtype.is_floating:
                return average.assign(weight)
            # So written that what stands still, as a frozen weight does, stays to the last bit.
            return average.assign(average + (1 - keep) * (weight - average))

        def move(strategy, averages, weights):
            for average, weight in zip(averages, weights, strict=True):
                strategy.extended.update(average, moved, args=(weight,))

        averages = [variable.value for variable in self.average.weights]
        weights = [variable.value for variable in self.network.weights]
        tf.distribute.get_replica_context().merge_call(move, args=(averages, weights))

    def _logs(self, *names):
        # Keras averages the logs of replicas, however many images each of them has seen.
        means = [self._means[name] for name in names]
        sums = tf.stack([[mean.total.value, mean.count.value] for mean in means])
        context = tf.distribute.get_replica_context()
        if context.num_replicas_in_sync > 1:
            sums = context.all_reduce(tf.distribute.ReduceOp.SUM, sums)
        # Those of several workers over an axis, which a scalar does not have.
        shape = [1] if distribution.has_workers(tf.distribute.get_strategy()) else []
        results = tf.unstack(tf.math.divide_no_nan(sums[:, 0], sums[:, 1]))
        return {name: tf.reshape(one, shape) for name, one in zip(names, results, strict=True)}


def _correct(logits, labels):
    return 1.0 - tf.cast(misclassified(logits, labels), tf.float32)


def _sum(gradient, more):
    return None if more is None else gradient + more  # of a weight that plays no part
