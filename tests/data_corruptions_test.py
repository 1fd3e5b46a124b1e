"""Laws of corrupted images: what decides them, and closed forms of some."""

import sys
import types

import numpy as np
import pytest

from sat_tf.data import corruptions
from sat_tf.data.selection import Selected

IMAGES = np.random.default_rng(0).integers(0, 256, (7, 32, 32, 3)).astype(np.float32)
LABELS = np.arange(7)


def batches(size):
    return [(IMAGES[i : i + size], LABELS[i : i + size]) for i in range(0, 7, size)]


def read(batches, *arguments, **named):
    images, labels = zip(*corruptions.Corrupted(batches, *arguments, **named), strict=True)
    return np.concatenate(images), np.concatenate(labels)


@pytest.fixture
def stub(monkeypatch):
    """Stands for the package: noise of NumPy's global generator, and of a seed where one comes."""

    def corrupt(image, severity, corruption_name, seed=None):
        assert image.dtype == np.uint8 and (seed is not None) == (corruption_name == "glass_blur")
        own = np.random.default_rng(seed).integers(0, 2, image.shape) if seed else 0
        noise = np.random.normal(size=image.shape) * 5
        return np.clip(image * 0.5 + noise + own, 0, 255).astype(np.uint8)

    monkeypatch.setitem(sys.modules, "imagecorruptions", types.SimpleNamespace(corrupt=corrupt))


@pytest.mark.parametrize("name", ["fog", "glass_blur"])
def test_an_image_depends_on_seed_position_and_kind_and_on_nothing_else(stub, name):
    np.random.seed(3)
    before = np.random.get_state()[1].copy()
    found, labels = read(batches(7), name, 2, 5)
    np.testing.assert_array_equal(np.random.get_state()[1], before)
    np.testing.assert_array_equal(labels, LABELS)
    np.testing.assert_array_equal(read(batches(3), name, 2, 5)[0], found)
    np.testing.assert_array_equal(read(batches(3), name, 2, 5, 4)[0], found[:4])
    chosen, labels = read(Selected(batches(3), [6, 1, 2]), name, 2, 5)
    np.testing.assert_array_equal(chosen, found[[1, 2, 6]])
    np.testing.assert_array_equal(labels, [1, 2, 6])
    again = corruptions.Corrupted(batches(7), name, 2, 5)
    np.testing.assert_array_equal([one for one, _ in again], [one for one, _ in again])
    for other in (("snow", 2, 5), (name, 2, 6), (name, 3, 5)):
        assert (read(batches(7), *other)[0] != found).any((1, 2, 3)).all()
    whole = np.maximum(IMAGES, 1)  # of an attack's images the pixels are none
    rounded = read([(whole - np.float32(0.4), LABELS)], name, 2, 5)[0]
    np.testing.assert_array_equal(rounded, read([(whole, LABELS)], name, 2, 5)[0])
    same = np.broadcast_to(IMAGES[:1], IMAGES.shape)
    noise = read([(same, LABELS)], name, 2, 5)[0]
    assert len(np.unique(noise.reshape(7, -1), axis=0)) == 7  # each position its own


def test_names_and_severities_that_are_none_are_refused_with_those_that_are(monkeypatch, stub):
    assert corruptions.parse(["all"]) == corruptions.COMMON and len(corruptions.COMMON) == 15
    assert corruptions.parse(["fog", "saturate"]) == ("fog", "saturate")
    with pytest.raises(ValueError, match="corruption is 'rain'; use one of: all, gaussian_noise"):
        corruptions.parse(["fog", "rain"])
    for twice in (["fog", "fog"], ["all", "fog"], []):
        with pytest.raises(ValueError, match="give all, or some, each once"):
            corruptions.parse(twice)
    assert corruptions.parse_severities(["5", "1"]) == (5, 1)
    for wrong in (["0"], ["6"], ["1.5"], ["x"], ["1", "1"], []):
        with pytest.raises(ValueError, match="give some of 1,2,3,4,5, each once"):
            corruptions.parse_severities(wrong)
    for shape in ((2, 8, 8, 3), (2, 32, 32, 1), (2, 32, 31, 3)):
        with pytest.raises(ValueError, match="of RGB images of 32 pixels a side at least"):
            read([(np.zeros(shape), np.zeros(2))], "fog", 1)
    monkeypatch.setitem(sys.modules, "imagecorruptions", None)
    with pytest.raises(ValueError, match="imagecorruptions is not installed.*pip install imagecor"):
        corruptions.Corrupted(batches(7), "fog", 1)


@pytest.mark.parametrize("dataset", ["cifar10_corrupted", "imagenet2012_corrupted"])
def test_every_kind_is_a_configuration_of_tfds(dataset):
    import tensorflow_datasets as tfds

    known = set(tfds.builder_cls(dataset).builder_configs)
    ours = {
        corruptions.stored(dataset, name, severity).removeprefix(f"{dataset}/")
        for name in corruptions.NAMES
        for severity in corruptions.SEVERITIES
    }
    assert corruptions.is_stored(dataset) and not corruptions.is_stored("cifar10")
    assert ours == known


def test_the_package_has_these_corruptions_and_computes_their_closed_forms():
    package = pytest.importorskip("imagecorruptions")
    assert tuple(package.get_corruption_names("common")) == corruptions.COMMON
    assert tuple(package.get_corruption_names("all")) == corruptions.NAMES
    x = IMAGES[0].astype(np.float64) / 255
    mean = x.mean((0, 1))
    contrast = np.clip((x - mean) * 0.2 + mean, 0, 1) * 255  # severity 3
    np.testing.assert_allclose(corruptions.corrupt(IMAGES[0], "contrast", 3, [0]), contrast, atol=1)
    grey = np.full((96, 96, 3), 127.5)
    for severity, deviation in ((1, 0.08), (3, 0.18)):
        noise = corruptions.corrupt(grey, "gaussian_noise", severity, [1, severity])
        spread = np.std(noise / 255.0)  # of 27,648 draws: known to 0.5 %
        assert spread == pytest.approx(deviation, rel=0.03)
    for name in corruptions.NAMES:
        for severity in (1, 5):
            found = corruptions.corrupt(IMAGES[0], name, severity, [0, 1])
            assert found.shape == IMAGES[0].shape and found.dtype == np.uint8
            again = corruptions.corrupt(IMAGES[0], name, severity, [0, 1])
            np.testing.assert_array_equal(found, again, name)
            assert (found != IMAGES[0]).any(), name
