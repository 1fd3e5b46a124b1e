"""The architectures of RobustBench that are known: their names, and what a file of them holds.

The tables say how the PyTorch modules call the layers of `sat_tf.models`; everything else is read
off the tensors' shapes.

Source: Croce et al. 2021, arXiv 2010.09670, and the modules of RobustBench, torchvision and timm,
of which names, padding and the place of norms and shortcuts were read; no released file was at
hand.
"""

from collections.abc import Collection

from sat_tf.robustbench.family import Family

_PREACTIVATION = {
    "conv1_bn": "bn1",
    "conv1": "conv1",
    "conv2_bn": "bn2",
    "conv2": "conv2",
    "convshortcut": "shortcut.0",
}
_DEEPMIND = {"conv1_bn": "batchnorm_0", "conv2_bn": "batchnorm_1", "convshortcut": "shortcut"}
_POSTACTIVATION = {
    **{f"conv{number}": f"conv{number}" for number in (1, 2, 3)},
    **{f"conv{number}_bn": f"bn{number}" for number in (1, 2, 3)},
    "convshortcut": "shortcut.0",
    "convshortcut_bn": "shortcut.1",
}
_CONVNEXT = {
    "depthwise": "conv_dw",
    "norm": "norm",
    "expand": "mlp.fc1",
    "project": "mlp.fc2",
    "scale": "gamma",
}
_STAGES = {
    **{f"stage{stage}_down_norm": f"stages.{stage}.downsample.0" for stage in (1, 2, 3)},
    **{f"stage{stage}_down": f"stages.{stage}.downsample.1" for stage in (1, 2, 3)},
    "head_norm": "head.norm",
    "logits": "head.fc",
}
_CONVOLUTIONS = {
    f"stem_conv{number + 1}{norm}": f"stem.stem.{3 * number + place}"
    for number in (0, 1, 2)
    for place, norm in enumerate(("", "_norm"))
}
_DOWNSAMPLE = {"convshortcut": "downsample.0", "convshortcut_bn": "downsample.1"}


# A file is of the first whose required tensors it has.
FAMILIES = {
    "wideresnet": Family(
        "WideResNet (Carmon, Rice)",
        {"conv0": "conv1", "last_bn": "bn1", "logits": "fc"},
        "block{number}.layer.{index}",
        _PREACTIVATION | {"convshortcut": "convShortcut"},
        unused={r"sub_block1\..+": "made by the module, not used by it"},
    ),
    "dm-wideresnet": Family(
        "DMWideResNet (Gowal, Rebuffi)",
        {"conv0": "init_conv", "last_bn": "batchnorm", "logits": "logits"},
        "layer.{group}.block.{index}",
        _DEEPMIND | {"conv1": "conv_0", "conv2": "conv_1"},
        activation="swish",
        centred=False,
    ),
    "dm-preactresnet": Family(
        "DMPreActResNet (Rebuffi)",
        {"conv0": "conv_2d", "last_bn": "batchnorm", "logits": "logits"},
        "layer_{group}.{index}",
        _DEEPMIND | {"conv1": "conv_2d_1", "conv2": "conv_2d_2"},
        activation="swish",
        centred=False,
        shortcut_kernel=3,
        raw_shortcut=True,
    ),
    "torchvision-resnet": Family(
        "torchvision's ResNet (ImageNet)",
        {"conv0": "conv1", "conv0_bn": "bn1", "logits": "fc"},
        "layer{number}.{index}",
        _POSTACTIVATION | _DOWNSAMPLE,
    ),
    "resnet": Family(
        "ResNet (CIFAR)",
        {"conv0": "conv1", "conv0_bn": "bn1", "logits": "linear"},
        "layer{number}.{index}",
        _POSTACTIVATION,
    ),
    "preactresnet": Family(
        "PreActResNet (Rice, Wong)",
        {"conv0": "conv1", "last_bn": "bn", "logits": "linear"},
        "layer{number}.{index}",
        _PREACTIVATION,
        optional=("last_bn",),
        options={"raw_shortcut": bool},
        raw_shortcut=None,
    ),
    "convnext": Family(
        "ConvNeXt (timm, Liu)",
        {"stem_conv": "stem.0", "stem_norm": "stem.1"} | _STAGES,
        "stages.{group}.blocks.{index}",
        _CONVNEXT,
        told_by=("depthwise", "expand", "project"),
        activation="gelu",
    ),
    "convnext-convstem": Family(
        "ConvNeXt with a convolutional stem (Singh)",
        _CONVOLUTIONS | _STAGES,
        "stages.{group}.blocks.{index}",
        _CONVNEXT,
        told_by=("depthwise", "expand", "project"),
        optional=("stem_conv3", "stem_conv3_norm"),
        options={"patch_size": int},
        activation="gelu",
    ),
}


def recognise(tensors: Collection[str], source: str) -> str:
    """Returns the family whose required tensors are all there.

    Args:
      tensors: names, without the prefixes of wrappers.
      source: the file, for the message.

    Raises:
      ValueError: none; what the nearest one lacks, and what is there in its place.
    """
    lacking = {
        name: [one for one in family.required() if one not in tensors]
        for name, family in FAMILIES.items()
    }
    for name, missing in lacking.items():
        if not missing:
            return name
    nearest = min(lacking, key=lambda name: len(lacking[name]))
    some = ", ".join(sorted(tensors)[:4]) or "nothing"
    known = ", ".join(family.what for family in FAMILIES.values())
    raise ValueError(
        f"{source} holds {len(tensors)} tensors ({some}, …) of another architecture than the known "
        f"ones ({known}); the nearest, {FAMILIES[nearest].what}, would have "
        f"{', '.join(lacking[nearest])} as well"
    )
