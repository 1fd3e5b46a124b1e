"""Who computes PGD on one Keras network: packed slots, the same without, foolbox and ART."""

import types
from collections.abc import Callable

import keras
import numpy as np
import tensorflow as tf

from benchmarks import problems, timing
from benchmarks.problems import Problem
from sat_tf.attacks import stepped
from sat_tf.attacks.pgd_restarts import RestartedPGD
from sat_tf.evaluation.packing.packed import Packed, Waiting
from sat_tf.evaluation.stream import seeds_of

# Returns for every image whether it stands.
Run = Callable[[], np.ndarray]


def contender(name: str, folder: str, given: types.SimpleNamespace) -> dict[str, timing.Case]:
    """Makes one of `MAKERS` for the problem in the folder; the result is a list of 0 and 1."""
    tf.config.threading.set_intra_op_parallelism_threads(given.threads)
    tf.config.threading.set_inter_op_parallelism_threads(given.threads)
    run = MAKERS[name](problems.load(folder), given)
    return {name: timing.of_call(lambda: run().astype(int).tolist())}


def packed(problem: Problem, given: types.SimpleNamespace) -> Run:
    """Leaves an image as soon as it is broken."""
    engine = Packed(problem.network, _attack(problem, given), given.batch_size)

    def run():
        standing = np.zeros(len(problem.labels), bool)
        logits = np.zeros(int(problem.network.output_shape[-1]), np.float32)
        rows = enumerate(zip(*_columns(problem), strict=True))
        for verdict in engine.run(Waiting(i, *row, logits) for i, row in rows):
            standing[verdict.index] = not verdict.broken
        return standing

    return run


def plain(problem: Problem, given: types.SimpleNamespace) -> Run:
    """Gives every image all steps, in a loop of the graph that is traced once."""
    attack = _attack(problem, given)

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
        for part in problem.batches(given.batch_size):
            columns = _padded(given.batch_size, *(c[part] for c in _columns(problem)))
            state: stepped.State = attacked(*columns)
            standing.append(~state["broken"].numpy()[: len(problem.labels[part])])
        return np.concatenate(standing)

    return run


def foolbox_loop(problem: Problem, given: types.SimpleNamespace) -> Run:
    """foolbox's LinfPGD on the Keras network."""
    import foolbox

    model = foolbox.TensorFlowModel(problem.network, bounds=(0, 255))
    attack = foolbox.attacks.LinfProjectedGradientDescentAttack(
        abs_stepsize=problem.step_size, steps=given.attack_steps, random_start=True
    )

    def run():
        standing = []
        for part in problem.batches(given.batch_size):
            images = tf.constant(problem.images[part])
            # int64 as its own predictions: eagerpy promotes types by a function NumPy 2 lacks.
            labels = tf.constant(problem.labels[part].astype(np.int64))
            criterion = foolbox.criteria.Misclassification(labels)
            _, _, hit = attack(model, images, criterion, epsilons=problem.epsilon)
            standing.append(~hit.numpy())
        return np.concatenate(standing)

    return run


def art_loop(problem: Problem, given: types.SimpleNamespace) -> Run:
    """ART's PGD on the Keras network."""
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
        max_iter=given.attack_steps,
        num_random_init=1,
        batch_size=given.batch_size,
        verbose=False,
    )

    def run():
        adversarial = attack.generate(problem.images, problem.labels)
        logits = problem.network.predict(adversarial, given.batch_size, verbose=0)
        return logits.argmax(1) == problem.labels

    return run


MAKERS = {"packed": packed, "plain": plain, "foolbox": foolbox_loop, "ART": art_loop}


def _attack(problem, given):
    return RestartedPGD(
        epsilon=problem.epsilon, step_size=problem.step_size, steps=given.attack_steps
    )


def _columns(problem):
    seeds = seeds_of(0, np.arange(len(problem.labels)), 0)
    return problem.images, problem.labels, seeds


def _padded(size, *columns):
    missing = size - len(columns[0])
    return [tf.constant(np.concatenate([c, np.repeat(c[:1], missing, 0)])) for c in columns]
