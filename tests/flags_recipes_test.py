"""Every recipe names things that exist, and its header says where its numbers come from."""

import functools
import json
import os
import pathlib
import re

import pytest

ROOT = pathlib.Path(__file__).parent.parent
FOLDER = ROOT / "flags" / "recipes"
NAMES = sorted(str(path.relative_to(FOLDER)) for path in FOLDER.rglob("*.flags"))
DOCS = (ROOT / "docs" / "recipes.md").read_text()

# ImageNet, but not trained as in the paper of this project.
OTHER_PAPERS = ("imagenet/convnext_tiny_convstem.flags",)

# Flags are global to a process: all recipes are read in one, which puts the flags back each time.
# Networks are built without their weights; every activation is made, and tried with its gradients
# on resnet8, once for all its options.
READ = """
import json, sys
import keras
from absl import flags
from absl.testing import flagsaver
from flags import attack, data, method, model, run, training
from sat_tf import activations, flagfiles
from sat_tf.training import networks, optimizers, parts
from sat_tf.data import Info

SETS = {
    "digits": (10, (8, 8, 1), 1295), "cifar10": (10, (32, 32, 3), 49_000),
    "imagenet2012": (1000, (None, None, 3), 1_271_167),
}
SMALL = ("resnet8", "resnet18", "resnet34", "resnet50")
recipes = flagfiles.recipes([attack])
if sorted(recipes) != sorted(name.removesuffix(".flags") for name in sys.argv[2:]):
    raise ValueError(f"recipes are {sorted(recipes)}")
for theme in (attack, data, method, model, run, training):
    theme.define()
given = flags.FLAGS
themes = given.flags_by_module_dict().items()
known = [flag.name for module, theme in themes if module.startswith("flags.") for flag in theme]
built = {}

def build(info, large):
    size = networks.image_size(given, info)
    key = given.model, size, info.num_classes
    small = given.model.partition(":")[0] in SMALL and size <= 224 or info.name == "cifar10"
    if key not in built and large != small:
        with keras.StatelessScope():
            network = networks.make(given, info)
        built[key] = network.input_shape[1], network.output_shape[1]

def train_small(info):
    activations.make(given.activation)
    kind = given.activation.partition(":")[0]
    key = kind, given.attack_gradient, given.update_gradient
    if key not in built:
        given.model, given.image_size = "resnet8", 8
        built[key] = bool(parts.trainer(given, info, 1))

def read(info, large):
    values = {name: given[name].value for name in known}
    steps = info.steps_per_epoch(given.batch_size)
    rates = optimizers.schedule(given, steps)
    ends = [float(rates(0)), float(rates(given.epochs * steps - 1))]
    # The network that a run goes on from is not there, but its --model is.
    given.initial_network, given.body_learning_rate_multiplier = None, 1.0
    build(info, large)
    shape = built.get((given.model, networks.image_size(given, info), info.num_classes))
    if not large:
        train_small(info)
    return {"values": values, "rates": ends, "shape": shape}

found = {}
for name in sys.argv[2:]:
    with flagsaver.flagsaver():
        flags.FLAGS(["train", *flagfiles.expanded([f"--flagfile={name[:-6]}"], recipes)])
        if given.epsilon is None:
            raise ValueError(f"{name} gives no epsilon")
        num_classes, shape, num_train = SETS[given.dataset]
        info = Info(given.dataset, tuple(map(str, range(num_classes))), shape, {"train": num_train})
        found[name] = read(info, sys.argv[1] == "large")
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def read(forked):
    @functools.cache
    def what_it_found(which="small"):
        status, out, err = forked.run("-c", READ, which, *NAMES)
        assert status == 0, err
        return json.loads(out.splitlines()[-1])

    return what_it_found


def lines_of(name, header):
    lines = (FOLDER / name).read_text().splitlines()
    return [line for line in lines if line.startswith("#") == header]


def header_of(name):
    return " ".join(" ".join(line.lstrip("# ") for line in lines_of(name, True)).split())


def base_of(name):
    first = lines_of(name, False)[0]
    if not first.startswith("--flagfile="):
        return None
    base = (FOLDER / name).parent / first.removeprefix("--flagfile=")
    return os.path.relpath(os.path.normpath(base), FOLDER)  # Bazel's files are links elsewhere


def test_every_recipe_builds_what_it_names(read):
    sizes = {"digits": 8, "cifar10": 32, "imagenet2012": 224}
    for name, recipe in read().items():
        values = recipe["values"]
        if recipe["shape"] is None:  # a large network, built by the slow test
            continue
        size = values["image_size"] or sizes[values["dataset"]]
        num_classes = 1000 if values["dataset"] == "imagenet2012" else 10
        assert recipe["shape"] == [size, num_classes], name
    assert sum(recipe["shape"] is not None for recipe in read().values()) > len(NAMES) - 20


@pytest.mark.slow
def test_every_large_network_of_a_recipe_is_built(read):
    both = [read()[name]["shape"] or read("large")[name]["shape"] for name in NAMES]
    assert None not in both


def test_the_learning_rate_warms_up_and_falls_in_every_recipe(read):
    for name, recipe in read().items():
        values, (first, last) = recipe["values"], recipe["rates"]
        assert 0 < first <= 1.001 * values["learning_rate"], name
        assert last < values["learning_rate"] / 5, name


def test_imagenet_is_trained_as_in_the_paper(read):
    for name, recipe in read().items():
        values = recipe["values"]
        if values["dataset"] != "imagenet2012" or name in OTHER_PAPERS:
            continue
        epochs, steps = values["epochs"], values["attack_steps"]
        assert values["boundary"] == [0.3 * epochs, 0.6 * epochs, 0.9 * epochs], name
        assert values["epsilon"] == 4 and values["step_size"] == 4 / steps, name
        assert (values["weight_decay"], values["momentum"]) == (1e-4, 0.9), name
        assert (epochs, steps) == (100, 1) or "more effort" in row_of(name), name


def test_every_run_has_a_workdir_of_its_own_named_after_the_recipe(read):
    for name, recipe in read().items():
        assert recipe["values"]["workdir"] == f"runs/{name.removesuffix('.flags')}"


def test_every_line_of_a_recipe_changes_the_recipe_it_starts_from(read):
    nested = [name for name in NAMES if base_of(name)]
    assert len(nested) > 50
    for name in nested:
        here, base = read()[name]["values"], read()[base_of(name)]["values"]
        changed = {flag for flag in here if here[flag] != base[flag]}
        written = [re.match(r"--(\w+)=", line)[1] for line in lines_of(name, False)[1:]]
        assert sorted(changed) == sorted(written), name


def test_no_two_recipes_are_the_same_run(read):
    runs = [{**recipe["values"], "workdir": None} for recipe in read().values()]
    assert len({json.dumps(run, sort_keys=True) for run in runs}) == len(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_a_header_gives_command_hardware_time_result_and_source(name):
    text = header_of(name)
    assert f"python -m sat_tf.train --flagfile={name.removesuffix('.flags')} " in text
    for word in ("Command:", "Hardware:", "Time:", "Result:", "Source:"):
        assert word in text
    result = text.partition("Result:")[2]
    assert "not run" in result or "measured" in result


def row_of(name):
    """The row of the table that holds a recipe: ImageNet's comes first, then CIFAR-10's."""
    imagenet, _, cifar = DOCS.partition("## CIFAR-10")
    section = imagenet if "imagenet" in name else cifar
    stem = pathlib.PurePath(name).name.removesuffix(".flags")
    rows = [line for line in section.splitlines() if f"`{stem}`" in line and "|" in line]
    return rows[0] if len(rows) == 1 else ""


@pytest.mark.parametrize("name", [name for name in NAMES if "/" in name])
def test_the_documented_figures_are_those_of_the_header(name):
    row = row_of(name)
    assert row, "docs/recipes.md has no row, or several, for this recipe"
    text = header_of(name)
    _, _, study, *cells = row.split("|")
    for figure in re.findall(r"\d+\.\d+", " ".join(cells)):
        assert figure in text
    assert study.strip()


def test_the_documentation_names_no_recipe_that_is_missing():
    stems = {pathlib.PurePath(name).name.removesuffix(".flags") for name in NAMES}
    tables = [line.split("|")[1] for line in DOCS.splitlines() if line.startswith("| `")]
    assert set(re.findall(r"`([^`/]+)`", " ".join(tables))) <= stems
