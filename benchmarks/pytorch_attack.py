"""PGD written by hand in PyTorch, on the weights of one of our networks."""

import importlib.util

import keras
import numpy as np

from benchmarks import pytorch_loop
from benchmarks.contenders import Contender, Problem
from sat_tf.injection import hidden_activations


def pytorch(problem: Problem) -> Contender | None:
    """A hand-written PyTorch loop on the weights of a resnet18; None for other networks."""
    kinds = set(hidden_activations(problem.network).values())
    kind = kinds.pop() if len(kinds) == 1 else None
    if importlib.util.find_spec("torch") is None or kind not in ("swish", "relu"):
        return None
    import torch

    width = problem.network.get_layer("conv0").filters
    network = pytorch_loop.resnet18(
        torch.nn, problem.images.shape[-1], width, kind, problem.network.output_shape[-1]
    )
    if not _copy_weights(problem.network, network):
        return None
    torch.set_num_threads(problem.threads)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    network = network.eval().to(device, memory_format=torch.channels_last)

    def attacked(x, y):
        start = (x + torch.empty_like(x).uniform_(-problem.epsilon, problem.epsilon)).clamp(0, 255)
        lower, upper = (x - problem.epsilon).clamp(min=0), (x + problem.epsilon).clamp(max=255)
        point = start
        for _ in range(problem.steps):
            point = point.detach().requires_grad_(True)
            loss = torch.nn.functional.cross_entropy(network(point), y, reduction="sum")
            (gradient,) = torch.autograd.grad(loss, point)
            moved = point.detach() + problem.step_size * gradient.sign()
            point = torch.maximum(torch.minimum(moved, upper), lower)
        with torch.no_grad():
            return (network(point).argmax(1) == y).cpu().numpy()

    def run():
        standing = []
        for part in problem.batches():
            x = torch.from_numpy(problem.images[part]).permute(0, 3, 1, 2)
            x = x.to(device, memory_format=torch.channels_last)
            y = torch.from_numpy(problem.labels[part].astype(np.int64)).to(device)
            standing.append(attacked(x, y))
        return np.concatenate(standing)

    return run


def _copy_weights(source: keras.Model, target) -> bool:
    """Copies a resnet18's weights to PyTorch; says whether the networks answer alike."""
    import torch

    modules = {}
    for scope, module in _scopes(target):
        modules[scope] = module
    for scope, module in modules.items():
        try:
            layer = source.get_layer(scope)
        except ValueError:
            return False
        values = [np.asarray(value) for value in layer.get_weights()]
        names = ["weight", "bias", "running_mean", "running_var"]
        if values[0].ndim == 4:
            values[0] = values[0].transpose(3, 2, 0, 1)
        elif values[0].ndim == 2:
            values[0] = values[0].T
        with torch.no_grad():
            for name, value in zip(names, values, strict=False):
                getattr(module, name).copy_(torch.from_numpy(np.ascontiguousarray(value)))
        if isinstance(module, torch.nn.BatchNorm2d):
            module.eps = layer.epsilon
    probe = np.random.default_rng(0).uniform(0, 255, (4, *source.input_shape[1:]))
    probe = probe.astype(np.float32)
    with torch.no_grad():
        found = target.eval()(torch.from_numpy(probe.transpose(0, 3, 1, 2).copy())).numpy()
    expected = source(probe, training=False).numpy()
    return bool(np.allclose(found, expected, atol=1e-3 * np.abs(expected).max()))


def _scopes(target):
    """Pairs our layer names with PyTorch's modules."""
    yield "conv0", target[1]
    yield "conv0_bn", target[2]
    blocks = [module for module in target if hasattr(module, "shortcut")]
    for number, block in enumerate(blocks):
        scope = f"group{number // 2}_block{number % 2}"
        for index, place in (("conv1", 0), ("conv2", 3)):
            yield f"{scope}_{index}", block.body[place]
            yield f"{scope}_{index}_bn", block.body[place + 1]
        if len(list(block.shortcut.parameters())):
            yield f"{scope}_convshortcut", block.shortcut[0]
            yield f"{scope}_convshortcut_bn", block.shortcut[1]
    yield "logits", target[-1]
