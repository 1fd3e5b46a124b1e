"""The README's example of an own network runs as it stands, and its file is evaluated."""

import pathlib
import re

import numpy as np
import pytest

from sat_tf import data, loading
from sat_tf.attacks import PGD
from sat_tf.evaluate import evaluate
from sat_tf.training import AdversarialTrainer

README = (pathlib.Path(__file__).parent.parent / "README.md").read_text()


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
