"""The trainer: a Keras model whose step is "perturb, then learn"."""

import keras
import tensorflow as tf

from sat_tf import activations, injection
from sat_tf.attacks import Attack, noise
from sat_tf.attacks.losses import misclassified
from sat_tf.runs import distribution
from sat_tf.training import averages, batches, objectives, schedules
from sat_tf.training.fittable import Fittable


class AdversarialTrainer(Fittable):
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

    Batches are (images, labels): pixels of any number type, labels of any integer type [N], or soft
    ones [N, num_classes], rows of probabilities; other forms and weights of images are refused.
    Accuracies count the most probable class of a soft label. A label that is no class of the
    network, or a row that is no probability, gives a loss that is not a number and, after the first
    batch or at the epoch's end, a ValueError; pixels in [0, 1] or outside [0, 255] are warned of.
    The last batch may be smaller.

    Random numbers depend on `seed`, the optimiser's step and the replica only, so a resumed run
    draws what the uninterrupted one would have drawn.

    Args:
      network: functional model, pixels float32 [N, H, W, C] to logits [N, num_classes].
      attack: perturbs the training images.
      validation_attack: perturbs the validation images; default `attack`, which shows progress,
        but no robust accuracy worth reporting: give a stronger one.
      objective: the loss; default `adversarial_cross_entropy()`.
      seed: of the attack's noise, and of layers that draw random numbers.
      epsilon_warmup_steps: steps in which epsilon and step size of the training attack grow from 0
        (`schedules.attack_share`), by its argument `share`, as that of `PGD`; 0: they never change.
    """

    def __init__(
        self,
        network: keras.Model,
        attack: Attack,
        *,
        validation_attack: Attack | None = None,
        objective: objectives.Objective | None = None,
        seed: int = 0,
        epsilon_warmup_steps: int = 0,
    ):
        super().__init__(network, ("loss", "adversarial_accuracy", "clean_accuracy", "attack_gain"))
        self.attack = attack
        self.validation_attack = validation_attack or attack
        self.objective = objective or objectives.adversarial_cross_entropy()
        self.seed = seed
        self.epsilon_warmup_steps = epsilon_warmup_steps

    @property
    def state(self) -> list[keras.Variable]:
        """Everything a run must restore to continue as if it had never stopped."""
        return [*super().state, *getattr(self.attack, "variables", ())]  # see `several.Biased`

    def train_step(self, data) -> dict[str, tf.Tensor]:
        """Perturbs a batch, learns from it and returns the logs."""
        images, labels = self.received(data, self.gradient_accumulation)
        gradients = averages.gradients_over_pieces(
            self.gradients_of, images, labels, self.step_seed(), self.gradient_accumulation
        )
        self.learn(gradients)
        return self.logs("loss", "adversarial_accuracy")

    def gradients_of(self, images, labels, seed, parts) -> averages.Gradients:
        """Perturbs images and returns the gradients of their part of the loss, `loss_of`."""
        adversarial = self.attack(self.network, images, labels, seed, **self.attack_share())
        copies = getattr(self.attack, "copies", 1)  # see `several.Each`
        if copies > 1:
            images, labels = tf.concat([images] * copies, 0), tf.concat([labels] * copies, 0)
        with tf.GradientTape() as tape, activations.drawing(seed):
            loss = self.loss_of(images, adversarial, labels, parts)
        return tape.gradient(loss, self.network.trainable_variables)

    def loss_of(self, images, adversarial, labels, parts) -> tf.Tensor:
        """Computes the loss of a global batch's `1 / parts`: Keras sums gradients over replicas."""
        known = batches.are_classes(labels, self.num_classes)
        losses, logits = self.objective(
            self.network, images, adversarial, batches.masked(labels, known)
        )
        own = objectives.own_losses(self.network)  # before what another replica waits for
        losses = tf.where(known, losses, float("nan"))
        self.note(loss=losses, adversarial_accuracy=_correct(logits, labels))
        loss = tf.reduce_mean(losses) + own
        if self.weight_decay:
            loss += objectives.weight_decay(self.network, self.weight_decay)
        if self.activation_weight_decay:
            loss += objectives.weight_decay(
                self.network, self.activation_weight_decay, objectives.ACTIVATION_SCALARS
            )
        return self.optimizer.scale_loss(loss / parts)

    def learn(self, gradients: averages.Gradients) -> None:
        """Updates the weights, then what follows from them: statistics and average."""
        if isinstance(self.optimizer, keras.optimizers.LossScaleOptimizer):
            gradients = distribution.overflow_everywhere(gradients)
        weights = self.network.trainable_variables
        self.optimizer.apply_gradients(zip(gradients, weights, strict=True))
        averages.average_statistics_over_replicas(self.network)
        if self.averaged is not None:
            averages.take_average(self.average, self.network, self.averaged)
        elif self.average is not None:  # after the statistics, which it averages too
            averages.move_average(self.average, self.network, self.ema_decay)

    def attack_share(self) -> dict[str, tf.Tensor]:
        """Returns what a step's attack takes beside the seed: its `share`, if epsilon warms up."""
        if not (steps := self.epsilon_warmup_steps):
            return {}
        return {"share": schedules.attack_share(self.optimizer.iterations, steps)}

    def step_seed(self) -> tf.Tensor:
        """Returns the seed of a step on this replica; `fold_in` makes one seed of two numbers."""
        context = tf.distribute.get_replica_context()
        step = tf.cast(self.optimizer.iterations, tf.int32) * context.num_replicas_in_sync
        seed = tf.constant([self.seed, 0], tf.int32)
        return noise.fold_in(seed, step + tf.cast(context.replica_id_in_sync_group, tf.int32))

    def test_step(self, data) -> dict[str, tf.Tensor]:
        """Measures clean and adversarial images and returns the logs."""
        images, labels = self.received(data, num_pieces=0)
        known = batches.are_classes(labels, self.num_classes)
        network = self.best_network
        seed = tf.constant([self.seed, -1], tf.int32)
        adversarial = self.validation_attack(network, images, labels, seed)
        clean_logits = network(images, training=False)
        logits = network(adversarial, training=False)
        losses, clean_losses = (
            tf.where(
                known, objectives.cross_entropy(z, batches.masked(labels, known)), float("nan")
            )
            for z in (logits, clean_logits)
        )
        found = {
            "loss": losses,
            "adversarial_accuracy": _correct(logits, labels),
            "clean_accuracy": _correct(clean_logits, labels),
            "attack_gain": losses - clean_losses,
        }
        self.note(**found)
        return self.logs(*found)

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
          optimizer: any Keras optimiser. If it averages weights itself, its `averaged` tells the
            average of each, and the network with those is validated and exported.
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
            the speed of convolutions on a CPU. `steps_per_execution` is for one replica.

        Raises:
          ValueError: `activation_weight_decay` without a trained activation; several steps at a
            time on several replicas; two averages of the weights.
        """
        super().compile(optimizer=optimizer, **options)
        self.optimizer.build(self.network.trainable_variables)  # float16 has wrapped it
        scalars = objectives.named(self.network, objectives.ACTIVATION_SCALARS)
        if activation_weight_decay and not scalars:
            raise ValueError(
                f"--activation_weight_decay={activation_weight_decay:g}, but the network has no "
                f"trained activation; use it with {' or '.join(activations.TRAINED)}, or set 0"
            )
        self.averaged = getattr(optimizer, "averaged", None)
        if self.averaged is not None and ema_decay:
            raise ValueError(
                f"the optimizer {optimizer.name} averages the weights, and so does --ema_decay="
                f"{ema_decay:g}; set that to 0"
            )
        self.weight_decay = weight_decay
        self.activation_weight_decay = activation_weight_decay
        self.ema_decay = ema_decay
        self.gradient_accumulation = gradient_accumulation
        keeps_average = ema_decay or self.averaged is not None
        self.average = injection.copy(self.network) if keeps_average else None


def _correct(logits, labels):
    return 1.0 - tf.cast(misclassified(logits, labels), tf.float32)
