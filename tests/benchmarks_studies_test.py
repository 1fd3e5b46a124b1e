"""Tests of studies: what a plan may say, what is kept of a run, and what is run at all."""

import json
import pathlib
import shutil
import signal
import subprocess
import sys
import time
import types

import numpy as np
import pytest

from benchmarks.studies import page, pictures, plan, record, study
from sat_tf.runs import sealed
from tests import programs

ROOT = pathlib.Path(__file__).parent.parent
PLAN = """
[study]
flags = --model=resnet8
baseline = relu
[evaluation pgd]
title = PGD-2
flags = --attacks=pgd-2
[evaluation curve]
title = PGD-2
flags = --attacks=pgd-2 --curve=0,8
rows = swish
[row relu]
flags = --activation=relu
seeds = 0 1
[row swish]
flags = --activation=swish
seeds = 0 1
"""


CURVE = [
    {"epsilon": 0.0, "adversarial_accuracy": 0.75},
    {"epsilon": 8.0, "adversarial_accuracy": 0.5},
]


def written(tmp_path, text=PLAN):
    (tmp_path / "own.ini").write_text(text)
    return str(tmp_path / "own.ini")


def report(clean=(1, 1, 0, 1), standing=(1, 0, 0, 0), last=(1, 0, 0, 1), **more):
    """Returns a report of four images as `sat_tf.evaluate` writes one of PGD."""
    attacks = [
        {"name": name, "adversarial_accuracy_last_iterate": float(np.mean(right))}
        for name, right in (("pgd-1", clean), ("pgd-2", last))
    ]
    images = {"clean_correct": list(clean), "standing": list(standing)}
    return {
        "network": {"weights_sha256": "w", "source": "/somewhere/relu_0"},
        "data": {"images_sha256": "i"},
        "flags": {"attacks": ["pgd-2"], "workdir": "/somewhere/relu_0", "data_dir": "/data"},
        "num_images": len(clean),
        "clean_accuracy": float(np.mean(clean)),
        "adversarial_accuracy": float(np.mean(standing)),
        "attacks": attacks,
        "curve": [],
        "images": images | {"last_iterate_correct": {"pgd-1": list(clean), "pgd-2": list(last)}},
    } | more


@pytest.mark.parametrize("name", ["activations", "small"])
def test_every_row_of_our_plans_is_a_command_line_of_train_and_evaluate(name):
    from flags import attack
    from flags import evaluate as evaluate_flags
    from sat_tf import flagfiles

    asked = plan.read(name)
    recipes = flagfiles.recipes([attack])

    def define():
        for theme in programs.THEMES:
            __import__(f"flags.{theme}", fromlist=["define"]).define()

    seen = set()
    for row in asked.rows.values():
        given = programs.parsed(define, *flagfiles.expanded(row.flags, recipes))
        free = ("workdir", "flagfile")
        seen.add(json.dumps([flag.value for flag in map(given.__getitem__, given)
                             if flag.name not in free], default=str))  # fmt: skip
    assert len(seen) == len(asked.rows)
    for one in asked.evaluations.values():
        programs.parsed(evaluate_flags.define, *one.flags)


@pytest.mark.parametrize(
    "old, new, hint",
    [
        ("baseline = relu", "baseline = elu", "baseline 'elu' is unknown; valid are: relu, swish"),
        ("rows = swish", "rows = mish", "row 'mish' is unknown; valid are: relu, swish"),
        ("seeds = 0 1", "seeds = 0 1 0", r"\[row relu\]: seed 0 stands twice"),
        ("seeds = 0 1", "seeds = one", "'one' is no seed"),
        ("seeds = 0 1", "against = relu", r"\[row relu\] has no seeds"),
        ("title = PGD-2", "name = PGD-2", "'name' is unknown; valid are: flags, title, rows"),
        ("[row swish]", "[row relu]", "already exists"),
        ("[row swish]", "[rows swish]", r"section \[rows swish\] is unknown"),
        ("[row swish]", "[row a/b]", "a name is made of"),
        ("[study]\n", "", "no section headers"),
        (PLAN, "[row relu]\nflags = -\nseeds = 1", "no section .study."),
        (PLAN, "", "no section"),
    ],
)
def test_what_a_plan_may_not_say_is_named(old, new, hint, tmp_path):
    assert old in PLAN
    with pytest.raises(ValueError, match=hint) as error:
        plan.read(written(tmp_path, PLAN.replace(old, new, 1)))
    assert str(tmp_path / "own.ini") in str(error.value)


def test_a_plan_that_is_not_there_is_named_with_those_that_are():
    with pytest.raises(ValueError, match="--plan=large is neither .* plans: activations, small"):
        plan.read("large")


@pytest.mark.parametrize("num_images", [1, 8, 1001])
def test_verdicts_survive_their_packing(num_images):
    bits = np.random.default_rng(0).random(num_images) < 0.3
    kept = {"num_images": num_images, "verdicts": {"clean": record.packed(bits)}}
    np.testing.assert_array_equal(record.verdicts(kept, "clean"), bits)


def test_a_record_keeps_last_iterates_verdicts_and_no_place_of_this_machine(tmp_path):
    asked = plan.read(written(tmp_path))
    kept = record.Record(asked, asked.rows["relu"], 0, tmp_path / "results")
    kept.evaluated(asked.evaluations["pgd"], report())
    again = record.Record(asked, asked.rows["relu"], 0, tmp_path / "results")
    found = again.report("pgd")
    assert found["clean_accuracy"] == 0.75 and record.robust(found) == 0.5
    np.testing.assert_array_equal(record.verdicts(found, "robust"), [1, 0, 0, 1])
    assert "somewhere" not in kept.path.read_text() and "/data" not in kept.path.read_text()
    with pytest.raises(ValueError, match="figures of other weights"):
        again.evaluated(asked.evaluations["curve"], report(network={"weights_sha256": "other"}))


def cut_short(path):
    path.write_text(path.read_text()[:-100])


def of_another_plan(path):
    sealed.write_json(path, sealed.read_json(path) | {"plan": "other"})


def of_other_flags(path):
    sealed.write_json(path, sealed.read_json(path) | {"flags": ["--model=resnet20"]})


def of_no_row(path):
    path.rename(path.with_name("mish_0.json"))


@pytest.mark.parametrize(
    "spoil, hint",
    [
        (cut_short, "relu_0.json is damaged"),
        (of_another_plan, "of another plan: plan is other there and own here"),
        (of_other_flags, "flags is --model=resnet20 there and --model=resnet8 --activation=relu"),
        (of_no_row, "mish_0.json belongs to no row and seed of the plan 'own'"),
    ],
)
def test_a_file_that_is_not_the_plans_stops_the_study_and_is_left_alone(spoil, hint, tmp_path):
    asked = plan.read(written(tmp_path))
    results = tmp_path / "results"
    run = record.Record(asked, asked.rows["relu"], 0, results)
    run.evaluated(asked.evaluations["pgd"], report())
    spoil(run.path)
    before = {path: path.read_bytes() for path in results.iterdir()}
    with pytest.raises(ValueError, match=hint):
        main(tmp_path, "--redraw")
    assert {path: path.read_bytes() for path in results.iterdir()} == before


def main(tmp_path, *flags):
    """Runs the study's main inside this process, on the plan that was written."""
    places = [f"--plan={tmp_path}/own.ini", f"--results={tmp_path}/results",
              f"--runs={tmp_path}/runs", f"--page={tmp_path}/page.md"]  # fmt: skip
    given = programs.parsed(study.define_flags, *places, *flags)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(study, "flags", types.SimpleNamespace(FLAGS=given))
        study.main()


@pytest.fixture
def commands(tmp_path, monkeypatch):
    """Stands for the processes of a study: returns the commands that it would have started."""
    started = []

    def run(command, path, lock):
        started.append(command)
        path.mkdir(parents=True, exist_ok=True)
        if command[0] == "sat_tf.train":
            (path / "network.keras").touch()
            if not (path / "metrics.json").exists():
                sealed.write_json(path / "metrics.json", {"history": [1], "commit": "new"})
        else:
            (name,) = [one[7:] for one in command if one.startswith("--json=")]
            drawn = any(one.startswith("--curve") for one in command)
            sealed.write_json(name, report(curve=CURVE if drawn else []))
        return 12.3

    monkeypatch.setattr(study, "_python", run)
    written(tmp_path)
    return started


def test_each_row_gets_all_its_seeds_first_and_nothing_is_done_twice(tmp_path, commands):
    main(tmp_path, "--evaluations=pgd")
    order = [command[-2] for command in commands if command[0] == "sat_tf.train"]
    names = ["relu_0", "relu_1", "swish_0", "swish_1"]
    assert order == [f"--workdir={tmp_path}/runs/{name}" for name in names]
    assert [command[0] for command in commands] == ["sat_tf.train", "sat_tf.evaluate"] * 4
    at = f"{tmp_path}/runs/relu_0"
    assert commands[0][1:] == ["--model=resnet8", "--activation=relu", "--seed=0",
                               f"--workdir={at}", "--test_steps=0"]  # fmt: skip
    assert commands[1][1:] == [f"--workdir={at}", f"--json={at}/study_pgd.json", "--write=",
                               "--attacks=pgd-2"]  # fmt: skip
    del commands[:]
    main(tmp_path)  # the curves alone are missing
    assert [command[1] for command in commands] == [
        f"--workdir={tmp_path}/runs/swish_{seed}" for seed in (0, 1)
    ]
    del commands[:]
    main(tmp_path)
    assert not commands


def test_the_seeds_asked_for_alone_are_run_and_each_result_is_said(
    tmp_path, commands, monkeypatch, capsys
):
    monkeypatch.setattr(study, "draw", lambda *_: None)
    main(tmp_path, "--evaluations=pgd", "--seeds=1")
    names = ["relu_1", "swish_1"]
    assert [command[-2] for command in commands[::2]] == [
        f"--workdir={tmp_path}/runs/{name}" for name in names
    ]
    assert capsys.readouterr().out.splitlines() == [
        f"{name}: clean 75.00 %, PGD-2 50.00 % of 4 images" for name in names
    ]


def test_a_run_that_is_there_is_taken_up_with_its_own_commit_and_no_time(tmp_path, commands):
    there = tmp_path / "runs/relu_0"
    there.mkdir(parents=True)
    sealed.write_json(there / "metrics.json", {"history": [1], "commit": "old"})
    main(tmp_path, "--rows=relu")
    kept = [sealed.read_json(tmp_path / f"results/relu_{seed}.json") for seed in (0, 1)]
    assert [one["training"]["commit"] for one in kept] == ["old", "new"]
    assert [one["training"]["cpu_seconds"] for one in kept] == [None, 12]


@pytest.mark.parametrize(
    "flag, hint",
    [
        ("--rows=mish", "row 'mish' is unknown; valid are: relu, swish"),
        ("--rows=relu,relu", "row relu is given twice"),
        ("--seeds=7", "seed '7' is unknown; valid are: 0, 1"),
        ("--evaluations=fab", "evaluation 'fab' is unknown; valid are: pgd, curve"),
        ("--redraw --rows=relu", "--redraw draws all that the plan has; leave --rows out"),
    ],
)
def test_what_the_plan_lacks_is_named_before_anything_runs(flag, hint, tmp_path, commands):
    with pytest.raises(ValueError, match=hint):
        main(tmp_path, *flag.split())
    assert not commands and not (tmp_path / "results").exists()


def test_the_files_alone_give_the_same_page_and_pictures_again(tmp_path, commands, capsys):
    mark, end = "<!-- study own: drawn -->", "<!-- end of study own -->"
    (tmp_path / "page.md").write_text(f"before\n{mark}\nold\n{end}\nafter\n")
    main(tmp_path)
    drawn = (tmp_path / "page.md").read_text()
    found = record.collect(plan.read(f"{tmp_path}/own.ini"), tmp_path / "results")
    text = page.section(plan.read(f"{tmp_path}/own.ini"), found)
    assert drawn == f"before\n{mark}\n\n{text}\n\n{end}\nafter\n"
    shutil.rmtree(tmp_path / "runs")
    clone = tmp_path / "clone"
    clone.mkdir()
    shutil.move(tmp_path / "results", clone / "results")
    (clone / "own.ini").write_text(PLAN)
    (clone / "page.md").write_text(f"before\n{mark}\n{end}\nafter\n")
    main(clone, "--redraw")
    assert (clone / "page.md").read_text() == drawn
    pngs = {path.name for path in (clone / "results").glob("*.png")}
    names = ("accuracies", "curve")
    assert pngs == {f"{name}{style}.png" for name in names for style in ("", "_dark")}


def test_a_page_without_a_place_is_named_and_one_without_an_end_refused(tmp_path, capsys):
    path = tmp_path / "page.md"
    path.write_text("nothing")
    assert not page.put(path, "study own", "text") and path.read_text() == "nothing"
    written(tmp_path)
    main(tmp_path, "--redraw")
    assert "page.md has no place for the study own" in capsys.readouterr().out
    path.write_text("<!-- study own: x -->\n")
    with pytest.raises(ValueError, match="end of study own"):
        page.put(path, "study own", "text")


@pytest.mark.parametrize("name", ["activations", "small"])
def test_the_tables_of_the_documents_are_those_of_the_files(name, tmp_path):
    asked = plan.read(name)
    found = record.collect(asked, ROOT / "docs/results/study" / name)
    drawn = {file: (ROOT / file).read_text() for file in ("docs/results.md", "README.md")}
    copies = {file: tmp_path / pathlib.Path(file).name for file in drawn}
    for file, copy in copies.items():
        copy.write_text(drawn[file])
    without = page.write(map(str, copies.values()), asked, found)
    assert without == [str(copies["README.md"])] * (name != "activations")
    assert {file: copy.read_text() for file, copy in copies.items()} == drawn


def test_the_picture_has_a_dot_for_every_run():
    asked = plan.read("small")
    found = record.collect(asked, ROOT / "docs/results/study/small")
    figure = pictures.accuracies(asked, found, pictures.LIGHT)
    for panel, column in zip(figure.axes, page.measures(asked, found), strict=True):
        dots = [line.get_xdata() for line in panel.get_lines() if line.get_marker() == "o"]
        runs = [list(column.accuracies(found, row).values()) for row in asked.rows]
        assert [list(values) for values in dots] == [values for values in runs if values]
        bars = [line.get_xdata() for line in panel.get_lines() if line.get_marker() == "None"]
        np.testing.assert_allclose(bars, [[sum(x) / len(x)] * 2 for x in runs if x])


def test_the_curve_is_the_mean_of_the_seeds_in_a_band_from_the_least_to_the_most(tmp_path):
    asked = plan.read(written(tmp_path))
    accuracies = np.array([[0.75, 0.25], [0.875, 0.25], [1.0, 0.75]])  # of seeds, at each radius
    records = {
        "swish": {
            seed: types.SimpleNamespace(report=lambda name, each=each: {"curve": [
                {"epsilon": epsilon, "adversarial_accuracy": one}
                for epsilon, one in zip((0.0, 8.0), each, strict=True)
            ]} if name == "curve" else None)
            for seed, each in enumerate(accuracies)
        }
    }  # fmt: skip
    figure = pictures.curve(asked, records, asked.evaluations["curve"], pictures.DARK)
    (axes,) = figure.axes
    ((x, y),) = (line.get_data() for line in axes.get_lines())
    np.testing.assert_allclose([x, y], [[0, 8], [87.5, 125 / 3]])
    (band,) = axes.collections
    corners = {tuple(corner) for path in band.get_paths() for corner in path.vertices}
    assert corners == {(0, 75), (0, 100), (8, 25), (8, 75)}
    assert figure.get_facecolor()[:3] < (0.1, 0.1, 0.1)  # of a dark page


def test_a_run_finds_modules_where_the_study_does(tmp_path, monkeypatch):
    (tmp_path / "lies_here.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    study._python(["lies_here"], tmp_path / "run", tmp_path / "run/lock")


def test_a_failed_run_says_why_and_names_its_log(tmp_path):
    command = ["sat_tf.train", "--activation=nonsense", "--epochs=1"]
    with pytest.raises(ValueError, match="status 2: sat_tf.train: .*nonsense.*run.log"):
        study._python(command, tmp_path / "run", tmp_path / "run/lock")


SLOW = """
[study]
flags = --model=resnet8 --epochs=40 --threads=1
baseline = relu
[evaluation pgd]
title = PGD-2
flags = --attacks=pgd-2
[row relu]
flags = --activation=relu
seeds = 0
"""


@pytest.mark.slow
def test_a_study_that_was_killed_goes_on_and_ends_with_the_figures_of_one_that_was_not(tmp_path):
    found = []
    for name in ("whole", "killed"):
        folder = tmp_path / name
        folder.mkdir()
        command = [sys.executable, "-m", "benchmarks.studies.study",
                   f"--plan={written(folder, SLOW)}", f"--results={folder}/results",
                   f"--runs={folder}/runs", "--page="]  # fmt: skip
        if name == "killed":
            begun = subprocess.Popen(command, cwd=ROOT)
            deadline = time.monotonic() + 300
            while not (folder / "runs/relu_0/metrics.json").exists():
                assert time.monotonic() < deadline and begun.poll() is None
                time.sleep(0.1)
            begun.send_signal(signal.SIGKILL)
            begun.wait()
        # What was killed leaves a training behind, which this waits for and then finds ended.
        subprocess.run(command, cwd=ROOT, check=True, timeout=900)
        kept = sealed.read_json(folder / "results/relu_0.json")
        found.append([kept["training"]["history"], kept["evaluations"]["pgd"]["verdicts"]])
    assert found[0] == found[1]
