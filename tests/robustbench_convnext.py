"""timm's ConvNeXt and RobustBench's stems written down a second time, for PyTorch or its stand-in.

Maps keep their channels in front throughout, so that matrices are contracted and norms written out.
"""

import torch
from torch import nn
from torch.nn import functional as F

# Of RobustBench's and of Liu et al.'s: width, depths and the filters of a convolutional stem.
SIZES = {
    "tiny": (96, (3, 3, 9, 3), None),
    "small": (96, (3, 3, 27, 3), None),
    "base": (128, (3, 3, 27, 3), None),
    "large": (192, (3, 3, 27, 3), None),
    "tiny_convstem": (96, (3, 3, 9, 3), (48, 96)),
    "small_convstem": (96, (3, 3, 27, 3), (48, 96)),
    "base_convstem": (128, (3, 3, 27, 3), (64, 96, 128)),
    "large_convstem": (192, (3, 3, 27, 3), (96, 144, 192)),
}


class Norm(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x):
        centred = x - x.mean(1, keepdims=True)
        scaled = centred / ((centred**2).mean(1, keepdims=True) + 1e-6) ** 0.5
        return self.weight[:, None, None] * scaled + self.bias[:, None, None]


class Matrix(nn.Module):
    def __init__(self, i, o):
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.zeros(o, i)), nn.Parameter(torch.zeros(o))

    def forward(self, x):
        return torch.einsum("nchw,oc->nohw", x, self.weight) + self.bias[:, None, None]


class Gelu(nn.Module):
    def forward(self, x):
        return F.gelu(x)


class Mlp(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.fc1, self.fc2 = Matrix(channels, 4 * channels), Matrix(4 * channels, channels)

    def forward(self, x):
        return self.fc2(F.gelu(self.fc1(x)))


class Block(nn.Module):
    def __init__(self, channels, scaled):
        super().__init__()
        self.conv_dw = nn.Conv2d(channels, channels, 7, 1, 3, groups=channels)
        self.norm, self.mlp = Norm(channels), Mlp(channels)
        self.scaled = scaled
        if scaled:
            self.gamma = nn.Parameter(torch.ones(channels))

    def forward(self, x):
        branch = self.mlp(self.norm(self.conv_dw(x)))
        return x + (branch * self.gamma[:, None, None] if self.scaled else branch)


class Stage(nn.Module):
    def __init__(self, number, width, depth, scaled):
        super().__init__()
        channels = width * 2**number
        if number:
            self.downsample = nn.Sequential(
                Norm(channels // 2), nn.Conv2d(channels // 2, channels, 2, 2)
            )
        self.first = not number
        self.blocks = nn.Sequential(*[Block(channels, scaled) for _ in range(depth)])

    def forward(self, x):
        return self.blocks(x if self.first else self.downsample(x))


class ConvStem(nn.Module):
    """Two convolutions of stride 2; a third has none."""

    def __init__(self, filters):
        super().__init__()
        ends, parts = (3, *filters), []
        for number, (i, o) in enumerate(zip(ends, filters)):  # noqa: B905
            parts += [nn.Conv2d(i, o, 3, 2 if number < 2 else 1, 1), Norm(o), Gelu()]
        self.stem = nn.Sequential(*parts)

    def forward(self, x):
        return self.stem(x)


class Head(nn.Module):
    def __init__(self, channels, classes):
        super().__init__()
        self.norm, self.fc = Norm(channels), nn.Linear(channels, classes)

    def forward(self, x):
        return self.fc(self.norm(x.mean((2, 3))[:, :, None, None])[:, :, 0, 0])


class Network(nn.Module):
    def __init__(self, width, depths, filters=None, classes=1000, scaled=True):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, width, 4, 4), Norm(width))
        if filters is not None:
            self.stem = ConvStem(filters)
        self.stages = nn.Sequential(
            *[Stage(number, width, depth, scaled) for number, depth in enumerate(depths)]
        )
        self.head = Head(width * 2 ** (len(depths) - 1), classes)

    def forward(self, x):
        return self.head(self.stages(self.stem(x)))


NARROW = {
    "liu": (8, (1, 2, 3, 1), None, 10),
    "singh_t": (8, (2, 1, 1, 1), (4, 8), 10),
    "singh_b": (8, (1, 1, 2, 2), (4, 6, 8), 7),
    "unscaled": (4, (1, 1, 1, 2), None, 10, False),
}


def spread(name, shape):
    """Returns (low, high) between which a tensor of that name is drawn: nothing vanishes."""
    if len(shape) > 1:
        reach = (6 / (shape[1] * (shape[2] * shape[3] if len(shape) == 4 else 1))) ** 0.5
        return -reach, reach
    one = name.endswith((".weight", "gamma"))  # of a norm, or the scale of a branch
    return (0.5, 1.5) if one else (-0.5, 0.5)
