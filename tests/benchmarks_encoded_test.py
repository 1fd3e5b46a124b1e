"""The study of saved adversarial images counts what a served network would see."""

import io
import types

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from benchmarks.studies import encoded
from tests import programs

IMAGES = np.random.default_rng(0).integers(0, 256, (3, 8, 8, 3)).astype(np.float32)


@pytest.mark.parametrize("way", encoded.WAYS)
def test_images_are_rounded_saved_and_read_as_pillow_reads_them(way):
    found = encoded.through(IMAGES + np.float32(0.4), way)
    assert found.shape == IMAGES.shape and found.dtype == np.float32
    for image, one in zip(IMAGES, found, strict=True):
        expected = image
        if encoded.WAYS[way] is not None:
            file = io.BytesIO(encoded.WAYS[way](tf.constant(image)).numpy())
            picture = Image.open(file)
            assert picture.format == way.split(",")[0].split()[0]
            expected = np.asarray(picture.resize((8, 8), Image.Resampling.BILINEAR), np.float32)
        np.testing.assert_allclose(one, expected, rtol=0, atol=1 if "twice" in way else 0)


def test_a_lossless_way_changes_nothing_and_a_coarser_one_more():
    def change(way):
        return np.abs(encoded.through(IMAGES, way) - IMAGES).mean()

    assert change("whole pixels") == change("PNG") == 0
    jpegs = [
        change(f"JPEG, quality {q}, {chroma}") for q in (95, 75) for chroma in ("4:4:4", "4:2:0")
    ]
    assert 0 < jpegs[0] < jpegs[1] and 0 < jpegs[0] < jpegs[2] < jpegs[3]


def test_of_the_broken_images_those_are_counted_that_stay_broken():
    def brighter_than_100(images, training):
        mean = tf.reduce_mean(tf.cast(images, tf.float32), axis=[1, 2, 3])
        return tf.stack([100 - mean, mean - 100], axis=1)

    clean = np.ones([4, 8, 8, 1], np.float32) * np.array([90, 90, 90, 120])[:, None, None, None]
    clean[:3, 0, 0], clean[3] = 90.2, 120.49  # so far from a whole pixel, and three of them once
    labels = np.array([0, 0, 0, 0], np.int32)  # of the last, the network is wrong from the start
    adversarial = clean.copy()
    adversarial[0], adversarial[1] = 100.4, 104  # the first is right again in whole pixels
    rows = {
        row[0]: row[1:] for row in encoded.measure(brighter_than_100, clean, adversarial, labels)
    }
    assert rows["float pixels"] == ["75.00", "25.00", "2", "0", "0"]
    for way in ("whole pixels", "PNG"):
        # The largest change is 0.2, 0.2, 0.2 and 0.49; all pixels change by 0.125 in the mean.
        assert rows[way] == ["75.00", "50.00", "1 (50.0 %)", "0.2", "0.1"]


def test_every_flag_of_the_program_reaches_the_attack_and_the_images(monkeypatch, capsys):
    asked, labels = {}, np.arange(3, dtype=np.int32)

    def noted(name, result):
        return lambda *given, **options: asked.update({name: (*given, options)}) or result

    def attack(network, images, labels, seed):
        return images + tf.cast(seed[0], tf.float32)

    network = type("Network", (), {"input_shape": (None, 8, 8, 3)})()
    arguments = ("--workdir=run", "--dataset=pets", "--data_dir=there", "--num_images=2",
                 "--steps=7", "--epsilon=6", "--seed=5")  # fmt: skip
    given = programs.parsed(encoded.define_flags, *arguments)
    monkeypatch.setattr(encoded, "flags", types.SimpleNamespace(FLAGS=given))
    monkeypatch.setattr(encoded.loading, "load", {"run": network}.get)
    batches = tf.data.Dataset.from_tensors((IMAGES, labels))
    monkeypatch.setattr(encoded.data, "load", noted("load", batches))
    monkeypatch.setattr(encoded.attacks, "PGD", noted("PGD", attack))
    monkeypatch.setattr(encoded.machine, "describe", lambda: "here")
    monkeypatch.setattr(encoded, "measure", noted("measure", [["way", *"12345"]]))
    encoded.main()
    options = {"batch_size": 256, "image_size": 8, "data_dir": "there"}
    assert asked["load"] == ("pets", "test", options)
    assert asked["PGD"] == ({"epsilon": 6.0, "step_size": 1.5, "steps": 7, "random_start": True},)
    measured, *arrays, _ = asked["measure"]
    assert measured is network
    for found, expected in zip(arrays, (IMAGES[:2], IMAGES[:2] + 5, labels[:2]), strict=True):
        np.testing.assert_array_equal(found, expected)
    assert capsys.readouterr().out.startswith("run: 2 images of pets, epsilon 6\nhere\n")
