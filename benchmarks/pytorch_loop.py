"""The PGD-1 step written by hand in PyTorch, to be compared with the trainer's.

The network is `sat_tf.models`' resnet18: 3x3 stem, basic blocks with projections, no max-pool.
"""

from collections.abc import Callable

import numpy as np


def pgd1_step(
    images: np.ndarray,
    labels: np.ndarray,
    *,
    width: int,
    activation: str,
    num_classes: int,
    num_parameters: int,
    epsilon: float,
    threads: int,
) -> Callable[[], float]:
    """Makes a function that does one adversarial step on a fixed batch and returns the loss.

    The attack sees moving statistics, the update the batch's; SGD with Nesterov momentum and decay,
    memory format channels_last.

    Args:
      images: float32 [N, H, W, C] in pixels.
      labels: int [N].
      num_parameters: trainable ones of the network it is compared with.
      epsilon: radius and step of the attack, in pixels.
      threads: how many the step may use on a CPU.

    Raises:
      ValueError: another number of parameters, so another network.
    """
    import torch
    from torch import nn

    torch.set_num_threads(threads)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    network = resnet18(nn, images.shape[-1], width, activation, num_classes)
    network = network.to(device, memory_format=torch.channels_last)
    found = sum(parameter.numel() for parameter in network.parameters())
    if found != num_parameters:
        raise ValueError(f"the PyTorch network has {found} parameters, ours {num_parameters}")
    optimizer = torch.optim.SGD(
        network.parameters(), lr=1e-3, momentum=0.9, nesterov=True, weight_decay=5e-4
    )
    x = torch.from_numpy(images).permute(0, 3, 1, 2).to(device, memory_format=torch.channels_last)
    y = torch.from_numpy(labels.astype(np.int64)).to(device)

    def step() -> float:
        network.eval()
        start = (x + torch.empty_like(x).uniform_(-epsilon, epsilon)).clamp(0, 255)
        start.requires_grad_(True)
        loss = nn.functional.cross_entropy(network(start), y, reduction="sum")
        (gradient,) = torch.autograd.grad(loss, start)
        with torch.no_grad():
            moved = start + epsilon * gradient.sign()
            adversarial = torch.maximum(torch.minimum(moved, x + epsilon), x - epsilon)
            adversarial = adversarial.clamp(0, 255)
        network.train()
        optimizer.zero_grad(set_to_none=True)
        loss = nn.functional.cross_entropy(network(adversarial), y)
        loss.backward()
        optimizer.step()
        return loss.item()

    return step


def resnet18(nn, channels: int, width: int, activation: str, num_classes: int):
    """Makes the network; `nn` is `torch.nn`."""
    activate = {"swish": nn.SiLU, "relu": nn.ReLU}[activation]

    class Block(nn.Module):
        def __init__(self, before, after, stride):
            super().__init__()
            self.body = nn.Sequential(
                nn.Conv2d(before, after, 3, stride, 1, bias=False),
                nn.BatchNorm2d(after),
                activate(inplace=True),
                nn.Conv2d(after, after, 3, 1, 1, bias=False),
                nn.BatchNorm2d(after),
            )
            self.shortcut = nn.Identity()
            if stride != 1 or before != after:
                self.shortcut = nn.Sequential(
                    nn.Conv2d(before, after, 1, stride, bias=False), nn.BatchNorm2d(after)
                )
            self.last = activate(inplace=True)

        def forward(self, x):
            return self.last(self.body(x) + self.shortcut(x))

    class Normalise(nn.Module):
        def forward(self, x):
            return x * (2 / 255) - 1

    layers = [Normalise(), nn.Conv2d(channels, width, 3, 1, 1, bias=False)]
    layers += [nn.BatchNorm2d(width), activate(inplace=True)]
    filters = width
    for group in range(4):
        for index in range(2):
            stride = 2 if group > 0 and index == 0 else 1
            layers.append(Block(filters, width * 2**group, stride))
            filters = width * 2**group
    layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(filters, num_classes)]
    return nn.Sequential(*layers)
