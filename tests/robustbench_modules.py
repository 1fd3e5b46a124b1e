"""RobustBench's architectures written down a second time, in PyTorch: narrow, random weights.

    python -m tests.robustbench_modules FOLDER

writes NAME.pt, what a network was saved as, and NAME.npz, its images [N, 3, H, W] in [0, 1] and its
logits. A process of its own: TensorFlow and PyTorch may end one that loads both.
"""

import sys

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from tests import robustbench_convnext

CIFAR = ((0.4914, 0.4822, 0.4465), (0.2471, 0.2435, 0.2616))


def conv(i, o, k, stride=1, padding=None):
    return nn.Conv2d(i, o, k, stride, k // 2 if padding is None else padding, bias=False)


class Wide(nn.Module):
    """A block of WideResNet: the shortcut starts behind the first relu."""

    def __init__(self, i, o, stride):
        super().__init__()
        self.bn1, self.conv1 = nn.BatchNorm2d(i), conv(i, o, 3, stride)
        self.bn2, self.conv2 = nn.BatchNorm2d(o), conv(o, o, 3)
        if i != o:
            self.convShortcut = conv(i, o, 1, stride)

    def forward(self, x):
        out = F.relu(self.bn1(x))
        around = self.convShortcut(out) if hasattr(self, "convShortcut") else x
        return around + self.conv2(F.relu(self.bn2(self.conv1(out))))


class PreAct(nn.Module):
    """PreActBlock (raw) and PreActBlockV2."""

    def __init__(self, i, o, stride, raw):
        super().__init__()
        self.raw = raw
        self.bn1, self.conv1 = nn.BatchNorm2d(i), conv(i, o, 3, stride)
        self.bn2, self.conv2 = nn.BatchNorm2d(o), conv(o, o, 3)
        if stride != 1 or i != o:
            self.shortcut = nn.Sequential(conv(i, o, 1, stride))

    def forward(self, x):
        out = F.relu(self.bn1(x))
        around = x
        if hasattr(self, "shortcut"):
            around = self.shortcut(x if self.raw else out)
        return around + self.conv2(F.relu(self.bn2(self.conv1(out))))


class DeepMind(nn.Module):
    """Blocks of DMWideResNet and DMPreActResNet: zeros after the last row and column; SiLU."""

    def __init__(self, i, o, stride, names, wide):
        super().__init__()
        self.names, self.wide, self.stride = names, wide, stride
        self.batchnorm_0, self.batchnorm_1 = nn.BatchNorm2d(i), nn.BatchNorm2d(o)
        setattr(self, names[0], conv(i, o, 3, stride, padding=0))
        setattr(self, names[1], conv(o, o, 3))
        if i != o or stride != 1:
            self.shortcut = conv(i, o, 1 if wide else 3, stride, padding=0)

    def padded(self, x):
        return F.pad(x, (1, 1, 1, 1) if self.stride == 1 else (0, 1, 0, 1))

    def forward(self, x):
        out = F.silu(self.batchnorm_0(x))
        around = x
        if hasattr(self, "shortcut"):
            around = self.shortcut(out if self.wide else self.padded(x))
        first, second = (getattr(self, name) for name in self.names)
        return around + second(F.silu(self.batchnorm_1(first(self.padded(out)))))


class PostAct(nn.Module):
    """BasicBlock and Bottleneck, of RobustBench ("shortcut") and torchvision ("downsample")."""

    def __init__(self, i, o, stride, bottleneck, shortcut):
        super().__init__()
        self.bottleneck, self.name = bottleneck, shortcut
        sides = (1, 3, 1) if bottleneck else (3, 3)
        ends = (i, *[o] * (len(sides) - 1), 4 * o if bottleneck else o)
        strides = (1, stride, 1) if bottleneck else (stride, 1)
        for n, side in enumerate(sides):
            setattr(self, f"conv{n + 1}", conv(ends[n], ends[n + 1], side, strides[n]))
            setattr(self, f"bn{n + 1}", nn.BatchNorm2d(ends[n + 1]))
        if stride != 1 or i != ends[-1]:
            around = nn.Sequential(conv(i, ends[-1], 1, stride), nn.BatchNorm2d(ends[-1]))
            setattr(self, shortcut, around)

    def forward(self, x):
        out = x
        count = 3 if self.bottleneck else 2
        for n in range(1, count + 1):
            out = getattr(self, f"bn{n}")(getattr(self, f"conv{n}")(out))
            out = F.relu(out) if n < count else out
        around = getattr(self, self.name)(x) if hasattr(self, self.name) else x
        return F.relu(out + around)


class Network(nn.Module):
    """`stem`, groups of blocks and `head` under their modules' names; see NETWORKS."""

    def __init__(self, block, groups, stem, head, norm, after, act=F.relu, width=8, classes=10,
                 expansion=1, start=None, kernel=3):  # fmt: skip
        super().__init__()
        self.stem, self.head, self.norm, self.after, self.act = stem, head, norm, after, act
        self.kernel, self.groups = kernel, []
        channels = start or width
        setattr(self, stem, conv(3, channels, kernel, 2 if kernel == 7 else 1))
        if norm and not after:
            setattr(self, norm, nn.BatchNorm2d(channels))
        for number, name in enumerate(groups):
            filters = width * 2**number
            blocks = []
            for index in range(2 if len(groups) == 4 else 1):
                blocks.append(block(channels, filters, 2 if number and not index else 1))
                channels = filters * expansion
            self.groups.append(name)
            self.put(name, nn.Sequential(*blocks))
        if norm and after:
            setattr(self, norm, nn.BatchNorm2d(channels))
        setattr(self, head, nn.Linear(channels, classes))

    def put(self, name, module):
        *outer, last = name.split(".")
        at = self
        for part in outer:
            if not hasattr(at, part):
                at.add_module(part, nn.Module())
            at = getattr(at, part)
        at.add_module(last, module)

    def forward(self, x):
        x = getattr(self, self.stem)(x)
        if self.norm and not self.after:
            x = F.relu(getattr(self, self.norm)(x))
        if self.kernel == 7:
            x = F.max_pool2d(x, 3, 2, 1)
        for name in self.groups:
            x = self.get_submodule(name)(x)
        if self.norm and self.after:
            x = self.act(getattr(self, self.norm)(x))
        return getattr(self, self.head)(F.adaptive_avg_pool2d(x, 1).flatten(1))


FOUR = tuple(f"layer{n}" for n in (1, 2, 3, 4))


def deepmind(wide):
    names = ("conv_0", "conv_1") if wide else ("conv_2d_1", "conv_2d_2")
    return lambda i, o, s: DeepMind(i, o, s, names, wide)


def postact(bottleneck, shortcut):
    return lambda i, o, s: PostAct(i, o, s, bottleneck, shortcut)


def make(name):
    """Returns a network, and the mean and deviation of its images."""
    half, imagenet = ((0.5,) * 3, (0.5,) * 3), ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    wide = tuple(f"block{n}.layer" for n in (1, 2, 3))
    if name in robustbench_convnext.NARROW:
        statistics = imagenet if name == "liu" else ((0.0,) * 3, (1.0,) * 3)
        return robustbench_convnext.Network(*robustbench_convnext.NARROW[name]), statistics
    if name in ("carmon", "rice"):
        statistics = ((0.0,) * 3, (1.0,) * 3) if name == "carmon" else CIFAR
        return Network(Wide, wide, "conv1", "fc", "bn1", True, width=32, start=16), statistics
    if name == "rebuffi_wide":
        groups = tuple(f"layer.{n}.block" for n in (0, 1, 2))
        return Network(deepmind(True), groups, "init_conv", "logits", "batchnorm", True, F.silu,
                       width=16, classes=100), CIFAR  # fmt: skip
    if name == "rebuffi_preact":
        groups = tuple(f"layer_{n}" for n in (0, 1, 2, 3))
        return Network(
            deepmind(False), groups, "conv_2d", "logits", "batchnorm", True, F.silu
        ), CIFAR
    if name == "wong":
        return Network(
            lambda i, o, s: PreAct(i, o, s, True), FOUR, "conv1", "linear", None, True
        ), CIFAR
    if name == "rice_l2":
        return Network(
            lambda i, o, s: PreAct(i, o, s, False), FOUR, "conv1", "linear", "bn", True
        ), CIFAR
    if name == "resnet18":
        return Network(postact(False, "shortcut"), FOUR, "conv1", "linear", "bn1", False), half
    bottleneck = name == "imagenet50"
    return Network(postact(bottleneck, "downsample"), FOUR, "conv1", "fc", "bn1", False, kernel=7,
                   classes=1000, expansion=4 if bottleneck else 1), imagenet  # fmt: skip


NAMES = ("carmon", "rice", "rebuffi_wide", "rebuffi_preact", "wong", "rice_l2", "resnet18",
         "imagenet18", "imagenet50", *robustbench_convnext.NARROW)  # fmt: skip


def saved(name, state, mean, std):
    """What the file holds: wrappers and prefixes as released ones have them."""
    mean, std = (torch.tensor(one).view(-1, 1, 1) for one in (mean, std))
    if name == "carmon":  # DataParallel, and the copy of a block that nothing uses
        state |= {f"sub_{key}": one for key, one in state.items() if key.startswith("block1.")}
        return {"epoch": 3, "state_dict": {f"module.{key}": one for key, one in state.items()}}
    if name.startswith("rebuffi"):
        return state | {"mean": mean, "std": std}
    if name == "rice":
        return state | {"mu": mean[None], "sigma": std[None]}
    if name == "rice_l2":
        return {"model_state_dict": {k: one.half() for k, one in state.items() if one.ndim == 4}
                | {k: one for k, one in state.items() if one.ndim != 4}}  # fmt: skip
    if name == "wong":
        return {"best": {"conv1.weight": torch.zeros(1)}, "last": state}
    if name == "imagenet50":
        own = {f"model.{key}": one for key, one in state.items()}
        own |= {"normalizer.new_mean": mean, "normalizer.new_std": std}
        inside = own | {f"attacker.{key}": one for key, one in own.items()}
        return {"model": {f"module.{key}": one for key, one in inside.items()}, "epoch": 1}
    if name == "singh_t":  # DataParallel, and a module that attacks in training
        return {f"module.base_model.{key}": one for key, one in state.items()}
    return state


def randomise(network, half):
    """Weights and statistics that keep the signal alive, none of them as it begins."""
    if isinstance(network, robustbench_convnext.Network):
        for name, weight in network.named_parameters():
            nn.init.uniform_(weight, *robustbench_convnext.spread(name, weight.shape))
        return
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.7, 1.3)
            nn.init.normal_(module.bias, 0, 0.2)
            nn.init.normal_(module.running_mean, 0, 0.2)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
        elif isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight)
            if half:  # what is saved in half precision
                module.weight.data = module.weight.data.half().float()


def main(folder):
    torch.set_num_threads(1)
    for seed, name in enumerate(NAMES):
        torch.manual_seed(seed)
        network, (mean, std) = make(name)
        randomise(network, half=name == "rice_l2")
        network.eval()
        side = 32 if name in NAMES[:7] else 64
        colours = np.random.default_rng(seed).uniform(0, 1, (3, 3, 4, 4)).astype(np.float32)
        images = torch.tensor(colours.repeat(side // 4, 2).repeat(side // 4, 3))
        shift, scale = (torch.tensor(one).view(-1, 1, 1) for one in (mean, std))
        with torch.no_grad():
            logits = network((images - shift) / scale)
        np.savez(f"{folder}/{name}.npz", images=images.numpy(), logits=logits.numpy())
        torch.save(saved(name, network.state_dict(), mean, std), f"{folder}/{name}.pt")


if __name__ == "__main__":
    main(sys.argv[1])
