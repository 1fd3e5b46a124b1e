"""A killed evaluation goes on where it stopped, and nothing that is there is lost."""

import dataclasses
import functools
import json
import signal
import time
import zipfile

import keras
import numpy as np
import pytest

from sat_tf.attacks import PGD
from sat_tf.attacks.apgd import APGD
from sat_tf.evaluate import Options, evaluate
from sat_tf.evaluation import runner, sweep, verdicts
from tests import engines, linear_network
from tests.killed import kill

traced_once = engines.traced_once
ATTACKS = [
    PGD(epsilon=9, step_size=2, steps=4),
    APGD(epsilon=9, iterations=6),
]
# Evaluates a network that stops the process where the test says, like a kill -9 would.
SCRIPT = """
import sys
from tests import evaluation_resume_test
evaluation_resume_test.evaluate_here(sys.argv[1])
"""


@functools.cache
def network_of(seed=0):
    keras.utils.set_random_seed(seed)
    inputs = keras.Input(linear_network.SHAPE)
    x = keras.layers.Rescaling(1 / 127.5, -1)(inputs)
    x = keras.layers.Dense(8, activation="swish", kernel_initializer="he_normal")(x)
    return keras.Model(inputs, keras.layers.Dense(4)(keras.layers.Flatten()(x)), name="small")


def data_of(network):
    images = linear_network.images(30, low=20, high=235)
    return images, np.argmax(network.predict(images, verbose=0), -1).astype(np.int32)


def evaluate_here(path, **options):
    network = network_of()
    options = {"batch_size": 4, "save_every": 0.0, "restarts": 2} | options
    return evaluate(network, data_of(network), ATTACKS, Options(verdict_file=path, **options))


def content(report):
    """Returns the report without its times."""
    result = report.to_dict()
    for part in (result, *result["attacks"]):
        for name in ("seconds", "evaluations_paid", "saved_by_packing"):
            part.pop(name, None)
    return json.loads(json.dumps(result))


@pytest.fixture(scope="module")
def ended(tmp_path_factory):
    """The report of an evaluation that nothing stopped, and the bytes of its verdicts."""
    path = tmp_path_factory.mktemp("ended") / "report.verdicts.npz"
    report = evaluate_here(path)
    assert 0 < report.adversarial_accuracy < 1
    return report, path.read_bytes()


@pytest.fixture
def reference(ended):
    return ended[0]


@pytest.fixture
def path(tmp_path, ended):
    """The verdicts of an evaluation that has ended."""
    path = tmp_path / "report.verdicts.npz"
    path.write_bytes(ended[1])
    return path


@pytest.mark.parametrize("killed_after", [1, 70])
def test_a_run_that_stops_anywhere_continues_to_the_same_report(
    tmp_path, monkeypatch, reference, killed_after
):
    path = tmp_path / "report.verdicts.npz"
    kill(lambda: evaluate_here(path), killed_after)
    noted, note = [], sweep.Sweep.note
    monkeypatch.setattr(sweep.Sweep, "note", lambda *a: noted.append(1) or note(*a))
    resumed = evaluate_here(path)
    assert content(resumed) == content(reference)
    found, expected = resumed.examples.adversarial, reference.examples.adversarial
    np.testing.assert_allclose(found, expected, atol=1e-3)
    total = sum(int(outcome.attacked.sum()) for outcome in reference.outcomes)
    assert killed_after + len(noted) == total + 30  # PGD has two restarts; nothing was done twice


def test_kill_minus_9_loses_nothing_that_was_saved(tmp_path, reference, forked):
    path = tmp_path / "report.verdicts.npz"
    process = forked.start("-c", SCRIPT, path)
    deadline = time.monotonic() + 300
    while not path.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL, "it was over before it could be killed"
    with np.load(path) as file:
        done = np.concatenate([file[name] for name in file.files if name.endswith("/done")])
    assert not done.all()
    assert content(evaluate_here(path)) == content(reference)


def test_a_finished_evaluation_is_not_done_again(path, monkeypatch, reference):
    monkeypatch.setattr(runner.Runner, "run", None)
    assert content(evaluate_here(path)) == content(reference)


def test_a_damaged_file_is_refused_by_name_and_left_alone(path):
    whole = path.read_bytes()
    with zipfile.ZipFile(path) as archive:
        largest = max(archive.infolist(), key=lambda member: member.file_size)
    flipped = bytearray(whole)  # in the middle of the data: some bytes of a header mean nothing
    flipped[largest.header_offset + largest.file_size // 2] ^= 255
    for damaged in (b"", b"nonsense", whole[: len(whole) // 2], bytes(flipped)):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match="report.verdicts.npz is damaged.*left alone"):
            evaluate_here(path)
        assert path.read_bytes() == damaged
    evaluate_here(path, overwrite=True)
    assert len(path.read_bytes()) == len(whole)


@pytest.mark.parametrize(
    "options, said",
    [({"seed": 1}, "seed 1 here, 0 there"), ({"restarts": 1}, "runs of attacks here"),
     ({"num_images": 9}, "other images or labels"), ({"batch_size": 5}, "batch_size 5 here, 4")],
)  # fmt: skip
def test_a_file_of_another_evaluation_is_refused_and_left_alone(path, options, said):
    whole = path.read_bytes()
    with pytest.raises(ValueError, match=f"another evaluation.*{said}"):
        evaluate_here(path, **options)
    assert path.read_bytes() == whole


def test_a_file_that_is_older_than_a_setting_goes_on_while_the_setting_is_off(tmp_path):
    identity = {"seed": 0, "attacks": [["main/0", {"epsilon": 8.0, "random_start": False}]]}
    newer = {"seed": 0, "attacks": [["main/0", {"epsilon": 8.0, "wide": False}]]}
    other = {"seed": 0, "attacks": [["main/0", {"epsilon": 8.0, "wide": True}]]}
    none = {"seed": 0, "attacks": [["main/0", {"epsilon": 8.0, "num_targets": 0}]]}
    path, examples = tmp_path / "report.verdicts.npz", np.zeros([1, 2, 2, 1], np.float32)
    verdicts.VerdictFile(path, identity).save([], examples)
    assert verdicts.VerdictFile(path, newer).restore([], examples)
    for refused in (other, none, newer | {"seed": 1}, newer | {"more": 1}):
        with pytest.raises(ValueError, match="another evaluation"):
            verdicts.VerdictFile(path, refused).restore([], examples)


@pytest.mark.parametrize("more", [-1, 1])
def test_a_file_of_another_format_is_refused(tmp_path, monkeypatch, more):
    path, examples = tmp_path / "report.verdicts.npz", np.zeros([1, 2, 2, 1], np.float32)
    with monkeypatch.context() as patch:
        patch.setattr(verdicts, "FORMAT", verdicts.FORMAT + more)
        verdicts.VerdictFile(path, {"seed": 0}).save([], examples)
    with pytest.raises(ValueError, match=f"format {verdicts.FORMAT + more}, this version reads"):
        verdicts.VerdictFile(path, {"seed": 0}).restore([], examples)


def test_a_file_of_another_network_is_refused(path):
    other = network_of(1)
    with pytest.raises(ValueError, match="another evaluation.*other weights of the network"):
        evaluate(
            other,
            data_of(network_of()),
            ATTACKS,
            Options(verdict_file=path, batch_size=4, restarts=2),
        )
    same, (images, labels) = network_of(), data_of(network_of())
    labels[-1] = (labels[-1] + 1) % 4
    with pytest.raises(ValueError, match="another evaluation.*other images or labels"):
        evaluate(
            same, (images, labels), ATTACKS, Options(verdict_file=path, batch_size=4, restarts=2)
        )


def test_every_entry_of_a_sweep_comes_back_as_it_was_saved(tmp_path):
    rng = np.random.default_rng(0)

    def filled(columns):
        found = sweep.Sweep.blank("key", None, 7, title="a", noise="b", columns=columns)
        for field in dataclasses.fields(found):
            value = getattr(found, field.name)
            if isinstance(value, np.ndarray):
                value[...] = rng.integers(0, 2 if value.dtype == bool else 99, value.shape)
            elif isinstance(value, int | float):
                setattr(found, field.name, type(value)(rng.integers(1, 99)))
        return found

    saved, examples = [filled(0), filled(5)], rng.uniform(0, 255, [2, 4, 4, 1]).astype(np.float32)
    path = tmp_path / "v.npz"
    verdicts.VerdictFile(path, {"seed": 0}).save(saved, examples)
    read = [
        sweep.Sweep.blank("key", None, 7, title="a", noise="b", columns=columns)
        for columns in (0, 5)
    ]
    examples_read = np.zeros_like(examples)
    assert not verdicts.VerdictFile(path, {"seed": 1}, overwrite=True).restore(read, examples_read)
    assert not examples_read.any() and not read[1].done.any()
    assert verdicts.VerdictFile(path, {"seed": 0}).restore(read, examples_read)
    np.testing.assert_array_equal(examples_read, examples)
    for one, other in zip(saved, read, strict=True):
        for field in dataclasses.fields(one):
            np.testing.assert_array_equal(getattr(one, field.name), getattr(other, field.name))
