"""Right among the first five: counted on the clean images and on what the attacks returned."""

import types

import numpy as np
import pytest
import tensorflow as tf

from sat_tf import attacks
from sat_tf.attacks.own import OwnAttack
from sat_tf.evaluate import Options, evaluate
from sat_tf.evaluation import session
from sat_tf.evaluation.report import page
from sat_tf.evaluation.runner import judged
from sat_tf.evaluation.stream import Stream
from tests import linear_network

IMAGES = linear_network.images(60).reshape(-1, 4, 6, 1)  # grey: two channels have no picture


def ranks(network, images, labels):
    """How many logits exceed the label's, in float64."""
    logits = network.logits(images)
    return (logits > logits[np.arange(len(labels)), labels][:, None]).sum(1)


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """Twelve classes, labels of any rank, and a step so long that some labels fall far."""
    folder, network = tmp_path_factory.mktemp("top5"), linear_network.LinearNetwork(12)
    order = np.argsort(-network.logits(IMAGES), 1)
    labels = order[np.arange(60), np.arange(60) % 7 * (np.arange(60) % 2)].astype(np.int32)
    files = {"verdict_file": folder / "verdicts.npz", "image_file": folder / "images.npy"}
    step = attacks.PGD(epsilon=90.0, step_size=90.0, steps=1, random_start=False)
    attack = OwnAttack(step, name="step", epsilon=90.0, norm="linf")

    def run(**options):
        return evaluate(network, (IMAGES, labels), [attack], Options(batch_size=16, **options))

    return network, labels, files, run, run(**files)


def test_the_label_is_counted_by_its_rank_in_every_image(found):
    network, labels, _, _, report = found
    clean, attacked = report.top5
    np.testing.assert_array_equal(clean, ranks(network, IMAGES, labels) < 5)
    returned = ranks(network, report.saved_images.kept.rows, labels) < 5
    fell = report.clean & ~report.standing
    np.testing.assert_array_equal(attacked, np.where(fell, returned, clean))
    # Each kind of image is there: fallen and among five, fallen beyond, never right.
    for kind in (fell & attacked, fell & ~attacked, clean & ~report.clean):
        assert kind.any()
    read = report.to_dict()
    assert read["clean_top5_accuracy"] == clean.mean()
    assert read["adversarial_top5_accuracy"] == attacked.mean()
    low, high = read["adversarial_top5_accuracy_interval_95"]
    assert low < attacked.mean() < high
    assert f"clean {100 * clean.mean():.2f}, attacked {100 * attacked.mean():.2f}" in report.text()
    assert f"<b>{100 * attacked.mean():.2f} %</b>attacked, among" in page.write(report, "t")


def test_it_is_kept_with_the_verdicts_and_unknown_to_files_of_before(found, tmp_path):
    *_, files, run, report = found
    again = run(verdict_file=files["verdict_file"])
    np.testing.assert_array_equal(again.top5, report.top5)
    with np.load(files["verdict_file"]) as file:
        before = {name: file[name] for name in file.files if not name.endswith("in_top5")}
    np.savez(tmp_path / "before.npz", **before)
    old = run(verdict_file=tmp_path / "before.npz")
    assert old.top5 is None and (old.standing == report.standing).all()
    assert old.to_dict()["adversarial_top5_accuracy"] is None
    assert run(verdict_file=tmp_path / "before.npz").top5 is None  # also once it was saved again


def test_of_equal_logits_five_classes_are_first_and_of_numbers_that_are_none_no_class():
    rows = np.repeat(np.array([[0.0], [0.0], [np.nan], [np.inf]], np.float32), 12, 1)
    rows[1, 7] = 1.0  # before all others, of which the first four follow
    images = np.repeat(np.arange(4, dtype=np.float32), 12).reshape(-1, 1, 1, 1)
    stream = Stream((images, np.tile(np.arange(12, dtype=np.int32), 4)), 48)
    found = judged(lambda images: tf.gather(rows, tf.cast(images[:, 0, 0, 0], tf.int32)), stream)
    right = [np.flatnonzero(row).tolist() for row in found.in_top5.reshape(4, 12)]
    assert right == [[0, 1, 2, 3, 4], [0, 1, 2, 3, 7], [], []]
    assert (found.in_top5 >= found.correct).all()


def test_of_ten_classes_it_is_not_told():
    network = linear_network.LinearNetwork(10)
    attack = attacks.make("pgd-2", epsilon=9.0, num_classes=10)
    report = evaluate(network, (IMAGES, network.labels(IMAGES)), [attack], Options(num_images=9))
    assert report.top5 is None and report.to_dict()["clean_top5_accuracy"] is None
    assert "first five" not in report.text()


def test_a_label_is_among_five_if_it_is_so_after_every_attack():
    def sweep(*among):
        return types.SimpleNamespace(in_top5=np.array(among, bool))

    stages = [
        types.SimpleNamespace(sweeps=[sweep(1, 0, 1, 1), sweep(1, 1, 0, 1)]),
        types.SimpleNamespace(sweeps=[sweep(1, 1, 1, 0)]),
    ]
    clean = types.SimpleNamespace(num_classes=11, in_top5=np.array([True, True, True, True]))
    before, after = session._top5(types.SimpleNamespace(stages=stages), clean)
    assert before is clean.in_top5 and after.tolist() == [True, False, False, False]
    clean.in_top5 = np.array([False, True, True, True])
    assert not session._top5(types.SimpleNamespace(stages=stages), clean)[1].any()
