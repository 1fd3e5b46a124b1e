"""Tests of the study: what it says of runs whose figures are known, and what it runs."""

import json
import re

import numpy as np
import pytest

from benchmarks.studies import smooth, table
from sat_tf.runs import sealed

ROWS = ("relu", "swish")
SEEDS = ("0", "1", "2")


@pytest.fixture
def found(tmp_path):
    """Writes the result files of two rows and three seeds; returns their figures [2, 3, 2]."""
    figures = np.random.default_rng(0).uniform(0.2, 0.6, (2, 3, 2))
    for row, of_row in zip(ROWS, figures, strict=True):
        for seed, (clean, adversarial) in zip(SEEDS, of_row, strict=True):
            folder = tmp_path / f"{row}_{seed}"
            folder.mkdir()
            test = {
                "clean_accuracy": clean,
                "adversarial_accuracy": adversarial,
                "training_cpu_seconds": None if seed == "1" else 90,
            }
            (folder / "test.json").write_text(json.dumps(test))
    return figures


def test_the_table_gives_mean_spread_and_gains_paired_by_seed(found, tmp_path):
    results = table.collect(tmp_path, ROWS, SEEDS)
    lines = table.markdown(results).splitlines()[2:]
    for line, figures, name in zip(lines, 100 * found, ROWS, strict=True):
        numbers = [float(number) for number in re.findall(r"[-+]?\d+\.\d+", line)]
        own = [figures.mean(0), figures.std(0, ddof=1)]
        expected = list(np.transpose(own).ravel())
        if name != "relu":
            gain = 100 * (found[1] - found[0])
            expected += list(np.transpose([gain.mean(0), gain.std(0, ddof=1)]).ravel())
        np.testing.assert_allclose(numbers, [*expected, 1.5], atol=0.0051)
        assert line.startswith(f"| {name} |")


def test_the_picture_has_a_dot_for_every_run(found, tmp_path):
    results = table.collect(tmp_path, ROWS, SEEDS)
    for panel, field in zip(table.picture(results).axes, (0, 1), strict=True):
        dots = [line.get_xdata() for line in panel.get_lines() if line.get_marker() == "o"]
        np.testing.assert_allclose(dots, 100 * found[..., field])


def test_a_run_that_is_missing_is_named(found, tmp_path):
    with pytest.raises(ValueError, match="relu_7 holds no finished run"):
        table.collect(tmp_path, ROWS, ("0", "7"))


def test_a_finished_run_is_not_repeated(found, tmp_path, monkeypatch):
    def never(*_):
        raise AssertionError("a process was started")

    monkeypatch.setattr(smooth, "_python", never)

    class Given:
        results, runs, attack, num_images = str(tmp_path), str(tmp_path / "runs"), "pgd-20", 10

    smooth.measure("relu", "0", Given)
    with pytest.raises(AssertionError, match="a process was started"):
        smooth.measure("relu", "7", Given)


@pytest.mark.parametrize("continued, seconds", [(False, 12), (True, None)])
def test_the_time_of_a_run_that_was_continued_is_not_known(
    tmp_path, monkeypatch, continued, seconds
):
    workdir = tmp_path / "runs/relu_0"

    def run(*_):
        workdir.mkdir(parents=True, exist_ok=True)
        sealed.write_json(workdir / "metrics.json", {})
        found = {"clean_accuracy": 0.5, "adversarial_accuracy": 0.25, "images": {}}
        sealed.write_json(workdir / "report.json", found)
        return 12.3

    monkeypatch.setattr(smooth, "_python", run)
    if continued:
        workdir.mkdir(parents=True)

    class Given:
        results, runs = str(tmp_path / "results"), str(tmp_path / "runs")
        attack, num_images = "pgd-20", 10

    smooth.measure("relu", "0", Given)
    assert table.result(tmp_path / "results/relu_0") == table.Result(0.5, 0.25, seconds)


def test_a_run_finds_modules_where_the_study_does(tmp_path, monkeypatch):
    (tmp_path / "lies_here.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    smooth._python(tmp_path / "run", ["lies_here"], [])


def test_a_failed_run_names_its_log(tmp_path):
    command = ["sat_tf.train", "--activation=nonsense"]
    with pytest.raises(ValueError, match="status 2: see .*run.log"):
        smooth._python(tmp_path / "run", command, ["--epochs=1"])
    assert "nonsense" in (tmp_path / "run.log").read_text()
