"""The text of a PyTorch module of our ConvNeXts, to be filled in."""

# `torch_convnext.source` fills in the constants.
TEMPLATE = '''"""{name}: images [N, {channels}, {height}, {width}] in [0, 1] to {classes} logits.

Written by sat_tf {version}, with the weights beside it:

    from safetensors.torch import load_file
    model = Network()
    model.load_state_dict(load_file("network.safetensors"))
    model.eval()

Tensors are called as those of timm's ConvNeXt, and of RobustBench's convolutional stems.
"""

import torch
from torch import nn
from torch.nn import functional as F

DEPTHS, SCALED = {depths}, {scaled}  # blocks of each stage; whether branches are scaled
STEM = {stem}  # filters, side and stride of its convolutions


class Act(nn.Module):
    def forward(self, x):
        return {activation}


class Norm(nn.LayerNorm):
    """Of maps [N, C, H, W], over their channels."""

    def __init__(self, channels):
        super().__init__(channels, eps=1e-6)

    def forward(self, x):
        return torch.moveaxis(super().forward(torch.moveaxis(x, 1, -1)), -1, 1)


class Mlp(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(channels, 4 * channels), nn.Linear(4 * channels, channels)
        self.act = Act()

    def forward(self, x):
        return self.fc2(self.act(self.fc1(x)))


class Block(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.conv_dw = nn.Conv2d(channels, channels, 7, padding=3, groups=channels)
        self.norm, self.mlp = Norm(channels), Mlp(channels)
        self.gamma = nn.Parameter(torch.ones(channels)) if SCALED else 1.0

    def forward(self, x):
        branch = self.mlp(torch.moveaxis(self.norm(self.conv_dw(x)), 1, -1))
        return x + torch.moveaxis(self.gamma * branch, -1, 1)


class Stage(nn.Module):
    def __init__(self, i, o, depth):
        super().__init__()
        self.downsample = nn.Sequential()
        if i != o:
            self.downsample = nn.Sequential(Norm(i), nn.Conv2d(i, o, 2, 2))
        self.blocks = nn.Sequential(*[Block(o) for _ in range(depth)])

    def forward(self, x):
        return self.blocks(self.downsample(x))


class Stem(nn.Module):
    def __init__(self):
        super().__init__()
        channels, parts = {channels}, []
        for filters, side, stride in STEM:
            parts += [nn.Conv2d(channels, filters, side, stride, side // 2), Norm(filters), Act()]
            channels = filters
        self.stem = nn.Sequential(*parts)

    def forward(self, x):
        return self.stem(x)


class Head(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.norm, self.fc = nn.LayerNorm(channels, eps=1e-6), nn.Linear(channels, {classes})

    def forward(self, x):
        return self.fc(self.norm(x.mean((2, 3))))


class Network(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("mean", torch.zeros(1, {channels}, 1, 1))
        self.register_buffer("std", torch.ones(1, {channels}, 1, 1))
        width, side, stride = STEM[-1]
        self.stem = Stem()
        if len(STEM) == 1:  # patches
            self.stem = nn.Sequential(nn.Conv2d({channels}, width, side, stride), Norm(width))
        stages, i = [], width
        for number, depth in enumerate(DEPTHS):
            stages.append(Stage(i, width * 2**number, depth))
            i = width * 2**number
        self.stages = nn.Sequential(*stages)
        self.head = Head(i)

    def forward(self, images):
        return self.head(self.stages(self.stem((images - self.mean) / self.std)))
'''
