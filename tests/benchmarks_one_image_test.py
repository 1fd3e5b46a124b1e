"""The picture of one image shows what it says: the first image that one network alone loses."""

import numpy as np
import pytest
import tensorflow as tf

from benchmarks.studies import one_image, pictures
from sat_tf import attacks

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


def test_the_first_image_that_the_first_network_alone_loses_is_shown():
    shown = one_image.find([Border(100), Border(105)], ATTACK, stream(), seed=0)
    assert (shown["index"], shown["label"]) == (12, 0)
    np.testing.assert_array_equal(shown["clean"], IMAGES[2])
    assert np.abs(shown["adversarial"] - shown["clean"]).max() <= 8
    means = [[95, adversarial.mean()] for adversarial in shown["adversarial"]]
    margins = 2 * (np.array([[100], [105]]) - means) / 10
    np.testing.assert_allclose(shown["probabilities"][..., 0], 1 / (1 + np.exp(-margins)), 1e-4)
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
