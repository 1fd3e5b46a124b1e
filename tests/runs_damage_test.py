"""A flipped bit in what the project reads again is named, and never gives another figure."""

import json
import types
import zipfile

import keras
import numpy as np
import pytest

from export import saved_model
from sat_tf import loading
from sat_tf.evaluation.kept_images import KeptImages
from sat_tf.evaluation.sweep import Sweep
from sat_tf.evaluation.verdicts import VerdictFile
from sat_tf.runs import checkpoints, sealed, workdir
from sat_tf.training import fitting

SETTINGS = ["--activation=swish\n", "--epsilon=8.0\n", "--seed=0\n"]
IDENTITY = {"seed": 0, "attacks": [["main/0", {"epsilon": 8.0}]]}
RNG = np.random.default_rng(0)
IMAGES = RNG.uniform(0, 255, (5, 2, 2, 1)).astype(np.float32)


def a_network(seed=0):
    keras.utils.set_random_seed(seed)
    inputs = keras.Input((2, 2, 1))
    return keras.Model(inputs, keras.layers.Dense(3, name="dense")(keras.layers.Flatten()(inputs)))


class Checkpoints:
    """The newest of two; the older one is taken where it is damaged."""

    def __init__(self, folder):
        self.folder = folder
        for step in (1, 2):
            path = checkpoints.save(folder, step, a_network(step).variables, {"best": step})
        self.files = [path]

    def read(self):
        network = a_network(9)
        step, record = checkpoints.restore(self.folder, network.variables)
        return step, record["best"], loading.weights_hash(network)


class Verdicts:
    def __init__(self, folder):
        self.files = [folder / "report.verdicts.npz"]
        sweep = self.blank()[0]
        for name in ("done", "broken", "steps", "distance", "misclassified"):
            getattr(sweep, name)[...] = RNG.integers(0, 2, getattr(sweep, name).shape)
        self.file().save([sweep], IMAGES[:2])

    def blank(self):
        return [Sweep.blank("main/0", None, 5, title="a", noise="b", columns=3)]

    def file(self):
        return VerdictFile(self.files[0], IDENTITY)

    def read(self):
        sweeps, examples = self.blank(), np.zeros_like(IMAGES[:2])
        self.file().restore(sweeps, examples)
        (sweep,) = sweeps
        return [np.asarray(value).tolist() for value in vars(sweep).values()], examples.tolist()


class Images:
    def __init__(self, folder):
        self.files = [folder / "report.images.npy"]
        self.kept().create([IMAGES[:3], IMAGES[3:]])

    def kept(self):
        return KeptImages(self.files[0], IMAGES.shape, "float32")

    def read(self):
        kept, sums = self.kept(), np.array([crc32(row.tobytes()) for row in IMAGES], np.uint32)
        kept.check(sums, np.ones(5, bool))
        return kept.rows.tolist()


class Network:
    def __init__(self, folder):
        self.files = [folder / "network.keras"]
        with sealed.replacing(self.files[0]) as temporary:
            a_network().save(temporary)

    def read(self):
        network = loading.load(str(self.files[0]))
        return loading.weights_hash(network), network(IMAGES).numpy().tolist()


class Served:
    def __init__(self, folder):
        self.folder = folder
        target = saved_model.export(
            a_network(), folder, saved_model.Options(class_names=list("abc"), verified=False)
        )
        self.files = sorted(file for file in target.rglob("*") if file.is_file())

    def read(self):
        served = loading.load(str(self.folder))
        return served(IMAGES).numpy().tolist(), loading.class_names(str(self.folder))


class Texts:
    """metrics.json and flags.txt of a run, both read by what continues or evaluates it."""

    def __init__(self, folder):
        self.folder = folder / "run"
        with workdir.claim(self.folder, SETTINGS, False):
            workdir.write_metrics(self.folder, {"epsilon": 8.0, "class_names": ["a", "b"]})
        self.files = [self.folder / "metrics.json", self.folder / "flags.txt"]

    def read(self):
        with workdir.claim(self.folder, SETTINGS, False):
            pass
        metrics = workdir.read_metrics(self.folder)
        # Where the name of the digest is what was hit, it is one entry more that nobody asks for.
        return (
            metrics["epsilon"],
            metrics["class_names"],
            sealed.read_text(self.folder / "flags.txt"),
        )


def crc32(data):
    """CRC-32 bit by bit, as its polynomial says."""
    value = 0xFFFFFFFF
    for byte in data:
        value ^= byte
        for _ in range(8):
            value = value >> 1 ^ (0xEDB88320 if value & 1 else 0)
    return value ^ 0xFFFFFFFF


KINDS = [Checkpoints, Verdicts, Images, Network, Served, Texts]


def flip(kind, count, rng, folder, capsys):
    """Flips bits one at a time; returns how many were named, and how many meant nothing."""
    written = kind(folder)
    whole, named, harmless = written.read(), 0, 0
    for _ in range(count):
        file = written.files[rng.integers(len(written.files))]
        content = file.read_bytes()
        place, bit = rng.integers(len(content)), rng.integers(8)
        damaged = bytearray(content)
        damaged[place] ^= 1 << bit
        file.write_bytes(damaged)
        capsys.readouterr()
        try:
            found = written.read()
        except ValueError as error:  # one line on the terminal; anything else is a traceback
            named += file.name in str(error) or str(written.files[0].parent) in str(error)
        else:
            if kind is Checkpoints and found != whole:
                assert found[0] == 1 and "is damaged" in capsys.readouterr().err
                named += 1
            else:
                assert found == whole, f"bit {bit} of byte {place} of {file}"
                harmless += 1
        file.write_bytes(content)
    assert written.read() == whole
    return named, harmless


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("count", [30, pytest.param(500, marks=pytest.mark.slow)])
def test_a_flipped_bit_is_named_and_never_gives_another_figure(kind, count, tmp_path, capsys):
    named, harmless = flip(kind, count, np.random.default_rng(1), tmp_path, capsys)
    assert named + harmless == count and named > 0.8 * count


@pytest.mark.parametrize("kind", [Checkpoints, Verdicts, Network, Texts])
def test_files_of_earlier_versions_have_no_digest_and_are_read(kind, tmp_path, capsys):
    written = kind(tmp_path)
    whole = written.read()
    for file in written.files:
        content = file.read_bytes()
        if zipfile.is_zipfile(file):
            with zipfile.ZipFile(file, "a") as archive:
                archive.comment = b""
        elif file.suffix == ".json":
            file.write_text(json.dumps(sealed.read_json(file)))
        else:
            file.write_text(sealed.read_text(file))
        assert len(file.read_bytes()) < len(content) and b"sha256" not in file.read_bytes()
    assert written.read() == whole
    assert capsys.readouterr().err == ""


def test_a_run_whose_best_network_is_damaged_is_refused_before_it_goes_on(tmp_path):
    trainer = types.SimpleNamespace(network=a_network(), average=None)
    trainer.state = trainer.network.variables
    checkpoints.save(tmp_path / "checkpoints", 2, trainer.state, {"best": {"epoch": 1}})
    file = Network(tmp_path).files[0]
    assert fitting.restore(trainer, tmp_path, {}) == 2
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    with pytest.raises(ValueError, match="network.keras, the best .* is damaged .*--overwrite"):
        fitting.restore(trainer, tmp_path, {})


def test_a_file_of_an_exported_network_that_is_gone_is_named(tmp_path):
    (tmp_path / "assets.extra").mkdir()
    for name in ("fingerprint.pb", "saved_model.pb"):
        (tmp_path / name).write_text(name)
    sealed.write_sums(tmp_path)
    sealed.check_sums(tmp_path)
    (tmp_path / "fingerprint.pb").unlink()
    with pytest.raises(ValueError, match="is damaged: fingerprint.pb or its line in .*export it"):
        sealed.check_sums(tmp_path)
