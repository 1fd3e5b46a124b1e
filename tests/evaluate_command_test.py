"""Every flag of `python -m sat_tf.evaluate` reaches what it decides; the report says what is so."""

import contextlib
import inspect
import json
import pathlib
import signal
import types

import keras
import numpy as np
import pytest
import tensorflow as tf
from absl import flags
from sklearn import datasets

from flags import evaluate as own_flags
from sat_tf import data, evaluate, loading
from sat_tf.attacks import PGD, autoattack, names
from sat_tf.data import classes, selection
from sat_tf.evaluation import settings, verdicts
from sat_tf.runs import Interrupted, distribution
from tests import programs

# Values unlike the defaults, and unlike what the data set or the network would say.
ASKED = {
    "network": "nets/mine.keras",
    "input_range": "0,1",
    "preprocessing": "caffe",
    "dataset": "some_set",
    "split": "validation",
    "data_dir": "/sets",
    "classes": "classes.txt",
    "max_pixels": 9_000,
    "image_size": "17",
    "eval_resize": "shorter_side",
    "num_images": "1",
    "ids": "ids.txt",
    "attacks": "autoattack,pgd-3",
    "epsilon": "5",
    "step_size": "1.25",
    "norm": "l2",
    "restarts": "3",
    "last_iterate": "false",
    "fold_batch_norm": "false",
    "curve": "2.5,1",
    "steps_curve": "true",
    "seed": "7",
    "batch_size": "19",
    "strategy": "mirrored",
    "logical_cpus": "2",
    "json": "there/mine.json",
    "write": "npz,plots",
    "image_type": "uint8",
    "overwrite": "true",
    "save_every": "4.5",
}
# Of other ways to measure, which exclude these: evaluation_corruptions_test, evaluation_union_test;
# evaluation_shares_test; and a law of its own below.
APART = {
    "corruptions", "severities", "corruption_baseline", "norms", "epsilons", "surrogate", "cluster",
    "worker_timeout",
}  # fmt: skip


@pytest.fixture
def parse(monkeypatch):
    """Parses arguments as the program does, against flags of its own."""

    def parse(*arguments):
        values = programs.parsed(own_flags.define, *arguments)
        monkeypatch.setattr(flags, "FLAGS", values)
        return values

    return parse


class Report:
    """Stands for a report: what the program asks of it."""

    labels = np.zeros(1)

    def save(self, path):
        self.path = path

    def text(self, with_steps):
        return "the table, the steps" if with_steps else "the table"


class Session:
    """Stands for a session, of which the program looks at the attacks."""

    def __init__(self, report, seen):
        self.report, self.seen = report, seen

    @property
    def attacks(self):
        return self.seen["Session.attacks"]

    def prepare(self):
        return self

    def run(self, about):
        self.seen["run.about"] = about
        return self.report


@pytest.fixture
def run(parse, monkeypatch):
    """Runs the program with everything it calls replaced; returns the arguments of each call."""
    seen = {}

    def replace(module, name, result):
        signature = inspect.signature(getattr(module, name))

        def called(*arguments, **named):
            bound = signature.bind(*arguments, **named).arguments
            seen.update({f"{name}.{key}": value for key, value in bound.items()})
            return result

        called.__signature__ = signature  # for a second run
        monkeypatch.setattr(module, name, called)

    def ran(*arguments, side=None):
        report = Report()
        network = types.SimpleNamespace(input_shape=(None, side, side, 3), output_shape=(None, 3))
        strategy = types.SimpleNamespace(scope=contextlib.nullcontext)
        replace(loading, "load", network)
        replace(loading, "adapt", network)
        replace(loading, "class_names", list("abc"))
        replace(distribution, "split_cpu", None)
        replace(distribution, "strategy", strategy)
        info = data.Info("set", tuple("abc"), (None, None, 3), {"test": 9, "validation": 9})
        replace(data, "describe", info)
        replace(classes, "labelled", ["batches"])
        replace(selection, "positions", [5, 2])
        replace(evaluate, "Session", Session(report, seen))
        replace(evaluate.artefacts, "write", [])
        replace(evaluate.artefacts, "require_space", None)
        replace(data, "load", ["batches"])
        seen["adapted"] = network
        parse(*arguments)
        evaluate.main()
        return seen, report

    return ran


def test_every_flag_reaches_what_it_decides(run, parse, capsys):
    seen, report = run(*(f"--{name}={value}" for name, value in ASKED.items()))
    options, about = seen["Session.options"], seen["run.about"]
    assert list(about["flags"]) == sorted(about["flags"])
    attacks, curve = seen["Session.attacks"], options.curve
    pgd = attacks[-1]
    path = pathlib.Path("there/mine.json")
    printed = capsys.readouterr().out
    left_out = autoattack.left_out("standard", norm="l2", num_classes=3)
    asked = {"epsilon": 5.0, "norm": "l2", "num_classes": 3}
    made = list(map(names.name_of, names.parse(["autoattack", "pgd-3"], **asked)))
    assert left_out and len(made) > 1
    found = {
        "network": about["network"]["source"] == seen["load.source"] == "nets/mine.keras",
        "input_range": seen["adapt.input_range"] == (0.0, 1.0),
        "preprocessing": seen["adapt.preprocessing"] == "caffe",
        "dataset": seen["load.name"] == about["data"]["dataset"] == "some_set"
        and seen["write.about"]["dataset"] == "some_set"
        and seen["positions.dataset"] == seen["describe.name"] == "some_set",
        "split": seen["load.split"] == about["data"]["split"] == "validation"
        and seen["positions.split"] == "validation",
        "data_dir": seen["load.data_dir"] == seen["describe.data_dir"] == "/sets",
        "classes": seen["labelled.path"] == "classes.txt"
        and seen["labelled.num_classes"] == 3
        and seen["labelled.class_names"] == list("abc"),
        "image_size": seen["load.image_size"] == 17,
        "max_pixels": seen["load.max_pixels"] == seen["describe.max_pixels"] == 9_000
        and seen["positions.max_pixels"] == 9_000,
        "eval_resize": seen["load.eval_resize"] == "shorter_side",
        "num_images": options.num_images == 1,
        "ids": seen["positions.path"] == "ids.txt"
        and seen["Session.dataset"].wanted.tolist() == [2, 5],
        "attacks": names.name_of(pgd) == "pgd-3"
        and list(map(names.name_of, attacks)) == made == list(map(names.name_of, curve[1.0]))
        and options.left_out == left_out,
        "epsilon": {one.epsilon for one in attacks} == {5.0},
        "step_size": pgd.step_size == curve[1.0][-1].step_size == 1.25,
        "norm": {one.norm for one in [*attacks, *curve[1.0]]} == {"l2"}
        and seen["write.title"] == "Robustness of nets/mine.keras: l2 epsilon 5",
        "restarts": options.restarts == 3
        and "nets/mine.keras on some_set validation:\nl2 epsilon 5, step size 1.25 (pixels in [0, "
        "255]), restarts of PGD 3\n"
        in printed,
        "last_iterate": options.last_iterate is False,
        "fold_batch_norm": options.fold_batch_norm is False,
        "curve": {e: {one.epsilon for one in some} for e, some in curve.items()}
        == {2.5: {2.5}, 1.0: {1.0}},
        "steps_curve": "the steps" in printed and "the table" in printed,
        "seed": options.seed == 7,
        "batch_size": options.batch_size == seen["load.batch_size"] == 19,
        "strategy": seen["strategy.name"] == "mirrored" and options.strategy is not None,
        "logical_cpus": seen["split_cpu.num_devices"] == 2,
        "json": report.path == seen["write.path"] == path
        and options.verdict_file == verdicts.verdict_path(path),
        "write": seen["write.names"] == ["npz", "plots"]
        and not options.landscape
        and options.image_file == path.with_suffix(".images.npy"),
        "image_type": options.image_type == seen["require_space.image_type"] == "uint8",
        "overwrite": options.overwrite is True,
        "save_every": options.save_every == 4.5,
    }
    assert [name for name, right in found.items() if not right] == []
    assert seen["Session.network"] is seen["adapted"]
    # A new flag needs a line above: the report repeats them all.
    assert set(found) == set(ASKED) == set(about["flags"]) - {"workdir"} - APART
    asked, defaults = flags.FLAGS, parse()
    assert [name for name in ASKED if asked[name].value == defaults[name].value] == []


def test_a_report_is_named_after_every_flag_that_decides_a_figure(parse, tmp_path):
    (tmp_path / "metrics.json").write_text(json.dumps({"dataset": "digits", "epsilon": 3.0}))
    others = "data_dir max_pixels steps_curve strategy logical_cpus write overwrite save_every"
    for name in ASKED.keys() - {"network", "json"}:
        report = settings.complete(parse(f"--workdir={tmp_path}", f"--{name}={ASKED[name]}")).report
        assert (report == tmp_path / "report.json") == (name in others.split()), name


def test_a_run_says_what_no_flag_says_and_a_flag_is_stronger(parse, tmp_path):
    said = {"dataset": "cifar10", "data_dir": "/a", "image_size": 24, "eval_resize": "whole",
            "epsilon": 3.0, "norm": "l2"}  # fmt: skip
    asked = {"dataset": "digits", "data_dir": "/b", "image_size": 28, "eval_resize": "center_crop",
             "epsilon": 6.0, "norm": "linf"}  # fmt: skip
    (tmp_path / "metrics.json").write_text(json.dumps(said | {"class_names": ["a"]}))
    of_run = settings.complete(parse(f"--workdir={tmp_path}"))
    assert {name: getattr(of_run, name) for name in said} == said
    assert of_run.source == str(tmp_path) and of_run.about["class_names"] == ["a"]
    for name, value in asked.items():
        one = settings.complete(parse(f"--workdir={tmp_path}", f"--{name}={value}"))
        assert {name: getattr(one, name) for name in said} == said | {name: value}
    alone = settings.complete(parse("--network=n.keras", "--dataset=digits", "--epsilon=2"))
    rest = (alone.data_dir, alone.image_size, alone.eval_resize, alone.norm)
    assert rest == (None, None, None, "linf")
    for arguments in ((), (f"--workdir={tmp_path}", "--network=n.keras")):
        with pytest.raises(ValueError, match="either --workdir=RUN or --network"):
            settings.complete(parse(*arguments))
    for missing in ("--dataset=digits", "--epsilon=2"):
        with pytest.raises(ValueError, match="is not given and no run says it"):
            settings.complete(parse("--network=n.keras", missing))
    for wrong in (
        "--curve=-1",
        "--curve=2e9",
        "--curve=x",
        "--curve=nan",
        "--input_range=a,b",
        "--input_range=-inf,1",
    ):
        with pytest.raises(ValueError, match="is not a number that fits here"):
            settings.complete(parse(f"--workdir={tmp_path}", wrong))


def test_without_a_size_the_images_have_the_networks(run):
    asked = ("--network=n.keras", "--dataset=digits", "--epsilon=2", "--attacks=pgd-2")
    seen, _ = run(*asked, side=12)
    assert seen["load.image_size"] == 12 and seen["load.split"] == "test"
    assert seen["Session.options"].strategy is None and "strategy.name" not in seen
    assert seen["Session.options"].image_file is None  # html alone needs no images


@pytest.mark.parametrize(
    ("asked", "side", "shape"),
    [
        ((), 12, (9, 12, 12, 3)),
        (("--image_size=16", "--num_images=4"), None, (4, 16, 16, 3)),
        (("--num_images=40",), 12, (9, 12, 12, 3)),
        (("--ids=ids.txt", "--split=validation"), 12, (2, 12, 12, 3)),
    ],
)
def test_room_is_looked_for_for_as_many_images_as_will_be_kept(run, asked, side, shape):
    always = ("--network=n.keras", "--dataset=digits", "--epsilon=2", "--write=npz")
    seen, _ = run(*always, *asked, side=side)
    assert seen["require_space.shape"] == shape
    assert seen["require_space.paths"] == [seen["write.path"]]
    assert seen["require_space.names"] == ["npz"]


def test_restarts_of_pgd_are_said_where_there_is_pgd(run, capsys):
    asked = ("--network=n.keras", "--dataset=digits", "--epsilon=2", "--restarts=3")
    run(*asked, "--attacks=pgd-2,square")
    assert capsys.readouterr().out.splitlines()[1].endswith(", restarts of PGD 3")
    run(*asked, "--attacks=square", "--curve=0.03,4")
    out, err = capsys.readouterr()
    assert out.splitlines()[1].endswith("epsilon 2 (pixels in [0, 255])")
    (warning,) = err.splitlines()  # of the radius below a pixel alone
    assert "epsilon is 0.03 pixels of 255" in warning and warning.endswith("give 7.65")


def test_a_stopped_evaluation_promises_that_it_goes_on(run, monkeypatch):
    monkeypatch.setattr(Session, "run", lambda *_: signal.raise_signal(signal.SIGTERM))
    with pytest.raises(Interrupted, match="stopped; the same command continues"):
        run("--network=n.keras", "--dataset=digits", "--epsilon=2", "--attacks=pgd-2")


@pytest.mark.parametrize("attacks, said", [("quick", True), ("pgd-2,quick", True), ("rand", False)])
def test_a_first_verdict_is_called_one(run, capsys, attacks, said):
    run("--network=n.keras", "--dataset=digits", "--epsilon=2", f"--attacks={attacks}")
    assert ("standard can break more" in capsys.readouterr().out) == said


def test_what_a_norm_leaves_out_is_said(run):
    asked = ("--network=n.keras", "--dataset=digits", "--epsilon=2", "--attacks=autoattack")
    seen, _ = run(*asked, "--norm=l1")
    found = seen["Session.options"].left_out
    assert found == autoattack.left_out("standard", norm="l1", num_classes=3)
    assert "apgd-t" in found  # for want of classes


def test_the_report_of_a_run_has_the_labels_and_verdicts_of_its_data_set(
    parse, tmp_path, monkeypatch, capsys
):
    digits = datasets.load_digits()
    test = np.arange(len(digits.target)) % 5 == 4
    images = np.rint(digits.images * 255 / 16)
    # Least squares on one-hot classes, in a scale where the loss has a gradient in float32.
    centred = images[~test].reshape(-1, 64) - 127.5
    weights = np.linalg.lstsq(centred, np.eye(10)[digits.target[~test]] - 0.1, rcond=None)[0]
    inputs = keras.Input((8, 8, 1))
    dense = keras.layers.Dense(10)
    network = keras.Model(inputs, dense(keras.layers.Flatten()(inputs)))
    dense.set_weights([weights, -127.5 * weights.sum(0)])
    network.save(tmp_path / "network.keras")
    (tmp_path / "metrics.json").write_text(json.dumps({"dataset": "digits", "epsilon": 10.0}))
    wanted = [250, 3, 77, *range(100, 130)]
    (tmp_path / "ids").write_text("\n".join(map(str, wanted)))
    parse(f"--workdir={tmp_path}", "--attacks=pgd-3", "--restarts=2", f"--ids={tmp_path}/ids",
          f"--json={tmp_path}/report.json", "--write=model_info", "--curve=10,4")  # fmt: skip
    evaluate.main()
    report = json.loads((tmp_path / "report.json").read_text())
    labels = digits.target[test][sorted(wanted)]
    assert report["images"]["index"] == sorted(wanted)
    assert report["images"]["label"] == labels.tolist()
    pixels = images[test][sorted(wanted)]
    right = (pixels.reshape(-1, 64) - 127.5) @ weights
    right = right.argmax(1) == labels
    assert report["images"]["clean_correct"] == right.astype(int).tolist()
    assert report["clean_accuracy"] == right.mean() > report["adversarial_accuracy"] > 0
    library = evaluate.evaluate(
        network,
        (pixels[..., None], labels),
        [PGD(epsilon=10, step_size=10 / 3, steps=3)],
        evaluate.Options(restarts=2),
    )
    assert report["images"]["standing"] == library.standing.astype(int).tolist()
    assert report["restarts"] == report["attacks"][0]["settings"]["restarts"] == 2
    assert report["attacks"][0]["settings"]["epsilon"] == 10.0
    assert [point["epsilon"] for point in report["curve"]] == [4.0, 10.0]
    assert report["curve"][0]["seconds"] > 0 == report["curve"][1]["seconds"]
    spent = report["attacks"][0]["seconds"] + report["curve"][0]["seconds"]
    assert report["seconds"] == pytest.approx(spent, abs=2e-3)
    radii = [point["adversarial_accuracy"] for point in report["curve"]]
    assert right.mean() >= radii[0] > radii[1] > 0
    printed = capsys.readouterr().out
    assert f"{100 * right.mean():.2f}" in printed and f"{100 * radii[0]:.2f}" in printed
    assert len(tf.config.list_logical_devices("CPU")) == 2, "the program left the devices alone"


def test_the_command_writes_the_table_and_the_report(tmp_path, forked):
    keras.utils.set_random_seed(0)
    inputs = keras.Input((8, 8, 1))
    network = keras.Model(inputs, keras.layers.Dense(10)(keras.layers.Flatten()(inputs)))
    network.save(tmp_path / "network.keras")
    (tmp_path / "metrics.json").write_text(
        json.dumps({"dataset": "digits", "epsilon": 16.0, "norm": "linf", "image_size": 8})
    )
    asked = "--attacks=pgd-1,pgd-2", "--num_images=50", "--restarts=2", "--seed=0"
    name = "report_pgd-1-pgd-2_num_images-50_restarts-2"
    status, printed, err = forked.run("sat_tf.evaluate", f"--workdir={tmp_path}", *asked)
    assert (status, err) == (0, "")
    report = json.loads((tmp_path / f"{name}.json").read_text())
    assert report["schema_version"] == 1 and report["unit"].startswith("pixels")
    assert [attack["name"] for attack in report["attacks"]] == ["pgd-1", "pgd-2"]
    assert {attack["settings"]["epsilon"] for attack in report["attacks"]} == {16.0}
    assert report["num_images"] == len(report["images"]["label"]) == 50
    assert report["adversarial_accuracy"] == pytest.approx(np.mean(report["images"]["standing"]))
    assert (tmp_path / f"{name}.html").stat().st_size > 10_000
    for text in ("clean", "pgd-2", "epsilon 16", "pixels in [0, 255]", "50 images"):
        assert text in printed
    # What cannot be written is refused before any image is read.
    (tmp_path / f"{name}.html").unlink()
    (tmp_path / f"{name}.html").mkdir()
    status, out, err = forked.run("sat_tf.evaluate", f"--workdir={tmp_path}", *asked)
    assert status == 2 and f"cannot write {tmp_path / name}.html" in err
    assert len(err.strip().splitlines()) == 1, err
    assert "iterate  standing" not in out


@pytest.mark.parametrize(
    "arguments, said",
    [
        (["--epsilon=8/255"], "write 8, not 8/255"),
        (["--workdir=does/not/exist"], "does/not/exist is not there"),
    ],
)
def test_wrong_flags_give_one_line_and_status_2(forked, arguments, said):
    status, _, err = forked.run("sat_tf.evaluate", *arguments)
    assert status == 2
    assert said in err
    assert len(err.strip().splitlines()) == 1, err


def test_what_cannot_be_written_is_refused_before_a_network_is_loaded(parse, monkeypatch):
    parse("--network=n.keras", "--dataset=digits", "--epsilon=2", "--write=html,pdf")
    monkeypatch.setattr(evaluate, "load_network", lambda settings: pytest.fail("loaded"))
    with pytest.raises(ValueError, match="--write holds 'pdf'; use some of: html, plots"):
        evaluate.main()


def test_attacks_of_a_surrogate_are_computed_on_the_network_that_the_flag_names(
    run, monkeypatch, capsys
):
    made = []
    monkeypatch.setattr(loading, "weights_hash", lambda network: "its weights")
    monkeypatch.setattr(
        evaluate.transfer, "make", lambda attack, *other: made.append((attack, *other)) or attack
    )
    asked = ("--network=n.keras", "--dataset=digits", "--epsilon=2", "--attacks=pgd-2,pgd-3-random")
    seen, _ = run(*asked, "--surrogate=s.keras")
    surrogate = seen["adapted"]  # what loads is one network here
    rest = surrogate, "s.keras its weights"
    assert [(names.name_of(one), *more) for one, *more in made] == [
        ("pgd-2", *rest), ("pgd-3-random", *rest)
    ]  # fmt: skip
    assert seen["load.source"] == "s.keras" and seen["run.about"]["network"] == {
        "source": "n.keras"
    }
    assert seen["Session.attacks"] == [one for one, *_ in made]
    first, *_ = capsys.readouterr().out.splitlines()
    assert first == "n.keras on digits test, attacked on s.keras:"
    made.clear()
    run(*asked)
    assert not made


def test_the_library_and_the_program_evaluate_alike_unless_told(parse):
    flags_unset, options = parse(), vars(evaluate.Options())
    shared = options.keys() & set(flags_unset) - {"strategy", "curve"}
    assert shared == {
        "restarts", "last_iterate", "batch_size", "num_images", "fold_batch_norm", "seed",
        "image_type", "overwrite", "save_every",
    }  # fmt: skip
    for name in shared:
        assert getattr(flags_unset, name) == options[name], name
    told = {
        "attacks": ["pgd-10", "pgd-20", "pgd-50", "pgd-200"], "split": "test", "restarts": 1,
        "last_iterate": True, "batch_size": 128, "seed": 0, "severities": list("12345"),
        "write": ["html"], "preprocessing": "none", "strategy": "one_device", "curve": [],
        "fold_batch_norm": True, "image_type": "float32", "save_every": 30.0, "norms": [],
        "worker_timeout": 600.0, "cluster": "tf_config", "logical_cpus": 1, "steps_curve": False,
        "overwrite": False, "max_pixels": 16_777_216, "epsilons": [], "corruptions": [],
    }  # fmt: skip
    assert {name: getattr(flags_unset, name) for name in told} == told


@pytest.mark.parametrize("name", evaluate.artefacts.NAMES)
def test_what_is_written_is_asked_of_the_evaluation(run, name):
    asked = ("--network=n.keras", "--dataset=digits", "--epsilon=2", "--attacks=pgd-2")
    seen, _ = run(*asked, f"--write={name}")
    options = seen["Session.options"]
    assert options.landscape == (name == "landscape")
    assert (options.image_file is not None) == (name in ("npz", "tfrecord"))
    assert seen["write.names"] == [name]
