"""The text of a PyTorch module of our residual networks, to be filled in."""

# One class for all of them; `torch_module.source` fills in the constants.
TEMPLATE = '''"""{name}: images [N, {channels}, {height}, {width}] in [0, 1] to {classes} logits.

Written by sat_tf {version}, with the weights beside it:

    from safetensors.torch import load_file
    model = Network()
    model.load_state_dict(load_file("network.safetensors"))
    model.eval()
"""

import torch
from torch import nn
from torch.nn import functional as F

# Of each group: blocks, filters inside, filters after, stride of the first block.
GROUPS = {groups}
SIDES, CARDINALITY, PREACTIVATION = {sides}, {cardinality}, {preactivation}  # of a block


def act(x):
    return {activation}


class Conv(nn.Conv2d):
    def __init__(self, i, o, side, stride=1, groups=1):
        super().__init__(i, o, side, stride, groups=groups, bias=False)
        self.around = ({strided}) * 2 if stride > 1 and side > 1 else (side // 2,) * 4

    def forward(self, x):
        return super().forward(F.pad(x, self.around))


class Padded(nn.Module):
    def __init__(self, i, o, stride):
        super().__init__()
        self.more, self.stride = o - i, stride

    def forward(self, x):
        return F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, 0, self.more))


class Block(nn.Module):
    def __init__(self, i, inner, o, stride):
        super().__init__()
        ends, strided = [i, *[inner] * (len(SIDES) - 1), o], (len(SIDES) - 1) // 2
        self.convs, self.norms = nn.ModuleList(), nn.ModuleList()
        for n, side in enumerate(SIDES):
            groups = CARDINALITY if side > 1 else 1
            step = stride if n == strided else 1
            self.convs.append(Conv(ends[n], ends[n + 1], side, step, groups))
            self.norms.append(nn.BatchNorm2d(ends[n if PREACTIVATION else n + 1]))
        self.shortcut = nn.Sequential()
        if i != o:
            self.shortcut = {shortcut}

    def forward(self, x):
        if PREACTIVATION:
            out = act(self.norms[0](x))
            around = self.shortcut({source}) if len(self.shortcut) else x
            out = self.convs[0](out)
            for conv, norm in zip(self.convs[1:], self.norms[1:]):
                out = conv(act(norm(out)))
            return out + around
        out = x
        for n, (conv, norm) in enumerate(zip(self.convs, self.norms)):
            out = norm(conv(out if n == 0 else act(out)))
        return act(out + self.shortcut(x))


class Network(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("mean", torch.zeros(1, {channels}, 1, 1))
        self.register_buffer("std", torch.ones(1, {channels}, 1, 1))
        self.stem = Conv({channels}, {stem}, {stem_side}, {stem_stride})
        channels, blocks = {stem}, []
        for count, inner, o, stride in GROUPS:
            for n in range(count):
                blocks.append(Block(channels, inner, o, 1 if n else stride))
                channels = o
        self.blocks = nn.Sequential(*blocks)
        self.norm = {norm}
        self.logits = nn.Linear(channels, {classes})

    def forward(self, images):
        x = self.stem((images - self.mean) / self.std)
        x = {before}
        x = {after}
        return self.logits(x.mean((2, 3)))
'''
