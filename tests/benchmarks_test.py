"""A benchmark's figures mean what their names say."""

import numpy as np
import pytest

from benchmarks import step_cases, timing, train_step


def made_up_seconds(**changes):
    gradient, clean = np.array([0.2, 0.4]), np.array([0.3, 0.6])
    return {
        "clean": clean,
        "pgd1": clean + gradient,
        "pgd10": clean + 10 * gradient,
        "10 gradients": 10 * gradient,
        "relu clean": clean / 1.25,
        "relu pgd1": (clean + gradient) / 1.5,
        "fit": (clean + gradient) * 1.02,
        **changes,
    }


def test_an_attack_without_work_of_its_own_costs_one_bare_gradient_a_step():
    found = {what: values for what, values, _ in train_step.ratios(made_up_seconds())}
    np.testing.assert_allclose(found["PGD-1's cost a step / bare gradient"], 1)
    np.testing.assert_allclose(found["PGD-10's cost a step / bare gradient"], 1)
    np.testing.assert_allclose(found["PGD-1 step / clean step"], 5 / 3)
    np.testing.assert_allclose(found["PGD-10 step / clean step"], 23 / 3)
    np.testing.assert_allclose(found["clean step / relu's clean step"], 1.25)
    np.testing.assert_allclose(found["PGD-1 step / relu's PGD-1 step"], 1.5)
    np.testing.assert_allclose(found["fit with PGD-1 / PGD-1 step"], 1.02)


def test_pytorch_has_a_row_only_where_it_was_measured():
    seconds = made_up_seconds()
    assert len(train_step.ratios(seconds)) == 7
    *_, (what, values, _) = train_step.ratios({**seconds, "pytorch": 2 * seconds["pgd1"]})
    assert what == "PyTorch's PGD-1 step / ours"
    np.testing.assert_allclose(values, 2)


def test_the_report_shows_milliseconds_images_a_second_and_peaks():
    memory = {"clean": 100.0, "pgd1": 110.0, "pgd10": None}
    lines = train_step.report(made_up_seconds(), memory, batch_size=90).splitlines()
    assert lines[1].split() == ["clean", "450.0", "200.0"]
    assert lines[-1].split() == ["pgd1", "110", "1.100"]
    assert lines[-2].split() == ["clean", "100", "1.000"]


def test_quartiles_are_the_middle_and_the_ends_of_the_middle_half():
    assert timing.quartiles(np.random.default_rng(0).permutation(101)) == (50, 25, 75)


def test_steps_of_fit_are_timed_from_the_end_of_the_first_to_the_end_of_the_epoch(monkeypatch):
    ends = iter([10.0, 11.0, 13.0, 16.0, 22.0])  # of four steps, and of what the device still does
    monkeypatch.setattr(step_cases.time, "perf_counter", lambda: next(ends))
    clock = step_cases.Clock()
    clock.on_train_begin()
    for batch in range(4):
        clock.on_train_batch_end(batch)
    clock.on_epoch_end(0)
    assert clock.seconds() == (22 - 10) / 3


def test_every_case_runs_once_a_round_and_every_second_round_backwards():
    order = []

    def case(name):
        return lambda: order.append(name) or float(len(order))

    seconds = timing.interleaved({name: case(name) for name in "abc"}, rounds=3)
    assert "".join(order) == "abccbaabc"
    np.testing.assert_array_equal(seconds["a"], [1, 6, 7])
    np.testing.assert_array_equal(seconds["c"], [3, 4, 9])


def test_a_terminal_shows_which_case_runs_and_a_file_nothing(monkeypatch, capsys):
    for terminal in (True, False):
        monkeypatch.setattr("sys.stderr.isatty", lambda terminal=terminal: terminal)
        timing.interleaved({"pgd1": lambda: 1.0}, rounds=2)
        said = [text for text in capsys.readouterr().err.split("\r\x1b[K") if text]
        assert said == terminal * ["round 1 of 2: pgd1 ...", "round 2 of 2: pgd1 ..."]


def test_the_first_call_of_a_case_is_not_timed(monkeypatch):
    now = [0.0]
    durations = iter([100.0, 1.0, 3.0])

    def step():
        now[0] += next(durations)

    monkeypatch.setattr(timing.time, "perf_counter", lambda: now[0])
    assert timing.of_step(step, repeats=2)() == 2.0


def test_peak_memory_sees_what_a_step_holds_and_lets_go():
    size = 256 * 2**20

    def step():
        np.ones(size, np.uint8)

    idle = timing.peak_memory(lambda: None)
    if idle is None:
        pytest.skip("this system keeps no peak that can be reset")
    assert 200 < timing.peak_memory(step) - idle < 320


@pytest.mark.slow
def test_the_pytorch_network_has_as_many_parameters_as_ours_and_its_loss_is_finite():
    pytest.importorskip("torch")
    from benchmarks import pytorch_loop
    from sat_tf import models

    network = models.build(
        "resnet18", activation="swish", num_classes=10, image_size=32, num_channels=1, width=4
    )
    images = np.random.default_rng(0).uniform(0, 255, (4, 32, 32, 1)).astype(np.float32)
    options = {"width": 4, "activation": "swish", "num_classes": 10, "epsilon": 8.0, "threads": 1}
    count = sum(int(np.prod(v.shape)) for v in network.trainable_variables)
    labels = np.array([0, 1, 2, 3])
    step = pytorch_loop.pgd1_step(images, labels, num_parameters=count, **options)
    assert np.isfinite([step(), step()]).all()
    with pytest.raises(ValueError, match="ours 3"):
        pytorch_loop.pgd1_step(images, labels, num_parameters=3, **options)
