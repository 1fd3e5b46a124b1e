"""Attacks in PyTorch on the weights of one of our networks: a PGD loop, and AutoAttack itself."""

import pathlib
import types

import numpy as np
import torch
from torch import nn

from benchmarks import pytorch_network, timing

# What every version of the reference's attacks calls its norm.
_NORM = "Linf"


def contender(name: str, folder: str, given: types.SimpleNamespace) -> dict[str, timing.Case]:
    """Makes "PyTorch loop", PGD; or "pyautoattack", with a case for each of `given.attacks`.

    Raises:
      ValueError: a network that is not written in PyTorch.
    """
    torch.set_num_threads(given.threads)
    network = pytorch_network.load(folder)
    for parameter in network.parameters():
        parameter.requires_grad_(False)
    with np.load(pathlib.Path(folder, "images.npz")) as file:
        images, labels, epsilon = file["images"], file["labels"], float(file["epsilon"])
    if name == "PyTorch loop":
        return {name: timing.of_call(lambda: pgd(network, images, labels, epsilon, given))}
    reference = Reference(network, epsilon, given)

    def run(attack):
        chosen = np.load(pathlib.Path(folder, "candidates.npy"))
        return reference.run(attack, images[chosen], labels[chosen])

    return {
        f"{name} {attack}": timing.of_call(lambda attack=attack: run(attack))
        for attack in given.attacks
    }


def pgd(
    network: nn.Module, images: np.ndarray, labels: np.ndarray, epsilon: float,
    given: types.SimpleNamespace,
) -> list[int]:  # fmt: skip
    """Returns 1 for every image that the last iterate leaves standing, 0 for the others."""
    standing = []
    for start in range(0, len(labels), given.batch_size):
        part = slice(start, start + given.batch_size)
        x, y = pytorch_network.batch(images[part], labels[part])
        lower, upper = (x - epsilon).clamp(min=0), (x + epsilon).clamp(max=255)
        point = (x + torch.empty_like(x).uniform_(-epsilon, epsilon)).clamp(0, 255)
        for _ in range(given.attack_steps):
            point = point.detach().requires_grad_(True)
            loss = nn.functional.cross_entropy(network(point), y, reduction="sum")
            (gradient,) = torch.autograd.grad(loss, point)
            moved = point.detach() + epsilon / 4 * gradient.sign()
            point = torch.maximum(torch.minimum(moved, upper), lower)
        with torch.no_grad():
            standing += (network(point).argmax(1) == y).int().tolist()
    return standing


class Reference(nn.Module):
    """The authors' AutoAttack on a network, and how many images it has had evaluated.

    Its images are float32 [N, C, H, W] in [0, 1].
    """

    def __init__(self, network: nn.Module, epsilon: float, given: types.SimpleNamespace):
        import pyautoattack

        super().__init__()
        self.network, self.batch_size, self.evaluations = network, given.batch_size, 0
        self.reference = pyautoattack.AutoAttack(
            self.eval(), norm=_NORM, eps=epsilon / 255, seed=0, version="standard",
            device=pytorch_network.device(),
        )  # fmt: skip
        self.reference.verbose = False
        self.reference.square.n_queries = given.square_queries

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Returns logits."""
        self.evaluations += len(images)
        return self.network(255 * images.contiguous(memory_format=torch.channels_last))

    def run(self, attack: str, images: np.ndarray, labels: np.ndarray) -> dict:
        """Runs one attack, its own checks before it included.

        Returns:
          "standing", 1 or 0 for every image, and the forward passes of an image it "paid" for.
        """
        x, y = pytorch_network.batch(images, labels)
        x = (x / 255).contiguous()
        self.evaluations, self.reference.attacks_to_run = 0, [attack]
        adversarial, _ = self.reference.run_standard_evaluation(x, y, batch_size=self.batch_size)
        paid, standing = self.evaluations, []
        with torch.no_grad():
            for part, truth in zip(
                adversarial.split(self.batch_size), y.split(self.batch_size), strict=True
            ):
                standing += (self(part).argmax(1) == truth).int().tolist()
        return {"standing": standing, "paid": paid}
