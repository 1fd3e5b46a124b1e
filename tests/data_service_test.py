"""A tf.data service makes the training batches that one process makes, on whatever workers."""

import contextlib
import pathlib
import re
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import pytest
import tensorflow as tf

from sat_tf import cli, data
from sat_tf.data import info, service
from tests import data_shards_test as shards

PROGRAM = str(pathlib.Path(__file__).parent.parent / "docs/scaling/data_service.py")
folder, numbers, BATCH = shards.folder, shards.numbers, shards.BATCH


def addresses(count):
    """Returns so many that are free."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("localhost", 0))
        return [f"localhost:{one.getsockname()[1]}" for one in sockets]


class Service:
    """A dispatcher and its workers, each the documented program in a process of its own.

    They are killed in the end: a worker that is stopped waits for up to ten seconds.
    """

    def __init__(self, forked, num_workers, num_started=None, told=True):
        self._forked = forked
        self.dispatcher, *self.workers = addresses(1 + num_workers)
        self.address = f"grpc://{self.dispatcher}"
        self.servers = [self._started("dispatcher", self.dispatcher, *self.workers * told)]
        service._await_dispatcher(self.address, time.monotonic() + service.PATIENCE)
        for number in range(num_workers if num_started is None else num_started):
            self.start(number)

    def start(self, number):
        self.servers.append(self._started("worker", self.workers[number], self.dispatcher))

    def kill(self):
        server = self.servers.pop()
        server.send_signal(signal.SIGKILL)
        server.communicate()

    def _started(self, *order):
        return self._forked.start("docs.scaling.data_service", *order)


@pytest.fixture(scope="module")
def services(forked):
    """Starts services and ends them."""
    started = []
    yield lambda *options, **more: started.append(Service(forked, *options, **more)) or started[-1]
    for one in started:
        while one.servers:
            one.kill()


@pytest.fixture(scope="module")
def two(services):
    return services(2)


@pytest.mark.parametrize("kind, augmentation, start_step, shard", [
    ("digits", "crop_flip", 0, data.WHOLE), ("folder", "inception", 7, data.Shard(1, 2, 2)),
])  # fmt: skip
def test_a_service_of_two_makes_the_batches_of_one_process_from_any_step_on(
    kind, augmentation, start_step, shard, folder, two
):
    def read(data_service):
        batches = data.load(
            "digits" if kind == "digits" else f"folder:{folder}", "train", batch_size=BATCH,
            training=True, seed=3, image_size=8, augment=augmentation, start_step=start_step,
            shard=shard, data_service=data_service,
        )  # fmt: skip
        assert batches.element_spec[0].shape[0] == BATCH // shard.count // shard.replicas
        return shards.elements(batches, 9)  # an epoch of the folder has four steps

    shards.assert_together(read(None), [read(two.address)])


def test_validation_is_read_where_it_is_used():
    options = {"batch_size": 50, "data_service": "grpc://nowhere:1"}
    assert data.load("digits", "validation", **options).cardinality() == 3


def test_records_too_come_in_the_order_that_seed_epoch_and_lanes_decide(numbers, two):
    request = info.Request(BATCH, training=True, seed=5, lanes=4)

    def make(part):
        batches = numbers.training(part).batch(len(part.own), drop_remainder=True)
        return batches.map(lambda place, _, label: (place[:, None], label))

    found = shards.elements(service.distributed(make, two.address, request), 9)
    assert [labels.tolist() for _, labels in found] == shards.oracle(numbers, 5, 3, 4, 3)
    assert np.ravel([places for places, _ in found]).tolist() == list(range(9 * BATCH))


def test_a_worker_that_is_started_again_ends_the_stream(services):
    own = services(2)
    options = {"batch_size": BATCH, "training": True, "data_service": own.address}
    stream = iter(data.load("digits", "train", start_step=7, **options))
    next(stream)
    own.kill()
    own.start(1)
    said = "a worker of the data service was lost or started again: start the run again"
    with pytest.raises(tf.errors.InvalidArgumentError, match=said):
        for _ in range(100):
            next(stream)


@pytest.mark.slow
def test_a_worker_that_stays_away_is_named_and_ends_the_stream(services, monkeypatch, capsys):
    own = services(2)
    options = {"batch_size": BATCH, "training": True, "data_service": own.address}
    stream = iter(data.load("digits", "train", **options))
    next(stream)
    monkeypatch.setattr(service, "SILENCE", 3.0)
    monkeypatch.setattr(service, "SAY_EVERY", 1.0)
    own.kill()
    name = f"worker 1 (of 2, from 0) of the data service {own.address}"
    said = f"{name} has sent nothing for 3 seconds: start it again, then the run"
    with pytest.raises(tf.errors.InvalidArgumentError, match=re.escape(said)) as error:
        for _ in range(100):
            next(stream)
    assert "\n" not in cli._for_user(error.value)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) > 1 and all(line.startswith(f"waiting for {name}: ") for line in lines)


@pytest.mark.slow
def test_a_run_fed_by_a_service_ends_with_the_weights_of_one_that_feeds_itself(tmp_path, forked):
    dispatcher, *workers = addresses(3)
    orders = [["dispatcher", dispatcher, *workers]]
    orders += [["worker", worker, dispatcher] for worker in workers]
    servers = [subprocess.Popen([sys.executable, PROGRAM, *order]) for order in orders]
    flags = ["--model=resnet8", "--epochs=1", "--threads=1", "--picture_grid=0"]
    flags += ["--validation_steps=1", "--test_steps=0"]
    states = []
    try:
        for more in ([], [f"--data_service=grpc://{dispatcher}"]):
            workdir = tmp_path / f"run{len(more)}"
            status, _, err = forked.run("sat_tf.train", f"--workdir={workdir}", *flags, *more)
            assert status == 0, err
            (file,) = (workdir / "checkpoints").iterdir()
            with np.load(file) as arrays:
                states.append({name: arrays[name] for name in arrays.files})
    finally:
        for server in servers:
            server.kill()
            server.wait()
    assert states[0].keys() == states[1].keys()
    for name in states[0].keys() - {"record.json"}:
        np.testing.assert_array_equal(states[0][name], states[1][name], name)
    gone = ["--workdir", tmp_path / "none", f"--data_service=grpc://{dispatcher}"]
    status, _, err = forked.run("sat_tf.train", *flags, *gone)
    assert status == 2 and "no dispatcher of a data service answers" in err.splitlines()[-1]
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize("fraction, shard", [
    (0.9, data.Shard(1, 2)), pytest.param(0.3, data.WHOLE, marks=pytest.mark.slow),
])  # fmt: skip
def test_extra_images_join_what_a_service_makes_as_they_join_what_one_process_makes(
    fraction, shard, two, tmp_path, monkeypatch
):
    asked, distributed = [], data.service.distributed
    monkeypatch.setattr(
        data.service, "distributed", lambda *given: asked.append(given[1]) or distributed(*given)
    )
    more = np.random.default_rng(0).integers(0, 256, (50, 8, 8, 1), np.uint8)
    np.savez(tmp_path / "more.npz", image=more, label=np.arange(50) % 10)

    def read(data_service):
        batches = data.load(
            "digits", "train", batch_size=BATCH, training=True, seed=3, start_step=2, shard=shard,
            augment="crop+random_erasing", mixup=0.2, extra_data=str(tmp_path / "more.npz"),
            extra_fraction=fraction, data_service=data_service,
        )  # fmt: skip
        return shards.elements(batches, 6)

    shards.assert_together(read(None), [read(two.address)])
    assert asked == [two.address]


def test_a_batch_that_the_workers_do_not_divide_is_refused_with_what_they_do(two):
    options = {"training": True, "data_service": two.address}
    for batch, shard, replicas, said in ((15, data.WHOLE, 1, 2), (20, data.Shard(0, 2, 2), 4, 8)):
        said = f"{batch} .* 2 workers .* and {replicas} replicas; .* a multiple of {said}, or"
        with pytest.raises(ValueError, match=said):
            data.load("digits", "train", batch_size=batch, shard=shard, **options)


@pytest.mark.parametrize("address, said", [
    ("localhost:5050", "'localhost:5050' is no address; write grpc://host:port"),
    ("grpc://localhost", "'grpc://localhost' is no address"),
    ("grpc://no-such-host.invalid:1", "no dispatcher .* grpc://no-such-host.invalid:1 .* start it"),
    ("grpc://localhost:65536", "is no address"),
])  # fmt: skip
def test_an_address_of_no_service_is_refused(address, said):
    with pytest.raises((ValueError, ConnectionError), match=said):
        service.num_workers(address)


def test_who_is_not_there_in_time_is_told(services, monkeypatch):
    none, one = services(2, 0), services(2, 1)
    for address, patience, said in (
        (*addresses(1), 0.5, r"no dispatcher of a data service answers .*refused.*; start it"),
        (none.dispatcher, 0.5, "none came within 0.5 seconds; start all of them"),
        (one.dispatcher, 6.0, "1 of 2 came within 6 seconds"),
    ):
        monkeypatch.setattr(service, "PATIENCE", patience)
        with pytest.raises(ConnectionError, match=said):
            service.num_workers(f"grpc://{address}")


def test_a_dispatcher_that_was_not_told_its_workers_is_refused(services):
    with pytest.raises(ValueError, match="shares out no data .* with the addresses of all"):
        service.num_workers(services(1, told=False).address)
