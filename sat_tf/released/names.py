"""The released TensorFlow 1 checkpoints: their names, and which of their tensors is which weight.

A weight here is named by its layer, "group0_block0_conv1/kernel". A block's place is written
"group0/block0/…" or "blocks_0/…" in the checkpoints; the tables below say all the rest.

Source: the released evaluation code of Xie et al. 2020, arXiv 2006.14536, whose graphs were built
and saved to list names and shapes; the released files themselves were not at hand.
"""

import re
from collections.abc import Collection
from typing import NamedTuple


class Release(NamedTuple):
    """What a released checkpoint holds: `ema` says that its averaged weights are the ones."""

    model: str
    activation: str
    image_size: int
    ema: bool = False


# The first of a model has its usual image size.
RELEASES = {
    "Res50-silu": Release("resnet50", "swish", 224),
    "Res50-relu": Release("resnet50", "relu", 224),
    "Res50-smoothrelu": Release("resnet50", "smoothrelu", 224),
    "Res50-gelu": Release("resnet50", "gelu_tanh", 224),
    "Res50-elu": Release("resnet50", "elu", 224),
    "Res50-softplus": Release("resnet50", "softplus", 224),
    "Res50-mish": Release("resnet50", "mish", 224),
    "Res50-silu-299": Release("resnet50", "swish", 299),
    "Res50-silu-380": Release("resnet50", "swish", 380),
    "ResX50-silu-32x4d": Release("resnext50-32x4d", "swish", 224),
    "ResX50-silu-32x8d": Release("resnext50-32x8d", "swish", 224),
    "Res101-silu": Release("resnet101", "swish", 224),
    "Res152-silu": Release("resnet152", "swish", 224),
    "ResX152-silu-380-32x8d": Release("resnext152-32x8d", "swish", 380),
    "efficientnet-b0": Release("efficientnet-b0", "swish", 224),
    "efficientnet-b1": Release("efficientnet-b1", "swish", 240),
    "efficientnet-b2": Release("efficientnet-b2", "swish", 260),
    "efficientnet-b3": Release("efficientnet-b3", "swish", 300),
    "efficientnet-b4": Release("efficientnet-b4", "swish", 380),
    "efficientnet-b5": Release("efficientnet-b5", "swish", 456),
    "efficientnet-b6": Release("efficientnet-b6", "swish", 528),
    "efficientnet-b7": Release("efficientnet-b7", "swish", 600),
    "efficientnet-bL1": Release("efficientnet-l1", "swish", 600),
    "efficientnet-bL1-enhanced": Release("efficientnet-l1", "swish", 600, ema=True),
}
MODELS = tuple(dict.fromkeys(release.model for release in RELEASES.values()))

# ResNet and ResNeXt. {scope} is conv0, group0_block0, group0_block0_conv1 to _conv3 or
# group0_block0_convshortcut here; there it has "/" for "_".
RESNET_WEIGHTS = {
    "{scope}/kernel": "{scope}/W",
    "{scope}_bn/gamma": "{scope}/bn/gamma",
    "{scope}_bn/beta": "{scope}/bn/beta",
    "{scope}_bn/moving_mean": "{scope}/bn/mean/EMA",
    "{scope}_bn/moving_variance": "{scope}/bn/variance/EMA",
    "{scope}_act/smoothrelu_beta": "{scope}/smoothrelu_beta",  # beta itself: a = beta^2 in both
    "logits/kernel": "linear/W",
    "logits/bias": "linear/b",
}
_RESNET_SCOPE = r"(?P<scope>conv0|group\d+_block\d+(?:_conv[123]|_convshortcut)?)"

# EfficientNet: layers outside the blocks, after the model's name.
EFFICIENTNET_LAYERS = {
    "stem_conv": "stem/conv2d",
    "stem_conv_bn": "stem/tpu_batch_normalization",
    "head_conv": "head/conv2d",
    "head_conv_bn": "head/tpu_batch_normalization",
    "logits": "head/dense",
}
# Layers in a block; TensorFlow 1 numbered them as they came, so the first stage, which does not
# expand, counts otherwise.
EFFICIENTNET_BLOCK = {
    # here: (in a block that expands, in one that does not)
    "expand": ("conv2d", None),
    "expand_bn": ("tpu_batch_normalization", None),
    "depthwise": ("depthwise_conv2d", "depthwise_conv2d"),
    "depthwise_bn": ("tpu_batch_normalization_1", "tpu_batch_normalization"),
    "se_reduce": ("se/conv2d", "se/conv2d"),
    "se_expand": ("se/conv2d_1", "se/conv2d_1"),
    "project": ("conv2d_1", "conv2d"),
    "project_bn": ("tpu_batch_normalization_2", "tpu_batch_normalization_1"),
}
_EFFICIENTNET_SCOPES = {"efficientnet-l1": "efficientnet-bL1"}
AVERAGED = "/ExponentialMovingAverage"

# What a checkpoint may hold beside weights. {tensor} is the tensor of a weight: the slot of
# anything else is not on the list.
IGNORED = {
    r"global_step|learning_rate|beta[12]_power": "state of the training",
    r"{tensor}/(Momentum|RMSProp|RMSProp_1|Adam|Adam_1)": "slot of the optimiser",
    r"EMA/.+": "average of a summary",
}


def is_efficientnet(model: str) -> bool:
    """Tells the family: EfficientNet or else ResNet and ResNeXt."""
    return model.startswith("efficientnet-")


def tensor_names(model: str, weights: Collection[str], ema: bool = False) -> dict[str, str]:
    """Maps the weights of a network to the tensors of its released checkpoint.

    Args:
      model: one of `MODELS`.
      weights: the paths of all weights, such as "conv0/kernel".
      ema: take the averages of the weights (EfficientNet).

    Raises:
      ValueError: a weight that no released checkpoint has.
    """
    if is_efficientnet(model):
        scope = _EFFICIENTNET_SCOPES.get(model, model)
        found = {weight: _efficientnet(weight, weights) for weight in weights}
        end = AVERAGED if ema else ""
        found = {weight: name and f"{scope}/{name}{end}" for weight, name in found.items()}
    else:
        found = {weight: _resnet(weight) for weight in weights}
    if unknown := [weight for weight, name in found.items() if name is None]:
        raise ValueError(
            f"no released checkpoint of {model} has the weights {some(unknown)}; choose the "
            "--activation that the checkpoint was trained with"
        )
    return found


def why_ignored(tensor: str, known: Collection[str]) -> str | None:
    """Returns why a tensor that is no weight may be left out, or None if it may not.

    Args:
      tensor: its name.
      known: the tensors of all weights.
    """
    for pattern, reason in IGNORED.items():
        if "{tensor}" in pattern:
            match = re.fullmatch(pattern.replace("{tensor}", "(.+)"), tensor)
            if match and match[1] in known:
                return reason
        elif re.fullmatch(pattern, tensor):
            return reason
    return None


def some(names: Collection[str], most: int = 6) -> str:
    """Lists names in one line, the first few if there are many."""
    names = list(names)
    rest = len(names) - most
    return ", ".join(names[:most]) + (f" and {rest} more" if rest > 0 else "")


def _resnet(weight: str) -> str | None:
    for ours, theirs in RESNET_WEIGHTS.items():
        if match := re.fullmatch(ours.replace("{scope}", _RESNET_SCOPE), weight):
            scope = match.groupdict().get("scope", "").replace("_", "/")
            return theirs.format(scope=scope)
    return None


def _efficientnet(weight: str, weights: Collection[str]) -> str | None:
    layer, _, kind = weight.rpartition("/")
    name = EFFICIENTNET_LAYERS.get(layer)
    if match := re.fullmatch(r"(blocks_\d+)_(.+)", layer):
        block, part = match.groups()
        expands = f"{block}_expand/kernel" in weights
        name = EFFICIENTNET_BLOCK.get(part, (None, None))[0 if expands else 1]
        name = name and f"{block}/{name}"
        kind = "depthwise_kernel" if part == "depthwise" else kind
    return name and f"{name}/{kind}"
