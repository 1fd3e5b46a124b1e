"""Ours among the AutoAttacks, and what a step of each attack costs beyond the network alone."""

import pathlib
import types

import numpy as np
import tensorflow as tf

from benchmarks import problems, timing
from sat_tf.attacks import autoattack, stepped
from sat_tf.attacks.fab import FAB
from sat_tf.attacks.pgd_restarts import RestartedPGD
from sat_tf.evaluation import folding
from sat_tf.evaluation.packing.packed import CHUNK, Packed
from sat_tf.evaluation.runner import Runner
from sat_tf.evaluation.stream import Stream, seeds_of
from sat_tf.evaluation.sweep import Sweep
from sat_tf.training.objectives import cross_entropy


def contender(name: str, folder: str, given: types.SimpleNamespace) -> dict[str, timing.Case]:
    """Makes a case for each of `given.attacks`: as "ours" the attack, as "step costs" a step."""
    tf.config.threading.set_intra_op_parallelism_threads(given.threads)
    tf.config.threading.set_inter_op_parallelism_threads(given.threads)
    problem = problems.load(folder)
    stream = Stream((problem.images, problem.labels), given.batch_size)
    folded = folding.checked(problem.network, stream)
    if name == "step costs":
        return step_costs(problem, folded or problem.network, given)
    runner = Runner(problem.network, stream, 0, folded=folded)

    def run(attack):
        chosen = np.load(pathlib.Path(folder, "candidates.npy"))
        sweep = Sweep.blank(attack.name, attack, len(chosen), title="", noise=attack.name)
        for verdict in runner.run(sweep, chosen):
            sweep.note(verdict, 0.0)
        passes = forward_passes(attack)
        return {
            "standing": (~sweep.broken[chosen]).astype(int).tolist(),
            "needed": passes * sweep.image_steps,
            "paid": passes * sweep.slot_steps,
        }

    return {
        f"{name} {attack.name}": timing.of_call(lambda attack=attack: run(attack))
        for attack in attacks(problem, given)
    }


def attacks(problem: problems.Problem, given: types.SimpleNamespace) -> list[stepped.Stepped]:
    """Makes the attacks that the flags name."""
    classes, made = int(problem.network.output_shape[-1]), []
    for name in given.attacks:
        settings = {"queries": given.square_queries} if name == "square" else {}
        made.append(autoattack.make(name, epsilon=problem.epsilon, num_classes=classes, **settings))
    return made


def forward_passes(attack: stepped.Stepped) -> int:
    """Returns how often a step has an image in the network: FAB checks where its gradient led."""
    return 2 if isinstance(attack, FAB) else 1


def step_costs(problem, network, given) -> dict[str, timing.Case]:
    """Makes a case for the network's two passes and one for a step of each attack.

    All are loops of `CHUNK` in the graph on one batch. The attacks run in the slots of an
    evaluation and go on from round to round, from their start again where they end. Batch norm is
    folded for all, where it can be.
    """
    size = given.batch_size
    rows = np.arange(size) % len(problem.labels)
    images, labels = problem.images[rows], problem.labels[rows]
    logits = np.asarray(network(images, training=False))
    columns = [images, labels, seeds_of(0, np.arange(size), 0), logits]
    pgd = RestartedPGD(
        epsilon=problem.epsilon, step_size=problem.step_size, steps=given.attack_steps
    )
    found = {"forward": _loop(lambda x: network(x, training=False), images)}
    found["gradient"] = _loop(lambda x: _gradient(network, x, labels), images)
    for attack in [pgd, *attacks(problem, given)]:
        found[attack.name] = _chunk(Packed(network, attack, size), list(map(tf.constant, columns)))
    return {name: _of_one(timing.of_step(function, 1)) for name, function in found.items()}


def _of_one(case):
    def seconds():
        wall, processor, _ = case()
        return timing.Seconds(wall / CHUNK, processor / CHUNK)

    return seconds


def _gradient(network, images, labels):
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch(images)
        loss = tf.reduce_sum(cross_entropy(network(images, training=False), labels))
    return tape.gradient(loss, images)


def _loop(function, images):
    @tf.function(autograph=False)
    def loop():
        # Each pass needs the one before it; otherwise TensorFlow would do a single one.
        return tf.while_loop(
            lambda _: True,
            lambda x: (x + 1e-9 * tf.reduce_sum(function(x)),),
            (tf.constant(images),),
            parallel_iterations=1,
            maximum_iterations=CHUNK,
        )

    return lambda: loop()[0].numpy()


def _chunk(engine, columns):
    state = None
    # Also of images that are broken: their slots cost as much.
    occupied, enough = tf.zeros(len(columns[0]), tf.bool), tf.constant([1])

    def step():
        nonlocal state
        if state is None or int(state["step"][0]) + CHUNK > engine.attack.num_steps:
            state = engine._fill(*columns)
        state, *_ = engine._advance(state, occupied, enough)
        return state["adversarial"].numpy()

    return step
