"""Tests of what studies say of seeds and images, against other libraries and closed forms."""

import re

import numpy as np
import pytest
from scipy import stats

from benchmarks.studies import page, plan, record, statistics

RNG = np.random.default_rng(0)


@pytest.mark.parametrize("num_seeds", [2, 3, 5])
def test_the_gain_over_seeds_is_students_interval_of_paired_differences(num_seeds):
    ours, theirs = RNG.normal(40, 3, (2, num_seeds))
    found = statistics.over_seeds(ours - theirs)
    expected = stats.ttest_rel(ours, theirs).confidence_interval(0.95)
    np.testing.assert_allclose(found.interval, [expected.low, expected.high])
    differences = ours - theirs
    mean = differences.sum() / num_seeds
    squares = ((differences - mean) ** 2).sum()
    np.testing.assert_allclose(found[:2], [mean, np.sqrt(squares / (num_seeds - 1))])


def test_the_interval_of_five_seeds_is_that_of_the_printed_tables():
    found = statistics.over_seeds([1.0, 2.0, 3.0, 4.0, 5.0])
    half = 2.776445 * np.sqrt(2.5 / 5)  # t of 4 degrees of freedom
    np.testing.assert_allclose(found.interval, [3 - half, 3 + half], rtol=1e-6)


def test_one_seed_has_a_gain_and_no_interval():
    assert statistics.over_seeds([3.0]) == statistics.Gain(3.0, None, None)


def differences(num_seeds, num_images, gain=0.1):
    """Draws networks whose images and seeds are alike: hard images are hard for both."""
    hard = RNG.random(num_images)
    of_seed = RNG.normal(0, 0.02, (2, num_seeds, 1)) + np.array([gain, 0]).reshape(2, 1, 1)
    right = RNG.normal(hard, 0.2, (2, num_seeds, num_images)) < 0.4 + of_seed
    return right[0].astype(np.int8) - right[1]


def pigeonhole_deviation(table):
    """Computes the deviation of the bootstrap's mean without drawing anything.

    Counts of S draws have E[w w'] = 1 - 1 / S everywhere, and 1 more on the diagonal.
    """
    num_seeds, num_images = table.shape
    seeds = np.eye(num_seeds) + 1 - 1 / num_seeds
    images = np.eye(num_images) + 1 - 1 / num_images
    table = table / table.size
    return np.sqrt(np.trace(table.T @ seeds @ table @ images) - table.sum() ** 2)


@pytest.mark.parametrize("num_seeds", [1, 2, 5])
def test_the_bootstrap_over_both_has_the_deviation_of_its_closed_form(num_seeds):
    table = differences(num_seeds, 800)
    (low, high), _ = statistics.over_seeds_and_images(table)
    deviation = pigeonhole_deviation(table.astype(np.float64))
    assert (high - low) / 2 / 1.96 == pytest.approx(deviation, rel=0.05)
    assert (high + low) / 2 == pytest.approx(table.mean(), abs=0.15 * deviation)


def test_the_bootstrap_is_that_of_indices_drawn_one_by_one():
    table = differences(3, 50)
    means = []
    for _ in range(4000):
        seeds, images = RNG.integers(0, 3, 3), RNG.integers(0, 50, 50)
        means.append(table[np.ix_(seeds, images)].mean())
    (low, high), _ = statistics.over_seeds_and_images(table)
    np.testing.assert_allclose([low, high], np.quantile(means, [0.025, 0.975]), atol=0.02)


@pytest.mark.parametrize("fewer, near", [(20, 0.01), (24, 0.04)])
def test_with_one_seed_the_p_value_is_about_mcnemars(fewer, near):
    table = np.repeat([[1, -1, 0]], [60 - fewer, fewer, 940], axis=1).astype(np.int8)
    _, p_value = statistics.over_seeds_and_images(table)
    expected = stats.binomtest(fewer, 60).pvalue
    assert p_value == pytest.approx(expected, abs=near)
    _, turned = statistics.over_seeds_and_images(-table)
    assert turned == pytest.approx(p_value, abs=near)


def test_equal_networks_differ_by_nothing_for_sure():
    found = statistics.over_seeds_and_images(np.zeros((2, 100), np.int8))
    assert found == statistics.Test((0.0, 0.0), 1.0)


PLAN = """
[study]
flags = --model=resnet8
baseline = relu
[evaluation pgd]
title = PGD-2
flags = --attacks=pgd-2
[evaluation standard]
title = AutoAttack
flags = --attacks=autoattack
[row relu]
flags = --activation=relu
seeds = 0 1 2 3
[row swish]
flags = --activation=swish
seeds = 0 1 2 3
[row elu]
flags = --activation=elu
seeds = 0
"""
ROWS = {"relu": [0, 1, 2], "swish": [1, 2, 3]}  # each lacks a seed, elu all


@pytest.fixture
def studied(tmp_path):
    """Writes a study; returns plan, records and the verdicts by row, [seeds, 2, images]."""
    (tmp_path / "own.ini").write_text(PLAN)
    asked = plan.read(str(tmp_path / "own.ini"))
    right = {row: RNG.random((len(seeds), 2, 400)) < 0.5 for row, seeds in ROWS.items()}
    for row, seeds in ROWS.items():
        for seed, (clean, robust) in zip(seeds, right[row], strict=True):
            run = record.Record(asked, asked.rows[row], seed, tmp_path)
            run.content["training"] = {"cpu_seconds": None if seed == 1 else 90}
            report = {
                "network": {"weights_sha256": f"{row}{seed}"},
                "data": {"images_sha256": "i"},
                "flags": {},
                "num_images": 400,
                "clean_accuracy": clean.mean(),
                "adversarial_accuracy": robust.mean(),
                "attacks": [{"name": "pgd-2"}],
                "curve": [],
                "images": {"clean_correct": clean.tolist(), "standing": robust.tolist()},
            }
            run.evaluated(asked.evaluations["pgd"], report)
    return asked, record.collect(asked, tmp_path), right


def numbers(line):
    return [float(found) for found in re.findall(r"[-+]?\d+\.\d+", line)]


def test_the_tables_give_means_spreads_and_gains_of_the_seeds_that_both_have(studied):
    asked, records, right = studied
    accuracies, gains, sentences, left = page.section(asked, records).split("\n\n")
    for line, row in zip(accuracies.splitlines()[2:], ROWS, strict=True):
        each = 100 * right[row].mean(-1)
        expected = np.transpose([each.mean(0), each.std(0, ddof=1)]).ravel()
        np.testing.assert_allclose(numbers(line), [*expected, 1.5], atol=0.0051)
        assert line.startswith(f"| {row} | {len(ROWS[row])} of 4 |")
    for number, line in enumerate(gains.splitlines()[2:]):
        apart = right["swish"][:2, number].astype(int) - right["relu"][1:, number]
        each = 100 * apart.mean(-1)
        interval = stats.ttest_1samp(each, 0).confidence_interval(0.95)
        expected = [each.mean(), each.std(ddof=1), interval.low, interval.high]
        np.testing.assert_allclose(numbers(line)[:4], expected, atol=0.0051)
        low, high = statistics.over_seeds_and_images(apart.astype(np.int8)).interval
        np.testing.assert_allclose(numbers(line)[4:6], [100 * low, 100 * high], atol=0.0051)
    assert "over 2 seeds" in sentences and sentences.count("\n") == 0
    assert left == (
        "Not run to the end: relu (3 of 4 seeds), swish (3 of 4 seeds). "
        "Not run: elu (0 of 1 seeds). Evaluations not run: AutoAttack."
    )


def test_one_seed_is_said_to_say_nothing_of_others_and_no_figure_is_missing(studied):
    asked, records, _ = studied
    records = {row: {seed: run for seed, run in runs.items() if seed < 2}
               for row, runs in records.items()}  # fmt: skip
    text = page.section(asked, records)
    assert "**open**, as one seed says nothing of others; over the images" in text
    assert "nan" not in text and "None" not in text


@pytest.mark.parametrize("gain, word", [(3, "more"), (-3, "less"), (0.1, "no difference shown")])
def test_a_gain_is_shown_only_where_its_interval_has_no_zero(gain, word):
    found = statistics.over_seeds(gain + np.array([-0.5, 0, 0.5]))
    assert page._verdict(found, None, 3).startswith(f"**{word}**")
    contrary = statistics.Test((-0.1, 0.1), 0.5)
    assert page._verdict(found, contrary, 3).startswith("**no difference shown**")


def test_a_gain_between_different_images_is_refused(studied):
    asked, records, _ = studied
    records["swish"][1].report("pgd")["data"]["images_sha256"] = "others"
    with pytest.raises(ValueError, match="swish and relu were evaluated on different images"):
        page.section(asked, records)
    records["swish"][1].report("pgd")["num_images"] = 300
    with pytest.raises(ValueError, match=r"pgd counts \[300, 400\] images"):
        page.section(asked, records)
