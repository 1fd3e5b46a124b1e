"""An attack of one's own is held to the ball, proved and packed as those that are built in."""

import importlib
import linecache
import sys

import numpy as np
import pytest
import tensorflow as tf

from sat_tf import attacks
from sat_tf.attacks import own
from sat_tf.attacks.own import OwnAttack
from sat_tf.evaluate import Options, evaluate
from sat_tf.evaluation import plan
from tests import linear_network

HERE = "tests.attacks_own_test"
BALL = {"epsilon": 8.0, "norm": "linf", "num_classes": 2}


def steepest(*, epsilon, norm, num_classes):
    """One sign step against the label: exact for two classes of a linear network."""
    assert (norm, num_classes) == ("linf", 2)

    def attack(network, images, labels, seed):
        assert seed.shape.rank == 2  # one for each image
        with tf.GradientTape() as tape:
            tape.watch(images)
            own = tf.one_hot(labels, 2, 1.0, -1.0)
            loss = -tf.reduce_sum(network(images, training=False) * own)
        return tf.clip_by_value(images + epsilon * tf.sign(tape.gradient(loss, images)), 0, 255)

    return attack


def stepped(*, epsilon, norm, num_classes):
    made = attacks.make("apgd-ce", epsilon=epsilon, norm=norm, num_classes=num_classes)
    made.name = "mine"
    return made


def pgd(*, epsilon, norm, num_classes):
    return attacks.PGD(epsilon=epsilon, step_size=2, steps=3, norm=norm)


def twice(**ball):
    return steepest(**{**ball, "epsilon": 2 * ball["epsilon"]})


def other_ball(**ball):
    return stepped(**{**ball, "epsilon": 2 * ball["epsilon"]})


def half(**_):
    return lambda network, images, labels, seed: images[:, :2]


def nothing(**_):
    return None


class Unfinished:
    start = step = None


def unfinished(**_):
    return Unfinished()


class Begun:
    start = None

    def __call__(self, *given):
        """So it is callable, too."""


def begun(**_):
    return Begun()


def positional(epsilon):
    return epsilon


def built_in(**_):
    return (5).__add__


def parsed(function, **changes):
    return attacks.parse([f"{HERE}:{function}"], **{**BALL, **changes})


@pytest.fixture(scope="module")
def linear():
    network = linear_network.LinearNetwork(2)
    images = linear_network.images(40)
    return network, images, network.labels(images)


@pytest.mark.parametrize("batch_size", [7, 32])
def test_it_breaks_what_the_closed_form_says(linear, batch_size):
    network, images, labels = linear
    # Half of the images are nearer to the other class than epsilon.
    distances = linear_network.distances(network, images, labels, "linf")
    epsilon = float(np.median(distances))
    assert (np.abs(distances - epsilon) > 1e-3).all()
    report = evaluate(
        network, (images, labels), parsed("steepest", epsilon=epsilon), Options(batch_size)
    )
    (outcome,) = report.outcomes
    assert outcome.name == "steepest" and outcome.unconfirmed == 0
    np.testing.assert_array_equal(outcome.standing, distances > epsilon)
    assert outcome.image_steps == 40  # one evaluation an image


def test_a_stepped_one_is_run_as_what_it_is(linear):
    network, images, labels = linear
    epsilon = float(np.median(linear_network.distances(network, images, labels, "linf")))
    mine = evaluate(network, (images, labels), parsed("stepped", epsilon=epsilon), Options(8))
    built_in = [attacks.make("apgd-ce", **BALL | {"epsilon": epsilon})]
    assert [one.name for one in parsed("stepped")] == ["mine"]
    expected = evaluate(network, (images, labels), built_in, Options(8)).outcomes[0]
    np.testing.assert_array_equal(mine.outcomes[0].standing, expected.standing)
    assert 0 < expected.standing.sum() < 40 and expected.image_steps > 40
    assert isinstance(parsed("pgd")[0], attacks.PGD)


def test_it_sees_only_what_stands_and_has_its_place_in_the_order(linear):
    network, images, labels = linear
    epsilon = float(np.median(linear_network.distances(network, images, labels, "linf")))
    made = attacks.parse(["apgd-ce", f"{HERE}:steepest"], **BALL | {"epsilon": epsilon})
    first, second = evaluate(network, (images, labels), made, Options(8)).outcomes
    np.testing.assert_array_equal(second.attacked, first.standing)
    assert 0 < first.standing.sum() < 40


@pytest.mark.parametrize(
    "function, said",
    [
        ("missing", "it cannot be made .AttributeError: .*missing"),
        ("positional", "it cannot be made .TypeError: "),
        ("nothing", "it returned NoneType; expected a stepped attack, or a callable"),
        ("other_ball", "it is of linf epsilon 16 pixels where linf epsilon 8 was asked for"),
        ("begun", "Begun lacks name, norm, epsilon, num_steps, .*step"),
        ("unfinished", "Unfinished lacks name, norm, epsilon, num_steps, takes_gradients, which"),
    ],
)
def test_what_is_no_attack_of_this_ball_is_refused_in_words(function, said):
    with pytest.raises(ValueError, match=f"attack '{HERE}:{function}': {said}"):
        parsed(function)


@pytest.mark.parametrize(
    "function, said",
    [
        ("twice", "twice on image .*distance 16 is beyond epsilon, which is 8"),
        ("half", r"attack 'half' returned shape \(None, 2, 4, 2\) for images of shape"),
    ],
)
def test_what_leaves_the_ball_or_the_shape_ends_the_evaluation_in_words(linear, function, said):
    network, images, labels = linear
    with pytest.raises(ValueError, match=said):
        evaluate(network, (images, labels), parsed(function), Options(8))


def test_it_is_callable_alone(linear):
    network, images, labels = linear
    (attack,) = parsed("steepest")
    assert isinstance(attack, OwnAttack)
    moved = attack(network, images, labels, [0, 1]) - images
    np.testing.assert_allclose(np.abs(moved), 8, atol=1e-4)


CODE = """
def attack(*, epsilon, norm, num_classes):
    return lambda network, images, labels, seed: images + {shift}
"""


def test_verdicts_of_other_code_are_not_taken_up(tmp_path, monkeypatch):
    """Whoever improves an attack evaluates again under the same names."""
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "maker.py").write_text("from one import attack\n\nmade = lambda **b: attack(**b)\n")

    def told(module, shift, spec):
        (tmp_path / f"{module}.py").write_text(CODE.format(shift=shift))
        for name in (module, "maker"):
            sys.modules.pop(name, None)  # as in a new process
        linecache.clearcache()
        importlib.invalidate_caches()
        return plan.describe(own.make(spec, **BALL))["source"]

    codes = (("one", 0.0), ("other", 0.0), ("one", 8.0), ("one", 8.0))
    first, *others = (told(module, shift, f"{module}:attack") for module, shift in codes)
    assert first.startswith("one:attack ") and first not in others
    assert others[0] != others[1] == others[2]
    # What the function returns may be of another file than the function.
    assert told("one", 0.0, "maker:made") != told("one", 8.0, "maker:made")
    assert plan.describe(own.make(f"{HERE}:built_in", **BALL))["source"].startswith(HERE)
    assert plan.describe(own.make(f"{HERE}:stepped", **BALL))["source"].startswith(HERE)
