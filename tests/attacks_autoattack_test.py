"""Every attack keeps the protocol that packing relies on; ensembles hold what their names say."""

import copy
import functools
import itertools

import numpy as np
import pytest
import tensorflow as tf

from sat_tf import attacks
from sat_tf.attacks import autoattack, stepped
from sat_tf.attacks.apgd import APGD
from sat_tf.attacks.fab import FAB
from sat_tf.attacks.pgd_restarts import RestartedPGD
from sat_tf.attacks.square import Square
from sat_tf.attacks.targeted import SteppedTargetedPGD
from tests import linear_network

# A multiple of the widths of vector instructions, as are all sizes that follow from it: in the rest
# of a batch, exp and tanh round differently, and an image would depend on its place.
COUNT = 16
# Two runs, targets or restarts each, so that images pass from one to the next.
ATTACKS = {
    "pgd": RestartedPGD(epsilon=4.0, step_size=1.0, steps=4, restarts=2),
    "pgd-l2": RestartedPGD(epsilon=15.0, step_size=3.0, steps=4, restarts=2, norm="l2"),
    "pgd-random": SteppedTargetedPGD("random", epsilon=4.0, step_size=1.0, steps=8),
    "apgd-ce": APGD(epsilon=4.0, iterations=8, restarts=2),
    "apgd-dlr-l2": APGD(epsilon=15.0, norm="l2", loss="dlr", iterations=8, restarts=2),
    "apgd-t": APGD(epsilon=4.0, loss="dlr-targeted", num_targets=2, iterations=8),
    "apgd-l1": APGD(epsilon=60.0, norm="l1", wide=True, iterations=12, restarts=2),
    "fab-t": FAB(epsilon=4.0, num_targets=2, iterations=5, restarts=2),
    "fab-l2": FAB(epsilon=60.0, norm="l2", targeted=False, iterations=5, restarts=2),
    "square": Square(epsilon=4.0, queries=12, restarts=2),
    "square-l2": Square(epsilon=15.0, norm="l2", queries=12, restarts=2),
}
every_attack = pytest.mark.parametrize("name", ATTACKS)


def network(images, training=False):
    """Returns the logits of a small curved network, independent image by image."""
    rng = np.random.default_rng(0)
    first = tf.constant(rng.normal(size=(linear_network.DIMENSION, 8)) / 150, tf.float32)
    second = tf.constant(rng.normal(size=(8, 4)), tf.float32)
    # Sums instead of matrix products, whose rounding depends on an image's place in the batch.
    flat = tf.reshape(images, [-1, linear_network.DIMENSION, 1])
    return tf.reduce_sum(tf.tanh(tf.reduce_sum(flat * first, 1))[..., None] * second, 1)


def first_state(attack, order=range(COUNT)):
    images = linear_network.images(COUNT, low=0.0, high=255.0)[list(order)]
    logits = network(images)
    labels = np.argmax(logits, 1).astype(np.int32)
    # Some labels are the runner-up's: those images are broken within a step or two.
    labels[np.isin(list(order), [2])] = np.argsort(logits, 1)[:, -2][np.isin(list(order), [2])]
    seeds = np.stack([np.arange(COUNT), np.arange(COUNT) + 10], 1).astype(np.int32)
    seeds = seeds[list(order)]
    return attack.start(
        tf.constant(images), tf.constant(labels), tf.constant(seeds), tf.constant(logits)
    )


@functools.cache
def compiled(name):
    # As Keras runs it: without AutoGraph.
    return tf.function(lambda state: ATTACKS[name].step(network, state), autograph=False)


@functools.cache
def course(name):
    """Returns the states of all images up to a step too many, and how often a step was traced."""
    step, states = compiled(name), [first_state(ATTACKS[name])]
    for _ in range(ATTACKS[name].num_steps + 1):
        states.append(step(states[-1]))
    return states, step.experimental_get_tracing_count()


def rows(state, index):
    return {key: value.numpy()[index] for key, value in state.items()}


def assert_same(one, other):
    for key in one:
        np.testing.assert_array_equal(one[key], other[key], err_msg=key)


@every_attack
def test_an_image_evolves_as_if_alone_whatever_the_others_are_at(name):
    attack = ATTACKS[name]
    alone, _ = course(name)
    step = compiled(name)
    # Slots that were filled at different times, in another order.
    order = np.random.default_rng(0).permutation(COUNT).tolist()
    lags = [0, 3, 1, 7, 2, 5, 6, 4] * (COUNT // 8)
    shuffled = first_state(attack, order)
    mixed = {}
    for key in shuffled:
        mixed[key] = tf.stack(
            [alone[lag][key][image] for image, lag in zip(order, lags, strict=True)]
        )
    for steps in range(attack.num_steps - max(lags)):
        for slot, (image, lag) in enumerate(zip(order, lags, strict=True)):
            assert_same(rows(mixed, slot), rows(alone[lag + steps], image))
        mixed = step(mixed)


# One of each kind: in a batch of one the step is traced once more, which takes longest here.
@pytest.mark.parametrize("name", ["pgd-l2", "apgd-dlr-l2", "apgd-l1", "fab-t", "square"])
def test_verdicts_do_not_depend_on_the_batch_size(name):
    attack = ATTACKS[name]
    together = course(name)[0][attack.num_steps]
    step, apart = compiled(name), [first_state(attack, [n]) for n in range(6)]
    for _ in range(attack.num_steps):
        apart = [step(state) for state in apart]
    for n, state in enumerate(apart):
        assert bool(state["broken"][0]) == bool(together["broken"][n])


@every_attack
def test_states_keep_shapes_and_steps_are_never_retraced(name):
    states, num_traces = course(name)
    for taken, state in enumerate(states):
        assert (state["step"].numpy() == taken).all()
        assert {k: (v.shape, v.dtype) for k, v in state.items()} == {
            k: (v.shape, v.dtype) for k, v in states[0].items()
        }
    assert num_traces == 1


@every_attack
def test_broken_says_that_the_returned_point_is_misclassified_and_stays(name):
    attack = ATTACKS[name]
    (*states, over), _ = course(name)
    for before, state in itertools.pairwise(states):
        point, broken = state["adversarial"].numpy(), state["broken"].numpy()
        wrong = np.argmax(network(point), 1) != state["labels"].numpy()
        np.testing.assert_array_equal(wrong[broken], True)
        was = before["broken"].numpy()
        assert (broken | ~was).all()
        np.testing.assert_array_equal(point[was], before["adversarial"].numpy()[was])
        assert point.min() >= 0 and point.max() <= 255
        moves = linear_network.sizes(point - state["images"].numpy(), attack.norm)
        assert (moves <= attack.epsilon * (1 + 1e-5) + 1e-3).all()
    assert broken.any() and not broken.all()
    # An image that took all its steps keeps its verdict.
    np.testing.assert_array_equal(over["broken"], state["broken"])
    np.testing.assert_array_equal(over["adversarial"], state["adversarial"])
    assert all(np.isfinite(v).all() for k, v in rows(over, slice(None)).items() if k != "distance")


@every_attack
def test_called_alone_the_result_is_that_of_the_steps_and_of_the_seed(name):
    attack = copy.copy(ATTACKS[name])
    attack.step = lambda network, state: compiled(name)(state)  # of the same network, traced before
    state = course(name)[0][attack.num_steps]
    images, labels, seeds = state["images"], state["labels"], state["seeds"]
    call = tf.function(lambda seeds: attack(network, images, labels, seeds), autograph=False)
    np.testing.assert_allclose(call(seeds), state["adversarial"], atol=1e-4)
    np.testing.assert_array_equal(call(seeds), call(seeds))


def test_an_attack_is_called_in_a_line_of_a_notebook():
    images = linear_network.images(4)
    labels = np.argmax(network(images), 1)
    attack = autoattack.make("apgd-ce", epsilon=9.0, norm="l2", num_classes=4, iterations=1)
    tf.random.set_seed(1)
    first = attack(network, images, labels).numpy()
    again = attack(network, images, labels).numpy()
    assert first.shape == images.shape and (first != again).any()
    tf.random.set_seed(1)
    np.testing.assert_array_equal(attack(network, images, labels), first)
    one_seed = attack(network, images, labels, seed=[1, 2])
    np.testing.assert_array_equal(one_seed, attack(network, images, labels, seed=[1, 2]))


def test_standard_is_the_four_attacks_of_autoattack():
    attacks = autoattack.ensemble(epsilon=8.0, num_classes=10)
    assert [attack.name for attack in attacks] == ["apgd-ce", "apgd-t", "fab-t", "square"]
    ce, targeted, fab, square = attacks
    assert [a.num_steps for a in attacks] == [101, 9 * 101, 9 * 100, 5000]
    assert (ce.rho, ce.restarts, targeted.num_targets, fab.num_targets) == (0.75, 1, 9, 9)
    assert (fab.alpha_max, fab.eta, fab.beta) == (0.1, 1.05, 0.9)
    assert square.p_init == 0.8
    assert all(a.epsilon == 8.0 and a.norm == "linf" for a in attacks)
    assert autoattack.left_out(num_classes=10) == {}


def test_plus_and_rand_have_their_restarts_and_averages():
    plus = autoattack.ensemble("plus", epsilon=2.0, norm="l2", num_classes=10)
    names = ["apgd-ce", "apgd-dlr", "fab", "square", "apgd-t", "fab-t"]
    assert [attack.name for attack in plus] == names
    assert [attack.restarts for attack in plus] == [5, 5, 5, 1, 1, 1]
    assert plus[2].num_steps == 500
    rand = autoattack.ensemble("rand", epsilon=2.0, num_classes=10)
    assert [(a.name, a.eot_steps) for a in rand] == [("apgd-ce", 20), ("apgd-dlr", 20)]


@pytest.mark.parametrize("num_classes", [4, 10, 1000])
@pytest.mark.parametrize("norm", ["linf", "l1"])
def test_quick_is_the_beginning_of_standard_with_few_targets(norm, num_classes):
    quick = autoattack.ensemble("quick", epsilon=8.0, norm=norm, num_classes=num_classes)
    standard = autoattack.ensemble(epsilon=8.0, norm=norm, num_classes=num_classes)
    assert [attack.name for attack in quick] == ["apgd-ce", "apgd-t"]
    assert quick[0].num_steps == standard[0].num_steps
    assert (quick[0].loss, quick[0].epsilon, quick[0].norm) == ("ce", 8.0, norm)
    assert quick[1].num_targets == 3
    assert quick[1].num_steps * standard[1].num_targets == standard[1].num_steps * 3
    assert autoattack.left_out("quick", num_classes=3).keys() == {"apgd-t"}
    assert autoattack.ensemble("quick", epsilon=8.0, num_classes=3)[0].name == "apgd-ce"


@pytest.mark.parametrize(
    "num_classes,names,missing",
    [
        (2, ["apgd-ce", "fab-t", "square"], {"apgd-t": "at least 4 classes"}),
        (3, ["apgd-ce", "fab-t", "square"], {"apgd-t": "at least 4 classes"}),
        (4, ["apgd-ce", "apgd-t", "fab-t", "square"], {}),
    ],
)
def test_with_few_classes_an_attack_is_left_out_and_named(num_classes, names, missing):
    attacks = autoattack.ensemble(epsilon=8.0, num_classes=num_classes)
    assert [attack.name for attack in attacks] == names
    targets = [attack.num_targets for attack in attacks if attack.name.endswith("-t")]
    assert set(targets) == {num_classes - 1}
    reasons = autoattack.left_out(num_classes=num_classes)
    assert reasons.keys() == missing.keys()
    for name, words in missing.items():
        assert words in reasons[name]


def test_every_attack_of_every_version_is_there_in_l1():
    for version in autoattack.VERSIONS:
        attacks = autoattack.ensemble(version, epsilon=100.0, norm="l1", num_classes=10)
        assert tuple(attack.name for attack in attacks) == autoattack.members(version)
        assert {attack.norm for attack in attacks} == {"l1"}
        assert autoattack.left_out(version, norm="l1", num_classes=10) == {}


def test_attacks_keep_the_order_in_which_they_and_versions_are_named():
    ball = {"epsilon": 8.0, "norm": "linf", "num_classes": 10}
    for names in (["pgd-3", "quick", "square"], ["square", "pgd-3", "quick"], ["quick", "pgd-3"]):
        made = [attacks.names.name_of(attack) for attack in attacks.parse(names, **ball)]
        assert " ".join(made) == " ".join(names).replace("quick", "apgd-ce apgd-t")


def test_unknown_names_are_refused_with_the_known_ones():
    with pytest.raises(ValueError, match="apgd-ce, apgd-dlr, apgd-t, fab, fab-t, square"):
        autoattack.make("pgd", epsilon=1.0, num_classes=10)
    with pytest.raises(ValueError, match="standard, plus, rand"):
        autoattack.ensemble("custom", epsilon=1.0, num_classes=10)
    with pytest.raises(ValueError, match="use one of: linf, l2, l1"):
        autoattack.make("square", epsilon=1.0, norm="l3", num_classes=10)
    with pytest.raises(TypeError, match="abstract"):
        stepped.Stepped()


def test_the_room_makes_every_attack_by_its_name_and_lists_the_names():
    pgd = attacks.make("pgd-3", epsilon=6.0, num_classes=4)
    assert (type(pgd), pgd.steps, pgd.step_size) == (attacks.PGD, 3, 2.0)
    made = [attacks.make(name, epsilon=6.0, num_classes=4) for name in autoattack.NAMES]
    assert tuple(attack.name for attack in made) == autoattack.NAMES
    for name in ("autoattack", "pgd-x", "fgsm"):
        with pytest.raises(ValueError, match=f"^attack '{name}': unknown; use.*pgd-STEPS, apgd-ce"):
            attacks.make(name, epsilon=6.0, num_classes=4)
