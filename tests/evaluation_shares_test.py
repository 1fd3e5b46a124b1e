"""Workers that share an evaluation find what one device finds, image by image."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import time
import types

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flags import evaluate as own_flags
from sat_tf.attacks import PGD
from sat_tf.attacks.apgd import APGD
from sat_tf.attacks.square import Square
from sat_tf.evaluate import Options
from sat_tf.evaluation import (
    corruptions,
    kept_images,
    parts,
    runner,
    settings,
    shares,
    sweep,
)
from sat_tf.evaluation.report import artefacts
from sat_tf.evaluation.session import Session
from sat_tf.evaluation.verdicts import verdict_path
from tests import engines, linear_network, programs
from tests.killed import kill

ROOT = pathlib.Path(__file__).parent.parent
NETWORK = linear_network.LinearNetwork(4)
ATTACKS = [PGD(epsilon=9, step_size=2, steps=4), APGD(epsilon=9, iterations=6)]
COSTS = {"seconds", "evaluations_paid", "saved_by_packing"}
traced_once = engines.traced_once


def worker_of(index, num_workers, timeout=0.0):
    return shares.Worker([f"host{i}:1" for i in range(num_workers)], index, timeout)


def prepared(place, **options):
    usual = {
        "batch_size": 16, "restarts": 2, "verdict_file": verdict_path(place),
        "image_file": place.with_suffix(".images.npy"),
        "curve": {5.0: [PGD(epsilon=5, step_size=2, steps=4)]},
    }  # fmt: skip
    images = linear_network.images(30, low=20, high=235)
    dataset = images, NETWORK.labels(images)
    return Session(NETWORK, dataset, ATTACKS, Options(**(usual | options))).prepare()


def content(report):
    """Returns what the report says, but for what it cost."""

    def plain(value):
        if isinstance(value, dict):
            return {name: plain(one) for name, one in value.items() if name not in COSTS}
        return [plain(one) for one in value] if isinstance(value, list) else value

    return plain(json.loads(json.dumps(report.to_dict())))


def work(report, index, num_workers, timeout=0.0, **options):
    """Does what the program does in a worker; returns the report, as the chief."""
    worker = worker_of(index, num_workers, timeout)
    session = prepared(worker.place(report), **options)
    worker.attack(session, report)
    if index:
        return None
    worker.collect(session, report)
    return session.run({})


def paid(report):
    return [outcome.slot_steps for outcome in report.outcomes]


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """The report of one device, and its images."""
    report = tmp_path_factory.mktemp("alone") / "report.json"
    found = prepared(report).run({})
    assert 0 < found.adversarial_accuracy < found.clean_accuracy
    return found, np.load(report.with_suffix(".images.npy"))


@pytest.fixture
def noted(monkeypatch):
    """Counts the verdicts that are found."""
    noted, note = [], sweep.Sweep.note
    monkeypatch.setattr(sweep.Sweep, "note", lambda *a: noted.append(1) or note(*a))
    return noted


def total(alone):
    """Returns how many verdicts there are: of PGD two restarts, and the smaller radius."""
    main = [int(outcome.attacked.sum()) for outcome in alone.outcomes]
    return main[0] + sum(main) + int(alone.clean.sum())


def assert_as_alone(report, found, alone):
    expected, images = alone
    assert content(found) == content(expected)
    np.testing.assert_array_equal(np.load(report.with_suffix(".images.npy")), images)
    np.testing.assert_array_equal(found.examples.adversarial, expected.examples.adversarial)
    assert sorted(p.name for p in report.parent.iterdir()) == [
        "report.images.npy", "report.verdicts.npz"
    ]  # fmt: skip


@given(st.integers(0, 300), st.integers(1, 40))
def test_every_image_is_in_one_share_and_shares_are_even(num_images, num_workers):
    each = [worker_of(index, num_workers).share(num_images) for index in range(num_workers)]
    np.testing.assert_array_equal(np.sum(each, 0), np.ones(num_images))
    assert np.ptp([one.sum() for one in each]) <= 1


def test_workers_find_what_one_device_finds(tmp_path, noted, alone, monkeypatch):
    report, num_workers, costs, seconds = tmp_path / "report.json", 3, [], 0.0
    for index in (2, 1):
        work(report, index, num_workers)
        with np.load(verdict_path(worker_of(index, num_workers).place(report))) as file:
            costs.append([int(file[f"{number}/slot_steps"]) for number in range(3)])
            seconds += sum(float(file[f"{number}/seconds"]) for number in range(4))
    with monkeypatch.context() as patch:  # worker 0 is killed when it has taken over all
        patch.setattr(parts, "remove", lambda places: 1 / len([]))
        with pytest.raises(ZeroDivisionError):
            work(report, 0, num_workers)
    found = work(report, 0, num_workers)
    assert_as_alone(report, found, alone)
    assert len(noted) == total(alone[0])
    main = found.outcomes[0].slot_steps, found.outcomes[1].slot_steps
    others = [sum(a + b for a, b, _ in costs), sum(c for *_, c in costs)]
    assert found.seconds > seconds > 0
    # Worker 0 had as many images as either of the others.
    assert (np.divide(main, others) > 1.25).all() and (np.divide(main, others) < 2).all()
    # Asked again, nothing is attacked, and the others leave nothing behind.
    monkeypatch.setattr(runner.Runner, "run", None)
    for index in reversed(range(num_workers)):
        again = work(report, index, num_workers)
    assert_as_alone(report, again, alone)
    assert paid(again) == paid(found)


@pytest.mark.parametrize("killed_after, num_workers", [(20, 1), (20, 3)])
def test_workers_that_were_killed_go_on_as_many_or_others(
    tmp_path, noted, alone, killed_after, num_workers
):
    report = tmp_path / "report.json"
    for index in (1, 0):
        kill(lambda: work(report, index, 2), killed_after)  # noqa: B023
    for index in reversed(range(num_workers)):
        found = work(report, index, num_workers)
    assert_as_alone(report, found, alone)
    assert len(noted) == total(alone[0]), "nothing was done twice"


def test_a_worker_that_does_not_come_is_named_and_nothing_is_lost(tmp_path, noted, alone):
    report = tmp_path / "report.json"
    with pytest.raises(ConnectionError, match=r"^worker 1 \(host1:1\) wrote nothing beside .*"):
        work(report, 0, 2)
    before = len(noted)
    with pytest.raises(ConnectionError):
        work(report, 0, 2)
    assert len(noted) == before > 0
    work(report, 1, 2)
    assert_as_alone(report, work(report, 0, 2), alone)
    assert len(noted) == total(alone[0])


def test_worker_0_waits_while_another_one_goes_on(tmp_path, monkeypatch, capsys, alone):
    """It looks every second, says every 30 whom it waits for, and news begin the time anew."""
    report, clock = tmp_path / "report.json", [0.0]
    other = worker_of(1, 2)
    session = prepared(other.place(report))

    def sleep(seconds):
        clock[0] += 20 * seconds
        if clock[0] == 60.0:
            session.store.save()
        elif clock[0] == 120.0:
            other.attack(session, report)

    monkeypatch.setattr(shares.time, "sleep", sleep)
    monkeypatch.setattr(shares.time, "monotonic", lambda: clock[0])
    assert_as_alone(report, work(report, 0, 2, timeout=70.0), alone)
    assert clock[0] == 120.0, "not before it was through"
    assert capsys.readouterr().err.splitlines() == ["waiting for worker 1 (host1:1)"] * 2


def test_a_worker_of_another_evaluation_is_refused_by_whoever_sees_it(tmp_path):
    report = tmp_path / "report.json"
    with pytest.raises(ConnectionError):
        work(report, 0, 2)
    whole = verdict_path(report).read_bytes()
    said = "report.verdicts.npz belongs to another evaluation: seed 1 here, 0 there"
    with pytest.raises(ValueError, match=said):
        work(report, 1, 2, seed=1)
    verdict_path(report).unlink()
    work(report, 1, 2, seed=1)
    verdict_path(report).write_bytes(whole)
    said = "report.worker-1.verdicts.npz belongs to another evaluation: seed 0 here, 1 there"
    with pytest.raises(ValueError, match=said):
        work(report, 0, 2)
    assert verdict_path(report).read_bytes() == whole


def test_one_device_that_begins_anew_leaves_nothing_of_workers(tmp_path, noted, alone):
    report = tmp_path / "report.json"
    work(report, 1, 2)
    noted.clear()
    assert_as_alone(report, work(report, 0, 1, overwrite=True), alone)
    assert len(noted) == total(alone[0])


@pytest.mark.parametrize("overwrite", [False, True])
def test_one_device_leaves_the_files_of_a_worker_that_still_runs(tmp_path, noted, overwrite):
    report = tmp_path / "report.json"
    work(report, 1, 2)
    place = parts.place_of(report, 1)
    whole = verdict_path(place).read_bytes()
    with artefacts.reserve((), place), pytest.raises(ValueError, match="still writes .*worker-1.v"):
        work(report, 0, 1, overwrite=overwrite)
    assert verdict_path(place).read_bytes() == whole


def test_of_a_worker_is_taken_what_is_wanted_and_went_further_and_nothing_else(tmp_path):
    """Images: ours is further; theirs is; theirs is, and not wanted; both are as far."""
    place = tmp_path / "report.worker-1.json"
    kept = [
        kept_images.KeptImages(path, (4, 1, 1, 1), "float32")
        for path in (tmp_path / "ours.npy", place.with_suffix(".images.npy"))
    ]
    sweeps = [
        sweep.Sweep.blank("key", None, 4, title="", noise="") for _ in kept
    ]  # of us and of them
    for images, one, value, done in zip(kept, sweeps, (1, 2), ("1001", "0111"), strict=True):
        images.create([np.full([4, 1, 1, 1], value, np.float32)])
        one.done[:] = [letter == "1" for letter in done]
        one.distance[:] = value
    saved = kept[1].checksums.copy()
    kept[1].put(0, np.full([1, 1, 1], 9, np.float32))  # after they saved last
    kept[1].close()
    examples = [np.full([2, 1, 1, 1], value, np.float32) for value in (1, 2)]
    store = types.SimpleNamespace(
        plan=types.SimpleNamespace(sweeps=sweeps[:1]), images=kept[0], examples=examples[0],
        settled=lambda: sweeps[0].done,
    )  # fmt: skip
    part = parts.Part(place, types.SimpleNamespace(images=saved), sweeps[1:], examples[1])
    parts.take(store, part, np.array([True, True, False, True]))
    assert sweeps[0].done.tolist() == [True, True, False, True]
    assert sweeps[0].distance.tolist() == kept[0].rows.ravel().tolist() == [1, 2, 1, 1]
    assert examples[0].ravel().tolist() == [1, 2]
    kept[0].close()


def test_images_of_a_worker_that_was_killed_before_a_verdict_are_removed(tmp_path, alone):
    report = tmp_path / "report.json"
    (tmp_path / "report.worker-1.images.npy").write_bytes(b"begun")
    assert_as_alone(report, work(report, 0, 1), alone)
    assert not list(tmp_path.glob("report.worker-*"))


def test_a_worker_that_begins_again_is_not_through_until_it_has_looked(tmp_path, monkeypatch):
    report, found = tmp_path / "report.json", []
    work(report, 1, 2)
    worker = worker_of(1, 3)
    session = prepared(worker.place(report))

    def through(share=None):
        found.append(parts.read(session.store, worker.place(report)).file.through)

    through()
    monkeypatch.setattr(session, "attack", through)
    worker.attack(session, report)
    through()
    assert found == [[1, 2], None, [1, 3]]


def test_a_report_without_an_ending_has_files_of_its_own_for_each_worker(tmp_path):
    places = [worker_of(index, 3).place(tmp_path / "epsilon.5") for index in range(3)]
    assert len({verdict_path(place) for place in places}) == 3


def flags_of(*arguments):
    return programs.parsed(own_flags.define, "--network=n", *arguments)


def test_flags_and_tf_config_say_which_worker_this_is(monkeypatch):
    monkeypatch.delenv("TF_CONFIG", raising=False)
    assert shares.Worker.of(flags_of()) == shares.Worker.of(flags_of("--strategy=mirrored"))
    assert shares.Worker.of(flags_of()).addresses == ("",)
    with pytest.raises(ValueError, match="finds no other workers in .* TF_CONFIG"):
        shares.Worker.of(flags_of("--strategy=multi_worker"))
    with pytest.raises(ValueError, match="--cluster is 'pbs'; use one of: tf_config, slurm"):
        shares.Worker.of(flags_of("--cluster=pbs"))
    with pytest.raises(ValueError, match="slurm finds the workers of --strategy=multi_worker"):
        shares.Worker.of(flags_of("--cluster=slurm"))
    config = {"cluster": {"worker": ["a:1", "b:2"]}, "task": {"type": "worker", "index": 1}}
    monkeypatch.setenv("TF_CONFIG", json.dumps(config))
    asked = ("--strategy=multi_worker", "--worker_timeout=7", "--save_every=6")
    assert shares.Worker.of(flags_of(*asked)) == shares.Worker(["a:1", "b:2"], 1, 7.0)
    with pytest.raises(ValueError, match="--overwrite does not go with --strategy=multi_worker"):
        shares.Worker.of(flags_of(*asked, "--overwrite"))
    with pytest.raises(ValueError, match="--worker_timeout=7 is not longer than --save_every=7"):
        shares.Worker.of(flags_of(*asked, "--save_every=7"))


@pytest.mark.parametrize("stamps, calls", [([1, 2, 2], 2), ([1, 1], 1)])
def test_a_file_that_is_replaced_while_it_is_read_is_read_again(monkeypatch, stamps, calls):
    answers = iter([ValueError("is damaged"), "part"])

    def read(*_):
        if isinstance(answer := next(answers), ValueError):
            raise answer
        return answer

    stamps = iter(stamps)
    monkeypatch.setattr(parts, "stamp", lambda place: next(stamps))
    monkeypatch.setattr(parts, "_read", read)
    if calls == 2:
        assert parts.read(None, pathlib.Path("report.json")) == "part"
    else:
        with pytest.raises(ValueError, match="is damaged"):
            parts.read(None, pathlib.Path("report.json"))


def test_files_of_workers_are_known_by_their_whole_names(tmp_path):
    for name in ("1.images.npy", "12.verdicts.npz", "3.verdicts.npz", "3.images.npy",
                 "study.verdicts.npz", "0.verdicts.npz", "4.verdicts.npz.new"):  # fmt: skip
        (tmp_path / f"report.worker-{name}").touch()
    expected = [tmp_path / f"report.worker-{k}.json" for k in (1, 12, 3)]
    assert parts.places_of(tmp_path / "report.json") == expected


def test_corrupted_images_are_not_shared_out():
    asked = flags_of("--strategy=multi_worker", "--dataset=digits", "--corruptions=all")
    with pytest.raises(ValueError, match="take one_device, mirrored or tpu"):
        corruptions.Kinds.of(settings.complete(asked))


# Of the program, in processes of its own.


def few_apgd(*, epsilon, norm, num_classes):
    del num_classes
    return APGD(epsilon=epsilon, norm=norm, iterations=5)


def few_square(*, epsilon, norm, num_classes):
    del num_classes
    return Square(epsilon=epsilon, norm=norm, queries=40)


def start(report, *flags, worker=None):
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": "-1"}
    if worker is not None:
        addresses = ["localhost:23456", "localhost:23457"]  # to which nothing is sent
        task = {"type": "worker", "index": worker}
        config = {"cluster": {"worker": addresses}, "task": task}
        environment["TF_CONFIG"] = json.dumps(config)
        flags = ("--strategy=multi_worker", "--save_every=0", "--worker_timeout=300", *flags)
    attacks = ",".join(
        f"tests.{pathlib.Path(__file__).stem}:{name}" for name in ("few_apgd", "few_square")
    )
    return subprocess.Popen(
        [sys.executable, "-m", "sat_tf.evaluate", "--network=zoo:digits_resnet8_swish",
         "--num_images=32", "--batch_size=32", f"--attacks={attacks}", "--write=npz",
         f"--json={report}", *flags],
        cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def ended(*processes):
    texts = [process.communicate(timeout=900) for process in processes]
    assert [process.returncode for process in processes] == [0] * len(processes), texts
    return [out for out, _ in texts]


def images_of(report):
    """Returns every image's verdicts as the report has them, and the images."""
    with np.load(report.with_suffix(".images.npz")) as file:
        return json.loads(report.read_text())["images"], file["adversarial"]


@pytest.fixture(scope="module")
def program_alone(tmp_path_factory):
    report = tmp_path_factory.mktemp("alone") / "report.json"
    ended(start(report))
    verdicts, images = images_of(report)
    assert 0 < sum(verdicts["standing"]) < sum(verdicts["clean_correct"]) < 32
    return verdicts, images


def assert_as_program_alone(report, program_alone):
    verdicts, images = images_of(report)
    assert verdicts == program_alone[0]
    np.testing.assert_array_equal(images, program_alone[1])


@pytest.mark.slow
def test_two_workers_of_which_one_is_killed_report_what_one_device_reports(tmp_path, program_alone):
    report = tmp_path / "report.json"
    chief, other = (start(report, worker=index) for index in (0, 1))
    part, deadline = verdict_path(worker_of(1, 2).place(report)), time.monotonic() + 400

    def begun():
        if not part.exists():
            return False
        with np.load(part) as file:
            return file["0/done"].any()

    while not begun() and other.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    other.send_signal(signal.SIGKILL)
    other.communicate()
    assert other.returncode == -signal.SIGKILL, "it was over before it could be killed"
    with np.load(part) as file:
        assert json.loads(str(file["header"]))["through"] is None
    printed, said = ended(chief, start(report, worker=1))
    assert "32 images, accuracies in percent" in printed
    assert said.endswith(f"worker 1 is through; worker 0 writes {report}\n")
    assert_as_program_alone(report, program_alone)
    assert not list(tmp_path.glob("report.worker-*"))


@pytest.mark.slow
@pytest.mark.parametrize("replicas", [2, 4])
def test_replicas_report_what_one_device_reports(tmp_path, program_alone, replicas):
    report = tmp_path / "report.json"
    ended(start(report, "--strategy=mirrored", f"--logical_cpus={replicas}"))
    assert_as_program_alone(report, program_alone)
