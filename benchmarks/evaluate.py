"""What does leaving broken images save? `python -m benchmarks.evaluate --workdir=runs/swish`

PGD with one random start on the same network and images: packed; the same without packing, from
which the verdicts must not differ; foolbox's and ART's PGD on the same Keras network; a PyTorch
loop on the same weights. foolbox, ART and PyTorch are compared where they are installed.
"""

import importlib.util
import os
import time
from collections.abc import Callable

import keras
import numpy as np
import tensorflow as tf
from absl import flags

from benchmarks import pytorch_loop, timing
from sat_tf import data, networks
from sat_tf.attacks import losses, stepped
from sat_tf.attacks.pgd_restarts import RestartedPGD
from sat_tf.evaluation.packed import Packed, Waiting
from sat_tf.evaluation.statistics import aligned
from sat_tf.evaluation.stream import Stream, seeds_of
from sat_tf.injection import hidden_activations

# Returns for every image whether it stands.
Contender = Callable[[], np.ndarray]


def define_flags() -> None:
    """Defines the flags; only the main calls it."""
    flags.DEFINE_string("workdir", None, "A run; default: a small network, trained here on digits.")
    flags.DEFINE_string("dataset", "digits", "Data set: digits (embedded) or a TFDS set.")
    flags.DEFINE_string("data_dir", None, "Where TFDS keeps its data; default: TFDS_DATA_DIR.")
    flags.DEFINE_integer("num_images", 256, "Images of the test split.", lower_bound=1)
    flags.DEFINE_integer("batch_size", 128, "Images evaluated at once.", lower_bound=1)
    flags.DEFINE_integer("steps", 200, "Steps of PGD.", lower_bound=1)
    flags.DEFINE_float("epsilon", 8.0, "Radius in pixels; ignored without a workdir.")
    flags.DEFINE_integer("threads", 0, "Threads of a CPU operation; 0: one a core.", lower_bound=0)
    flags.DEFINE_list("only", [], "Contenders by the beginning of their names; default: all.")


class Problem:
    """The network, the images and the attack that all contenders share."""

    def __init__(self, network, images, labels, epsilon, given):
        self.network, self.images, self.labels = network, images, labels
        self.epsilon, self.steps, self.batch_size = epsilon, given.steps, given.batch_size
        self.threads = given.threads or len(os.sched_getaffinity(0))
        self.step_size = epsilon / 4
        self.attack = RestartedPGD(epsilon=epsilon, step_size=self.step_size, steps=self.steps)
        self.seeds = seeds_of(0, np.arange(len(labels)), 0)

    def batches(self):
        """Yields slices; the last one may be shorter."""
        for start in range(0, len(self.labels), self.batch_size):
            yield slice(start, start + self.batch_size)


def digits_problem(given) -> Problem:
    """Trains a small network on digits and chooses the epsilon at which about 40 % stand."""
    from sat_tf import models

    train, test = (data.load("digits", split, batch_size=128) for split in ("train", "test"))
    network = models.build(
        "resnet8", activation="swish", num_classes=10, image_size=8, num_channels=1
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    network.compile(keras.optimizers.SGD(0.05, momentum=0.9), loss)
    network.fit(train, epochs=12, verbose=0, shuffle=False)
    images, labels = next(iter(Stream(test, given.num_images, given.num_images)))[1:3]
    low, high = 0.0, 128.0
    for _ in range(7):
        epsilon = (low + high) / 2
        attack = RestartedPGD(epsilon=epsilon, step_size=epsilon / 4, steps=20)
        adversarial = attack(network, images, labels, tf.constant([0, 0]))
        standing = ~losses.misclassified(network(adversarial), labels).numpy()
        low, high = (epsilon, high) if standing.mean() > 0.4 else (low, epsilon)
    return Problem(network, images, labels, epsilon, given)


def run_problem(given) -> Problem:
    """Takes the network of a run and the first test images."""
    network = networks.load(given.workdir)
    test = data.load(
        given.dataset,
        "test",
        batch_size=given.batch_size,
        image_size=network.input_shape[1],
        data_dir=given.data_dir,
    )
    _, images, labels, _ = next(iter(Stream(test, given.num_images, given.num_images)))
    return Problem(network, images, labels, given.epsilon, given)


def packed(problem: Problem) -> Contender:
    """Leaves an image as soon as it is broken."""
    engine = Packed(problem.network, problem.attack, problem.batch_size)

    def run():
        standing = np.zeros(len(problem.labels), bool)
        columns = (problem.images, problem.labels, problem.seeds)
        logits = np.zeros(int(problem.network.output_shape[-1]), np.float32)
        waiting = (Waiting(i, *row, logits) for i, row in enumerate(zip(*columns, strict=True)))
        for verdict in engine.run(waiting):
            standing[verdict.index] = not verdict.broken
        return standing

    return run


def plain(problem: Problem) -> Contender:
    """Gives every image all steps, in a loop of the graph that is traced once."""
    attack = problem.attack

    @tf.function(autograph=False)
    def attacked(images, labels, seeds):
        return tf.while_loop(
            lambda _: True,
            lambda state: (attack.step(problem.network, state),),
            (attack.start(images, labels, seeds, None),),
            parallel_iterations=1,
            maximum_iterations=attack.num_steps,
        )[0]

    def run():
        standing = []
        for part in problem.batches():
            columns = _padded(problem.batch_size, *(c[part] for c in _columns(problem)))
            state: stepped.State = attacked(*columns)
            standing.append(~state["broken"].numpy()[: len(problem.labels[part])])
        return np.concatenate(standing)

    return run


def foolbox_loop(problem: Problem) -> Contender | None:
    """foolbox's LinfPGD on the Keras network; None where foolbox is not installed."""
    if importlib.util.find_spec("foolbox") is None:
        return None
    import foolbox

    model = foolbox.TensorFlowModel(problem.network, bounds=(0, 255))
    attack = foolbox.attacks.LinfProjectedGradientDescentAttack(
        abs_stepsize=problem.step_size, steps=problem.steps, random_start=True
    )

    def run():
        standing = []
        for part in problem.batches():
            images = tf.constant(problem.images[part])
            # int64 as its own predictions: eagerpy promotes types by a function NumPy 2 lacks.
            labels = tf.constant(problem.labels[part].astype(np.int64))
            criterion = foolbox.criteria.Misclassification(labels)
            _, _, hit = attack(model, images, criterion, epsilons=problem.epsilon)
            standing.append(~hit.numpy())
        return np.concatenate(standing)

    return run


def art_loop(problem: Problem) -> Contender | None:
    """ART's PGD on the Keras network; None where ART is not installed."""
    if importlib.util.find_spec("art") is None:
        return None
    from art.attacks.evasion import ProjectedGradientDescent
    from art.estimators.classification import TensorFlowV2Classifier

    classifier = TensorFlowV2Classifier(
        model=problem.network,
        nb_classes=int(problem.network.output_shape[-1]),
        input_shape=problem.images.shape[1:],
        loss_object=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        clip_values=(0, 255),
    )
    attack = ProjectedGradientDescent(
        classifier,
        norm=np.inf,
        eps=problem.epsilon,
        eps_step=problem.step_size,
        max_iter=problem.steps,
        num_random_init=1,
        batch_size=problem.batch_size,
        verbose=False,
    )

    def run():
        adversarial = attack.generate(problem.images, problem.labels)
        logits = problem.network.predict(adversarial, problem.batch_size, verbose=0)
        return logits.argmax(1) == problem.labels

    return run


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


def _columns(problem):
    return problem.images, problem.labels, problem.seeds


def _padded(size, *columns):
    missing = size - len(columns[0])
    return [tf.constant(np.concatenate([c, np.repeat(c[:1], missing, 0)])) for c in columns]


def report(problem: Problem, contenders: dict[str, Contender]) -> str:
    """Runs every contender once, from its first graph to its last verdict; returns a table."""
    rows, reference, seconds = [["", "seconds", "images/s", "times packed", "standing"]], None, {}
    for name, run in contenders.items():
        start = time.perf_counter()
        standing = run()
        seconds[name] = time.perf_counter() - start
        reference = standing if reference is None else reference
        if name == "plain" and (standing != reference).any():
            raise ValueError("packed and plain evaluation give different verdicts")
        rows.append(
            [
                name,
                f"{seconds[name]:.1f}",
                f"{len(standing) / seconds[name]:.2f}",
                f"{seconds[name] / seconds['packed']:.2f}",
                f"{100 * standing.mean():.1f} %",
            ]
        )
        print(".", end="", flush=True)
    print()
    return aligned(rows)


def main() -> None:
    """Measures and prints."""
    given = flags.FLAGS
    if given.threads:
        tf.config.threading.set_intra_op_parallelism_threads(given.threads)
    keras.utils.set_random_seed(0)
    problem = run_problem(given) if given.workdir else digits_problem(given)
    makers = {
        "packed": packed,
        "plain": plain,
        "foolbox": foolbox_loop,
        "ART": art_loop,
        "PyTorch loop": pytorch,
    }
    wanted = {"packed": packed} | {
        name: make
        for name, make in makers.items()
        if not given.only or any(name.startswith(one) for one in given.only)
    }
    contenders = {name: make(problem) for name, make in wanted.items()}
    missing = [name for name, run in contenders.items() if run is None]
    print(
        f"PGD-{given.steps}, epsilon {problem.epsilon:g} of 255, {len(problem.labels)} images, "
        f"batch {given.batch_size}, {problem.network.name}\n{timing.machine()}",
        flush=True,
    )
    print(report(problem, {name: run for name, run in contenders.items() if run}))
    print("packed and plain: the same verdicts, image by image; misclassified images included")
    if missing:
        print(f"not compared here: {', '.join(missing)} (not installed, or another network)")


if __name__ == "__main__":
    define_flags()
    from sat_tf.main import run

    run(main)
