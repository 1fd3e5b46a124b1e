"""Every evaluation of a run has a report of its own, named after what was asked."""

import contextlib
import pathlib
import types

import pytest

from flags import evaluate as own_flags
from sat_tf.evaluation import settings, verdicts
from tests import programs


@pytest.fixture
def report_of(monkeypatch, tmp_path):
    """Parses arguments as `sat_tf.evaluate` does and returns where the report goes."""
    monkeypatch.chdir(tmp_path)
    pathlib.Path("runs/a").mkdir(parents=True)
    pathlib.Path("runs/a/metrics.json").write_text('{"dataset": "digits", "epsilon": 32}')

    def parsed(*arguments):
        values = programs.parsed(own_flags.define, *arguments)
        return str(settings.complete(values).report)

    return parsed


@pytest.mark.parametrize(
    ("asked", "name"),
    [
        ([], "report"),
        (["--write=html,plots", "--save_every=5"], "report"),
        (["--attacks=pgd-10,pgd-20,pgd-50,pgd-200", "--batch_size=128"], "report"),
        (["--attacks=apgd-ce,apgd-t"], "report_apgd-ce-apgd-t"),
        (
            ["--attacks=autoattack", "--num_images=1000"],
            "report_autoattack_num_images-1000",
        ),
        (["--epsilon=16", "--curve=0,1,2.5"], "report_epsilon-16_curve-0-1-2.5"),
        (["--ids=/a b/some.txt", "--nolast_iterate"], "report_ids-a-b-some.txt_last_iterate-False"),
        (["--classes=ten.txt", "--split=train"], "report_split-train_classes-ten.txt"),
    ],
)
def test_a_report_is_named_after_what_is_asked_beyond_the_default(report_of, asked, name):
    assert report_of("--workdir=runs/a", *asked) == f"runs/a/{name}.json"
    assert report_of("--workdir=runs/a", "--json=mine.json", *asked) == "mine.json"


def test_a_network_has_a_default_report_too_and_others_have_others(report_of):
    rest = "--dataset=digits", "--epsilon=32"
    names = [
        report_of(f"--network={source}", *rest)
        for source in (
            "mine.keras",
            "nets/mine.keras",
            "../nets/mine.keras",
            "serving/d",
            "a.b:make",
        )
    ]
    assert names[0] == "report_mine_dataset-digits_epsilon-32.json"
    assert len(set(names)) == len(names) and not any("/" in name for name in names)


def test_a_long_question_has_a_short_name_and_another_one_another(report_of):
    radii = [",".join(map(str, range(count))) for count in (150, 151)]
    names = [pathlib.Path(report_of("--workdir=runs/a", f"--curve={r}")).name for r in radii]
    assert names[0] != names[1] and max(map(len, names)) < 200


def test_what_differs_from_an_older_evaluation_is_said_in_few_words(tmp_path):
    def file(steps, asked, epsilon=8.0, runs=1):
        passes = [[f"main/pgd-{steps}/{i}", {"epsilon": epsilon}] for i in range(runs)]
        identity = {"network": "ab", "batch_size": 128, "attacks": passes}
        return verdicts.VerdictFile(tmp_path / "v.npz", identity, asked=asked)

    def refusal(other):
        with pytest.raises(ValueError) as refused:
            other.restore([], [])
        return str(refused.value).split("evaluation: ")[1].split("; give")[0]

    file(200, "pgd-10,20,50,200").save([], [])
    assert refusal(file(20, "pgd-20")) == "attacks pgd-20 here, pgd-10,20,50,200 there"
    same = "pgd-10,20,50,200"
    assert refusal(file(200, same, epsilon=4.0)) == "epsilon 4.0 here, 8.0 there"
    assert refusal(file(200, same, runs=3)) == "3 runs of attacks here, 1 there"
    forth = [["main/0/square", {"queries": 9}], ["main/1/square", {"queries": 9}]]
    for asked, said in (("squares", "the order of the attacks"), ("", "attacks main/1/square,")):
        one, turned = (
            verdicts.VerdictFile(tmp_path / "w.npz", {"attacks": keys}, True, asked=asked)
            for keys in (forth, forth[::-1])
        )
        one.save([], [])
        turned.overwrite = False
        assert refusal(turned).startswith(said)
    other = file(200, same)
    other.identity |= {"network": "cd", "batch_size": 64}
    assert refusal(other) == "batch_size 64 here, 128 there; other weights of the network"
    other.identity = file(200, same).identity | {"order": "by rank"}
    assert refusal(other) == 'order "by rank" here, null there'


def test_a_strategy_that_is_not_known_is_refused_with_the_list():
    values = programs.parsed(own_flags.define, "--network=zoo:digits_resnet8_swish")
    values.strategy = "mirorred"
    with pytest.raises(ValueError, match="one of: one_device, mirrored, tpu, multi_worker$"):
        settings.load_network(settings.complete(values))


@pytest.mark.parametrize("devices, made", [(["/gpu:0"], []), (["/gpu:0", "/gpu:1"], ["mirrored"])])
def test_a_worker_takes_the_devices_of_its_machine(monkeypatch, devices, made):
    asked, network = [], object()
    values = programs.parsed(own_flags.define, "--network=n.keras", "--strategy=multi_worker")
    values.dataset, values.epsilon = "digits", 1.0
    strategy = types.SimpleNamespace(scope=contextlib.nullcontext)
    monkeypatch.setattr(settings.distribution, "devices_here", lambda: devices)
    monkeypatch.setattr(
        settings.distribution, "strategy", lambda name: asked.append(name) or strategy
    )
    for name in ("load", "image_form", "adapt"):
        monkeypatch.setattr(settings.loading, name, lambda *given: network)
    found = settings.load_network(settings.complete(values))
    assert found == (network, strategy if made else None) and asked == made
