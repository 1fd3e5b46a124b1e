"""Networks whose figures of robustness are too high, each named by the check that sees it."""

import numpy as np
import pytest
import tensorflow as tf

from sat_tf.attacks import PGD
from sat_tf.attacks.apgd import APGD
from sat_tf.attacks.square import Square
from sat_tf.evaluate import Options, evaluate
from sat_tf.evaluation import checks
from sat_tf.evaluation.report.report import Outcome
from sat_tf.evaluation.stream import Stream
from tests import linear_network

HONEST = linear_network.LinearNetwork(4, scale=0.02)


def honest(images, training=False):
    return HONEST(images)


def random(images, training=False):
    return HONEST(images) + tf.random.normal([tf.shape(images)[0], 4], stddev=1.0)


def probabilities(images, training=False):
    return tf.nn.softmax(HONEST(images))


def quantised(images, training=False):
    """The honest decisions, in steps too fine to matter and without a slope."""
    steps = tf.stop_gradient(tf.round(HONEST(images) * 200) / 200)
    return steps + 0 * tf.reduce_sum(images, [1, 2, 3])[:, None]


def broken(images, training=False):
    return HONEST(images) / tf.cast(tf.reduce_max(images, [1, 2, 3]) < 150, tf.float32)[:, None]


def before(network, images):
    batch = next(iter(Stream((images, HONEST.labels(images)), 16)))
    forward = tf.function(lambda x: network(x, training=False), autograph=False)
    finite = np.isfinite(forward(images).numpy()).all(1)
    return {check.name: check for check in checks.before(network, forward, batch, finite)}


@pytest.fixture(scope="module")
def images():
    return linear_network.images(16)


def test_an_honest_network_passes_every_check(images):
    found = before(honest, images)
    assert all(check.passed for check in found.values()), found
    assert all(not check.consequence for check in found.values())


@pytest.mark.parametrize(
    "network, name, said",
    [
        (random, "deterministic", "rand"),
        (probabilities, "logits", "remove the softmax"),
        (quantised, "gradients", "square"),
        (broken, "finite logits", "mend the network"),
    ],
)
def test_a_deceiving_network_is_named_by_its_check_alone(images, network, name, said):
    found = before(network, images)
    failed = {check.name for check in found.values() if not check.passed}
    assert name in failed
    assert said in found[name].consequence
    if name != "finite logits":  # what is not a number spoils the other checks too
        assert failed == {name}


def spoilt(value, rows):
    """The honest logits, but for images of the first class whose first pixel is in `rows`."""

    def network(images, training=False):
        del training
        hit = tf.reduce_any(images[:, :1, 0, 0] == tf.constant(rows, tf.float32)[None], 1)
        first = tf.one_hot(0, 4, on_value=True, off_value=False)[None]
        return tf.where(hit[:, None] & first, value, HONEST(images))

    return network


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_an_image_with_a_logit_that_is_not_finite_counts_nowhere_and_every_image_is_looked_at(
    value, tmp_path
):
    images = linear_network.images(40)
    own = HONEST.labels(images)
    # NaN gives argmax 0, infinity its own class, so label 0 would be right; of -inf, the others.
    bad = np.flatnonzero(own != 0 if value == -np.inf else own >= 0)[-5:]
    labels = np.where(np.isin(np.arange(40), bad) & (value != -np.inf), 0, own)
    network = spoilt(value, images[bad, 0, 0, 0])
    attacks = [PGD(epsilon=0, step_size=1, steps=1), Square(epsilon=0, queries=2)]
    # The last five images come in the last batches only.
    report = evaluate(network, (images, labels), attacks, Options(batch_size=8))
    right = ~np.isin(np.arange(40), bad)
    np.testing.assert_array_equal(report.clean, right)
    for outcome in report.outcomes:
        np.testing.assert_array_equal(outcome.standing, right)
    np.testing.assert_array_equal(report.outcome("pgd-1").last_iterate, right)
    (check,) = [check for check in report.checks if check["name"] == "finite logits"]
    assert not check["passed"] and check["found"].startswith("5 of 40 images")


@pytest.mark.parametrize("count", [0, 1, 16])
def test_a_single_image_without_finite_logits_is_enough(images, count):
    batch = next(iter(Stream((images, HONEST.labels(images)), 16)))
    forward = tf.function(lambda x: honest(x, training=False), autograph=False)
    found = checks.before(honest, forward, batch, np.arange(16) >= count)
    (check,) = [check for check in found if check.name == "finite logits"]
    assert check.passed == (count == 0) == (check.consequence == "")
    assert check.found.startswith(f"{count} of 16 images")


def test_images_that_span_0_to_1_are_named(images):
    found = before(honest, images / 255)
    assert not found["pixels"].passed
    assert "[0, 255]" in found["pixels"].consequence


def test_masked_gradients_that_pgd_calls_robust_are_broken_by_square_and_named(images):
    images = linear_network.images(24)
    labels = HONEST.labels(images)
    epsilon = 1.3 * float(np.median(linear_network.distances(HONEST, images, labels, "linf")))
    attacks = [
        PGD(epsilon=epsilon, step_size=epsilon / 4, steps=10, random_start=False),
        Square(epsilon=epsilon, queries=300),
    ]
    honest_report = evaluate(honest, (images, labels), attacks, Options(batch_size=8))
    masked = evaluate(quantised, (images, labels), attacks, Options(batch_size=8))
    assert masked.outcome("pgd-10").standing.all()
    assert masked.adversarial_accuracy < 0.8
    assert honest_report.adversarial_accuracy <= masked.adversarial_accuracy
    by_name = {check["name"]: check for check in masked.checks}
    assert not by_name["gradients"]["passed"]
    assert not by_name["square"]["passed"] and "masked" in by_name["square"]["consequence"]
    assert not by_name["pgd gap"]["passed"]
    assert all(check["passed"] for check in honest_report.checks), honest_report.checks


def test_with_too_few_classes_an_attack_is_left_out_and_the_report_says_so(images):
    network = linear_network.LinearNetwork(2, scale=0.02)
    attacks = [
        PGD(epsilon=4, step_size=1, steps=3),
        APGD(epsilon=4, loss="dlr", iterations=3),
    ]
    report = evaluate(network, (images, network.labels(images)), attacks, Options(batch_size=8))
    assert [outcome.name for outcome in report.outcomes] == ["pgd-3"]
    assert "3 classes" in report.facts["attacks_left_out"]["apgd-dlr"]
    (check,) = [check for check in report.checks if check["name"] == "classes"]
    assert not check["passed"] and "apgd-dlr" in check["found"]


def outcome(name, standing, unconfirmed=0):
    standing = np.arange(1000) < standing
    empty = np.zeros(1000)
    return Outcome(name, {}, standing, standing, None, empty, empty, unconfirmed, 0.0, 0, 0, 0)


@pytest.mark.parametrize(
    "name, outcomes, passed",
    [
        ("square", [outcome("apgd-t", 500), outcome("square", 498)], True),
        ("square", [outcome("apgd-t", 500), outcome("square", 497)], False),
        ("pgd gap", [outcome("pgd-50", 500), outcome("apgd-t", 400)], True),
        ("pgd gap", [outcome("pgd-50", 500), outcome("apgd-t", 399)], False),
        # The smallest figure of PGD counts, which is that of the most steps.
        (
            "pgd gap",
            [outcome("pgd-10", 500), outcome("pgd-50", 490), outcome("apgd-t", 395)],
            True,
        ),
        ("square", [outcome("square", 100), outcome("apgd-t", 50)], None),
        ("square", [outcome("pgd-10", 500), outcome("apgd-t", 500), outcome("square", 497)], False),
        ("square", [outcome("apgd-t", 500)], None),
        ("square", [outcome("square", 500)], None),
        ("pgd gap", [outcome("pgd-10", 500), outcome("pgd-50", 500)], None),
        ("pgd gap", [outcome("apgd-t", 500)], None),
        # Of several PGD the best counts, but none after another attack, which sees survivors only.
        (
            "pgd gap",
            [outcome("pgd-10", 700), outcome("pgd-50", 500), outcome("apgd-t", 401)],
            True,
        ),
        ("pgd gap", [outcome("apgd-t", 400), outcome("pgd-50", 400)], None),
        (
            "pgd gap",
            [outcome("pgd-10", 500), outcome("apgd-t", 399), outcome("pgd-50", 399)],
            False,
        ),
        ("pgd gap", [outcome("pgd-10", 700), outcome("apgd-t", 599)], False),
        ("square", [outcome("pgd-50", 700), outcome("apgd-t", 500), outcome("square", 499)], True),
        ("confirmed", [outcome("pgd-50", 500)], True),
        ("confirmed", [outcome("pgd-50", 500, unconfirmed=1), outcome("square", 500)], False),
    ],
)
def test_thresholds_of_what_attacks_found_are_those_of_the_document(name, outcomes, passed):
    found = {check.name: check for check in checks.after(outcomes, np.ones(1000, bool), {})}
    assert found[name].passed == passed
    assert bool(found[name].consequence) != (passed is True)


def test_what_square_broke_beyond_the_others_is_said_in_points():
    outcomes = [outcome("apgd-t", 500), outcome("square", 475)]
    found = {check.name: check for check in checks.after(outcomes, np.ones(1000, bool), {})}
    assert found["square"].found.endswith("broke another 2.50 points")


def shaky(spread):
    calls = []

    def network(images, training=False):
        del training
        calls.append(1)
        sway = spread * (len(calls) % 2)  # of logits whose length is 5
        return tf.tile([[3.0, 4.0, 0.0, sway * 5]], [len(images), 1]) + 0 * HONEST(images)

    return network


@pytest.mark.parametrize("spread, passed", [(0.5e-4, True), (2e-4, False)])
def test_five_evaluations_may_differ_by_a_ten_thousandth(images, spread, passed):
    batch = next(iter(Stream((images, HONEST.labels(images)), 16)))
    network = shaky(spread)
    found = checks.before(network, lambda x: network(x), batch, np.ones(16, bool))
    assert {check.name: check.passed for check in found}["deterministic"] == passed


@pytest.mark.parametrize("excess, passed", [(0.0, False), (0.5e-5, False), (3e-5, True)])
def test_rows_that_sum_to_one_up_to_a_hundred_thousandth_are_probabilities(images, excess, passed):
    def network(images, training=False):
        return (1 + excess) * tf.nn.softmax(0.1 * HONEST(images))

    assert before(network, images)["logits"].passed == passed


@pytest.mark.parametrize("high, passed", [(0.9, False), (1.0, False), (1.5, True)])
def test_pixels_must_exceed_one(images, high, passed):
    assert before(honest, images / images.max() * high)["pixels"].passed == passed


def test_padding_is_not_counted_among_gradients(images):
    batch = next(iter(Stream((images[:3], HONEST.labels(images[:3])), 16)))
    found = checks.before(quantised, tf.function(quantised), batch, np.ones(3, bool))
    (check,) = [check for check in found if check.name == "gradients"]
    assert check.found.startswith("of 3 images 3 have")


def test_outputs_are_probabilities_only_if_all_lie_in_0_to_1_and_all_rows_sum_to_1(images):
    share = tf.constant([[0.7, 0.1, 0.1, 0.1]])
    rows = {
        "sum to 1 and leave the range": (share * 4 - tf.constant([[3.0, 0, 0, 0]]), True),
        "lie in the range and sum to more": (share + 0.1, True),
        "are probabilities": (share, False),
        "are probabilities up to rounding": (share + 2e-6, False),
    }
    for said, (row, passed) in rows.items():

        def network(images, training=False, row=row):
            return tf.repeat(row, tf.shape(images)[0], 0) + 0 * HONEST(images)

        assert before(network, images)["logits"].passed is passed, said

    def one_row_apart(images, training=False):
        first = tf.one_hot(0, tf.shape(images)[0])[:, None]
        return tf.nn.softmax(HONEST(images)) + 0.5 * first

    assert before(one_row_apart, images)["logits"].passed


def test_rows_that_pad_the_first_batch_are_no_images(images):
    batch = next(iter(Stream((images[:5] / 255, HONEST.labels(images[:5])), 16)))
    flat = np.array(batch.images)
    flat[batch.count :] = 200.0
    spoilt = batch._replace(images=flat)
    forward = tf.function(lambda x: quantised(x, training=False), autograph=False)
    found = checks.before(quantised, forward, spoilt, np.ones(5, bool))
    by_name = {check.name: check for check in found}
    assert by_name["gradients"].found.startswith("of 5 images 5 have")
    assert not by_name["pixels"].passed
    assert "of 5 images" in by_name["deterministic"].found
