"""Adversarial weight perturbation, beside any objective."""

import keras
import tensorflow as tf

from sat_tf.training.objectives import Objective

_TINY = 1e-12


def perturbed(objective: Objective, gamma: float) -> Objective:
    """Makes the objective of the network whose kernels are moved to where it is worst.

    `L(w + v)` with `v_l = gamma |w_l| g_l / |g_l|` for every kernel `l`, `g` the gradient of the
    mean of `L(w)` over the global batch, and `v` held constant: the gradient with respect to `w`
    is the one at `w + v`. Norms are L2, over a whole kernel. Nothing is assigned to the weights;
    the network reads `w + v` while the objective calls it, so they need no restoring. Batch-norm
    averages move once, as the perturbed pass says; the pass that finds `g` leaves no trace.

    Costs one more pass forward and back. Under gradient accumulation each piece has its own `v`.

    Source: Wu et al., arXiv 2004.05884, section 4 and algorithm 1, one ascent step. As in the
    released code, kernels are perturbed, vectors such as biases and batch-norm scales are not.
    Deviation: the trainer's weight decay is that of `w`, not of `w + v`, and so are regularisers of
    the network's weights; what its layers add otherwise (`activity_regularizer`, `add_loss`) is
    that of `w + v`. None of them takes part in `g`.

    Args:
      objective: any objective.
      gamma: relative size of the perturbation, above 0; 5e-3 to 1e-2 in the paper.

    Raises:
      ValueError: gamma not above 0.
    """
    if not 0 < gamma < float("inf"):
        raise ValueError(f"gamma is {gamma}; give a relative size above 0, such as 0.005")

    def worst(network, images, adversarial, labels):
        kernels = [v for v in network.trainable_variables if v.name.endswith("kernel")]
        with tf.GradientTape() as tape, keras.StatelessScope():
            losses, _ = objective(network, images, adversarial, labels)
            loss = tf.reduce_sum(losses)  # a replica may have fewer images; `v` has no scale
        gradients = tape.gradient(
            loss, [k.value for k in kernels], unconnected_gradients=tf.UnconnectedGradients.ZERO
        )
        replicas = tf.distribute.get_replica_context()
        gradients = replicas.all_reduce(tf.distribute.ReduceOp.SUM, gradients)
        moved = [
            (kernel, kernel.value + _perturbation(kernel.value, gradient, gamma))
            for kernel, gradient in zip(kernels, gradients, strict=True)
        ]
        with keras.StatelessScope(moved, collect_losses=True) as scope:
            result = objective(network, images, adversarial, labels)
        network._clear_losses()  # a view's call does not
        network._losses.extend(scope.losses)  # they would end with the scope
        _keep_updates(scope, network, kernels)
        return result

    return worst


def _perturbation(kernel, gradient, gamma):
    kernel = tf.convert_to_tensor(kernel)
    scale = gamma * tf.norm(kernel) / tf.maximum(tf.norm(gradient), _TINY)
    return tf.stop_gradient(scale * gradient)


def _keep_updates(scope, network, kernels):
    """Assigns what the network itself changed: batch-norm averages, states of dropout."""
    moved = {id(kernel) for kernel in kernels}
    for variable in network.variables:
        value = scope.get_current_value(variable)
        if value is not None and id(variable) not in moved:
            variable.assign(value)
