"""What a network takes and gives."""

from typing import Any


def image_form(network: Any) -> tuple[tuple[int | None, int | None, int], int]:
    """Returns what a network takes and gives: ((height, width, channels), classes).

    Height and width are None where any will do.

    Raises:
      ValueError: not one input [N, H, W, C] and one output [N, classes] of at least 2 classes.
    """
    inputs, outputs = (getattr(network, f"{end}_shape", None) for end in ("input", "output"))
    if not isinstance(inputs, tuple) or len(inputs) != 4 or inputs[3] is None:
        raise ValueError(
            f"the network takes {_shapes(inputs)}; one input [None, H, W, C] of images was "
            "expected, keras.Model(images, logits) without lists"
        )
    if not isinstance(outputs, tuple) or len(outputs) != 2 or outputs[1] is None:
        raise ValueError(
            f"the network gives {_shapes(outputs)}; one output [None, classes] of logits was "
            "expected"
        )
    if outputs[1] < 2:
        raise ValueError(
            f"the network gives {outputs}; a logit for each of at least 2 classes was expected: a "
            "single output z is the pair of logits (0, z)"
        )
    return inputs[1:], outputs[1]


def check_images(network: Any, image_size: int | None, num_channels: int) -> None:
    """Refuses a network that cannot take square images of a size (None: its own) and channels.

    Raises:
      ValueError: it takes others, or is of another form; see `image_form`.
    """
    (height, width, channels), _ = image_form(network)
    if channels != num_channels:
        raise ValueError(
            f"the network takes images of {channels} channels and the data have {num_channels}; "
            "take data of the network's kind, or put a layer in front that converts them"
        )
    if None not in (height, width) and height != width:
        raise ValueError(
            f"the network takes images of {height} x {width} pixels; data are read as squares only"
        )
    side = height or width
    if side is not None and image_size not in (None, side):
        raise ValueError(
            f"the network takes images of {side} x {side} pixels and --image_size={image_size} "
            "makes others; leave it out"
        )


def _shapes(shapes):
    if isinstance(shapes, dict):
        shapes = list(shapes.values())
    if isinstance(shapes, list):
        return f"{len(shapes)} tensors of shapes {', '.join(map(str, shapes))}"
    return "a shape that it does not know before it is built" if shapes is None else str(shapes)
