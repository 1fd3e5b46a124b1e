"""Only networks of pictures that answer with logits are exported."""

import types

import keras
import pytest
import tensorflow as tf

from export import checks, saved_model
from tests.served import ending


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (
            lambda: keras.Sequential(
                [keras.Input((None, None, 3)), keras.layers.GlobalAveragePooling2D()]
            ),
            "fixed",
        ),
        (lambda: keras.Sequential([keras.Input((8,)), keras.layers.Dense(2)]), "H, W, C"),
        (lambda: keras.Sequential([keras.Input((4, 4, 3)), keras.layers.Conv2D(2, 3)]), "logits"),
        (
            # As a SavedModel answers that `--network` names.
            lambda: types.SimpleNamespace(input_shape=(None, 4, 4, 3), output_shape=(None, 2)),
            "a Keras model was expected, not a SimpleNamespace: what was exported",
        ),
        (lambda: ending(1), r"\(None, 1\); a logit for each of at least 2 classes"),
    ],
)
def test_a_network_of_another_form_is_refused(tmp_path, make, words):
    with pytest.raises(ValueError, match=words):
        saved_model.export(make(), tmp_path / "new")
    assert not (tmp_path / "new").exists()


class Ending(keras.layers.Layer):
    """A function of TensorFlow that Keras's graph does not show."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def call(self, inputs):
        return self.function(inputs)


def by_hand(x):
    powers = tf.exp(x - tf.reduce_max(x, axis=-1, keepdims=True))
    return powers / tf.reduce_sum(powers, axis=-1, keepdims=True)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: ending(3, activation="softmax"), "ends in a softmax"),
        (lambda: ending(3, keras.layers.Softmax()), "ends in a softmax"),
        (lambda: ending(3, keras.ops.softmax), "ends in a softmax"),
        (lambda: ending(3, Ending(tf.nn.softmax)), "ends in a softmax"),
        (
            lambda: keras.Sequential([keras.Input((4, 4, 3)), ending(3, activation="softmax")]),
            "ends in a softmax",
        ),
        (lambda: ending(3, activation="sigmoid"), "ends in a sigmoid"),
        (
            lambda: ending(6, lambda x: keras.layers.Reshape((6,))(keras.ops.sigmoid(x))),
            "ends in a sigmoid",
        ),
        (lambda: ending(3, Ending(by_hand)), "as probabilities do"),
        (lambda: ending(3, Ending(tf.function(tf.nn.softmax))), "as probabilities do"),
        (lambda: ending(3, Ending(lambda x: 1 / (1 + tf.exp(-x)))), "as probabilities do"),
        (lambda: ending(3, Ending(tf.math.log)), "answers to .* of 16 pictures are not finite"),
    ],
)
def test_answers_that_are_no_logits_are_refused(tmp_path, make, words):
    with pytest.raises(ValueError, match=words):
        saved_model.export(make(), tmp_path / "new")
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("end", [None, keras.ops.log_softmax, lambda x: 0 * x, lambda x: 0.01 * x])
def test_logits_of_every_size_are_taken(end):
    network = ending(3, end)
    checks.check_answers(network, (4, 4, 3))  # log-probabilities are logits, too


def test_pictures_of_twice_the_size_must_be_allowed():
    checks.check_max_pixels(17 * 21, (8, 10, 3))
    with pytest.raises(ValueError, match="--max_pixels=356; .* 8 x 10 .*: give at least 357"):
        checks.check_max_pixels(17 * 21 - 1, (8, 10, 3))


@pytest.mark.parametrize("resize", ["center_crop", "shorter_side"])
def test_what_makes_squares_is_for_square_networks(resize):
    checks.check_resize(resize, (8, 8, 3))
    with pytest.raises(ValueError, match="makes squares"):
        checks.check_resize(resize, (8, 10, 3))
    checks.check_resize("fit", (8, 10, 3))
