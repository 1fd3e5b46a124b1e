"""In a store one process at a time has a lock, and none keeps it after its death."""

import contextlib
import pathlib
import threading
import time

import pytest

from sat_tf.runs import lease, places

REAL = {name: getattr(lease, name) for name in ("RENEWAL", "EXPIRY", "SETTLING", "_LOOK")}
LOCK = pathlib.PurePosixPath("/gs/bucket/run/lock")


@pytest.fixture(autouse=True)
def objects(monkeypatch):
    """A store that is a dictionary, and leases of less than a second."""
    found = {}

    def read(place):
        if place not in found:
            raise FileNotFoundError(str(place))
        return found[place]

    monkeypatch.setattr(places, "read", read)
    monkeypatch.setattr(places, "write", found.__setitem__)
    monkeypatch.setattr(places, "remove", found.pop)
    for name, seconds in {"RENEWAL": 0.02, "EXPIRY": 5.0, "SETTLING": 0.02, "_LOOK": 0.01}.items():
        monkeypatch.setattr(lease, name, seconds)
    return found


def test_who_finds_an_owner_alive_is_refused_and_told_who_it_is(objects, capsys):
    with lease.held(LOCK, "no"):
        first = objects[LOCK]
        with pytest.raises(ValueError, match=r"^no \(.*, process \d+\)$"):
            lease.held(LOCK, "no").__enter__()
        assert objects[LOCK] != first and len(objects[LOCK]) == len(first)
        assert "still holds /gs/bucket/run/lock\n" in capsys.readouterr().err
        with lease.held(LOCK.with_name("report.lock"), "no"):
            pass
    assert objects == {}
    with lease.held(LOCK, "no"):
        pass


def test_an_owner_has_time_for_several_renewals_and_who_waits_for_several_looks():
    assert 3 * REAL["RENEWAL"] < REAL["EXPIRY"] and 3 * REAL["_LOOK"] < REAL["RENEWAL"]
    assert 0 < REAL["SETTLING"] < REAL["RENEWAL"]


def test_one_that_is_stopped_while_it_looks_again_leaves_none(objects, monkeypatch):
    def stopped(seconds):
        assert LOCK in objects
        raise KeyboardInterrupt

    monkeypatch.setattr(lease.time, "sleep", stopped)
    with pytest.raises(KeyboardInterrupt), lease.held(LOCK, "no"):
        pass
    assert objects == {}


def test_a_lock_that_was_removed_is_said_to_be(objects):
    with lease.held(LOCK, "no"):
        objects.clear()
        with pytest.raises(OSError, match="has been removed, so another may write"):
            lease.require(LOCK.with_name("network.keras"))


def test_a_dead_owners_is_taken_over_once_it_has_expired(objects, monkeypatch):
    monkeypatch.setattr(lease, "EXPIRY", 0.2)
    objects[LOCK] = b"old, process 1 (0) 000000007\n"
    began = time.monotonic()
    with lease.held(LOCK, "no"):
        assert time.monotonic() - began > lease.EXPIRY
        assert b"old" not in objects[LOCK]


def test_one_that_is_given_back_meanwhile_is_taken_at_once(objects):
    objects[LOCK] = b"old, process 1 (0) 000000007\n"
    threading.Timer(0.05, objects.pop, [LOCK]).start()
    began = time.monotonic()
    with lease.held(LOCK, "no"):
        assert time.monotonic() - began < lease.EXPIRY


def test_of_several_that_begin_at_once_one_has_it(monkeypatch):
    monkeypatch.setattr(lease, "SETTLING", 0.5)  # longer than a thread waits for a core
    start, entered, refused = threading.Barrier(4), [], []
    over = threading.Event()

    def begin():
        start.wait()
        try:
            with lease.held(LOCK, "no"):
                entered.append(1)
                over.wait()
        except ValueError:
            refused.append(1)

    threads = [threading.Thread(target=begin) for _ in range(4)]
    for thread in threads:
        thread.start()
    while len(entered) + len(refused) < 4:
        time.sleep(0.01)
    over.set()
    for thread in threads:
        thread.join()
    assert (len(entered), len(refused)) == (1, 3)


def test_who_has_lost_it_writes_nothing_more_beside_it_and_leaves_it(objects, monkeypatch):
    monkeypatch.setattr(lease, "RENEWAL", 60.0)  # as of a process that was stopped
    with contextlib.ExitStack() as stack:
        stack.enter_context(lease.held(LOCK, "no"))
        lease.require(LOCK.parent / "checkpoints" / "step.npz")
        objects[LOCK] = b"new, process 2 (1) 000000001\n"
        for name in ("flags.txt", "checkpoints/step.npz"):
            with pytest.raises(OSError, match="taken over by new, process 2, as this process"):
                lease.require(LOCK.parent / name)
        lease.require(pathlib.PurePosixPath("/gs/bucket/other/step.npz"))
    assert objects[LOCK].startswith(b"new")


def test_a_renewal_does_not_take_back_what_another_has(objects):
    lost = lease.Lease(LOCK)
    lost.take("no")
    objects[LOCK] = b"new, process 2 (1) 000000001\n"
    lost.renew_until(threading.Event())  # which ends by itself
    lost.give_back()
    assert objects[LOCK] == b"new, process 2 (1) 000000001\n"


def test_a_store_that_is_away_for_a_while_is_asked_again(objects, monkeypatch):
    with lease.held(LOCK, "no"):
        write, failed = places.write, []

        def away(*_):
            failed.append(1)
            raise OSError("away")

        monkeypatch.setattr(places, "write", away)
        while len(failed) < 2:
            time.sleep(0.01)
        monkeypatch.setattr(places, "write", write)
        before = objects[LOCK]
        while objects[LOCK] == before:
            time.sleep(0.01)
