"""Flags of `python -m sat_tf.convert`."""

from absl import flags

from flags import numbers


def define() -> None:
    """Defines the flags; only a program calls it."""
    flags.DEFINE_string(
        "checkpoint",
        None,
        "A TensorFlow 1 checkpoint: the path without .index and .data-00000-of-00001. Of "
        "robustbench, a .safetensors file or a .pt file of PyTorch.",
    )
    flags.DEFINE_enum(
        "from",
        "paper",
        ["paper", "robustbench"],
        "Whose checkpoint: the paper's (TensorFlow 1) or RobustBench's (PyTorch).",
    )
    flags.DEFINE_string("output", None, "A new directory for network.keras and metrics.json.")
    flags.DEFINE_string(
        "model",
        None,
        "Network; default: what a checkpoint of this released name holds, or whose tensors a file "
        "of robustbench has; convnext-convstem:patch_size=2 where its stem is not of 4 pixels.",
    )
    flags.DEFINE_string(
        "activation",
        None,
        "Activation; default: by the released name, or swish for EfficientNet; of robustbench, "
        "swish for DeepMind's networks, gelu for ConvNeXts and relu for all others.",
    )
    numbers.whole(
        "image_size",
        None,
        "Side of the images in pixels; default: by the released name, or the model's in the paper; "
        "of robustbench, 32, or 224 for ImageNet.",
        1,
        8_192,
    )
    flags.DEFINE_enum(
        "channel_order",
        None,
        ["bgr", "rgb"],
        "What the first convolution of a ResNet takes; bgr is reversed, so that the network takes "
        "RGB. "
        "Default: bgr, as the released code feeds it (not verified on a released file).",
    )
    flags.DEFINE_bool(
        "ema",
        None,
        "Take the averaged weights of an EfficientNet. Default: by the released name; a "
        "checkpoint of "
        "another name that has both is refused without --ema or --noema.",
    )
    flags.DEFINE_list(
        "normalization",
        None,
        "Of robustbench: mean and deviation of images in [0, 1], where the file has none: none, "
        "half (2x - 1), cifar10, cifar100, imagenet, or MEAN,MEAN,MEAN,STD,STD,STD.",
    )
    flags.DEFINE_bool("list", False, "Print the table of tensors and write nothing.")
