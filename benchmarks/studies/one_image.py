"""Draws one image that an attack breaks for one network and not for another.

    python -m benchmarks.studies.one_image --picture=picture \
        --networks=zoo:cifar10_resnet18w16_relu,zoo:cifar10_resnet18w16_swish
    python -m benchmarks.studies.one_image --networks=runs/digits_relu,runs/digits \
        --dataset=digits --epsilon=32 --picture=picture

The clean image, and for each network its own perturbation by PGD, the adversarial image, and what
the network says. It is the first test image which both classify right and the
attack breaks for the first network alone: chosen to show what the figures count, and no figure.
"""

import pathlib
from typing import Any

import numpy as np
import tensorflow as tf
from absl import flags

from benchmarks.studies import pictures
from flags import numbers
from sat_tf import attacks, data, injection, loading
from sat_tf.attacks import losses
from sat_tf.evaluation.stream import Stream

BATCH_SIZE = 128


def define_flags() -> None:
    """Defines the flags; only the main calls it."""
    flags.DEFINE_list("networks", None, "Two networks, with a comma; the first one is broken.")
    flags.DEFINE_string("dataset", "cifar10", "Data set: digits (embedded) or a TFDS set.")
    flags.DEFINE_string("data_dir", None, "Where TFDS keeps its data; default: TFDS_DATA_DIR.")
    numbers.whole("num_images", 1_000, "Images from the beginning of the test split.", 1)
    numbers.whole("steps", 50, "Steps of PGD, each a quarter of epsilon.", 1, 10_000)
    numbers.pixels("epsilon", 8.0, "Radius in pixels, L-infinity.")
    numbers.whole("seed", 0, "Where the attack's noise comes from.", 0)
    flags.DEFINE_string("picture", None, "NAME of NAME.png and NAME_dark.png.")


def find(networks: list, attack: attacks.PGD, stream: Stream, seed: int) -> dict[str, Any]:
    """Finds the first image that both classify right and the attack breaks for the first alone.

    Args:
      networks: two, from pixels to logits.

    Returns:
      index, label; clean [H, W, C] and adversarial [2, H, W, C] in pixels; probabilities
      [2, 2, classes] of each network for the clean and for its adversarial image.

    Raises:
      ValueError: there is none.
    """
    attacked = [tf.function(attack, autograph=False) for _ in networks]
    num_seen = 0
    for indices, images, labels, count in stream:
        num_seen += count
        start = tf.constant([seed, int(indices[0])])
        adversarial = [
            one(network, images, labels, start)
            for one, network in zip(attacked, networks, strict=True)
        ]
        found = np.array(
            [
                [losses.probabilities(network(shown, training=False)) for shown in (images, other)]
                for network, other in zip(networks, adversarial, strict=True)
            ]
        )
        right = found.argmax(-1) == np.asarray(labels)
        chosen = right[:, 0].all(0) & ~right[0, 1] & right[1, 1]
        chosen[count:] = False  # the last batch is filled up
        if chosen.any():
            place = int(chosen.argmax())
            return {
                "index": int(indices[place]),
                "label": int(labels[place]),
                "clean": np.asarray(images[place]),
                "adversarial": np.array([other[place] for other in adversarial]),
                "probabilities": found[:, :, place],
            }
    raise ValueError(
        f"none of {num_seen} images is classified right by both networks and broken for the first "
        "alone; give more --num_images, another --epsilon or other --networks"
    )


def draw(shown: dict, names: list[str], class_names: list[str], style: pictures.Style) -> Any:
    """Draws what `find` found in one line; returns a matplotlib figure."""
    change = shown["adversarial"] - shown["clean"]
    factor = max(1, int(64 / max(np.abs(change).max(), 1)))
    figure, panels = pictures.empty(style, (9.5, 2.6), 5)
    says = [[_said(found, shown["label"], class_names) for found in pair]
            for pair in shown["probabilities"]]  # fmt: skip
    clean = "\n".join(f"{name}: {said}" for name, (said, _) in zip(names, says, strict=True))
    cells = [("clean image", shown["clean"], clean)]
    for name, moved, adversarial, (_, said) in zip(
        names, change, shown["adversarial"], says, strict=True
    ):
        cells.append((f"against {name}, × {factor}", 128 + factor * moved, "perturbation"))
        cells.append((f"attacked, {name}", adversarial, f"{name}: {said}"))
    for axes, (head, pixels, below) in zip(panels, cells, strict=True):
        whole = np.clip(np.round(pixels), 0, 255).astype(np.uint8)
        grey = {"cmap": "gray", "vmin": 0, "vmax": 255} if whole.shape[-1] == 1 else {}
        axes.imshow(whole[..., 0] if grey else whole, **grey)
        axes.set(xticks=[], yticks=[])
        axes.grid(False)
        axes.spines[:].set_visible(False)
        axes.set_title(head, color=style.ink, size="medium")
        wrong = "WRONG" in below
        axes.set_xlabel(below, color=style.baseline if wrong else style.ink,
                        weight="bold" if wrong else "normal")  # fmt: skip
    return figure


def _said(probabilities, label, class_names):
    """Returns what a network says of an image, and whether it is wrong."""
    found = int(probabilities.argmax())
    wrong = "" if found == label else "\nWRONG"
    return f"{class_names[found]} {100 * probabilities[found]:.0f} %{wrong}"


def main() -> None:
    """Looks for the image, draws it and says which one it is."""
    given = flags.FLAGS
    if not given.picture:
        raise ValueError("--picture=NAME is needed: where NAME.png and NAME_dark.png go")
    if len(given.networks or []) != 2:
        raise ValueError(f"--networks takes two, with a comma; got {len(given.networks or [])}")
    networks = [loading.load(source) for source in given.networks]
    info = data.describe(given.dataset, given.data_dir)
    test = data.load(
        given.dataset,
        "test",
        batch_size=BATCH_SIZE,
        image_size=networks[0].input_shape[1],
        data_dir=given.data_dir,
    )
    attack = attacks.PGD(epsilon=given.epsilon, step_size=given.epsilon / 4, steps=given.steps)
    shown = find(networks, attack, Stream(test, BATCH_SIZE, given.num_images), given.seed)
    names = [
        _activation(network, source)
        for network, source in zip(networks, given.networks, strict=True)
    ]
    pictures.save(
        pathlib.Path(given.picture), lambda style: draw(shown, names, info.class_names, style)
    )
    print(
        f"test image {shown['index']} of {given.dataset}, {info.class_names[shown['label']]}: "
        f"PGD-{given.steps}, epsilon {given.epsilon:g} pixels of 255\n{given.picture}.png\n"
        f"{given.picture}_dark.png"
    )


def _activation(network, source):
    """Returns what a network is called in the picture: its activation, if it has one."""
    found = set(injection.hidden_activations(network).values())
    return found.pop() if len(found) == 1 else source


if __name__ == "__main__":
    define_flags()
    from sat_tf.cli import run

    run(main)
