"""The picture of one image shows what it says: the first image that one network alone loses."""

import pathlib
import types

import numpy as np
import pytest
import tensorflow as tf

from benchmarks.studies import one_image, pictures
from sat_tf import attacks
from tests import programs

# Of 4 images the attack, which moves each pixel by 8, takes the first network's 0, 2 and 3 over
# its border, and the second one's 0; on image 1 both are wrong from the start.
MEANS = np.array([99, 120, 95, 95], np.float32)
IMAGES = np.broadcast_to(MEANS[:, None, None, None], (4, 3, 3, 1)).copy()
LABELS = np.zeros(4, np.int32)
ATTACK = attacks.PGD(epsilon=8, step_size=2, steps=10)


class Border:
    """Says class 0 of images darker than a border, more surely the darker."""

    def __init__(self, border):
        self.border = border

    def __call__(self, images, training=False):
        mean = tf.reduce_mean(tf.cast(images, tf.float32), axis=[1, 2, 3])
        return tf.stack([self.border - mean, mean - self.border], axis=1) / 10


def stream(num_images=4):
    count = min(num_images, 4)
    yield np.arange(10, 14), tf.constant(IMAGES), tf.constant(LABELS), count


def moved(network, images, labels, seed):
    """Stands for an attack: tells which seed it was given, and the number of the first image."""
    return images + tf.cast(seed[0], tf.float32) + tf.cast(seed[1], tf.float32) / 100


def test_the_first_image_that_the_first_network_alone_loses_is_shown():
    shown = one_image.find([Border(100), Border(105)], ATTACK, stream(), seed=0)
    assert (shown["index"], shown["label"]) == (12, 0)
    np.testing.assert_array_equal(shown["clean"], IMAGES[2])
    assert np.abs(shown["adversarial"] - shown["clean"]).max() <= 8
    means = [[95, adversarial.mean()] for adversarial in shown["adversarial"]]
    margins = 2 * (np.array([[100], [105]]) - means) / 10
    np.testing.assert_allclose(shown["probabilities"][..., 0], 1 / (1 + np.exp(-margins)), 1e-4)
    seeded = one_image.find([Border(100), Border(105)], moved, stream(), seed=7)
    assert seeded["index"] == 12
    np.testing.assert_allclose(seeded["adversarial"] - seeded["clean"], 7.1, atol=1e-4)
    figure = one_image.draw(shown, ["relu", "swish"], ["dark", "light"], pictures.LIGHT)
    below = [axes.get_xlabel() for axes in figure.axes]
    assert below[2].startswith("relu: light") and below[2].endswith("WRONG")
    assert below[4].startswith("swish: dark") and "WRONG" not in below[0] + below[4]
    drawn = figure.axes[1].images[0].get_array() - np.float32(128)
    np.testing.assert_allclose(drawn, 8 * (shown["adversarial"][0] - IMAGES[2])[..., 0], atol=0.5)


@pytest.mark.parametrize("num_images, borders", [(2, (100, 105)), (4, (105, 100))])
def test_where_there_is_no_such_image_it_says_so_and_what_helps(num_images, borders):
    with pytest.raises(ValueError, match=f"none of {num_images} images .* give more --num_images"):
        one_image.find(list(map(Border, borders)), ATTACK, stream(num_images), seed=0)


def test_every_flag_of_the_program_reaches_the_attack_the_images_and_the_picture(
    monkeypatch, capsys
):
    asked = {}

    def noted(name, result=None):
        return lambda *given, **options: asked.update({name: (*given, options)}) or result

    arguments = ("--networks=one,two", "--dataset=pets", "--data_dir=there", "--num_images=9",
                 "--steps=7", "--epsilon=6", "--seed=5", "--picture=out/found")  # fmt: skip
    given = programs.parsed(one_image.define_flags, *arguments)
    monkeypatch.setattr(one_image, "flags", types.SimpleNamespace(FLAGS=given))
    networks = {name: types.SimpleNamespace(input_shape=(None, 3, 3, 1)) for name in ("one", "two")}
    monkeypatch.setattr(one_image.loading, "load", networks.get)
    info = types.SimpleNamespace(class_names=["dark", "light"])
    monkeypatch.setattr(one_image.data, "describe", noted("describe", info))
    monkeypatch.setattr(one_image.data, "load", noted("load", "test set"))
    monkeypatch.setattr(one_image, "Stream", noted("Stream", "stream"))
    monkeypatch.setattr(one_image.attacks, "PGD", noted("PGD", "attack"))
    monkeypatch.setattr(one_image, "find", noted("find", {"index": 12, "label": 1}))
    monkeypatch.setattr(one_image, "_activation", lambda network, source: f"of {source}")
    monkeypatch.setattr(one_image, "draw", noted("draw"))
    monkeypatch.setattr(
        one_image.pictures, "save", lambda path, draw: asked.update(save=path) or draw("style")
    )
    one_image.main()
    assert asked["describe"] == ("pets", "there", {})
    name, split, options = asked["load"]
    assert (name, split, options["image_size"], options["data_dir"]) == ("pets", "test", 3, "there")
    assert asked["Stream"] == ("test set", options["batch_size"], 9, {})
    assert asked["PGD"] == ({"epsilon": 6.0, "step_size": 1.5, "steps": 7},)
    assert asked["find"] == ([*networks.values()], "attack", "stream", 5, {})
    assert asked["save"] == pathlib.Path("out/found")
    shown = {"index": 12, "label": 1}
    assert asked["draw"] == (shown, ["of one", "of two"], ["dark", "light"], "style", {})
    told = "test image 12 of pets, light: PGD-7, epsilon 6 pixels of 255\n"
    assert capsys.readouterr().out == f"{told}out/found.png\nout/found_dark.png\n"
