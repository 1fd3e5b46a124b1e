"""Our post-activation CIFAR ResNets in PyTorch, with the weights of one of ours."""

import pathlib
import re
from collections.abc import Mapping

import numpy as np
import torch
from torch import nn

_ACTIVATIONS = {"swish": nn.SiLU, "relu": nn.ReLU}


def load(folder: str) -> nn.Module:
    """Makes the network of `network.npz` (see `problems.save_weights`).

    It takes pixels in [0, 255], float32 [N, C, H, W], is in inference mode and has the memory
    format channels_last.

    Raises:
      ValueError: another network than such a ResNet with swish or ReLU, or other answers.
    """
    with np.load(pathlib.Path(folder, "network.npz")) as file:
        weights = dict(file)
    kind = str(weights["activation"])
    if kind not in _ACTIVATIONS or "group0_block0_conv1/kernel" not in weights:
        raise ValueError(
            f"the network is written in PyTorch as resnet8, resnet14, … and resnet18 with "
            f"{' or '.join(_ACTIVATIONS)}; this one is another, with {kind}"
        )
    network = _ResNet(weights, _ACTIVATIONS[kind]).eval().to(memory_format=torch.channels_last)
    with torch.no_grad():
        found = network(_pixels(weights["probe"])).numpy()
    expected = weights["logits"]
    difference = np.abs(found - expected).max()
    if not difference <= 1e-3 * np.abs(expected).max():
        raise ValueError(f"the network's copy in PyTorch answers otherwise, by {difference:.3g}")
    return network.to(device())


def device() -> str:
    """Returns where PyTorch computes."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def _pixels(images):
    return torch.from_numpy(images).permute(0, 3, 1, 2)


def batch(images: np.ndarray, labels: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns images [N, C, H, W] in channels_last and labels as PyTorch takes them."""
    x = _pixels(images).to(device(), memory_format=torch.channels_last)
    return x, torch.from_numpy(labels.astype(np.int64)).to(device())


class _ResNet(nn.Module):
    def __init__(self, weights: Mapping[str, np.ndarray], activation: type[nn.Module]):
        super().__init__()
        names = {match[0] for key in weights if (match := re.match(r"group\d+_block\d+", key))}
        self.stem = _norm_after(weights, "conv0")
        self.activate = activation(inplace=True)
        self.blocks = nn.Sequential(*(_Block(weights, one, activation) for one in sorted(names)))
        kernel, bias = weights["logits/kernel"], weights["logits/bias"]
        self.logits = nn.Linear(*kernel.shape)
        _copy(self.logits, weight=kernel.T, bias=bias)

    def forward(self, x):
        x = self.activate(self.stem(x * (2 / 255) - 1))
        return self.logits(self.blocks(x).mean((2, 3)))


class _Block(nn.Module):
    def __init__(self, weights, name, activation):
        super().__init__()
        before, after = weights[f"{name}_conv1/kernel"].shape[2:]
        # As everywhere in these networks: a block that widens, but for the first group's, halves.
        self.stride = 2 if before != after else 1
        self.more = after - before
        self.body = nn.Sequential(
            _norm_after(weights, f"{name}_conv1", self.stride),
            activation(inplace=True),
            _norm_after(weights, f"{name}_conv2"),
        )
        self.projection = None
        if f"{name}_convshortcut/kernel" in weights:
            self.projection = _norm_after(weights, f"{name}_convshortcut", self.stride)
        self.activate = activation(inplace=True)

    def forward(self, x):
        return self.activate(self.body(x) + self.shortcut(x))

    def shortcut(self, x):
        if self.projection is not None:
            return self.projection(x)
        if not self.more:
            return x
        kept = x[:, :, :: self.stride, :: self.stride]
        return nn.functional.pad(kept, (0, 0, 0, 0, 0, self.more))


def _norm_after(weights, name, stride=1):
    """Makes a convolution without bias and the batch norm after it."""
    kernel = weights[f"{name}/kernel"]
    side, _, before, after = kernel.shape
    convolution = nn.Conv2d(before, after, side, stride, side // 2, bias=False)
    _copy(convolution, weight=kernel.transpose(3, 2, 0, 1))
    norm = nn.BatchNorm2d(after, eps=1e-5)
    _copy(
        norm,
        weight=weights[f"{name}_bn/gamma"],
        bias=weights[f"{name}_bn/beta"],
        running_mean=weights[f"{name}_bn/moving_mean"],
        running_var=weights[f"{name}_bn/moving_variance"],
    )
    return nn.Sequential(convolution, norm)


def _copy(module, **values):
    with torch.no_grad():
        for name, value in values.items():
            getattr(module, name).copy_(torch.from_numpy(np.ascontiguousarray(value)))
