"""The networks that come along are those of their cards, and nothing else is taken for one."""

import dataclasses
import json
import pathlib
import re
import shutil
import zipfile

import numpy as np
import pytest

from export import comparison
from sat_tf import data, loading, models, zoo
from sat_tf.attacks import PGD
from sat_tf.evaluate import evaluate
from sat_tf.evaluation import settings
from sat_tf.runs import sealed, workdir
from sat_tf.zoo import __main__ as program
from sat_tf.zoo.card import card

DIGITS = "zoo:digits_resnet8_swish"
FOLDER = zoo.FOLDER


@pytest.fixture
def copy(tmp_path, monkeypatch):
    """A zoo apart that holds the digits' network alone."""
    folder = tmp_path / "zoo"
    name = DIGITS.removeprefix("zoo:")
    shutil.copytree(FOLDER / name, folder / name)
    digest = sealed.file_digest(folder / name / "network.keras")
    sealed.write_json(folder / "index.json", {name: digest})
    monkeypatch.setattr(zoo, "FOLDER", folder)
    return folder


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run that has ended, as far as the zoo looks at it, and a report of its network."""
    folder = tmp_path_factory.mktemp("run")
    network = models.build("resnet8", activation="relu", num_classes=10, image_size=8,
                           num_channels=1)  # fmt: skip
    network.compile("adam", "mse")  # which the zoo's file leaves out
    network.optimizer.build(network.trainable_variables)
    network.save(folder / "network.keras")
    history = [{"epoch": 1, "step": 10, "val_adversarial_accuracy": 0.5}]
    known = workdir.read_metrics(FOLDER / DIGITS.removeprefix("zoo:"))
    known = {name: known[name] for name in known.keys() - {"flags", "evaluations"}}
    workdir.write_metrics(folder, known | {"activation": "relu", "seed": 7, "history": history,
                                           "best": history[0]})  # fmt: skip
    lines = "--activation=relu\n--data_dir=/somewhere\n--epsilon=32.0\n--workdir=/somewhere/else\n"
    (folder / "flags.txt").write_text(sealed.signed_text(lines))
    images, labels = next(iter(data.load("digits", "test", batch_size=12)))
    report = evaluate(
        network, (images.numpy(), labels.numpy()), [PGD(epsilon=32, step_size=8, steps=2)],
        about={"data": {"dataset": "digits", "split": "test"}},
    )  # fmt: skip
    report.save(folder / "report.json")
    return folder


@pytest.mark.parametrize("name", zoo.names())
def test_every_network_is_whole_and_that_of_its_card(name):
    folder = pathlib.Path(zoo.located(f"zoo:{name}"))
    known = zoo.metrics(f"zoo:{name}")
    digest = sealed.file_digest(folder / "network.keras")
    assert (folder / "card.md").read_text() == card(name, known, digest)
    network = loading.load(f"zoo:{name}")
    assert models.num_parameters(network) == known["num_parameters"]
    assert loading.image_form(network)[1] == known["num_classes"]
    assert loading.class_names(f"zoo:{name}") == known["class_names"]
    assert not network.compiled and known["evaluations"]
    with zipfile.ZipFile(folder / "network.keras") as archive:
        assert b"optimizer" not in archive.read("model.weights.h5")
    text = (folder / "card.md").read_text() + (folder / "metrics.json").read_text()
    assert not re.search(r"[\s\"=](/|~|\w:\\)", text)  # no path of the machine that made it


def test_the_folders_are_those_of_the_index():
    folders = {path.parent.name for path in FOLDER.glob("*/network.keras")}
    assert folders == set(zoo.names()) and DIGITS.removeprefix("zoo:") in folders


def test_the_digits_network_has_the_figures_of_its_card():
    test = data.load("digits", "test", batch_size=128)
    report = evaluate(loading.load(DIGITS), test, [PGD(epsilon=32, step_size=8, steps=10)])
    (said,) = [one for one in zoo.metrics(DIGITS)["evaluations"] if len(one["attacks"]) == 4
               and one["attacks"][0]["name"] == "pgd-10"]  # fmt: skip
    assert report.clean_accuracy == said["clean_accuracy"] == 356 / 359
    found = report.outcomes[0].last_iterate.sum()
    # The seed is the same; a processor that rounds otherwise may tip an image or two.
    assert abs(found - 359 * said["attacks"][0]["adversarial_accuracy_last_iterate"]) < 3


def test_an_unknown_name_lists_the_names_and_other_sources_pass():
    for call in (loading.load, loading.class_names, zoo.metrics, zoo.located):
        with pytest.raises(ValueError, match=f"is 'lion'; use one of: .*{DIGITS[4:]}"):
            call("zoo:lion")
    for source in ("runs/zoo", "mine.keras", "zebra:make"):
        assert zoo.located(source) == source and zoo.metrics(source) == {}


def test_a_file_that_is_not_that_of_the_index_is_refused(copy):
    assert loading.load(DIGITS).output_shape == (None, 10)
    file = copy / DIGITS.removeprefix("zoo:") / "network.keras"
    other = models.build("resnet8", activation="relu", num_classes=10, image_size=8)
    with sealed.replacing(file) as temporary:  # whole and sealed, but another
        other.save(temporary)
    refused = "its SHA-256 is not that of"
    for call in (loading.load, loading.class_names, zoo.metrics):
        with pytest.raises(ValueError, match=refused):
            call(DIGITS)
    file.unlink()
    with pytest.raises(ValueError, match="is missing"):
        loading.load(DIGITS)
    (copy / "index.json").write_text((copy / "index.json").read_text().replace("digits", "digit5"))
    with pytest.raises(ValueError, match="index.json is damaged"):
        loading.load(DIGITS)


def test_a_run_comes_in_without_its_optimizer_and_its_paths(copy, run):
    folder = program.add("tiny_1", run, [run / "report.json"])
    assert folder == copy / "tiny_1" and zoo.names() == [DIGITS.removeprefix("zoo:"), "tiny_1"]
    network = loading.load("zoo:tiny_1")
    np.testing.assert_array_equal(
        np.concatenate([np.ravel(one) for one in network.get_weights()]),
        np.concatenate([np.ravel(one) for one in loading.load(str(run)).get_weights()]),
    )
    with zipfile.ZipFile(folder / "network.keras") as archive:
        assert b"optimizer" not in archive.read("model.weights.h5")
    with zipfile.ZipFile(run / "network.keras") as archive:  # which an unstripped file has
        assert b"optimizer" in archive.read("model.weights.h5")
    text = (folder / "card.md").read_text()
    assert zoo.metrics("zoo:tiny_1")["flags"] == ["--activation=relu", "--epsilon=32.0"]
    assert "/somewhere" not in text + (folder / "metrics.json").read_text()
    report = json.loads((run / "report.json").read_text())
    standing = report["attacks"][0]["num_standing"]
    assert f"| {100 * standing / 12:.2f} |" in text and "| digits test | 12 | 0 | pgd-2" in text
    files = {path: path.read_bytes() for path in copy.rglob("*") if path.is_file()}
    program.add("tiny_1", run, [run / "report.json"])
    assert files == {path: path.read_bytes() for path in copy.rglob("*") if path.is_file()}
    assert "zoo:tiny_1" in program.table() and "seed 7" in text
    other = sealed.read_json(run / "report.json")
    other["attacks"][0]["name"] = "square"
    sealed.write_json(run / "other.json", other)
    try:
        program.add("tiny_1", run, [run / "report.json", run / "other.json"])
    finally:
        (run / "other.json").unlink()
    card = (folder / "card.md").read_text()
    assert "| digits test | 12 | 0 | pgd-2" in card and "| digits test | 12 | 0 | square" in card


def changed(run, tmp_path, file, change):
    """A copy of the run in which a JSON file was changed, and its digest with it."""
    folder = shutil.copytree(run, tmp_path / "changed")
    content = sealed.read_json(folder / file)
    change(content)
    sealed.write_json(folder / file, content)
    return folder


def test_what_is_no_run_or_no_report_of_it_changes_nothing(copy, run, tmp_path):
    before = {path: path.read_bytes() for path in copy.rglob("*") if path.is_file()}
    report = run / "report.json"
    nameless = changed(run, tmp_path, "report.json", lambda content: content["data"].clear())
    nameless = nameless.rename(tmp_path / "nameless") / "report.json"
    untrained = changed(run, tmp_path, "metrics.json", lambda content: content.pop("best"))
    taken = DIGITS.removeprefix("zoo:")
    for name, folder, reports, said in (
        ("Tiny", run, [report], "small letters, digits and _"),
        ("../tiny", run, [report], "small letters, digits and _"),
        ("tiny", tmp_path / "nowhere", [report], "is no run of sat_tf.train"),
        ("tiny", untrained, [report], "is no run of sat_tf.train"),
        ("tiny", run, [report, nameless], "nameless/report.json does not say its data"),
        ("tiny", run, [run / "metrics.json"], "metrics.json is no report of this network"),
        (taken, run, [report], "is another network; choose another --name"),
    ):
        with pytest.raises(ValueError, match=said):
            program.add(name, folder, reports)
    assert before == {path: path.read_bytes() for path in copy.rglob("*") if path.is_file()}


def test_an_evaluation_takes_data_and_epsilon_from_the_zoo():
    from flags import evaluate as own_flags
    from tests import programs

    found = settings.complete(programs.parsed(own_flags.define, f"--network={DIGITS}"))
    assert (found.dataset, found.epsilon, found.norm) == ("digits", 32.0, "linf")
    assert found.source == DIGITS and str(found.report) == "report_zoo-digits_resnet8_swish.json"
    asked = programs.parsed(own_flags.define, f"--network={DIGITS}", "--epsilon=4", "--norm=l2")
    found = settings.complete(asked)
    assert (found.epsilon, found.norm) == (4.0, "l2")
    plain = dataclasses.asdict(settings.complete(programs.parsed(
        own_flags.define, "--network=mine.keras", "--dataset=digits", "--epsilon=1")))  # fmt: skip
    assert plain["about"] == {}


def test_the_programs_take_a_network_of_the_zoo(forked, tmp_path):
    report = tmp_path / "report.json"
    done = forked.run("sat_tf.evaluate", f"--network={DIGITS}", "--attacks=pgd-2",
                      "--num_images=32", f"--json={report}", "--write=")  # fmt: skip
    assert done[0] == 0, done[2]
    assert json.loads(report.read_text())["network"]["source"] == DIGITS
    done = forked.run("export.saved_model", f"--network={DIGITS}", "--noverify",
                      f"--directory={tmp_path / 'digits'}")  # fmt: skip
    assert done[0] == 0, done[2]
    facts = json.loads((tmp_path / "digits/1/assets.extra/metadata.json").read_text())
    assert facts["training"]["epsilon"] == 32.0
    assert loading.class_names(str(tmp_path / "digits")) == [str(digit) for digit in range(10)]


@pytest.mark.parametrize("shift", [0.0, 0.5])
def test_a_server_is_compared_with_a_network_of_the_zoo(shift):
    network = loading.load(DIGITS)

    class Server:
        def signatures(self):
            return 3, {}

        def predict(self, name, inputs):
            return {"logits": network(inputs["pixels"], training=False).numpy() + shift}

    found = comparison.compare(Server(), pathlib.Path(DIGITS), num_images=5)
    assert (found.version, found.images) == (3, "5 images of digits test")
    assert abs(found.difference - shift) < found.tolerance < 0.1


def test_bad_input_is_one_line_and_status_2(forked, tmp_path):
    asked = {
        ("sat_tf.evaluate", "--network=zoo:lion"): "use one of: ",
        ("export.saved_model", "--network=zoo:lion", f"--directory={tmp_path}/x"): "use one of: ",
        ("sat_tf.zoo", "--name=lion"): "use one of: ",
        ("sat_tf.zoo", "--workdir=runs/digits", "--name=tiny"): "--reports missing",
        ("sat_tf.evaluate", f"--workdir={DIGITS}"): "--network=FILE.keras or zoo:NAME",
    }
    for (name, *arguments), said in asked.items():
        status, _, error = forked.run(name, *arguments)
        assert status == 2 and error.count("\n") == 1 and said in error, error
    status, out, error = forked.run("sat_tf.zoo")
    assert (status, error) == (0, "") and DIGITS in out
    status, out, error = forked.run("sat_tf.zoo", f"--name={DIGITS[4:]}")
    assert out == (FOLDER / DIGITS[4:] / "card.md").read_text()
