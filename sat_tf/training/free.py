"""Free adversarial training: one backward pass moves the weights and the perturbation."""

import keras
import tensorflow as tf

from sat_tf import activations, attacks
from sat_tf.attacks import geometry, scaling
from sat_tf.training import AdversarialTrainer, averages


def replay(batches: tf.data.Dataset, num_replays: int, start: int = 0) -> tf.data.Dataset:
    """Yields every batch `num_replays` times in a row.

    Args:
      batches: the training stream.
      num_replays: m of the paper, at least 1.
      start: replays of the first batch that a resumed run has done already.

    Raises:
      ValueError: num_replays below 1, or start not below it.
    """
    if num_replays < 1:
        raise ValueError(f"num_replays is {num_replays}; give at least 1")
    if not 0 <= start < num_replays:
        raise ValueError(f"start is {start}; give a number from 0 to {num_replays - 1}")
    repeated = batches.flat_map(
        lambda *batch: tf.data.Dataset.from_tensors(batch).repeat(num_replays)
    )
    return repeated.skip(start)


class FreeTrainer(AdversarialTrainer):
    """Trains on batches that come several times in a row (`replay`), each time perturbed further.

    One step is one replay: with `x_adv = clip(x + delta, 0, 255)`, one backward pass of the
    objective gives the weights' gradient, for one optimiser update, and the images' gradient, for
    `delta <- clip(delta + step_size * sign(g), -epsilon, epsilon)`. `delta` begins at 0 and goes on
    from batch to batch. It belongs to `state`, so a run resumes exactly after any replay.

    A step costs what a step of clean training costs, and is what schedules and checkpoints count.
    The paper divides the epochs by m: N steps see N / m different batches.

    Source: Shafahi et al., arXiv 1904.12843, algorithm 1, where step_size is epsilon; m is 8 on
    CIFAR-10 and 4 on ImageNet. L-inf only, as there. `g` is the gradient at `x_adv`, the images
    that the network sees, as the algorithm writes it and as PGD takes it. Deviation from both
    released codes: they differentiate through the clip, so that a perturbation that leaves the
    pixel range has gradient 0 and stands still until an image comes that brings it back.

    Args:
      network: as of `AdversarialTrainer`, with a fixed image size.
      batch_size: images in a global batch, over all replicas.
      epsilon: radius of the ball in pixels, at least 0.
      step_size: step of the perturbation in pixels, at least 0; default epsilon.
      **options: of `AdversarialTrainer`; `validation_attack` is required.

    Raises:
      ValueError: an epsilon or step_size below 0 or not a number; a network of any image size; in
        training, a batch that is larger than batch_size.
    """

    def __init__(
        self,
        network: keras.Model,
        *,
        batch_size: int,
        epsilon: float,
        validation_attack: attacks.Attack,
        step_size: float | None = None,
        **options,
    ):
        step_size = epsilon if step_size is None else step_size
        for name, value in (("epsilon", epsilon), ("step_size", step_size)):
            if not value >= 0:
                raise ValueError(f"{name} is {value}; give pixels (0-255), at least 0")
        if None in network.input_shape[1:]:
            raise ValueError(
                f"free adversarial training keeps a perturbation of the image's shape; the network "
                f"takes {network.input_shape}: build it with a fixed --image_size"
            )
        # Validation needs an attack of its own: training has none that another image could use.
        super().__init__(network, attacks.identity, validation_attack=validation_attack, **options)
        self.epsilon, self.step_size = float(epsilon), float(step_size)
        self.perturbation = keras.Variable(
            tf.zeros((batch_size, *network.input_shape[1:])),
            trainable=False,
            dtype="float32",
            name="perturbation",
        )

    def compile(self, optimizer: keras.optimizers.Optimizer, **options) -> None:
        """Sets how the weights are updated, as `AdversarialTrainer.compile`.

        Raises:
          ValueError: gradient_accumulation, which would delay the update that each replay makes.
        """
        if options.get("gradient_accumulation", 1) != 1:
            raise ValueError(
                f"free adversarial training updates the weights at every replay; got "
                f"--gradient_accumulation={options['gradient_accumulation']}: use 1"
            )
        super().compile(optimizer, **options)

    @property
    def state(self) -> list[keras.Variable]:
        """Everything a run must restore to continue as if it had never stopped."""
        return [*super().state, self.perturbation]

    def gradients_of(self, images, labels, seed, parts) -> averages.Gradients:
        """Returns the weights' gradients and moves the perturbation along the images'."""
        rows = self._own_rows()
        images = _fitting(images, rows.shape[0])
        size = images.shape[0] or tf.shape(images)[0]
        perturbation = rows[:size]
        with tf.GradientTape() as tape, activations.drawing(seed):
            shifted = images + perturbation
            adversarial = tf.clip_by_value(shifted, geometry.PIXEL_MIN, geometry.PIXEL_MAX)
            tape.watch(adversarial)
            loss = self.loss_of(images, adversarial, labels, parts)
        *gradients, slope = tape.gradient(loss, [*self.network.trainable_variables, adversarial])
        direction = geometry.steepest_direction(scaling.finite(slope), "linf")
        share = self.attack_share().get("share", 1.0)
        moved = perturbation + share * self.step_size * direction
        moved = tf.clip_by_value(moved, -share * self.epsilon, share * self.epsilon)
        self._keep(tf.concat([moved, rows[size:]], 0))
        return gradients

    def _own_rows(self):
        context = tf.distribute.get_replica_context()
        pieces = tf.split(self.perturbation.value, context.num_replicas_in_sync)
        return tf.stack(pieces)[context.replica_id_in_sync_group]

    def _keep(self, rows):
        """Writes the rows of all replicas to every copy of the perturbation."""
        context = tf.distribute.get_replica_context()
        if context.num_replicas_in_sync > 1:
            rows = context.all_gather(rows, axis=0)

        def write(strategy, variable, value):
            strategy.extended.update(variable, lambda v, new: v.assign(new), args=(value,))

        context.merge_call(write, args=(self.perturbation.value, rows))


def _fitting(images, room):
    """Returns a replica's images after a look whether there is a perturbation for each."""
    size = images.shape[0]
    refusal = (
        f"batches of at most {room} images a replica were expected, as there is a perturbation for "
        "each; give the trainer the batch_size of the stream"
    )
    if size is None:
        checks = [tf.debugging.assert_less_equal(tf.shape(images)[0], room, refusal)]
        with tf.control_dependencies(checks):
            return tf.identity(images)
    if size > room:
        raise ValueError(f"a batch has {size} images; {refusal}")
    return images
