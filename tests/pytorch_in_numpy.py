"""As much of PyTorch as an exported module uses, in NumPy and float64: `modules()` for the import.

Source: the formulas of PyTorch's documentation, of torch.nn and torch.nn.functional, in inference.
"""

import types

import numpy as np
from scipy import special


class Module:
    def register_buffer(self, name, value):
        setattr(self, name, value)

    def load_state_dict(self, arrays):
        for name, array in arrays.items():
            *path, last = name.split(".")
            at = self
            for part in path:
                at = at[int(part)] if part.isdecimal() else getattr(at, part)
            assert getattr(at, last).shape == array.shape, name
            setattr(at, last, np.float64(array))

    def state_dict(self):
        parts = enumerate(self) if isinstance(self, list) else vars(self).items()
        arrays = {}
        for name, part in parts:
            if isinstance(part, Module):
                arrays |= {f"{name}.{inside}": one for inside, one in part.state_dict().items()}
            elif isinstance(part, np.ndarray):
                arrays[str(name)] = part
        return arrays

    def __call__(self, x):
        return self.forward(x)


class Conv2d(Module):
    def __init__(self, i, o, side, stride=1, padding=0, groups=1, bias=True):
        self.weight, self.stride, self.padding, self.groups = (
            np.zeros((o, i // groups, side, side)),
            stride,
            padding,
            groups,
        )
        if bias:
            self.bias = np.zeros(o)

    def forward(self, x):
        x = pad(x, (self.padding,) * 4)
        side, parts = self.weight.shape[-1], []
        places = [(x.shape[axis] - side) // self.stride + 1 for axis in (2, 3)]
        kernels = np.split(self.weight, self.groups)
        for some, kernel in zip(np.split(x, self.groups, 1), kernels, strict=True):
            total = 0
            for row, column in np.ndindex(side, side):
                seen = some[:, :, row :: self.stride, column :: self.stride]
                seen = seen[:, :, : places[0], : places[1]]
                total = total + np.einsum("nchw,oc->nohw", seen, kernel[:, :, row, column])
            parts.append(total)
        maps = np.concatenate(parts, 1)
        return maps + self.bias[:, None, None] if hasattr(self, "bias") else maps


class LayerNorm(Module):
    def __init__(self, channels, eps):
        self.weight, self.bias, self.eps = np.ones(channels), np.zeros(channels), eps

    def forward(self, x):
        scaled = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + self.eps)
        return self.weight * scaled + self.bias


class BatchNorm2d(Module):
    def __init__(self, channels):
        self.weight, self.bias = np.ones(channels), np.zeros(channels)
        self.running_mean, self.running_var = np.zeros(channels), np.ones(channels)

    def forward(self, x):
        scale = self.weight / np.sqrt(self.running_var + 1e-5)
        shift = self.bias - scale * self.running_mean
        return x * scale[:, None, None] + shift[:, None, None]


class Linear(Module):
    def __init__(self, i, o):
        self.weight, self.bias = np.zeros((o, i)), np.zeros(o)

    def forward(self, x):
        return x @ self.weight.T + self.bias


class Sequential(list, Module):
    def __init__(self, *modules):
        super().__init__(modules)

    def forward(self, x):
        for module in self:
            x = module(x)
        return x


def pad(x, around, value=0.0):
    """`around`: before and after the last axis, then those of the axis before, and so on."""
    pairs = list(zip(around[::2], around[1::2], strict=True))[::-1]
    return np.pad(x, [(0, 0)] * (x.ndim - len(pairs)) + pairs, constant_values=value)


def max_pool2d(x, side, stride):
    windows = np.lib.stride_tricks.sliding_window_view(x, (side, side), (2, 3))
    return windows[:, :, ::stride, ::stride].max((4, 5))


def gelu(x, approximate="none"):
    if approximate == "tanh":
        return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))
    return x * special.ndtr(x)


FUNCTIONAL = {
    "relu": lambda x: np.maximum(x, 0),
    "gelu": gelu,
    "elu": lambda x, alpha=1.0: np.where(x > 0, x, alpha * np.expm1(np.minimum(x, 0))),
    "celu": lambda x, alpha=1.0: np.where(x > 0, x, alpha * np.expm1(np.minimum(x, 0) / alpha)),
    "softplus": lambda x, beta=1.0: np.logaddexp(0, beta * x) / beta,
    "mish": lambda x: x * np.tanh(np.logaddexp(0, x)),
    "pad": pad,
    "max_pool2d": max_pool2d,
}  # fmt: skip


def modules():
    """Returns {name: module} for `sys.modules`."""
    functional = types.SimpleNamespace(**FUNCTIONAL)
    nn = types.SimpleNamespace(
        Module=Module, Conv2d=Conv2d, BatchNorm2d=BatchNorm2d, LayerNorm=LayerNorm, Linear=Linear,
        Parameter=lambda array: array,
        Sequential=Sequential, ModuleList=Sequential, functional=functional,
    )  # fmt: skip
    torch = types.SimpleNamespace(
        nn=nn, sigmoid=special.expit, inf=np.inf, zeros=lambda *s: np.zeros(s),
        ones=lambda *s: np.ones(s), einsum=np.einsum, moveaxis=np.moveaxis,
    )  # fmt: skip
    return {"torch": torch, "torch.nn": nn, "torch.nn.functional": functional}
