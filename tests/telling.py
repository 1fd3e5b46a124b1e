"""A test's network must tell images apart: one that answers all alike compares nothing."""

import numpy as np
import tensorflow as tf


def telling(network, shape=None, winners=2):
    """Returns the network if its answers tell images, channels, units, classes and weights apart.

    Asked are 16 images, each of a tint of its own with noise. Every logit must differ between the
    images, and every image's largest logit from its others; not one class may win everywhere. The
    same images with their channels reversed, and as values in [0, 1], must be answered otherwise,
    each of them. Every image must have a gradient, and so must every weight that is trained: behind
    a scale of zero there is none.

    Args:
      network: maps pixels [N, H, W, C] to logits [N, K] and takes `training`.
      shape: (H, W, C); None takes the network's own.
      winners: how many classes must win, each for some image.
    """
    images = tinted(shape or network.input_shape[1:])
    weights = list(getattr(network, "trainable_variables", ()))
    logits, gradient, *of_weights = _answers(network, images, weights)
    differs = 0.01 * np.abs(logits - logits.mean(axis=0)).max()
    assert np.ptp(logits, axis=0).min() > max(differs, 1e-4), (
        "some class has the same logit for all images"
    )
    ordered = np.sort(logits, axis=1)
    assert np.median(ordered[:, -1] - ordered[:, -2]) > differs / 10, "classes tie"
    assert len(set(logits.argmax(axis=1))) >= winners, "all images are of one class"
    assert np.abs(gradient).max(axis=(1, 2, 3)).min() > 0, "some image has no gradient"
    others = {"pixels / 255": images / 255}
    if images.shape[-1] > 1:
        others["channels reversed"] = images[..., ::-1]
    for name, other in others.items():
        moved = np.abs(_answers(network, other)[0] - logits).max(axis=1)
        assert moved.min() > differs / 10, f"some image is answered alike with {name}"
    idle = [w.path for w, found in zip(weights, of_weights, strict=True) if not np.any(found)]
    assert not idle, f"weights that change no answer: {idle}"
    return network


def tinted(shape):
    """Returns 16 images float32 in pixels, each a noisy area of a colour of its own."""
    rng = np.random.default_rng(9)
    tints = rng.uniform(30, 225, (16, 1, 1, shape[-1]))
    return np.clip(tints + rng.normal(0, 40, (16, *shape)), 0, 255).astype(np.float32)


def _answers(network, images, weights=()):
    pixels = tf.constant(images)
    with tf.GradientTape() as tape:
        tape.watch(pixels)
        logits = tf.cast(network(pixels, training=False), tf.float32)
        contrast = tf.reduce_sum(tf.square(logits - tf.reduce_mean(logits, axis=1, keepdims=True)))
    sources = [pixels, *(getattr(weight, "value", weight) for weight in weights)]
    found = tape.gradient(contrast, sources)
    assert found[0] is not None, "no gradient reaches the pixels"
    return logits.numpy(), *(
        0.0 if one is None else tf.convert_to_tensor(one).numpy() for one in found
    )
