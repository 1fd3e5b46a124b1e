"""Where an attack towards a class, or one of another network, ends on linear networks."""

import types

import numpy as np
import pytest
import tensorflow as tf

from sat_tf import attacks
from sat_tf.attacks import PGD, transfer
from sat_tf.attacks.targeted import TARGETS, SteppedTargetedPGD, TargetedPGD, targets
from sat_tf.evaluate import Options, evaluate
from sat_tf.evaluation import plan, settings
from sat_tf.training import parts
from tests import linear_network

BALL = {"epsilon": 6.0, "step_size": 2.0, "steps": 9}


class Disjoint:
    """A linear network whose classes look at pixels of their own: what helps one hurts none."""

    def __init__(self, num_classes=4):
        size = np.random.default_rng(0).uniform(0.005, 0.02, (linear_network.DIMENSION, 1))
        owner = np.arange(linear_network.DIMENSION)[:, None] % num_classes
        self.weights = np.where(owner == np.arange(num_classes), size, 0.0)
        self.weights[::5] *= -1

    def __call__(self, images, training=False):
        flat = tf.reshape(images, [-1, linear_network.DIMENSION])
        return flat @ tf.constant(self.weights, tf.float32)

    def ends(self, images, target, epsilon):
        """Up on the target's pixels, down on all others, each by its weight's sign."""
        direction = np.sign(self.weights) @ np.where(np.arange(4) == target, 1.0, -1.0)
        moved = images + epsilon * direction.reshape(linear_network.SHAPE)
        return np.clip(moved, 0, 255)


def batch(count=16, **options):
    images = linear_network.images(count, low=0.0, high=255.0, **options)
    return images, np.random.default_rng(2).integers(0, 4, count).astype(np.int32)


@pytest.mark.parametrize("target", TARGETS)
def test_it_ends_where_the_target_gains_most_and_all_others_lose_most(target):
    network, (images, labels) = Disjoint(), batch()
    attack = TargetedPGD(target, **BALL)
    chosen = targets(target, network(images), labels, tf.constant([3, 4])).numpy()
    found = attack(network, images, labels, tf.constant([3, 4])).numpy()
    soft = tf.one_hot(labels, 4, 0.7, 0.1)
    half = attack(network, images, soft, tf.constant([3, 4]), share=tf.constant(0.5)).numpy()
    for image, aim, end, near in zip(images, chosen, found, half, strict=True):
        np.testing.assert_allclose(end, network.ends(image, aim, 6.0), rtol=0, atol=1e-4)
        np.testing.assert_allclose(near, network.ends(image, aim, 3.0), rtol=0, atol=1e-4)
    away = PGD(**BALL)(network, images, labels, tf.constant([3, 4])).numpy()
    assert np.abs(away - found).max() == pytest.approx(12.0)  # another attack than PGD


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_with_two_classes_it_is_pgd(target, norm):
    network, (images, labels) = linear_network.LinearNetwork(2), batch()
    seeds = tf.constant(np.arange(32).reshape(16, 2), tf.int32)
    options = {**BALL, "norm": norm}
    found = TargetedPGD(target, **options)(network, images, labels % 2, seeds)
    expected = PGD(**options)(network, images, labels % 2, seeds)
    # The slopes p - 1 and -p of either label round apart; in L-inf their signs are all that counts.
    np.testing.assert_allclose(found, expected, rtol=0, atol=0 if norm == "linf" else 1e-4)


@pytest.mark.parametrize("each", [False, True])
def test_random_targets_are_uniform_over_the_other_classes(each):
    count, num_classes = 6000, 4
    labels = np.arange(count, dtype=np.int32) % num_classes
    seeds = np.stack([np.arange(count), np.full(count, 7)], 1) if each else [5, 6]
    logits = tf.zeros([count, num_classes])
    found = targets("random", logits, labels, tf.constant(seeds, tf.int32)).numpy()
    counts = np.bincount((found - labels) % num_classes, minlength=num_classes)
    assert counts[0] == 0
    assert np.abs(counts[1:] - count / 3).max() < 4 * np.sqrt(count * 2 / 9)  # 4 deviations
    if each:  # an image's own, whoever is beside it
        some = targets("random", logits[:9], labels[40:49], tf.constant(seeds[40:49], tf.int32))
        np.testing.assert_array_equal(some, found[40:49])


def test_the_least_likely_target_is_never_the_label():
    logits = np.random.default_rng(1).normal(size=(50, 4)).astype(np.float32)
    labels = np.where(np.arange(50) % 2, logits.argmin(1), logits.argmax(1)).astype(np.int32)
    found = targets("least_likely", tf.constant(logits), labels, tf.constant([0, 0])).numpy()
    order = np.argsort(logits, 1)
    np.testing.assert_array_equal(found, np.where(np.arange(50) % 2, order[:, 1], order[:, 0]))


def test_in_an_evaluation_what_stands_is_left_where_the_target_gains_most():
    network, (images, _) = Disjoint(), batch()
    labels = network(images).numpy().argmax(1).astype(np.int32)
    attack = attacks.make("pgd-20-random", epsilon=6.0, num_classes=4)
    assert (attack.name, attack.num_steps, attack.pgd.step_size) == ("pgd-20-random", 21, 1.5)
    assert attack.unavailable(2) is None
    seeds = tf.constant(np.arange(32).reshape(16, 2), tf.int32)
    found = attack(network, images, labels, seeds).numpy()
    chosen = targets("random", network(images), labels, seeds).numpy()
    ends = np.stack([network.ends(*one, 6.0) for one in zip(images, chosen, strict=True)])
    standing = network(found).numpy().argmax(1) == labels
    assert 0 < standing.sum() < 16
    np.testing.assert_allclose(found[standing], ends[standing], rtol=0, atol=1e-4)
    # The ends are the worst points for these targets, so whatever they break is broken.
    assert not (standing & (network(ends.astype(np.float32)).numpy().argmax(1) != labels)).any()


@pytest.mark.parametrize("target", ["random", "least_likely"])
def test_an_evaluation_restarts_it_as_it_restarts_pgd(target):
    attack = attacks.make(f"pgd-3-{target}", epsilon=6.0, num_classes=4)
    ((again,),) = [
        stage.attacks for stage in plan.stages([attack], "main", 9, restarts=4, last_iterate=True)
    ]
    assert (again.name, again.num_steps, again.target) == (f"pgd-3x4-{target}", 16, target)
    assert vars(again.pgd) == vars(attack.pgd)
    (once,) = plan.stages([attack], "main", 9, restarts=1, last_iterate=True)
    assert once.attacks == [attack]


@pytest.mark.parametrize("name", ["pgd", "pgd-random", "pgd-least_likely"])
def test_training_takes_targets_by_name(name):
    recipe = types.SimpleNamespace(
        attack=name, epsilon=6.0, attack_steps=3, step_size=None, random_start=True,
        clean_start=0.25, norm="l2", attack_batch_norm="batch", norms=[], epsilons=[],
        synchronized_batch_norm=False,
    )  # fmt: skip
    made = parts.training_attack(recipe)
    inner = getattr(made, "pgd", made)
    assert (inner.step_size, inner.steps, inner.random_start) == (5.0, 3, 0.75)
    assert (inner.norm, inner.batch_norm) == ("l2", "batch")
    assert getattr(made, "target", None) == name.partition("-")[2] or name == "pgd"
    for method in ("trades", "free"):  # which take ball and steps alone
        if name != "pgd":
            with pytest.raises(ValueError, match="needs a ball and gradient steps"):
                parts.methods.make(method).trainer(None, made, batch_size=2)


def test_images_of_a_surrogate_are_judged_by_the_network():
    """Of two linear networks w and s: w's margin falls by epsilon <w, sign s>, not by |w|_1."""
    victim, surrogate = linear_network.LinearNetwork(2), linear_network.LinearNetwork(2, seed=5)
    surrogate.weights = victim.weights + 0.3 * surrogate.weights  # two of one kind
    images = linear_network.images(60)
    labels = victim.labels(images)
    w, s = (one.weights[:, 0] - one.weights[:, 1] for one in (victim, surrogate))
    margins = np.abs(victim.logits(images) @ [1, -1])
    epsilon = float(np.quantile(margins, 0.3) / (w @ np.sign(s)))  # so that some of them fall
    assert 0 < epsilon < 90  # the pixel range is too far to matter
    expected = margins - epsilon * (w @ np.sign(s)) > 0
    pgd = attacks.make("pgd-8", epsilon=epsilon, num_classes=2)
    attack = transfer.make(pgd, surrogate, "other")
    report = evaluate(victim, (images, labels), [attack], Options(batch_size=16))
    near = np.abs(margins - np.quantile(margins, 0.3)) < 1e-3 * np.abs(margins).max()
    np.testing.assert_array_equal(report.standing[~near], expected[~near])
    (found,) = report.to_dict()["attacks"]
    assert found["name"] == "pgd-8-transferred" and found["settings"]["source"] == "other"
    # Eight steps on the surrogate for each image, and one look of the network at what came out.
    costs = [found[f"evaluations_{name}"] for name in ("needed", "plain")]
    assert costs == [9 * 60, 9 * 60] and found["evaluations_paid"] >= 9 * 60
    own = evaluate(victim, (images, labels), [pgd], Options(batch_size=16))
    assert own.standing.sum() < report.standing.sum()  # the network's own direction is worse


def test_a_surrogate_is_attacked_to_the_last_step_and_towards_its_own_least_likely_class():
    network, (images, labels) = Disjoint(), batch()
    attack = attacks.make("pgd-12-least_likely", epsilon=6.0, num_classes=4)
    made = transfer.make(attack, network, "same")
    seeds = tf.constant(np.arange(32).reshape(16, 2), tf.int32)
    found = made(lambda images, training: tf.zeros([16, 4]), images, labels, seeds).numpy()
    chosen = targets("least_likely", network(images), labels, seeds).numpy()
    ends = np.stack([network.ends(*one, 6.0) for one in zip(images, chosen, strict=True)])
    np.testing.assert_allclose(found, ends, rtol=0, atol=1e-4)


def test_what_cannot_be_is_refused(tmp_path):
    for name in ("pgd-5-worst", "pgd-5-", "pgd-random", "pgd-0-random"):
        with pytest.raises(ValueError, match="unknown; use some of: pgd-STEPS.*pgd-STEPS-random"):
            attacks.make(name, epsilon=6.0, num_classes=4)
    with pytest.raises(ValueError, match="target is 'worst'; use one of: random, least_likely"):
        TargetedPGD("worst", **BALL)
    square = attacks.make("square", epsilon=6.0, num_classes=4)
    with pytest.raises(ValueError, match="--surrogate does not apply to square"):
        transfer.make(square, Disjoint(), "other")
    shape = types.SimpleNamespace(input_shape=(None, 8, 8, 1), output_shape=(None, 4))
    given = {"surrogate": "zoo:digits_resnet8_swish", "restarts": 1}
    for change, words in (
        ({}, "maps .8, 8, 1. pixels to 10 classes and the network .8, 8, 1. to 4"),
        ({"restarts": 2}, "--restarts=2 does not apply to --surrogate"),
    ):
        asked = types.SimpleNamespace(flags=types.SimpleNamespace(**given | change))
        with pytest.raises(ValueError, match=words):
            settings.load_surrogate(asked, shape, None)


def test_a_stepped_attack_says_what_it_aims_at():
    attack = SteppedTargetedPGD("least_likely", epsilon=1.0, step_size=1.0, steps=2)
    assert attack.target == "least_likely" and attack.name == "pgd-2-least_likely"


@pytest.mark.parametrize("name", ["pgd-3", "pgd-3-random", "pgd-3-least_likely"])
def test_every_setting_reaches_pgd_towards_a_class_and_on_a_surrogate(name, monkeypatch):
    asked = {"epsilon": 90.0, "norm": "l2", "step_size": 17.0}
    (attack,) = attacks.parse([name], num_classes=4, **asked)
    settings = {**asked, "steps": 3, "random_start": True, "batch_norm": "inference"}
    assert vars(getattr(attack, "pgd", attack)) == settings
    made, kind = [], TargetedPGD
    monkeypatch.setattr(
        transfer, "TargetedPGD", lambda *given, **options: made.append(kind(*given, **options))
        or made[0],
    )  # fmt: skip
    shown = transfer.make(attack, Disjoint(), "other")
    assert (shown.epsilon, shown.norm, shown.step_size) == (90.0, "l2", 17.0)
    first = name == "pgd-3-least_likely"  # the surrogate is asked which class it is
    assert (shown.name, shown.steps_of_surrogate) == (f"{name}-transferred", 3 + first)
    assert [(one.target, vars(one.pgd)) for one in made] == (
        [] if name == "pgd-3" else [(attack.target, settings)]
    )
