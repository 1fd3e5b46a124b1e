"""Laws of several norms in one command: the union is the AND of what single commands find."""

import json
import types

import keras
import numpy as np
import pytest
from absl import flags
from sklearn import datasets

from flags import evaluate as own_flags
from sat_tf import evaluate
from sat_tf.evaluation import settings
from sat_tf.evaluation.report.union import Union
from sat_tf.evaluation.runner import Runner
from tests import programs

BALLS = {"linf": 4.0, "l2": 15.0}
ALWAYS = ("--attacks=pgd-2", "--num_images=90", "--batch_size=48")


@pytest.fixture
def parse(monkeypatch):
    """Parses arguments as the program does, against flags of its own."""

    def parse(*arguments):
        values = programs.parsed(own_flags.define, *arguments)
        monkeypatch.setattr(flags, "FLAGS", values)
        return values

    return parse


@pytest.fixture
def run_of_digits(tmp_path):
    """A workdir with the least-squares network of the digits."""
    digits = datasets.load_digits()
    train = np.arange(len(digits.target)) % 5 != 4
    pixels = np.rint(digits.images * 255 / 16)[train].reshape(-1, 64) - 127.5
    weights = np.linalg.lstsq(pixels, np.eye(10)[digits.target[train]] - 0.1, rcond=None)[0]
    inputs = keras.Input((8, 8, 1))
    dense = keras.layers.Dense(10)
    network = keras.Model(inputs, dense(keras.layers.Flatten()(inputs)))
    dense.set_weights([weights, -127.5 * weights.sum(0)])
    network.save(tmp_path / "network.keras")
    (tmp_path / "metrics.json").write_text(json.dumps({"dataset": "digits", "epsilon": 3.0}))
    return tmp_path


def test_the_union_is_the_and_of_the_single_commands(parse, run_of_digits, capsys, monkeypatch):
    path = run_of_digits / "all.json"
    command = (f"--workdir={run_of_digits}", *ALWAYS, f"--json={path}", "--norms=linf,l2",
               "--epsilons=4,15")  # fmt: skip
    parse(*command)
    evaluate.main()
    printed = capsys.readouterr().out
    union = json.loads(path.read_text())
    alone = {}
    for norm, epsilon in BALLS.items():
        parse(f"--workdir={run_of_digits}", *ALWAYS, f"--norm={norm}", f"--epsilon={epsilon}",
              f"--json={run_of_digits}/alone.{norm}.json")  # fmt: skip
        evaluate.main()
        alone[norm] = json.loads((run_of_digits / f"alone.{norm}.json").read_text())
        assert union["images"]["standing_by_norm"][norm] == alone[norm]["images"]["standing"]
        own = json.loads((run_of_digits / f"all.{norm}.json").read_text())
        assert own["images"] == alone[norm]["images"]
    standing = [np.array(one["images"]["standing"], bool) for one in alone.values()]
    both = standing[0] & standing[1]
    assert union["images"]["standing"] == both.astype(int).tolist()
    assert union["adversarial_accuracy"] == both.mean() < min(one.mean() for one in standing)
    assert both.any() and (standing[0] != standing[1]).any()
    assert union["clean_accuracy"] == alone["linf"]["clean_accuracy"]
    accuracies = [one["adversarial_accuracy"] for one in union["norms"]]
    assert accuracies == [one.mean() for one in standing]
    assert [(one["norm"], one["epsilon"]) for one in union["norms"]] == list(BALLS.items())
    assert f"union {100 * both.mean():.2f}" in " ".join(printed.split())
    page = path.with_suffix(".html").read_text()
    balls = "linf epsilon 4, l2 epsilon 15"
    assert f"<h1>Robustness of {run_of_digits}: {balls}</h1>" in page
    said = f"{balls} (pixels in [0, 255]), accuracies in percent:\n{path}\n"
    assert printed.endswith(f"{said}{path.with_suffix('.html')}\n")
    assert 'href="all.l2.html"' in page and f"{100 * both.mean():.2f} %" in page
    # What the balls of one command say of each other is not lost to a command of one ball, nor
    # is the page of all refused only when all is attacked.
    parse(f"--workdir={run_of_digits}", *ALWAYS, f"--json={path}", "--norm=linf", "--epsilon=4")
    with pytest.raises(ValueError, match="is a report of norms and would become one of attacks"):
        evaluate.main()
    parse(*command[:-3], f"--json={run_of_digits}/alone.linf.json", *command[-2:])
    with pytest.raises(ValueError, match="is a report of attacks and would become one of norms"):
        evaluate.main()
    (run_of_digits / "other.html").mkdir()
    parse(*command[:-3], f"--json={run_of_digits}/other.json", *command[-2:])
    with pytest.raises(OSError, match="other.html: it is a directory"):
        evaluate.main()
    assert json.loads(path.read_text()) == union
    assert not list(run_of_digits.glob("other.*.json"))
    # Given again, it takes up the verdicts of both and attacks nothing; a page is written if asked.
    for written in (path, path.with_suffix(".html")):
        written.unlink()
    monkeypatch.setattr(Runner, "run", lambda *_: pytest.fail("attacked again"))
    parse(*command, "--write=")
    evaluate.main()
    assert capsys.readouterr().out.endswith(said) and not path.with_suffix(".html").exists()
    again = json.loads(path.read_text())
    assert again["images"] == union["images"]
    # What stands in the way of a later ball is seen before the first is attacked.
    (run_of_digits / "late.l2.verdicts.npz").write_text("no verdicts")
    parse(*command[:-3], f"--json={run_of_digits}/late.json", *command[-2:])
    with pytest.raises(ValueError, match="late.l2.verdicts.npz is damaged"):
        evaluate.main()
    (run_of_digits / "late.l2.html").mkdir()
    parse(*command[:-3], f"--json={run_of_digits}/late.json", *command[-2:])
    with pytest.raises(OSError, match="late.l2.html: it is a directory"):
        evaluate.main()
    assert "norms linf,l2, " in page and "[]" not in page  # of a flag without a value


def test_a_run_says_its_norms_and_flags_are_stronger(parse, tmp_path):
    said = {"dataset": "digits", "epsilon": 3.0, "norms": ["linf", "l1"], "epsilons": [3.0, 90.0]}
    (tmp_path / "metrics.json").write_text(json.dumps(said))
    of_run = settings.complete(parse(f"--workdir={tmp_path}"))
    assert of_run.balls == (("linf", 3.0), ("l1", 90.0))
    names = [one.report.name for one in of_run.each()]
    assert names == ["report.linf.json", "report.l1.json"]
    asked = settings.complete(parse(f"--workdir={tmp_path}", "--norm=l2", "--epsilon=5"))
    assert (asked.balls, asked.norm, asked.epsilon) == ((), "l2", 5.0)
    for flag, ball in (("--norm=l2", ("l2", 3.0)), ("--epsilon=5", ("linf", 5.0))):
        asked = settings.complete(parse(f"--workdir={tmp_path}", flag))
        assert (asked.balls, (asked.norm, asked.epsilon)) == ((), ball)
    two = parse(f"--workdir={tmp_path}", "--norms=l2,l1", "--epsilons=5,7")
    assert settings.complete(two).balls == (("l2", 5.0), ("l1", 7.0))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--norms=linf,l1",), "a radius for each: --norms=linf,l2,l1 --epsilons=8,127.5,3060"),
        (("--epsilons=8,9",), "give two norms or more, each once, and a radius for each"),
        (("--norms=linf", "--epsilons=8"), "give two norms or more"),
        (("--norms=linf,linf", "--epsilons=8,9"), "each once"),
        (("--norms=linf,l3", "--epsilons=8,9"), "norm is 'l3'; use one of: linf, l2, l1"),
        (("--norms=linf,l1", "--epsilons=8,-1"), "'-1' is not a number that fits here"),
        (("--norms=linf,l1", "--epsilons=8,9", "--norm=l2"), "--norm is of one ball"),
        (("--norms=linf,l1", "--epsilons=8,9", "--curve=1,2"), "--curve is of one ball"),
    ],
)
def test_balls_that_do_not_fit_are_refused(parse, arguments, said):
    with pytest.raises(ValueError) as error:
        settings.complete(parse("--network=n.keras", "--dataset=digits", *arguments))
    assert said in str(error.value) and "\n" not in str(error.value)


def test_the_union_tells_what_every_ball_cost_left_out_and_failed(tmp_path):
    def report(standing, seconds, left_out, passed, epsilon):
        standing = np.array(standing, bool)
        outcome = types.SimpleNamespace(
            name="pgd-2", attacked=np.ones(4, bool), standing=standing,
            settings={"epsilon": epsilon},
        )  # fmt: skip
        images = dict.fromkeys(("index", "label", "clean_correct"))
        return types.SimpleNamespace(
            clean=np.array([True, True, True, False]), standing=standing, seconds=seconds,
            outcomes=[outcome], facts={"attacks_left_out": left_out, "seed": 7, "more": 1},
            checks=[{"name": "logits", "passed": passed}, {"name": "square", "passed": None}],
            to_dict=lambda: {"images": images},
        )  # fmt: skip

    reports = {
        "l2": report([1, 1, 0, 0], 2.25, {}, True, 90.0),
        "l1": report([0, 1, 1, 0], 4.5, {"apgd-t": "why"}, False, 300.0),
    }
    union = Union(reports, {"l2": "a.l2.json", "l1": "a.l1.json"})
    told = union.to_dict()
    assert (told["seconds"], told["seed"], told["num_images"]) == (6.75, 7, 4)
    assert "more" not in told and told["images"]["standing"] == [0, 1, 0, 0]
    assert (told["clean_accuracy"], told["adversarial_accuracy"]) == (0.75, 0.25)
    first, second = told["norms"]
    assert (first["norm"], first["epsilon"], first["report"]) == ("l2", 90.0, "a.l2.json")
    assert (first["attacks_left_out"], first["checks_failed"]) == ({}, [])
    assert (second["norm"], second["epsilon"], second["report"]) == ("l1", 300.0, "a.l1.json")
    assert (second["attacks_left_out"], second["checks_failed"]) == ({"apgd-t": "why"}, ["logits"])
    assert second["attacks"][0]["num_attacked"] == 4
    assert union.rows()[1:] == [  # with Wilson's intervals of 3, 2, 2 and 1 of 4
        ["clean", "", "", "75.00", "30.1 to 95.4"],
        ["l2", "90", "pgd-2", "50.00", "15.0 to 85.0"],
        ["l1", "300", "pgd-2", "50.00", "15.0 to 85.0"],
        ["union", "", "", "25.00", "4.6 to 69.9"],
    ]
    page = union.html("<1>")
    assert "<h1>&lt;1&gt;</h1>" in page and ">4 images, every one counted; lengths in pix" in page
    assert "<b>75.00 %</b>clean accuracy<" in page and "<b>25.00 %</b>stands in every ball<" in page
    assert '<a href="a.l2.html">l2</a>, <a href="a.l1.html">l1</a>' in page
    assert "<td>seed</td><td>7</td>" in page and "<td>more</td>" not in page
