"""Laws of the corruption report: counts of NumPy, the mean errors of the paper, one command."""

import json
import signal
import sys
import types

import keras
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds
from absl import flags

from flags import evaluate as own_flags
from sat_tf import data, evaluate
from sat_tf.evaluation.corruptions import Kinds
from sat_tf.evaluation.report import plots
from sat_tf.evaluation.report.corruptions import CorruptionReport, read_baseline
from sat_tf.runs import Interrupted
from tests import programs

KINDS = [(name, severity) for name in ("fog", "snow", "contrast") for severity in (1, 3)]


def report(seed=0, baseline=None, num_images=40):
    rng = np.random.default_rng(seed)
    correct = {kind: rng.random(num_images) < rng.uniform(0.2, 0.8) for kind in KINDS}
    clean = rng.random(num_images) < 0.9
    return CorruptionReport(clean, correct, {"seed": 0}, 1.0, baseline)


def test_mean_corruption_errors_are_those_of_the_paper(tmp_path):
    other = report(seed=1)
    other.save(tmp_path / "other.json")
    baseline = read_baseline(tmp_path / "other.json", ["fog", "snow", "contrast"], [1, 3])
    found = report(baseline=baseline)
    errors = {kind: 1 - np.mean(found.correct[kind]) for kind in KINDS}
    others = {kind: 1 - np.mean(other.correct[kind]) for kind in KINDS}
    ratios = [
        (errors[name, 1] + errors[name, 3]) / (others[name, 1] + others[name, 3])
        for name in ("fog", "snow", "contrast")
    ]
    assert found.mean_corruption_error == pytest.approx(np.mean(list(errors.values())), rel=1e-12)
    assert found.relative_mean_corruption_error == pytest.approx(np.mean(ratios), rel=1e-12)
    assert other.relative_mean_corruption_error is None
    said = found.to_dict()
    assert said["relative_mean_corruption_error"] == found.relative_mean_corruption_error
    assert [one["accuracy"] for one in said["corruptions"]] == pytest.approx(
        [1 - errors[kind] for kind in KINDS]
    )
    text = found.text()
    for value in (
        100 * np.mean(ratios),
        100 * found.mean_corruption_error,
        100 * (1 - errors["snow", 3]),
    ):
        assert f"{value:.2f}" in text
    assert "unnormalised" in text and "relative to the baseline" in text
    # A baseline is equal to itself.
    itself = report(seed=1, baseline=baseline)
    assert itself.relative_mean_corruption_error == pytest.approx(1.0, rel=1e-12)


def test_a_baseline_that_does_not_fit_is_refused(tmp_path):
    path = tmp_path / "other.json"
    with pytest.raises(ValueError, match="is no corruption report"):
        read_baseline(path, ["fog"], [1])
    path.write_text(json.dumps({"attacks": []}))
    with pytest.raises(ValueError, match="is no corruption report"):
        read_baseline(path, ["fog"], [1])
    perfect = report()
    perfect.correct["fog", 1] = np.ones(40, bool)
    perfect.save(path)
    with pytest.raises(ValueError, match="lacks fog 2; evaluate it with the same --corruptions"):
        read_baseline(path, ["fog"], [1, 2])
    with pytest.raises(ValueError, match="no error under fog to divide by"):
        read_baseline(path, ["fog"], [1])
    fogs = {("fog", 1): 1.0, ("fog", 3): np.mean(perfect.correct["fog", 3])}
    assert read_baseline(path, ["fog"], [1, 3]) == fogs  # one severity without an error does


def test_the_page_and_the_heat_map_show_every_kind():
    found = report()
    page = found.html("a network under corruptions")
    for (name, _), correct in found.correct.items():
        assert name in page and f"{100 * correct.mean():.2f}" in page
    picture = tf.io.decode_png(found.heat_map(), 3).numpy()
    assert picture.shape[0] > 100 and len(np.unique(picture.reshape(-1, 3), axis=0)) > len(KINDS)
    assert 0 < page.index("clean accuracy") < page.index("mean corruption error")


def test_a_cell_of_the_heat_map_says_its_figure_readably():
    figure = plots.heat_map(
        np.array([[0.0, 59.9, 60.0], [12.34, 90.0, 100.0]]), ["a_b", "c"], [1, 3, 5]
    )
    axes, bar = figure.axes
    assert bar.get_ylabel() == "accuracy in %"
    assert [one.get_text() for one in axes.get_yticklabels()] == ["a b", "c"]
    assert [one.get_text() for one in axes.get_xticklabels()] == ["1", "3", "5"]
    shades = axes.images[0].to_rgba(axes.images[0].get_array())[..., :3].mean(-1)
    assert axes.images[0].get_clim() == (0, 100)
    said = [(*one.get_position(), one.get_text(), one.get_color()) for one in axes.texts]
    assert said == [
        (0, 0, "0.0", "white"), (1, 0, "59.9", "white"), (2, 0, "60.0", "black"),
        (0, 1, "12.3", "white"), (1, 1, "90.0", "black"), (2, 1, "100.0", "black"),
    ]  # fmt: skip
    assert shades[0, 1] < 0.5 < shades[1, 1]


@pytest.fixture
def asked(monkeypatch):
    """Parses arguments as the program does, against flags of its own."""

    def parse(*arguments):
        values = programs.parsed(own_flags.define, *arguments)
        monkeypatch.setattr(flags, "FLAGS", values)
        return values

    return parse


@pytest.fixture
def pictures(tmp_path):
    """A folder of two classes, dark and bright, and a network that splits at a mean of 100."""
    rng = np.random.default_rng(0)
    for number, name in enumerate(("bright", "dark")):
        for split in ("train", "test"):
            (tmp_path / "set" / split / name).mkdir(parents=True)
            for index in range(12):
                low = 20 + 90 * (1 - number) + 5 * index
                pixels = rng.integers(low, low + 30, (32, 32, 3)).astype(np.uint8)
                png = tf.io.encode_png(pixels).numpy()
                (tmp_path / "set" / split / name / f"{index:02}.png").write_bytes(png)
    inputs = keras.Input((32, 32, 3))
    dense = keras.layers.Dense(2)
    pooled = keras.layers.GlobalAveragePooling2D()(inputs)
    keras.Model(inputs, dense(pooled)).save(tmp_path / "network.keras")
    dense.set_weights([np.ones((3, 2)) * [1 / 3, 0], np.array([-100, 0])])
    keras.Model(inputs, dense(pooled)).save(tmp_path / "network.keras")
    return tmp_path


def darkened(image, severity, corruption_name, seed=None):
    """A corruption whose accuracy is known: fog takes 27 pixels a severity, the others none."""
    return np.clip(image - 27.0 * severity * (corruption_name == "fog"), 0, 255).astype(np.uint8)


def test_one_command_measures_every_kind(asked, pictures, monkeypatch, capsys):
    stub = types.SimpleNamespace(corrupt=darkened)
    monkeypatch.setitem(sys.modules, "imagecorruptions", stub)
    command = (f"--network={pictures}/network.keras", f"--dataset=folder:{pictures}/set",
               "--corruptions=fog,snow", "--severities=5,1", "--batch_size=7",
               "--write=html,plots", f"--json={pictures}/found.json")  # fmt: skip
    asked(*command)
    evaluate.main()
    found = json.loads((pictures / "found.json").read_text())
    means = {}
    for name in ("bright", "dark"):
        files = sorted((pictures / "set/test" / name).iterdir())
        read = [tf.io.decode_png(file.read_bytes()).numpy().astype(float) for file in files]
        means[name] = np.array(read)
    for one in found["corruptions"]:
        loss = 27 * one["severity"] if one["corruption"] == "fog" else 0
        right = [np.clip(images - loss, 0, 255).mean((1, 2, 3)) > 100 for images in means.values()]
        assert one["accuracy"] == np.mean([right[0], ~right[1]])
    assert [(one["corruption"], one["severity"]) for one in found["corruptions"]] == [
        ("fog", 1), ("fog", 5), ("snow", 1), ("snow", 5)
    ]  # fmt: skip
    accuracies = [one["accuracy"] for one in found["corruptions"]]
    assert len(set(accuracies)) == 3 and accuracies[2] == found["clean_accuracy"]
    assert found["mean_corruption_error"] == pytest.approx(1 - np.mean(accuracies))
    assert found["num_images"] == 24 and "imagecorruptions-imaug" in found["corruptions_are"]
    assert (pictures / "found.heat_map.png").is_file()
    page = (pictures / "found.html").read_text()
    assert "severity" in page and f"{pictures}/network.keras under corruptions</h1>" in page
    assert "24 images of each kind, every one counted" in page
    out = capsys.readouterr().out
    assert f"{100 * accuracies[1]:.2f}" in out
    assert out.startswith(f"{pictures}/network.keras on folder:{pictures}/set test, corrupted\n")
    assert f"\nclean {100 * found['clean_accuracy']:.2f} (" in out
    names = "\n".join(f"{pictures}/found.{end}" for end in ("json", "html", "heat_map.png"))
    assert out.endswith(f"24 images of each kind, accuracies in percent:\n{names}\n")
    # The report of another network, or of other images, does not take its place; its own does.
    measured = []
    monkeypatch.setattr(evaluate.corruptions, "measure", lambda *_: measured.append(1) or 1 / 0)
    inputs = keras.Input((32, 32, 3))
    pooled = keras.layers.GlobalAveragePooling2D()(inputs)
    keras.Model(inputs, keras.layers.Dense(2)(pooled)).save(pictures / "other.keras")
    for more, said in (
        ((f"--network={pictures}/other.keras",), "other weights of the network; give another"),
        (("--split=train",), "another evaluation: another data set; give"),
        (("--seed=3", "--severities=1"), "another evaluation: --seed, --severities; give"),
    ):
        asked(*command, *more)
        with pytest.raises(ValueError, match=said):
            evaluate.main()
    for more in ((), ("--seed=3", "--overwrite")):
        asked(*command, *more)
        with pytest.raises(ZeroDivisionError):
            evaluate.main()
    assert len(measured) == 2 and json.loads((pictures / "found.json").read_text()) == found
    (pictures / "found.json").write_text("notes")
    asked(*command)
    with pytest.raises(ValueError, match="found.json is .*; give another --json, or --overwrite"):
        evaluate.main()


class SatTintsCorrupted(tfds.core.GeneratorBasedBuilder):
    """A set of corrupted images as TFDS has them: 9 greys, brighter with the severity."""

    VERSION = tfds.core.Version("1.0.0")
    BUILDER_CONFIGS = [tfds.core.BuilderConfig(name=f"fog_{severity}") for severity in (1, 2)]

    def _info(self):
        image = tfds.features.Image(shape=(32, 32, 3))
        label = tfds.features.ClassLabel(names=["bright", "dark"])
        features = tfds.features.FeaturesDict({"image": image, "label": label})
        return tfds.core.DatasetInfo(builder=self, features=features)

    def _split_generators(self, dl_manager):
        return {"test": self._generate_examples()}

    def _generate_examples(self):
        more = 30 * int(self.builder_config.name[-1])
        for number in range(9):
            image = np.full((32, 32, 3), 10 * number + 5 + more, np.uint8)
            yield number, {"image": image, "label": 1}  # dark


def test_kinds_of_a_stored_set_are_read_from_it(asked, pictures):
    for severity in (1, 2):
        name = f"sat_tints_corrupted/fog_{severity}"
        tfds.builder(name, data_dir=pictures / "sets").download_and_prepare()
    asked(f"--network={pictures}/network.keras", "--dataset=sat_tints_corrupted",
          f"--data_dir={pictures}/sets", "--corruptions=fog", "--severities=1,2", "--write=",
          f"--json={pictures}/found.json")  # fmt: skip
    evaluate.main()
    found = json.loads((pictures / "found.json").read_text())
    # Dark up to 100: greys from 35 to 115, and from 65 to 145.
    accuracies = [one["accuracy"] for one in found["corruptions"]]
    assert accuracies == pytest.approx([7 / 9, 4 / 9]) and "clean_accuracy" not in found
    assert found["corruptions_are"] == "sat_tints_corrupted"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--corruptions=rain",), "corruption is 'rain'; use one of: all, gaussian_noise, "),
        (("--corruptions=fog", "--severities=7"), "--severities=7; give some of 1,2,3,4,5"),
        (("--corruptions=fog", "--attacks=square"), "--attacks is of attacks"),
        (("--corruptions=fog", "--surrogate=other.keras"), "--surrogate is of attacks"),
        (("--corruptions=fog", "--write=npz"), "use some of: html, plots"),
        (("--severities=1", "--epsilon=8"), "--severities is of corruptions"),
        (("--corruptions=fog", "--dataset=cifar10_corrupted", "--data_dir=/none"),
         "--dataset=cifar10 computes the corruptions from its test images instead"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused_before_anything_is_written(
    asked, arguments, said, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "imagecorruptions", types.SimpleNamespace(corrupt=darkened))
    asked("--network=none.keras", "--dataset=cifar10", *arguments)
    with pytest.raises(ValueError) as error:
        evaluate.main()
    assert said in str(error.value) and "\n" not in str(error.value)
    assert list(tmp_path.iterdir()) == []


def test_images_that_cannot_be_corrupted_ask_for_no_package(asked, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "imagecorruptions", None)
    inputs = keras.Input((8, 8, 1))
    small = keras.Model(inputs, keras.layers.Dense(10)(keras.layers.Flatten()(inputs)))
    monkeypatch.setattr(evaluate, "load_network", lambda settings: (small, None))
    asked("--network=small.keras", "--dataset=digits", "--corruptions=all")
    with pytest.raises(ValueError, match="^images are 8 x 8 with 1 channels; corruptions are of"):
        evaluate.main()
    assert list(tmp_path.iterdir()) == []


def test_a_stop_promises_no_more_than_is_kept(asked, monkeypatch, tmp_path):
    """What was measured is not kept on the way, so the same command begins anew."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "imagecorruptions", types.SimpleNamespace(corrupt=darkened))
    monkeypatch.setattr(evaluate, "load_network", lambda settings: (None, None))
    monkeypatch.setattr(
        evaluate.corruptions, "measure", lambda *_: signal.raise_signal(signal.SIGTERM)
    )
    asked("--network=none.keras", "--dataset=cifar10", "--corruptions=fog")
    with pytest.raises(Interrupted, match="stopped; the same command begins anew"):
        evaluate.main()


def test_every_flag_of_a_measurement_reaches_it(asked, pictures, monkeypatch):
    monkeypatch.setitem(sys.modules, "imagecorruptions", types.SimpleNamespace(corrupt=darkened))
    made, corrupted = [], data.corruptions.Corrupted
    monkeypatch.setattr(
        data.corruptions, "Corrupted", lambda *given: made.append(given[1:]) or corrupted(*given)
    )
    kinds = {("snow", 2): np.arange(4) < 3, ("fog", 2): np.arange(4) < 1}
    CorruptionReport(None, kinds, {}, 1.0).save(pictures / "other.json")
    asked(f"--network={pictures}/network.keras", f"--dataset=folder:{pictures}/set", "--seed=7",
          "--num_images=9", "--batch_size=4", "--corruptions=snow,fog", "--severities=2",
          f"--corruption_baseline={pictures}/other.json", "--write=",
          f"--json={pictures}/found.json")  # fmt: skip
    evaluate.main()
    found = json.loads((pictures / "found.json").read_text())
    assert made == [("snow", 2, 7, 9), ("fog", 2, 7, 9)]
    # The first nine are bright, with means from 125 on in steps of 5; fog takes 54 of each.
    right = {one["corruption"]: one["accuracy"] for one in found["corruptions"]}
    assert right == {"snow": 1.0, "fog": pytest.approx(3 / 9)}
    assert (found["num_images"], found["seed"], found["clean_accuracy"]) == (9, 7, 1.0)
    low, _ = found["clean_accuracy_interval_95"]
    assert low == pytest.approx(9 / (9 + 1.959964**2), rel=1e-4)  # Wilson's, of nine of nine
    relative = (0 / 0.25 + (6 / 9) / 0.75) / 2
    assert found["relative_mean_corruption_error"] == pytest.approx(relative)


def test_severities_stand_in_rising_order_whatever_the_order_of_measuring():
    right = {("fog", 3): np.arange(4) < 1, ("fog", 1): np.arange(4) < 3}
    right |= {("frost", 1): np.arange(4) < 2, ("frost", 3): np.arange(4) < 2}
    found = CorruptionReport(None, right, {}, 1.0)
    assert found.severities == [1, 3]
    np.testing.assert_allclose(found.accuracies(), [[0.75, 0.25], [0.5, 0.5]])
    assert found.rows() == [
        ["corruption", "severity 1", "severity 3", "mean"],
        ["fog", "75.00", "25.00", "50.00"],
        ["frost", "50.00", "50.00", "50.00"],
        ["all", "62.50", "37.50", "50.00"],
    ]


# What a measurement without attacks has a use for.
TAKEN = {
    "workdir", "network", "input_range", "preprocessing", "dataset", "split", "data_dir", "classes",
    "max_pixels", "image_size", "eval_resize", "num_images", "ids", "seed", "corruptions",
    "severities", "corruption_baseline", "batch_size", "strategy", "logical_cpus", "json", "write",
    "overwrite",
}  # fmt: skip


def test_every_flag_is_of_attacks_or_of_corruptions(asked):
    always = ("--network=n.keras", "--dataset=cifar10", "--corruptions=fog")
    unset = asked(*always)
    every = {flag.name for flag in unset.flags_by_module_dict()[own_flags.__name__]}
    numbers = dict.fromkeys(("epsilon", "step_size", "image_size", "num_images", "severities"), 3)
    for name in every - {"corruption_baseline", "corruptions"}:
        default = unset[name].default
        text = ",".join(default) if isinstance(default, list) else default
        given = asked(*always, f"--{name}={numbers.get(name, text)}")
        chosen = types.SimpleNamespace(flags=given, dataset="cifar10")
        if name in TAKEN:
            assert Kinds.of(chosen).names == ("fog",)
            continue
        with pytest.raises(ValueError, match=f"--{name} is of attacks"):
            Kinds.of(chosen)
    assert every > TAKEN
    for name in ("severities", "corruption_baseline"):
        asked("--network=n.keras", "--dataset=cifar10", "--epsilon=8", f"--{name}=1")
        with pytest.raises(ValueError, match=f"--{name} is of corruptions; give --corruptions="):
            evaluate.main()
