"""The front page is short and leads on; the transcripts and the example of docs/usage.md hold."""

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
from sat_tf.training.recipe import Recipe
from tests import programs

ROOT = pathlib.Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
USAGE = (ROOT / "docs/usage.md").read_text()


def test_the_front_page_is_short_and_each_command_sets_everything_up():
    assert README.count("\n") <= 120
    blocks = re.findall(r"```\n(.*?)```", README, re.S)
    ends = [block.rstrip().split("\n")[-1].strip() for block in blocks]
    assert ends == [
        "python -m sat_tf.train --activation=swish",
        "python -m pytest -n 2 --dist loadfile",
    ]
    for block in blocks:
        assert block.startswith("python3 -m venv .venv && . .venv/bin/activate && ")
        (file,) = re.findall(r"pip install -r (\S+)", block)
        assert (ROOT / file).is_file()


def test_every_page_can_be_reached_from_the_front_page_and_every_link_leads_somewhere():
    found, left = set(), [ROOT / "README.md"]
    while left:
        page = left.pop()
        found.add(page)
        text = re.sub(r"```.*?```", "", page.read_text(), flags=re.S)
        for link in re.findall(r"\]\(([^)#\s]+)[^)]*\)|(?:src|srcset)=\"([^\"]+)\"", text):
            link = "".join(link)
            if re.match(r"https?://", link):
                continue
            target = (page.parent / link).resolve()
            assert target.exists(), f"{page.name} names {link}"
            if target.suffix == ".md" and target not in found:
                left.append(target)
    assert set((ROOT / "docs").glob("*.md")) <= found


def test_the_transcripts_are_those_of_the_flags_defaults():
    with programs.imported("sat_tf.train"):
        given = {name: flags.FLAGS[name].default for name in programs.names()}
    model = Recipe(**given).completed().model
    assert f"\n{model} (" in USAGE and f"images of {given['dataset']}, " in USAGE
    assert f"\nepoch {given['epochs']}/{given['epochs']} in " in USAGE
    tested = f"pgd-{given['test_steps']}"
    assert f"testing with {tested.upper()} on " in USAGE
    assert f"/test_{tested.replace('-', '_')}.json\n" in USAGE
    shown = USAGE.partition("\npython -m sat_tf.evaluate --workdir=runs/digits\n")[2]
    asked = programs.parsed(evaluate_flags.define)
    assert asked.attacks == re.findall(r"^pgd-\d+", shown.partition("```")[0], re.MULTILINE)
    assert f"on digits {asked.split}:" in shown and f"of PGD {asked.restarts}\n" in shown
    assert ["html"] == asked.write and "runs/digits/report.html\n" in shown


def test_the_own_network_learns_is_saved_and_evaluated(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (code,) = [one for one in re.findall(r"```python\n(.*?)```", USAGE, re.S) if "inject(" in one]
    values = {}
    exec(compile(code.replace("epochs=15", "epochs=8, verbose=0"), "docs/usage.md", "exec"), values)
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
