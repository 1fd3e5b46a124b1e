"""The PGD-1 step written by hand in PyTorch, eager and compiled; the trainer's is beside it."""

import pathlib
import types
from collections.abc import Callable

import numpy as np
import torch
from torch import nn

from benchmarks import pytorch_network, timing


def contender(name: str, folder: str, given: types.SimpleNamespace) -> dict[str, timing.Case]:
    """Makes the step on the weights and the batch in the folder, as "PyTorch" or "torch.compile".

    Raises:
      ValueError: another precision than float32, or a network that is not written in PyTorch.
    """
    if given.precision != "float32":
        raise ValueError(f"it is written for float32, not {given.precision}")
    torch.set_num_threads(given.threads)
    network = pytorch_network.load(folder)
    with np.load(pathlib.Path(folder, "batch.npz")) as file:
        batch = pytorch_network.batch(file["images"], file["labels"])
    step = pgd1_step(network, *batch, given.epsilon, compiled=name == "torch.compile")
    return {name: timing.of_step(step)}


def pgd1_step(
    network: nn.Module, x: torch.Tensor, y: torch.Tensor, epsilon: float, *, compiled: bool = False
) -> Callable[[], float]:
    """Makes a function that does one adversarial step on a fixed batch and returns the loss.

    The attack sees moving statistics, the update the batch's; SGD with Nesterov momentum and decay.

    Args:
      network: takes pixels [N, C, H, W].
      x, y: images and labels, on the network's device.
      epsilon: radius and step of the attack, in pixels.
      compiled: whether `torch.compile` compiles start and end of the attack, the passes forward and
        backward through network and loss, and the optimiser's step.
    """
    parameters = list(network.parameters())
    optimizer = torch.optim.SGD(parameters, lr=1e-3, momentum=0.9, nesterov=True, weight_decay=5e-4)

    def loss_of(images, reduction):
        return nn.functional.cross_entropy(network(images), y, reduction=reduction)

    def start():
        return (x + torch.empty_like(x).uniform_(-epsilon, epsilon)).clamp(0, 255)

    def moved(images, gradient):
        there = images + epsilon * gradient.sign()
        return torch.maximum(torch.minimum(there, x + epsilon), x - epsilon).clamp(0, 255)

    update = optimizer.step
    if compiled:
        _compile_in_this_process()
        loss_of, start, moved, update = map(torch.compile, (loss_of, start, moved, update))

    def step() -> float:
        network.eval()
        # A compiled backward pass would otherwise compute the weights' gradients here as well.
        for parameter in parameters:
            parameter.requires_grad_(False)
        images = start().requires_grad_(True)
        (gradient,) = torch.autograd.grad(loss_of(images, "sum"), images)
        with torch.no_grad():
            adversarial = moved(images, gradient)
        network.train()
        for parameter in parameters:
            parameter.requires_grad_(True)
        optimizer.zero_grad(set_to_none=True)
        loss = loss_of(adversarial, "mean")
        loss.backward()
        update()
        return loss.item()

    return step


def _compile_in_this_process():
    import torch._inductor.config

    torch._inductor.config.compile_threads = 1
