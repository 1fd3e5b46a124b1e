"""What an earlier version wrote loads and goes on; tests/data/README.md says who wrote it and how.

Another processor rounds otherwise, and so do today's fused operations: results are compared to a
tolerance.
"""

import json
import pathlib
import re
import shutil
import zipfile

import keras
import numpy as np
from absl import flags
from absl.testing import flagsaver

from sat_tf import data, loading
from sat_tf.attacks import names as attack_names
from sat_tf.evaluate import Options, evaluate
from sat_tf.runs import sealed
from sat_tf.training import schedules
from tests import programs

OLD = pathlib.Path(__file__).parent / "data"
EVERY_LAYER = {
    "Activation", "GroupedConv2D", "PSSiLU", "PSSiLUPair", "PaddedIdentity", "Schedule",
    "SmoothReLU",
}  # fmt: skip


def test_a_network_of_every_layer_loads_with_its_logits():
    path = OLD / "layers.keras"
    with zipfile.ZipFile(path) as archive:
        registered = re.findall(r'"sat_tf>(\w+)"', archive.read("config.json").decode())
    assert set(registered) == EVERY_LAYER
    images, _ = next(iter(data.load("digits", "test", batch_size=16)))
    expected = np.load(OLD / "layers_logits.npy")
    assert np.abs(expected).max() > 1
    network = loading.load(str(path))
    np.testing.assert_allclose(network(images), expected, rtol=1e-5, atol=1e-5)
    # As users load it, with its optimiser, whose rate is a schedule of ours.
    compiled = keras.saving.load_model(path)
    np.testing.assert_allclose(compiled(images), expected, rtol=1e-5, atol=1e-5)
    assert compiled.optimizer.iterations == 300
    rate = compiled.optimizer._learning_rate
    assert type(rate) is schedules.Schedule and rate.peak == 0.2


def test_a_run_that_was_killed_in_mid_epoch_goes_on_to_the_end(tmp_path):
    run, names = tmp_path / "run", ["checkpoints", "flags.txt", "metrics.json", "network.keras"]
    shutil.copytree(OLD / "run", run)
    assert sorted(path.name for path in run.iterdir()) == names
    with programs.imported("sat_tf.train") as program, flagsaver.flagsaver():
        flags.FLAGS(["train", f"--flagfile={run / 'flags.txt'}", f"--workdir={run}"])
        trainer = program.train()
    start, before = state(OLD / "run" / "checkpoints" / "step_000000008.npz")
    end, expected = state(OLD / "run_end.npz")
    record, found = state(run / "checkpoints" / "step_000000010.npz")
    assert found.keys() == expected.keys() == before.keys() and len(found) == len(trainer.state)
    for name, value in expected.items():
        # Today's batch norm is fused, and rounds otherwise than the one that wrote them.
        np.testing.assert_allclose(found[name], value, rtol=1e-4, atol=1e-5, err_msg=name)
    assert np.abs(expected["00042:logits/kernel"] - before["00042:logits/kernel"]).max() > 0.01
    assert (len(start["history"]), len(end["history"])) == (1, 2)
    for one, other in zip(record["history"], end["history"], strict=True):
        assert one.keys() == other.keys()
        for name, value in one.items():
            # An image more or less of the 143 or 256 may be right.
            np.testing.assert_allclose(value, other[name], rtol=1e-3, atol=0.008, err_msg=name)
    assert record["history"][0] == start["history"][0]
    assert json.loads((run / "metrics.json").read_text())["history"] == record["history"]
    # The second epoch is the better one: its averaged weights, after the network's in the state.
    best = loading.load(str(run)).get_weights()
    for weight, value in zip(best, list(found.values())[len(best) :], strict=False):
        np.testing.assert_array_equal(weight, value)


def state(path):
    """Returns the record and the variables of a checkpoint."""
    variables = arrays(path)
    return json.loads(variables.pop("record.json").tobytes()), variables


def test_an_evaluation_that_was_killed_goes_on_and_judges_the_rest_alone(tmp_path):
    path = tmp_path / "report.verdicts.npz"
    sealed.check_archive(OLD / "evaluation.verdicts.npz")
    stored, expected = (arrays(OLD / f"evaluation{end}.verdicts.npz") for end in ("", "_end"))
    done = stored["1/done"]
    assert stored["0/done"].all() and 0 < done.sum() < expected["1/done"].sum()
    # No attack would find these: what comes back like this was taken from the file.
    stored["0/distance"][:], stored["1/distance"][done] = np.arange(48) / 4, 1.25
    with sealed.replacing(path) as temporary:
        np.savez(temporary, **stored)
    report, found = resume(path), arrays(path)
    for name in ("0/done", "0/broken", "0/steps", "0/wrong", "0/distance"):
        np.testing.assert_array_equal(found[name], stored[name], name)
    for name in ("1/done", "1/broken", "1/steps", "1/distance"):
        np.testing.assert_array_equal(found[name][done], stored[name][done], name)
    np.testing.assert_array_equal(found["1/done"], ~stored["0/broken"])
    np.testing.assert_array_equal(found["1/distance"][found["1/done"] & ~done], 16)
    differing = report.standing ^ ~(expected["0/broken"] | expected["1/broken"])
    assert differing.sum() <= 2
    assert (stored["1/broken"] ^ expected["1/broken"]).any()


def resume(path):
    network = loading.load(str(OLD / "layers.keras"))
    options = {"epsilon": 16, "norm": "linf", "num_classes": 10, "step_size": None}
    return evaluate(
        network,
        data.load("digits", "test", batch_size=16),
        attack_names.parse(["pgd-5", "apgd-ce"], **options),
        Options(verdict_file=path, num_images=48, batch_size=16),
    )


def arrays(path):
    with np.load(path) as file:
        return {name: file[name] for name in file.files}
