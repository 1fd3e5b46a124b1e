"""The adversarial images on the disk are those that the report judges."""

import errno
import json
import pathlib
import types

import keras
import numpy as np
import pytest
import tensorflow as tf

from sat_tf.attacks import PGD
from sat_tf.attacks.apgd import APGD
from sat_tf.attacks.square import Square
from sat_tf.evaluate import Options, evaluate
from sat_tf.evaluation import ball
from sat_tf.evaluation.kept_images import KeptImages
from sat_tf.evaluation.report import artefacts
from tests import engines, linear_network
from tests.killed import kill
from tests.telling import telling

traced_once = engines.traced_once
COUNT, EPSILON = 40, 9.0
ATTACKS = [
    PGD(epsilon=EPSILON, step_size=2, steps=2),
    PGD(epsilon=EPSILON, step_size=2, steps=4),
    APGD(epsilon=EPSILON, iterations=5),
    Square(epsilon=EPSILON, queries=9),
]


@pytest.fixture(scope="module")
def problem():
    """A network with a curved boundary and whole pixels; every ninth label is wrong."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input(linear_network.SHAPE)
    x = keras.layers.Rescaling(1 / 127.5, -1)(inputs)
    x = keras.layers.Dense(8, activation="swish", kernel_initializer="he_normal")(x)
    network = telling(keras.Model(inputs, keras.layers.Dense(4)(keras.layers.Flatten()(x))))
    images = np.rint(linear_network.images(COUNT, low=0, high=255))
    labels = np.argmax(network.predict(images, verbose=0), -1).astype(np.int32)
    labels[::9] = (labels[::9] + 1) % 4
    return network, images, labels


def run(problem, folder, attacks=ATTACKS, **options):
    network, images, labels = problem
    options = {"batch_size": 8, "restarts": 2, "save_every": 0.0} | options
    return evaluate(
        network,
        (images, labels),
        attacks,
        Options(
            verdict_file=folder / "report.verdicts.npz",
            image_file=folder / "report.images.npy",
            **options,
        ),
    )


@pytest.fixture(scope="module")
def reference(problem, tmp_path_factory):
    """The report of all attacks with float32 images, and its folder."""
    folder = tmp_path_factory.mktemp("reference")
    return run(problem, folder), folder


def written(report, folder):
    """Writes both forms; returns the archive as plain NumPy reads it and the TFRecord's path."""
    path = folder / "report.json"
    artefacts.write(report, ["npz", "tfrecord"], path, title="t", about={})
    with np.load(folder / "report.images.npz", allow_pickle=False) as file:
        return {name: file[name] for name in file.files}, folder / "report.images.tfrecord"


def distances(clean, adversarial, norm):
    flat = (adversarial.astype(np.float64) - clean).reshape(len(clean), -1)
    return np.linalg.norm(flat, {"linf": np.inf, "l2": 2, "l1": 1}[norm], axis=1)


@pytest.mark.parametrize("last_iterate", [True, False])
def test_the_saved_images_are_in_the_ball_and_the_network_says_of_them_what_the_report_says(
    problem, reference, tmp_path, last_iterate
):
    network, images, labels = problem
    report, folder = reference
    if not last_iterate:
        report, folder = run(problem, tmp_path, last_iterate=False), tmp_path
    saved, _ = written(report, folder)
    assert saved["adversarial"].shape == images.shape
    assert saved["adversarial"].dtype == np.float32
    found = distances(images, saved["adversarial"], "linf")
    assert found.max() <= EPSILON + 2**-16
    assert saved["adversarial"].min() >= 0 and saved["adversarial"].max() <= 255
    np.testing.assert_allclose(saved["distance"], found, atol=1e-5)
    correct = np.argmax(network.predict(saved["adversarial"], verbose=0), -1) == labels
    np.testing.assert_array_equal(saved["standing"], report.standing)
    np.testing.assert_array_equal(correct, report.standing)
    np.testing.assert_array_equal(saved["saved_correct"], correct)
    assert 0.1 < correct.mean() < 0.9
    clean = np.argmax(network.predict(images, verbose=0), -1) == labels
    np.testing.assert_array_equal(saved["clean_correct"], clean)
    np.testing.assert_array_equal(saved["adversarial"][~clean], images[~clean])
    by_name = report.to_dict()["images"]["broken_by"]
    assert saved["broken_by"].tolist() == [name or "" for name in by_name]
    assert len(set(saved["broken_by"])) > 1
    np.testing.assert_array_equal(saved["label"], labels)
    np.testing.assert_array_equal(saved["index"], np.arange(COUNT))
    # What still stands was moved too: it holds the last point an attack returned.
    assert distances(images, saved["adversarial"], "linf")[report.standing].min() > 0


def test_every_image_is_held_against_the_ball_of_its_own_attack(problem, tmp_path):
    attacks = [APGD(epsilon=epsilon, iterations=5) for epsilon in (3.0, EPSILON)]
    report = run(problem, tmp_path, attacks)
    saved, _ = written(report, tmp_path)
    fell = [outcome.broken_step >= 0 for outcome in report.outcomes]
    assert all(one.sum() > 2 for one in fell)
    largest = [saved["distance"][one].max() for one in fell]
    np.testing.assert_allclose(largest, [3.0, EPSILON], atol=1e-4)


def test_the_image_of_several_restarts_is_that_of_the_earliest_break(problem, tmp_path):
    network, images, labels = problem
    attack = PGD(epsilon=EPSILON, step_size=2, steps=4)
    report = run(problem, tmp_path, [attack], restarts=4)
    saved, _ = written(report, tmp_path)
    steps = report.outcomes[0].broken_step
    assert len(set(steps[steps >= 0])) > 1
    fell = (steps >= 0)[: len(report.examples.labels)]
    pictured = network.predict(report.examples.adversarial, verbose=0).argmax(1)
    assert fell.any() and (pictured != report.examples.labels)[fell].all()
    short = PGD(epsilon=EPSILON, step_size=2, steps=2)
    (tmp_path / "short").mkdir()
    few, _ = written(run(problem, tmp_path / "short", [short], restarts=4), tmp_path / "short")
    early = (steps >= 0) & (steps <= 2)
    np.testing.assert_allclose(saved["adversarial"][early], few["adversarial"][early], atol=1e-3)


@pytest.mark.parametrize("norm, epsilon", [("linf", 9.0), ("linf", 8.6), ("l2", 25.0)])
def test_rounded_images_stay_in_the_ball_and_are_judged_as_they_were_rounded(
    problem, tmp_path, norm, epsilon
):
    network, images, labels = problem
    attacks = [PGD(epsilon=epsilon, step_size=epsilon / 3, steps=4, norm=norm)]
    report = run(problem, tmp_path, attacks, image_type="uint8")
    saved, _ = written(report, tmp_path)
    assert saved["adversarial"].dtype == np.uint8
    assert distances(images, saved["adversarial"], norm).max() <= epsilon
    shown = saved["adversarial"].astype(np.float32)
    correct = np.argmax(network.predict(shown, verbose=0), -1) == labels
    np.testing.assert_array_equal(saved["saved_correct"], correct)
    broken = report.clean & ~report.standing
    summary = report.to_dict()["saved_images"]
    assert summary["image_type"] == "uint8"
    assert summary["num_broken"] == broken.sum() > 5
    assert summary["num_still_broken"] == (broken & ~correct).sum() > 0
    assert summary["largest_distance"] <= epsilon


def test_tfrecord_holds_what_the_archive_holds(problem, reference, tmp_path):
    rounded = run(problem, tmp_path, ATTACKS[:1], image_type="uint8")
    for image_type, (report, folder) in (("float32", reference), ("uint8", (rounded, tmp_path))):
        saved, path = written(report, folder)
        read = []
        for record in tf.data.TFRecordDataset(str(path)):
            features = tf.train.Example.FromString(record.numpy()).features.feature
            shape = features["shape"].int64_list.value
            assert features["image_type"].bytes_list.value == [image_type.encode()]
            pixels = tf.io.decode_raw(features["adversarial"].bytes_list.value[0], image_type)
            read.append((np.reshape(pixels, shape), features))
        np.testing.assert_array_equal([image for image, _ in read], saved["adversarial"])
        for name in ("index", "label", "clean_correct", "standing", "saved_correct"):
            column = [features[name].int64_list.value[0] for _, features in read]
            np.testing.assert_array_equal(column, saved[name].astype(int))
        column = [features["broken_by"].bytes_list.value[0].decode() for _, features in read]
        assert column == saved["broken_by"].tolist()
        column = [features["distance"].float_list.value[0] for _, features in read]
        np.testing.assert_array_equal(np.float32(column), saved["distance"])


@pytest.mark.parametrize("killed_after", [50, 95])
def test_a_killed_run_ends_with_the_same_bytes(problem, reference, tmp_path, killed_after):
    _, whole = reference
    kill(lambda: run(problem, tmp_path), killed_after)
    resumed = run(problem, tmp_path)
    kept = (tmp_path / "report.images.npy").read_bytes()
    assert kept == (whole / "report.images.npy").read_bytes()
    assert resumed.saved_images.summary(resumed.clean & ~resumed.standing)["num_broken"] > 5
    run(problem, tmp_path)  # once more after the end
    assert (tmp_path / "report.images.npy").read_bytes() == kept


def test_an_image_that_cannot_be_kept_is_not_done(problem, tmp_path, monkeypatch):
    def full(self, index, image):
        raise OSError("cannot write: no space left")

    with monkeypatch.context() as patch:
        patch.setattr("sat_tf.evaluation.kept_images.KeptImages.put", full)
        with pytest.raises(OSError, match="no space left"):
            run(problem, tmp_path)
    with np.load(tmp_path / "report.verdicts.npz") as file:
        assert not any(file[name].any() for name in file.files if name.endswith("/done"))


def test_verdicts_without_their_images_are_refused_by_name(problem, tmp_path):
    images, verdicts = tmp_path / "report.images.npy", tmp_path / "report.verdicts.npz"
    with pytest.raises(ValueError, match="'float16'; use one of: float32, uint8"):
        run(problem, tmp_path, ATTACKS[:1], image_type="float16")
    run(problem, tmp_path, ATTACKS[:1])
    before = verdicts.read_bytes()
    with pytest.raises(ValueError, match="verdicts.npz holds verdicts with images as float32"):
        run(problem, tmp_path, ATTACKS[:1], image_type="uint8")
    whole = images.read_bytes()
    for damaged, said in (
        (whole[:-1], "is damaged"),
        (whole[:-4] + b"\xff\xff\x7f\x7f", "is damaged: image 39"),
        (b"", "is damaged"),
        (None, "is not there"),
    ):
        images.unlink(missing_ok=True)
        if damaged is not None:
            images.write_bytes(damaged)
        with pytest.raises(ValueError, match=f"report.images.npy {said}.*--overwrite"):
            run(problem, tmp_path, ATTACKS[:1])
        assert not images.exists() if damaged is None else images.read_bytes() == damaged
    images.write_bytes(whole)
    network, clean, labels = problem
    options = {"batch_size": 8, "restarts": 2, "verdict_file": verdicts}
    # Only the report, without images.
    evaluate(network, (clean, labels), ATTACKS[:1], Options(**options))
    run(problem, tmp_path, ATTACKS[:1])
    assert len(before) == verdicts.stat().st_size
    evaluate(network, (clean, labels), ATTACKS[:1], Options(overwrite=True, **options))
    with pytest.raises(ValueError, match="holds verdicts without their images"):
        run(problem, tmp_path, ATTACKS[:1])
    assert images.read_bytes() == whole


def test_an_image_that_did_not_fit_on_the_disk_is_named_and_not_counted(tmp_path):
    def broken(data):
        raise OSError(errno.EIO, "the disk is broken")

    kept = KeptImages(tmp_path / "kept.npy", (2, 1, 1, 3), "float32")
    kept.checksums = np.zeros(2, np.uint32)
    for write, said in (
        (lambda data: len(data) - 1, "11 of 12 bytes fitted"),
        (broken, "the disk is broken"),
    ):
        kept._file, kept._offset = types.SimpleNamespace(seek=lambda place: None, write=write), 0
        with pytest.raises(OSError, match=f"cannot write .*kept.npy: {said}$"):
            kept.put(1, np.ones((1, 1, 3), np.float32))
    assert not kept.checksums.any()


def test_kept_images_of_another_type_or_shape_are_refused(tmp_path):
    path, images = tmp_path / "kept.npy", np.zeros([3, 2, 2, 1])
    KeptImages(path, images.shape, "uint8").create([images])
    KeptImages(path, images.shape, "uint8").check(None, np.ones(3, bool))
    for shape, image_type in (((3, 2, 2, 1), "float32"), ((4, 2, 2, 1), "uint8")):
        with pytest.raises(ValueError, match=r"holds uint8 \[3, 2, 2, 1\], .* needs"):
            KeptImages(path, shape, image_type).check(None, np.ones(shape[0], bool))


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_rounding_never_leaves_the_ball(norm):
    rng = np.random.default_rng(0)
    clean = rng.integers(0, 256, (500, 4, 4, 3)).astype(np.float32)
    for epsilon in (0.0, 0.3, 1.0, 7.5, 8.0):
        size = rng.uniform(0, 1, (500, 1, 1, 1)) * epsilon
        direction = rng.normal(size=clean.shape)
        direction /= np.max(
            distances(0 * clean, direction, norm).reshape(-1, 1, 1, 1), keepdims=True
        )
        moved = np.clip(clean + size * direction, 0, 255).astype(np.float32)
        rounded = ball.whole_pixels(clean, moved, epsilon, norm)
        assert rounded.dtype == np.uint8
        assert distances(clean, rounded, norm).max() <= epsilon
        assert np.abs(rounded - moved).max() <= 1
        if norm == "linf":  # the nearest of all whole numbers in the ball, by trying each
            values = np.arange(256.0)
            inside = np.abs(values - clean[..., None]) <= epsilon
            gap = np.where(inside, np.abs(values - moved[..., None]), np.inf)
            np.testing.assert_array_equal(np.abs(rounded - moved), gap.min(-1))
    # At the edge of a whole epsilon the attack loses nothing, whatever float32 did to it.
    edge = np.nextafter(clean + 8, 0).clip(0, 255).astype(np.float32)
    if norm == "linf":
        np.testing.assert_array_equal(
            ball.whole_pixels(clean, edge, 8.0, norm), np.minimum(clean + 8, 255)
        )


def test_pixels_between_whole_numbers_are_rounded_where_the_ball_has_room_and_else_refused():
    clean = np.random.default_rng(1).uniform(0, 255, (50, 4, 4, 3)).astype(np.float32)
    rounded = ball.whole_pixels(clean, np.clip(clean + 2, 0, 255), 2.0, "linf")
    assert distances(clean, rounded, "linf").max() <= 2.0
    for epsilon, norm in ((0.2, "linf"), (50.0, "l2"), (50.0, "l1")):
        with pytest.raises(ValueError, match="not whole pixels.*take --image_type=float32"):
            ball.whole_pixels(clean, clean, epsilon, norm)


def test_the_report_says_where_the_images_are_and_how_they_fared(problem, tmp_path):
    report = run(problem, tmp_path, ATTACKS[:1], image_type="uint8")
    report.save(tmp_path / "report.json")
    read = json.loads((tmp_path / "report.json").read_text())
    assert read["saved_images"] == report.saved_images.summary(report.clean & ~report.standing)
    assert pathlib.Path(report.saved_images.kept.path) == tmp_path / "report.images.npy"
    assert read["images"]["index"] == list(range(COUNT))
    broken = report.clean & ~report.standing
    still = broken & ~report.saved_images.correct
    assert still.sum() < (~report.saved_images.correct).sum()  # the others were wrong when clean
    said = f"{still.sum()} of {broken.sum()} broken images are still broken as they are saved"
    assert said in report.text()
