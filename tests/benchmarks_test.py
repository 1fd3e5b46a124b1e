"""A benchmark's figures mean what their names say."""

import numpy as np
import pytest

from benchmarks import machine, step_cases, timing, train_step
from sat_tf.runs import sealed


def made_up_seconds(**changes):
    gradient, clean = np.array([0.2, 0.4]), np.array([0.3, 0.6])
    return {
        "clean": clean,
        "pgd1": clean + gradient,
        "pgd10": clean + 10 * gradient,
        "10 gradients": 10 * gradient,
        "convolutions": (clean + gradient) * 0.75,
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
    np.testing.assert_allclose(found["the convolutions alone / PGD-1 step"], 0.75)
    np.testing.assert_allclose(found["fit with PGD-1 / PGD-1 step"], 1.02)


def test_the_longer_attack_may_have_other_steps():
    seconds = made_up_seconds()
    seconds["pgd3"] = seconds.pop("pgd10") - 7 * seconds["10 gradients"] / 10
    found = {what: (values, aim) for what, values, aim in train_step.ratios(seconds, 3)}
    np.testing.assert_allclose(found["PGD-3's cost a step / bare gradient"][0], 1)
    np.testing.assert_allclose(found["PGD-3 step / clean step"][0], 3)
    assert found["PGD-3 step / clean step"][1] == ""


def test_files_of_several_runs_become_one_table():
    given = {"model": "resnet8", "image_size": 8, "batch_size": 90, "attack_steps": 3}
    seconds = {name: {"wall": list(values)} for name, values in made_up_seconds().items()}
    seconds["pgd3"] = {"wall": [0.9, 1.8]}
    memory = [["peak memory", "MiB", "/ clean"], ["clean", "100", "1.0"], ["pgd1", "110", "1.1"]]
    modes = {"precision": "float32", "tf32": True, "jit": False}
    first = {"given": given | modes, "seconds": seconds, "memory": memory}
    other = {"precision": "mixed_bfloat16", "tf32": True, "jit": True}
    heads, line, *rows = train_step.compared(
        [first, {"given": given | other, "seconds": seconds}]
    ).splitlines()
    assert heads.count("|") == line.count("|") == rows[0].count("|") and "PGD-3, images/s" in heads
    assert rows == [
        "| resnet8, 8 pixels, batch 90 | TF32 | off | 200.0 | 120.0 | 66.7 | 1.67 | 1.50 | 110 |",
        "| resnet8, 8 pixels, batch 90 | bfloat16 | on | 200.0 | 120.0 | 66.7 | 1.67 | 1.50 |  |",
    ]


def made_up_times():
    """Makes times of which the processor needs two thirds of the clock's for half of the cases."""
    return {
        name: timing.Times(seconds, seconds * (1 if number % 2 else 2 / 3), [])
        for number, (name, seconds) in enumerate(made_up_seconds().items())
    }


def test_pytorch_has_a_row_only_where_it_was_measured():
    seconds = made_up_seconds()
    assert len(train_step.ratios(seconds)) == 8
    found = train_step.ratios({**seconds, "torch.compile": 2 * seconds["pgd1"]})
    what, values, aim = found[-1]
    assert (len(found), what, aim) == (9, "torch.compile's PGD-1 step / ours", "at least 1.0")
    np.testing.assert_allclose(values, 2)


def test_the_tables_show_both_clocks_and_peaks():
    memory = {"clean": 100.0, "pgd1": 110.0, "pgd10": None}
    found = train_step.tables(made_up_times(), memory, batch_size=90)
    assert found["steps"][1] == ["clean", "450.0", "300.0", "200.0"]
    assert found["memory"][1:] == [["clean", "100", "1.000"], ["pgd1", "110", "1.100"]]
    row = {row[0]: row[1:] for row in found["ratios"]}["PGD-1 step / clean step"]
    # 5 / 3 by the clock; 3 / 2 of that on the processor, as the clean step is on it for 2 / 3.
    assert row == ["1.667", "1.667 to 1.667", "2.500", "2.500 to 2.500", "at most 1.55"]


def test_quartiles_are_the_middle_and_the_ends_of_the_middle_half():
    assert timing.quartiles(np.random.default_rng(0).permutation(101)) == (50, 25, 75)


def test_steps_of_fit_are_timed_from_the_end_of_the_first_to_the_end_of_the_epoch(monkeypatch):
    ends = [10.0, 11.0, 13.0, 16.0, 22.0]  # of four steps, and of what the device still does
    for name, factor in (("perf_counter", 1), ("process_time", 3)):
        clock = iter([factor * end for end in ends])
        monkeypatch.setattr(step_cases.time, name, lambda clock=clock: next(clock))
    clock = step_cases.Clock()
    clock.on_train_begin()
    for batch in range(4):
        clock.on_train_batch_end(batch)
    clock.on_epoch_end(0)
    assert clock.seconds() == ((22 - 10) / 3, 22 - 10, None)


def test_every_case_runs_once_a_round_and_every_second_round_backwards():
    order = []

    def case(name):
        def seconds():
            order.append(name)
            return timing.Seconds(len(order), 10 * len(order), name)

        return seconds

    times = timing.interleaved({name: case(name) for name in "abc"}, rounds=3)
    assert "".join(order) == "abccbaabc"
    np.testing.assert_array_equal(times["a"].wall, [1, 6, 7])
    np.testing.assert_array_equal(times["c"].processor, [30, 40, 90])
    assert times["b"].results == ["b"] * 3


def test_a_case_that_is_lost_is_told_and_the_others_go_on():
    rounds = iter([timing.Seconds(1, 1), None])

    def dies():
        if (one := next(rounds)) is None:
            raise timing.Lost("its process ended")
        return one

    cases, lost = {"dies": dies, "lives": lambda: timing.Seconds(2, 2)}, {}
    times = timing.interleaved(cases, 3, lost)
    assert (list(times), lost) == (["lives"], {"dies": "its process ended"})
    assert len(timing.interleaved(cases, 2, lost)["lives"].wall) == 2  # and it is not asked again
    with pytest.raises(timing.Lost, match="its process ended"):
        rounds = iter([None])
        timing.interleaved({"dies": dies}, 1)


def test_a_terminal_shows_which_case_runs_and_a_file_nothing(monkeypatch, capsys):
    for terminal in (True, False):
        monkeypatch.setattr("sys.stderr.isatty", lambda terminal=terminal: terminal)
        timing.interleaved({"pgd1": lambda: timing.Seconds(1, 1)}, rounds=2)
        said = [text for text in capsys.readouterr().err.split("\r\x1b[K") if text]
        assert said == terminal * ["round 1 of 2: pgd1 ...", "round 2 of 2: pgd1 ..."]


def test_the_first_call_of_a_step_is_not_timed(monkeypatch):
    now = [0.0]
    durations = iter([100.0, 1.0, 3.0])

    def step():
        now[0] += next(durations)

    monkeypatch.setattr(timing.time, "perf_counter", lambda: now[0])
    monkeypatch.setattr(timing.time, "process_time", lambda: 2 * now[0])
    assert timing.of_step(step, repeats=2)() == (2.0, 4.0, None)


def test_peak_memory_sees_what_a_step_holds_and_lets_go():
    size = 256 * 2**20

    def step():
        np.ones(size, np.uint8)

    idle = machine.peak_memory(lambda: None)
    if idle is None:
        pytest.skip("this system keeps no peak that can be reset")
    assert 200 < machine.peak_memory(step) - idle < 320


def test_all_that_was_measured_is_written(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("sys.orig_argv", ["/bin/python3.11", "-m", "benchmarks.x", "--rounds=2"])
    times = {"pgd1": timing.Times(np.array([1.0, 2.0]), np.array([3.0, 4.0]), [None, None])}
    machine.write(str(tmp_path / "x.json"), "a machine", times, {"rows": [["a", "b"]]})
    found = sealed.read_json(tmp_path / "x.json")
    assert found["command"] == "python -m benchmarks.x --rounds=2"
    assert found["machine"] == "a machine" and found["load_at_the_end"] >= 0
    assert found["seconds"] == {"pgd1": {"wall": [1.0, 2.0], "processor": [3.0, 4.0]}}
    assert found["rows"] == [["a", "b"]] and "commit" in found
    assert capsys.readouterr().out == f"{tmp_path}/x.json (1 cases)\n"
