"""Who computes PGD on one network: packed slots, the same without packing, foolbox and ART."""

import importlib.util
import os
from collections.abc import Callable

import keras
import numpy as np
import tensorflow as tf

from sat_tf.attacks import stepped
from sat_tf.attacks.pgd_restarts import RestartedPGD
from sat_tf.evaluation.packing.packed import Packed, Waiting
from sat_tf.evaluation.stream import seeds_of

# Returns for every image whether it stands.
Contender = Callable[[], np.ndarray]


class Problem:
    """The network, the images and the attack that all contenders share."""

    def __init__(self, network, images, labels, epsilon, given):
        self.network, self.images, self.labels = network, images, labels
        self.epsilon, self.steps, self.batch_size = epsilon, given.steps, given.batch_size
        self.threads = given.threads or len(os.sched_getaffinity(0))
        self.step_size = epsilon / 4
        self.attack = RestartedPGD(epsilon=epsilon, step_size=self.step_size, steps=self.steps)
        self.seeds = seeds_of(0, np.arange(len(labels)), 0)

    def batches(self):
        """Yields slices; the last one may be shorter."""
        for start in range(0, len(self.labels), self.batch_size):
            yield slice(start, start + self.batch_size)


def packed(problem: Problem) -> Contender:
    """Leaves an image as soon as it is broken."""
    engine = Packed(problem.network, problem.attack, problem.batch_size)

    def run():
        standing = np.zeros(len(problem.labels), bool)
        columns = (problem.images, problem.labels, problem.seeds)
        logits = np.zeros(int(problem.network.output_shape[-1]), np.float32)
        waiting = (Waiting(i, *row, logits) for i, row in enumerate(zip(*columns, strict=True)))
        for verdict in engine.run(waiting):
            standing[verdict.index] = not verdict.broken
        return standing

    return run


def plain(problem: Problem) -> Contender:
    """Gives every image all steps, in a loop of the graph that is traced once."""
    attack = problem.attack

    @tf.function(autograph=False)
    def attacked(images, labels, seeds):
        return tf.while_loop(
            lambda _: True,
            lambda state: (attack.step(problem.network, state),),
            (attack.start(images, labels, seeds, None),),
            parallel_iterations=1,
            maximum_iterations=attack.num_steps,
        )[0]

    def run():
        standing = []
        for part in problem.batches():
            columns = _padded(problem.batch_size, *(c[part] for c in _columns(problem)))
            state: stepped.State = attacked(*columns)
            standing.append(~state["broken"].numpy()[: len(problem.labels[part])])
        return np.concatenate(standing)

    return run


def foolbox_loop(problem: Problem) -> Contender | None:
    """foolbox's LinfPGD on the Keras network; None where foolbox is not installed."""
    if importlib.util.find_spec("foolbox") is None:
        return None
    import foolbox

    model = foolbox.TensorFlowModel(problem.network, bounds=(0, 255))
    attack = foolbox.attacks.LinfProjectedGradientDescentAttack(
        abs_stepsize=problem.step_size, steps=problem.steps, random_start=True
    )

    def run():
        standing = []
        for part in problem.batches():
            images = tf.constant(problem.images[part])
            # int64 as its own predictions: eagerpy promotes types by a function NumPy 2 lacks.
            labels = tf.constant(problem.labels[part].astype(np.int64))
            criterion = foolbox.criteria.Misclassification(labels)
            _, _, hit = attack(model, images, criterion, epsilons=problem.epsilon)
            standing.append(~hit.numpy())
        return np.concatenate(standing)

    return run


def art_loop(problem: Problem) -> Contender | None:
    """ART's PGD on the Keras network; None where ART is not installed."""
    if importlib.util.find_spec("art") is None:
        return None
    from art.attacks.evasion import ProjectedGradientDescent
    from art.estimators.classification import TensorFlowV2Classifier

    classifier = TensorFlowV2Classifier(
        model=problem.network,
        nb_classes=int(problem.network.output_shape[-1]),
        input_shape=problem.images.shape[1:],
        loss_object=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        clip_values=(0, 255),
    )
    attack = ProjectedGradientDescent(
        classifier,
        norm=np.inf,
        eps=problem.epsilon,
        eps_step=problem.step_size,
        max_iter=problem.steps,
        num_random_init=1,
        batch_size=problem.batch_size,
        verbose=False,
    )

    def run():
        adversarial = attack.generate(problem.images, problem.labels)
        logits = problem.network.predict(adversarial, problem.batch_size, verbose=0)
        return logits.argmax(1) == problem.labels

    return run


def _columns(problem):
    return problem.images, problem.labels, problem.seeds


def _padded(size, *columns):
    missing = size - len(columns[0])
    return [tf.constant(np.concatenate([c, np.repeat(c[:1], missing, 0)])) for c in columns]
