"""The program hands every flag on to the part it is for; the parts here only note what they get."""

import contextlib
import dataclasses
import json
import pathlib
import types

import keras
import numpy as np
import pytest
import tensorflow as tf
from absl import flags
from absl.testing import flagsaver

from flags import flagfile
from sat_tf import attacks, callbacks
from sat_tf.callbacks.checkpoint import Checkpoint
from sat_tf.data import Info, Shard
from sat_tf.runs import Interrupted, distribution, workdir
from sat_tf.training import parts, summary, watchers
from sat_tf.training.recipe import Recipe
from tests import programs

FLAGS = flags.FLAGS
SIZES = {"train": 50, "validation": 6, "test": 9}
INFO = Info("sat", ("cat", "dog"), (4, 4, 1), SIZES)
DATA = {
    "dataset": "folder:my/cats", "data_dir": "there", "image_size": 4, "eval_resize": "fit",
    "max_pixels": 9_000, "augment": "crop", "seed": 3, "batch_size": 8,
}  # fmt: skip
LOADED = {name: value for name, value in DATA.items() if name not in ("dataset", "augment")}


@pytest.fixture(scope="module")
def module():
    with programs.imported("sat_tf.train") as module:
        yield module


@pytest.fixture(autouse=True)
def _flags_as_they_were(module):
    with flagsaver.flagsaver():
        yield


@pytest.fixture
def noted(monkeypatch):
    """Replaces functions by ones that note their arguments: noted(owner, "name", result)."""
    calls = {}

    def replace(owner, name, result=None):
        def instead(*arguments, **options):
            calls.setdefault(name, []).append((arguments, options))
            return result(*arguments, **options) if callable(result) else result

        monkeypatch.setattr(owner, name, instead)
        return calls

    return replace


def give(**values):
    for name, value in values.items():
        setattr(FLAGS, name, value)


def given():
    """Returns the recipe that the flags give."""
    return Recipe.of(FLAGS)


def images(*_, **__):
    pixels = np.arange(6 * 16, dtype=np.float32).reshape(6, 4, 4, 1)
    return tf.data.Dataset.from_tensor_slices((pixels, [0, 1, 1, 0, 1, 0])).batch(4)


def trainer_of(strategy="one_device"):
    inputs = keras.Input((4, 4, 1))
    network = keras.Model(inputs, keras.layers.Dense(2)(keras.layers.Flatten()(inputs)), name="net")
    return types.SimpleNamespace(
        network=network,
        distribute_strategy=distribution.strategy(strategy),
        validation_attack=attacks.identity,
        state=network.variables,
    )


def test_the_process_is_set_up_as_the_flags_say(noted):
    noted(distribution, "split_cpu")
    noted(tf.config.threading, "set_intra_op_parallelism_threads")
    noted(tf.config.threading, "set_inter_op_parallelism_threads")
    noted(tf.config.experimental, "enable_op_determinism")
    noted(keras.mixed_precision, "set_global_policy")
    calls = noted(keras.utils, "set_random_seed")
    give(deterministic=False)
    parts.set_up_process(given())
    assert calls == {"set_random_seed": [((0,), {})], "set_global_policy": [(("float32",), {})]}
    calls.clear()
    give(deterministic=True, logical_cpus=3, threads=5, seed=7, precision="mixed_bfloat16")
    parts.set_up_process(given())
    assert calls == {
        "split_cpu": [((3,), {})],
        "set_intra_op_parallelism_threads": [((5,), {})],
        "set_inter_op_parallelism_threads": [((5,), {})],
        "enable_op_determinism": [((), {})],
        "set_random_seed": [((7,), {})],
        "set_global_policy": [(("mixed_bfloat16",), {})],
    }


@pytest.fixture
def program(module, noted):
    """The program without its parts; yields what each was called with, in order."""

    def in_scope(values, info, num_replicas):
        assert tf.distribute.get_strategy().num_replicas_in_sync == num_replicas
        return made

    made = trainer_of()
    strategies = {name: distribution.strategy(name) for name in ("one_device", "mirrored")}
    noted(parts, "set_up_process")
    noted(module.distribution, "find_cluster")
    noted(module.workers, "strategy", lambda name, *_: strategies[name])
    noted(module.datasets, "download")
    noted(module.datasets, "describe", INFO)
    noted(parts, "trainer", in_scope)
    noted(module.datasets, "load", images)
    noted(module.workers, "claim", lambda *_: contextlib.nullcontext(pathlib.Path("the/run")))
    noted(module.checkpoints, "require_space")
    noted(module, "fit")
    noted(module, "test")
    return noted(module.workers, "part"), made


def test_the_parts_of_a_run_get_what_they_need_in_order(module, program, capsys):
    calls, made = program
    give(**DATA, epsilon=6.0, strategy="mirrored", overwrite=True, worker_timeout=77.0)
    give(cluster="slurm")
    module.train()
    assert list(calls) == [
        "set_up_process", "find_cluster", "strategy", "describe", "trainer", "load", "claim",
        "require_space", "fit", "test", "part",
    ]  # fmt: skip
    path, mirrored = pathlib.Path("the/run"), module.distribution.strategy("mirrored")
    assert calls["find_cluster"] == [(("slurm", "mirrored"), {})]
    ((joined, _),) = calls["strategy"]
    assert (joined[0], joined[2]) == ("mirrored", 77.0)
    assert calls["describe"] == [(("folder:my/cats", "there", None, 9_000), {})]
    # Both streams are tried before there is a workdir.
    assert [arguments[1] for arguments, _ in calls["load"]] == ["train", "validation"]
    network = {"model": "resnet8", "activation": "swish"}
    recipe = dataclasses.replace(given(), workdir="runs/cats", **network)
    assert calls["trainer"] == [((recipe, INFO, 2), {})]
    ((claimed, _),) = calls["claim"]
    settings = flagfile.lines(vars(recipe))
    filled = {"--workdir=runs/cats\n", "--model=resnet8\n", "--activation=swish\n"}
    assert joined[1] == [line for line in settings if line not in filled]
    assert claimed[:4] == (mirrored, "runs/cats", settings, True)
    assert set(claimed[4]) < set(settings) and "--workdir=runs/cats\n" not in claimed[4]
    assert calls["require_space"] == [((path, made.state), {})]
    assert calls["fit"] == [((recipe, made, INFO, path), {})]
    assert calls["test"] == [((recipe, INFO, path), {})]
    assert calls["part"] == [((mirrored, made.network), {})]
    assert "net (34 weights, swish) on 50 images of sat, 1 x CPU\nlinf epsilon 6 pixels of 255" in (
        capsys.readouterr().out
    )


def test_the_first_lines_of_a_run_say_what_is_trained_on_what_and_where():
    give(**DATA, initial_network="zoo:one", extra_data="more.npz", norm_combination="max",
         norms=["l2", "l1"], epsilons=["90", "300.5"])  # fmt: skip
    made = trainer_of("mirrored")
    made.network.layers[-1].bias.trainable = False
    recipe = dataclasses.replace(given(), activation="celu")
    assert summary.headline(recipe, INFO, made, pathlib.Path("the/run")) == (
        "net (34 weights, 32 trained, celu) from zoo:one on 50 images of sat and of more.npz, "
        "2 x CPU\nl2 epsilon 90, l1 epsilon 300.5 (max) pixels of 255, workdir the/run"
    )


def test_one_ball_is_told_with_the_parts_of_a_pixel_that_it_has():
    give(**DATA, norm="l2", epsilon=127.5)
    assert summary.balls(given()) == "l2 epsilon 127.5"


def test_what_is_not_given_has_its_default_and_what_is_given_stays(module, program, monkeypatch):
    calls, _ = program
    give(dataset="cifar10")
    module.train()
    (settled, *_), _ = calls["fit"][0]
    assert (settled.epsilon, settled.workdir) == (8.0, "runs/cifar10") and "download" not in calls
    assert {"--epsilon=8.0\n", "--workdir=runs/cifar10\n"} <= set(calls["claim"][0][0][2])
    assert (FLAGS.epsilon, FLAGS.workdir) == (None, None)  # as they were given
    give(epsilon=0.0, workdir="mine", download=True, data_dir="there", test_steps=0)
    calls.clear()
    module.train()
    (settled, *_), _ = calls["fit"][0]
    assert (settled.epsilon, settled.workdir) == (0.0, "mine")
    assert calls["download"] == [(("cifar10", "there"), {})]
    assert list(calls).index("download") < list(calls).index("describe")
    assert "test" not in calls and calls["claim"][0][0][3] is False
    assert settled.image_size is None
    # Images of no one size are cut to the network's.
    anyhow = dataclasses.replace(INFO, image_shape=(None, None, 1))
    monkeypatch.setattr(module.datasets, "describe", lambda *_: anyhow)
    calls.clear()
    module.train()
    assert calls["fit"][0][0][0].image_size == 4
    assert {options["image_size"] for _, options in calls["load"]} == {4}


def test_a_store_that_cannot_be_reached_is_said_before_all_that_takes_time(module, program):
    calls, _ = program
    give(dataset="digits", workdir="s3://bucket/run")
    with pytest.raises(ValueError, match="s3:// is no store"):
        module.train()
    assert list(calls) == ["set_up_process"]


def test_only_the_chief_speaks_and_tests(module, program, monkeypatch, capsys):
    calls, _ = program
    give(dataset="digits", epsilon=1.0)
    monkeypatch.setattr(module.distribution, "is_chief", lambda strategy: False)
    module.train()
    assert "test" not in calls and "fit" in calls and "part" in calls
    assert capsys.readouterr().out == ""


def test_data_without_an_image_for_a_part_is_refused_before_there_is_a_workdir(
    module, program, monkeypatch
):
    calls, _ = program
    give(dataset="digits", epsilon=1.0)
    for empty in SIZES:
        info = Info("sat", ("cat", "dog"), (4, 4, 1), {**SIZES, empty: 0})
        monkeypatch.setattr(module.datasets, "describe", lambda *_, info=info: info)
        with pytest.raises(ValueError, match=f"sat is too small: no image is left for {empty}"):
            module.train()
    assert "claim" not in calls


def test_flags_txt_holds_every_flag_and_makes_the_same_run(tmp_path):
    give(**DATA, boundary=[1.5, 3.0], nesterov=False, clean_start=0.2, workdir="w", epsilon=6.5)
    lines = flagfile.lines(vars(given()))
    values = {name: FLAGS[name].value for name in programs.names()}
    unset = {name for name, value in values.items() if value is None}
    written = {line[2:].partition("=")[0] for line in lines}
    assert written == values.keys() - unset and lines == sorted(lines)
    assert "--nesterov=false\n" in lines and "--boundary=1.5\n--boundary=3.0\n" in lines
    asked = {*DATA, "boundary", "nesterov", "clean_start", "workdir", "epsilon"}
    assert {
        line[2:].partition("=")[0] for line in flagfile.lines(flagfile.defaults(vars(given())))
    } == written - asked
    (tmp_path / "flags.txt").write_text("".join(lines))
    for name in values:
        FLAGS[name].value = FLAGS[name].default
    FLAGS(["train", f"--flagfile={tmp_path}/flags.txt"])
    assert {name: FLAGS[name].value for name in values} == values


def test_what_a_run_may_be_continued_with_changes_no_weight_beside_the_devices():
    # A run with another seed, epsilon, ... is another run; these are of where and what is shown.
    assert workdir.FREE_FLAGS - {"strategy", "logical_cpus"} == workdir.NO_WEIGHT == {
        "workdir", "overwrite", "data_dir", "max_pixels", "checkpoint_every", "picture_grid",
        "test_steps", "on_overfitting", "cluster", "worker_timeout", "steps_per_execution",
        "profile", "data_service",
    }  # fmt: skip
    assert set(programs.names()) >= workdir.FREE_FLAGS


def fitted(module, noted, tmp_path, strategy="one_device", **values):
    noted(module.datasets, "load", images)
    calls = noted(module.fitting, "fit")
    give(**DATA, **values)
    made = trainer_of(strategy)
    module.fit(given(), made, INFO, tmp_path)
    ((arguments, options),) = calls["fit"]
    assert arguments[0] is made
    return made, calls["load"], arguments, options


def test_every_flag_of_a_run_reaches_the_fit(module, noted, tmp_path):
    values = {"epochs": 5, "checkpoint_every": 17, "method": "free", "replays": 3, "epsilon": 9.0}
    of_training = {
        "lanes": 2,
        "mixup": 0.2,
        "cutmix": 0.5,
        "extra_data": "a",
        "extra_fraction": 1.0,
        "data_service": "grpc://there:1",
    }
    values |= of_training
    values["gradient_accumulation"] = 2  # pieces are cut from a batch, they are no batches
    made, loads, (_, batches, validation), options = fitted(module, noted, tmp_path, **values)
    assert (options["epochs"], options["steps_per_epoch"]) == (5, 50 // 8)
    checkpoint = options["checkpoint"]
    assert type(checkpoint) is Checkpoint and checkpoint.workdir == tmp_path
    assert (checkpoint.steps_per_epoch, checkpoint.every) == (6, 17)
    assert checkpoint.record == {"history": [], "best": None, "stopped": False}
    assert loads == [(("folder:my/cats", "validation"), LOADED)]  # of the pictures
    part = Shard(1, 2)
    validation(part)
    assert loads.pop() == (("folder:my/cats", "validation"), LOADED | {"shard": part})
    # Three replays a batch: step 7 is the second replay of batch 2.
    assert [float(x[0, 0, 0, 0]) for x, _ in batches(7, part)] == [0.0, 0.0, 64.0, 64.0, 64.0]
    stream = {**LOADED, "training": True, "start_step": 2, "augment": "crop"}
    stream |= {**of_training, "shard": part}
    assert loads[1:] == [(("folder:my/cats", "train"), stream)]


def test_metrics_json_tells_what_the_run_was(module, noted, tmp_path, monkeypatch):
    values = {"epsilon": 9.0, "norm": "l2", "model": "resnet18:width=16", "activation": "celu"}
    _, _, _, options = fitted(module, noted, tmp_path, **values)
    options["checkpoint"].on_save({"history": [{"epoch": 1}], "best": {"epoch": 2}})
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    told = {
        "unit": "pixels (0-255)", "num_parameters": 34, "dataset": "folder:my/cats", "seed": 3,
        "num_examples": SIZES, "num_classes": 2, "class_names": ["cat", "dog"], "image_size": 4,
        "eval_resize": "fit", "history": [{"epoch": 1}], "best": {"epoch": 2}, "schema": 1,
        **values,
    }  # fmt: skip
    assert {name: metrics[name] for name in told} == told
    assert {"versions", "machine", "commit"} <= metrics.keys()
    # Started once more after its end, it stays the run of the commit that trained it.
    monkeypatch.setattr(module.workdir, "provenance", lambda: {"commit": "later"})
    options["checkpoint"].on_save({"history": [{"epoch": 1}], "best": {"epoch": 2}})
    assert json.loads((tmp_path / "metrics.json").read_text()) == metrics
    options["checkpoint"].on_save({"history": [{"epoch": 1}, {"epoch": 2}], "best": {"epoch": 2}})
    assert json.loads((tmp_path / "metrics.json").read_text())["commit"] == "later"
    FLAGS.eval_resize = None
    anyhow = Info("sat", ("cat", "dog"), (None, None, 1), SIZES)
    ways = [
        summary.metrics(given(), info, trainer_of().network, {"best": 0, "history": 0})[
            "eval_resize"
        ]
        for info in (INFO, anyhow)
    ]
    assert ways == ["whole", "center_crop"]


def test_what_watches_a_run_knows_where_it_begins(module, noted, tmp_path):
    values = {"epochs": 5, "picture_grid": 5, "on_overfitting": "stop", "epsilon": 9.0}
    values |= {"test_steps": 7, "validation_steps": 2, "epsilon_warmup_epochs": 2.5}
    made, _, _, options = fitted(module, noted, tmp_path, **values)
    history = [{"epoch": 1, "val_adversarial_accuracy": 0.5}]
    progress, nan, board, overfitting = options["callbacks"](6 + 4, {"history": history})
    assert (progress.epochs, progress.steps_per_epoch, progress.batch_size) == (5, 6, 8)
    assert (progress.initial_step, nan.initial_step, nan.steps_per_epoch) == (4, 4, 6)
    # 9 images in 7 + 3 passes against 6 images in 2 + 2.
    assert progress.test_work == 9 * 10 / (6 * 4)
    assert (board.log_dir, board.batch_size) == (tmp_path / "logs", 8)
    told = {name: value for name, value in vars(given()).items() if value is not None}
    assert board.settings == told and told["mixup"] == 0.0 and told["download"] is False
    assert (overfitting.action, overfitting.best, overfitting.best_epoch) == ("stop", 0.5, 1)
    assert overfitting.warmup_epochs == 2.5
    pictures = board.pictures
    assert pictures.images[:, 0, 0, 0].tolist() == [0, 16, 32, 48, 64]
    assert pictures.labels.tolist() == [0, 1, 1, 0, 1]
    assert pictures.attack is made.validation_attack and pictures.class_names == ("cat", "dog")
    progress, nan, board, _ = options["callbacks"](12, {"history": []})
    assert (progress.initial_step, nan.initial_step, board.pictures) == (0, 0, pictures)
    give(picture_grid=0, test_steps=0)
    assert watchers.pictures(given(), INFO, made, images()) is None
    assert watchers.progress(given(), INFO).test_work == 0


def test_only_the_chief_shows_progress(module, noted, tmp_path, monkeypatch):
    _, _, _, options = fitted(module, noted, tmp_path, epsilon=9.0)
    monkeypatch.setattr(module.distribution, "is_chief", lambda strategy: False)
    kinds = [type(one).__name__ for one in options["callbacks"](0, {"history": []})]
    # Whatever stops a run stands before what would show or save its bad step.
    assert kinds == ["StopOnNaN", "TensorBoard", "CatastrophicOverfitting"]


def test_an_interrupted_fit_keeps_its_signal(module, noted, tmp_path):
    def interrupted(*_, **__):
        raise Interrupted("stopped by SIGTERM after step 7", 15)

    noted(module.datasets, "load", images)
    noted(module.fitting, "fit", interrupted)
    closed = noted(callbacks.Progress, "close")
    give(**DATA, epsilon=9.0)
    with pytest.raises(Interrupted, match="SIGTERM after step 7") as stop:
        module.fit(given(), trainer_of(), INFO, tmp_path)
    assert stop.value.signal_number == 15 and len(closed["close"]) == 1


def test_compilation_wins_over_the_default_and_is_refused_beside_what_was_asked_for(
    capsys,
):
    give(jit_compile=True)
    settled = given().settled(deterministic_was_asked_for=False)
    assert not settled.deterministic and FLAGS.deterministic
    assert dataclasses.replace(settled, deterministic=True) == given()
    assert capsys.readouterr().err == "note: --jit_compile is given, so --nodeterministic holds\n"
    assert settled.settled(deterministic_was_asked_for=True) is settled
    assert capsys.readouterr().err == ""
    with pytest.raises(ValueError, match="exclude each other.*leave one out"):
        given().settled(deterministic_was_asked_for=True)
    give(jit_compile=False)
    assert given().settled(deterministic_was_asked_for=True) == given()


class Report:
    def __init__(self, last=(True, False)):
        self.clean_accuracy = 0.75
        self.outcomes = [types.SimpleNamespace(last_iterate=np.array(last))]

    def save(self, path):
        path.write_text("saved")

    def table(self):
        return "the table"


def test_the_best_network_is_tested_once_on_the_test_images(module, noted, tmp_path, capsys):
    calls = noted(module.datasets, "load", lambda *_, **__: "the data")
    noted(module.evaluate, "evaluate", lambda *_, **__: Report())
    network = trainer_of().network
    network.save(tmp_path / "network.keras")
    (tmp_path / "metrics.json").write_text('{"best": {"step": 40}}')
    written = noted(module.tensorboard, "write_test")
    give(**DATA, epsilon=12.0, norm="l2", test_steps=3)
    module.test(given(), INFO, tmp_path)
    ((tested, named),) = calls["evaluate"]
    assert calls["load"] == [(("folder:my/cats", "test"), LOADED)]
    for ours, theirs in zip(tested[0].get_weights(), network.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert tested[1] == "the data"
    (attack,) = tested[2]
    expected = attacks.PGD(epsilon=12, step_size=4, steps=3, norm="l2")
    assert vars(attack) == vars(expected)
    assert (tested[3].batch_size, tested[3].seed, tested[3].show_progress) == (8, 3, True)
    assert named == {"about": {"network": {"source": str(tmp_path / "network.keras")}}}
    assert (tmp_path / "test_pgd_3.json").read_text() == "saved"
    found = {"clean_accuracy": 0.75, "adversarial_accuracy": 0.5}
    assert written["write_test"] == [((tmp_path / "logs", 40, found), {})]
    out = capsys.readouterr().out
    assert out.startswith("testing with PGD-3 on 9 images\n")
    assert "the table\n9 test images, l2 epsilon 12 pixels" in out
    module.test(given(), INFO, tmp_path)
    assert len(calls["evaluate"]) == len(written["write_test"]) == 1
    path = tmp_path / "test_pgd_3.json"
    assert capsys.readouterr().out == f"already trained and tested: {path}\n"


def test_several_balls_are_tested_each_and_count_together(module, noted, tmp_path, monkeypatch):
    noted(module.datasets, "load", lambda *_, **__: "the data")
    found = {"l2": Report([True, False, True, False]), "l1": Report([True, True, False, False])}
    calls = noted(module.evaluate, "evaluate", lambda *given, **_: found[given[2][0].norm])
    unions = []

    class Union(Report):
        def __init__(self, reports, files):
            super().__init__()
            unions.append((reports, files))

    monkeypatch.setattr(module, "Union", Union)
    trainer_of().network.save(tmp_path / "network.keras")
    (tmp_path / "metrics.json").write_text('{"best": {"step": 40}}')
    written = noted(module.tensorboard, "write_test")
    give(**DATA, norms=["l2", "l1"], epsilons=["90", "300"], test_steps=3)
    module.test(given().completed(), INFO, tmp_path)
    attacked = [(one.norm, one.epsilon, one.steps) for (_, _, (one,), _), _ in calls["evaluate"]]
    assert attacked == [("l2", 90.0, 3), ("l1", 300.0, 3)]
    files = {norm: f"test_pgd_3.{norm}.json" for norm in found}
    assert unions == [(found, files)]
    assert all((tmp_path / name).is_file() for name in (*files.values(), "test_pgd_3.json"))
    ((_, _, figures), _), *_ = written["write_test"]
    assert figures == {"clean_accuracy": 0.75, "adversarial_accuracy": 0.25}


def test_metrics_json_tells_the_size_of_the_images_and_every_ball(module):
    several = {"norms": ["l2", "l1"], "epsilons": [90.0, 300.0], "norm_combination": "max"}
    give(**DATA | {"image_size": 7}, norm_combination="max", norms=["l2", "l1"],
         epsilons=["90", "300"], initial_network="zoo:one", extra_data="more.npz")  # fmt: skip
    record = {"best": {"epoch": 1}, "history": [{"epoch": 1}, {"epoch": 2}]}
    told = summary.metrics(given().completed(), INFO, trainer_of().network, record)
    expected = several | record | {"norm": "l2", "epsilon": 90.0, "image_size": 7, "model": "net"}
    expected |= {"initial_network": "zoo:one", "extra_data": "more.npz"}
    assert {name: told[name] for name in expected} == expected
    give(norms=[], epsilons=[], initial_network=None, extra_data=None, epsilon=9.0)
    told = summary.metrics(given().completed(), INFO, trainer_of().network, record)
    assert not told.keys() & {*several, "initial_network", "extra_data"}


@pytest.mark.parametrize("attack, called", [("pgd", "adversarial"), ("none", "clean")])
def test_clean_training_is_called_so_and_the_steps_asked_for_are_profiled(
    module, noted, tmp_path, attack, called
):
    _, _, _, options = fitted(module, noted, tmp_path, epsilon=9.0, attack=attack, profile=(11, 13))
    progress, profile, *_ = options["callbacks"](6 + 4, {"history": []})
    assert progress.training_images == called
    assert (profile.log_dir, profile.first, profile.last) == (tmp_path / "logs", 11, 13)
    assert profile._done == 10  # steps that are over


# What decides a weight of a run that says nothing else, as README and docs name it.
UNLESS_TOLD = {
    "dataset": "digits", "augment": None, "mixup": 0.0, "cutmix": 0.0, "lanes": 1,
    "attack": "pgd", "norm": "linf", "norms": [], "norm_combination": "random", "epsilon": None,
    "epsilon_warmup_epochs": 0.0, "attack_steps": 1, "step_size": None, "random_start": True,
    "clean_start": 0.0, "attack_batch_norm": "inference", "validation_steps": 10,
    "method": "pgd_at", "beta": None, "replays": None, "awp_gamma": 0.0, "attack_gradient": None,
    "update_gradient": None, "on_overfitting": "warn", "epochs": 30, "batch_size": 128,
    "optimizer": "sgd", "learning_rate": 0.1, "learning_rate_base_size": 0,
    "schedule": "one_cycle", "warmup_epochs": None, "boundary": [], "factor": 0.1,
    "decay_epochs": 2.4, "decay_factor": 0.97, "momentum": 0.9, "nesterov": True,
    "weight_decay": 5e-4, "activation_weight_decay": 0.0, "label_smoothing": 0.0,
    "ema_decay": 0.0, "gradient_accumulation": 1, "synchronized_batch_norm": False, "freeze": [],
    "body_learning_rate_multiplier": 1.0, "seed": 0, "strategy": "one_device",
    "precision": "float32", "deterministic": True, "jit_compile": False, "remat": False,
    "steps_per_execution": 1, "test_steps": 20,
}  # fmt: skip


def test_a_run_that_says_nothing_else_is_the_documented_one():
    assert {name: FLAGS[name].default for name in UNLESS_TOLD} == UNLESS_TOLD
    known = {"extra_data", "extra_fraction", "eval_resize", "image_size", "model", "activation"}
    known |= {"initial_network", "threads", "logical_cpus", "epsilons", "download", "picture_grid"}
    rest = set(programs.names()) - workdir.NO_WEIGHT - UNLESS_TOLD.keys() - known
    assert not rest, "a new flag of training has no default here"
