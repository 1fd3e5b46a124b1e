"""The README's transcripts are what the defaults give, and its example of an own network runs."""

import pathlib
import re

import numpy as np
import pytest
from absl import flags

from flags import evaluate as evaluate_flags
from sat_tf import data, loading
from sat_tf.attacks import PGD
from sat_tf.evaluate import evaluate
from sat_tf.training import AdversarialTrainer
from tests import programs

README = (pathlib.Path(__file__).parent.parent / "README.md").read_text()


def test_the_transcripts_are_those_of_the_flags_defaults():
    with programs.imported("sat_tf.train"):
        given = {name: flags.FLAGS[name].default for name in programs.names()}
    assert f"\n{given['model']} (" in README and f"images of {given['dataset']}, " in README
    assert f"\nepoch {given['epochs']}/{given['epochs']} in " in README
    tested = f"pgd-{given['test_steps']}"
    assert f"testing with {tested.upper()} on " in README
    assert f"/test_{tested.replace('-', '_')}.json\n" in README
    shown = README.partition("\npython -m sat_tf.evaluate --workdir=runs/digits\n")[2]
    asked = programs.parsed(evaluate_flags.define)
    assert asked.attacks == re.findall(r"^pgd-\d+", shown.partition("```")[0], re.MULTILINE)
    assert f"on digits {asked.split}:" in shown and f"of PGD {asked.restarts}\n" in shown
    assert ["html"] == asked.write and "runs/digits/report.html\n" in shown


def test_the_own_network_learns_is_saved_and_evaluated(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (code,) = [one for one in re.findall(r"```python\n(.*?)```", README, re.S) if "inject(" in one]
    values = {}
    exec(compile(code.replace("epochs=15", "epochs=8, verbose=0"), "README.md", "exec"), values)
    with pytest.raises(ValueError, match="save what it has trained"):
        values["robust"].save("trainer.keras")
    network = loading.load("mine.keras")
    kept = network.get_weights(), values["robust"].best_network.get_weights()
    for ours, theirs in zip(*kept, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    test = data.load("digits", "test", batch_size=128)
    report = evaluate(network, test, [PGD(epsilon=32, step_size=8, steps=10)])
    assert report.clean_accuracy > 0.85 and report.adversarial_accuracy > 0.5
    assert isinstance(values["robust"], AdversarialTrainer)
