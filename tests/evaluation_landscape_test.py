"""The loss around an image, on linear networks: planes, whose slopes are known."""

import io
import json
import types

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from sat_tf import attacks
from sat_tf.evaluate import Options, evaluate
from sat_tf.evaluation import landscape
from sat_tf.evaluation.report import artefacts, plots
from tests import linear_network

IMAGES = linear_network.images(12).reshape(-1, 4, 6, 1)  # grey: two channels have no picture


@pytest.fixture(scope="module")
def network():
    return linear_network.LinearNetwork(2)


def around(network, index=3, seed=0, norm="linf"):
    label = int(network.labels(IMAGES)[index])
    options = {"index": index, "epsilon": 8.0, "norm": norm, "seed": seed}
    return landscape.around(network, IMAGES[index], label, **options)


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_the_loss_is_that_of_a_margin_which_falls_by_the_dual_norm(network, norm):
    found, slope = around(network, norm=norm), network.weights @ [1.0, -1.0]
    margin = -np.log(np.expm1(found.loss.astype(np.float64)))  # of softplus(-margin)
    logits = network.logits(IMAGES[3:4])[0]
    middle = len(found.offsets) // 2
    assert found.offsets[middle] == 0 and found.offsets[-1] == 8.0
    assert margin[middle, middle] == pytest.approx(abs(logits[0] - logits[1]), rel=1e-4)
    ones = np.abs(slope).sum()
    squares = slope @ slope
    steepest = {"linf": ones, "l2": np.sqrt(squares), "l1": squares / ones}[norm]
    along = margin[:, middle] - margin[middle, middle]
    np.testing.assert_allclose(along, -found.offsets * steepest, rtol=1e-3, atol=1e-4)
    # Random noise is another direction, the same for the whole plane, and less steep.
    across = margin[middle] - margin[middle, middle]
    per_pixel = across[-1] / 8.0
    assert 0 < abs(per_pixel) < 0.9 * steepest
    np.testing.assert_allclose(across, found.offsets * per_pixel, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(
        margin - margin[middle, middle], along[:, None] + across, rtol=1e-3, atol=1e-4
    )
    np.testing.assert_array_equal(found.wrong, margin < 0)


@pytest.mark.parametrize(("norm", "order"), [("linf", np.inf), ("l2", 2), ("l1", 1)])
def test_a_point_on_an_axis_is_as_far_from_the_image_as_its_offset_says(network, norm, order):
    seen = []

    def watched(images, training):
        seen.append(images.numpy() if hasattr(images, "numpy") else None)
        return network(images, training=training)

    image = np.full_like(IMAGES[0], 128.0)  # nothing is clipped
    options = {"index": 0, "epsilon": 8.0, "norm": norm, "seed": 0}
    found = landscape.around(watched, image, 0, **options)
    plane = np.stack([one for one in seen if one is not None and len(one) == landscape.POINTS])
    middle = landscape.POINTS // 2
    for axis in (plane[:, middle], plane[middle]):  # along the gradient, along noise
        moves = (axis.astype(np.float64) - image).reshape(landscape.POINTS, -1)
        lengths = np.linalg.norm(moves, order, axis=1)
        np.testing.assert_allclose(lengths, np.abs(found.offsets), rtol=1e-4, atol=1e-4)
    shown = types.SimpleNamespace(landscape=found, facts={})
    assert f"{norm} distance" in plots.landscape(shown).axes[0].get_xlabel()


def test_a_loss_without_a_slope_is_flat_along_its_gradient():
    def constant(images, training):
        return tf.reduce_sum(images * 0.0, [1, 2, 3])[:, None] + [[1.0, 0.0]]

    options = {"index": 0, "epsilon": 8.0, "norm": "l1", "seed": 0}
    found = landscape.around(constant, IMAGES[0], 0, **options)
    np.testing.assert_allclose(found.loss, np.log1p(np.exp(-1.0)), rtol=1e-6)


def test_the_noise_is_the_images_own_and_the_seeds(network):
    first = around(network)
    np.testing.assert_array_equal(around(network).loss, first.loss)
    assert np.abs(around(network, seed=1).loss - first.loss).max() > 1e-3
    options = {"label": first.label, "epsilon": 8.0, "norm": "linf", "seed": 0}
    elsewhere = landscape.around(network, IMAGES[3], index=4, **options)
    assert np.abs(elsewhere.loss - first.loss).max() > 1e-3


def test_the_report_has_that_of_the_first_image_which_is_right(network, tmp_path):
    labels = network.labels(IMAGES)
    labels[:3] = 1 - labels[:3]
    attack = attacks.make("pgd-2", epsilon=8.0, norm="l2", num_classes=2)
    asked = Options(batch_size=2, landscape=True, seed=5)
    report = evaluate(network, (IMAGES, labels), [attack], asked)
    assert (report.landscape.index, report.landscape.label) == (3, labels[3])
    np.testing.assert_allclose(
        report.landscape.loss, around(network, seed=5, norm="l2").loss, rtol=1e-5
    )
    read = report.to_dict()["landscape"]
    np.testing.assert_allclose(read["loss"], report.landscape.loss, atol=1e-5)
    paths = artefacts.write(
        report, ["landscape", "html"], tmp_path / "report.json", title="t", about={}
    )
    assert [path.name for path in paths] == ["report.html", "report.landscape.png"]
    assert "The loss around image 3" in paths[0].read_text()
    picture = np.asarray(Image.open(io.BytesIO(paths[1].read_bytes())).convert("RGB"))
    assert len(np.unique(picture.reshape(-1, 3), axis=0)) > 20  # levels of the loss
    report = evaluate(network, (IMAGES, 1 - network.labels(IMAGES)), [attack], asked)
    assert report.landscape is None  # nothing is right


def test_json_holds_every_entry_of_the_plane(network):
    found = around(network)
    found.wrong[:5] = True
    read = found.to_dict()
    assert (read["index"], read["label"]) == (3, found.label)
    np.testing.assert_allclose(read["offsets"], np.linspace(-8, 8, landscape.POINTS), atol=1e-6)
    np.testing.assert_array_equal(read["wrong"], found.wrong)
    assert not found.wrong.all()


def test_the_line_of_the_picture_is_the_boundary_and_its_title_says_of_what_it_is(network):
    found = around(network)
    found.margin -= found.margin[14, 11]  # so that the boundary runs through that point
    facts = {"network": {"source": "nets/mine.keras"}}
    axes = plots.landscape(types.SimpleNamespace(landscape=found, facts=facts), "ab").axes[0]
    first, *_ = axes.get_title().split("\n")
    assert first == f"image 3, {'ab'[found.label]}, nets/mine.keras"
    line = axes.collections[-1].get_paths()[0].vertices
    step = found.offsets[1] - found.offsets[0]
    along, across = np.gradient(found.margin.astype(np.float64), step)
    slope, middle = np.array([along.mean(), across.mean()]), found.margin[12, 12]
    assert len(line) > 20 and np.ptp(line, 0).max() > 8
    np.testing.assert_allclose((middle + line @ slope) / np.linalg.norm(slope), 0, atol=0.02 * step)
    found.margin[:] = 1  # and where no boundary runs, none is drawn
    shown = plots.landscape(types.SimpleNamespace(landscape=found, facts={})).axes[0]
    assert "right everywhere" in shown.get_title() and len(shown.collections) == 1


def test_a_loss_that_is_no_number_is_null_in_json_and_blank_in_the_picture(network):
    def broken(images, training):
        far = tf.reduce_max(images, [1, 2, 3]) > float(IMAGES[3].max())
        return tf.where(far[:, None], float("nan"), network(images, training=training))

    label = int(network.labels(IMAGES)[3])
    found = landscape.around(broken, IMAGES[3], label, index=3, epsilon=8.0, norm="linf", seed=0)
    finite = np.isfinite(found.loss)
    assert finite.any() and not finite.all()
    assert found.wrong[~finite].all()
    text = json.dumps(found.to_dict(), allow_nan=False)
    read = np.array(json.loads(text)["loss"], object)
    np.testing.assert_array_equal(read != None, finite)  # noqa: E711
    figure = plots.landscape(types.SimpleNamespace(landscape=found, facts={}))
    assert "blank: a logit is no finite number" in figure.axes[0].get_title()
    assert len(plots.png(figure)) > 1000
