"""Workers meet, or say who is missing."""

import socket
import threading
import time
import types

import pytest

from sat_tf.runs import meeting


def addresses_of(count):
    sockets = [socket.create_server(("localhost", 0)) for _ in range(count)]
    found = [f"localhost:{one.getsockname()[1]}" for one in sockets]
    for one in sockets:
        one.close()
    return found


def arrive(addresses, index, settings=("--seed=0",), timeout=20.0, say_every=30.0):
    """Starts a worker in a thread; returns the thread and the list that its end goes to."""
    ends = []

    def run():
        try:
            ends.append(meeting.meet(addresses, index, settings, timeout, say_every))
        except (ValueError, ConnectionError) as error:
            ends.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    return thread, ends


def knock(addresses, greeting):
    """Connects to the chief, once it listens."""
    host, port = addresses[0].split(":")
    for _ in range(200):
        try:
            stranger = socket.create_connection((host, int(port)))
        except OSError:
            time.sleep(0.05)
        else:
            stranger.sendall(greeting)
            return stranger
    pytest.fail("the chief does not listen")


def ends_of(*workers):
    for thread, _ in workers:
        thread.join(40)
    return [end for _, ends in workers for end in ends]


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0)])
def test_all_go_once_all_are_here_in_whatever_order_they_come(order):
    addresses, workers = addresses_of(3), []
    for index in order:
        assert not any(ends for _, ends in workers)
        workers.append(arrive(addresses, index))
        time.sleep(0.2)
    assert ends_of(*workers) == [None, None, None]
    # TensorFlow takes the chief's port over at once.
    socket.create_server(("localhost", int(addresses[0].rpartition(":")[2]))).close()


def test_one_worker_waits_for_nobody():
    meeting.meet(addresses_of(1), 0, [], 0.0)


def test_who_is_missing_is_said_and_named_at_the_end(capsys):
    addresses = addresses_of(3)
    chief, other = (arrive(addresses, index, timeout=2, say_every=0.5) for index in (0, 1))
    ends = ends_of(chief, other)
    # The other hears it from the chief, or sees the chief give up first.
    assert all(isinstance(end, ConnectionError) for end in ends)
    assert str(ends[0]).startswith(f"worker 2 ({addresses[2]}) did not come within 2 seconds")
    lines = capsys.readouterr().err.splitlines()
    assert sum(line.startswith(f"waiting for worker 2 ({addresses[2]}): ") for line in lines) >= 2
    assert lines[0].endswith(" of 2 seconds")


def test_who_is_missing_is_said_no_more_often_than_asked(monkeypatch, capsys):
    clock = types.SimpleNamespace(now=0.0)

    def sleep(seconds):
        clock.now += seconds

    told = types.SimpleNamespace(monotonic=lambda: clock.now, sleep=sleep)
    monkeypatch.setattr(meeting, "time", told)
    with pytest.raises(ConnectionError, match="within 100 seconds"):
        meeting.meet(addresses_of(2), 1, [], 100.0, 30.0)
    said = [line.rpartition(": ")[2] for line in capsys.readouterr().err.splitlines()]
    assert said == [f"{seconds} of 100 seconds" for seconds in (30, 60, 90)]


def test_a_missing_chief_is_named():
    addresses = addresses_of(2)
    with pytest.raises(ConnectionError, match=rf"worker 0 \({addresses[0]}\) did not come"):
        meeting.meet(addresses, 1, [], 0.5)


def test_a_worker_that_ends_while_it_waits_is_missing_again():
    addresses = addresses_of(3)
    chief = arrive(addresses, 0, timeout=2)
    gone = knock(addresses, b'{"index": 1, "settings": ["--seed=0"]}\n')
    assert b"missing" in gone.recv(100)  # the chief has let it in
    gone.close()
    (end,) = ends_of(chief)
    assert f"worker 1 ({addresses[1]}), worker 2 ({addresses[2]}) did not come" in str(end)


def test_whoever_else_knocks_is_no_worker():
    addresses = addresses_of(2)
    chief = arrive(addresses, 0)
    for greeting in (b"GET / HTTP/1.0\r\n\r\n", b"[]\n", b'{"index": 7, "settings": []}\n'):
        knock(addresses, greeting).close()
    assert ends_of(chief, arrive(addresses, 1)) == [None, None]


def test_flags_that_differ_are_named_to_all():
    addresses = addresses_of(2)
    ours, theirs = ["--epsilon=8", "--seed=0"], ["--ema_decay=0.9", "--epsilon=8", "--seed=1"]
    ends = ends_of(arrive(addresses, 0, ours), arrive(addresses, 1, theirs))
    for end in ends:
        assert isinstance(end, ValueError)
        assert "worker 1 has --ema_decay=0.9 --seed=1 where worker 0 has --seed=0;" in str(end)


@pytest.mark.parametrize("index", [0, 1])
def test_a_port_that_is_taken_is_refused_by_whose_it_is(index):
    with socket.create_server(("", 0)) as taken:
        addresses = ["localhost:1", "localhost:2"]
        addresses[index] = f"localhost:{taken.getsockname()[1]}"
        with pytest.raises(ConnectionError, match=f"worker {index} cannot listen on port"):
            meeting.meet(addresses, index, [], 1.0)


@pytest.mark.parametrize(
    "other, said",
    [
        ("localhost", "'localhost' in TF_CONFIG is no address"),
        ("localhost:65536", "'localhost:65536' in TF_CONFIG is no address"),
        ("localhost:1", "names a worker twice: localhost:1, localhost:1; give each its own"),
    ],
)
def test_an_address_that_is_none_or_stands_twice_is_refused(other, said):
    with pytest.raises(ValueError, match=said):
        meeting.meet(["localhost:1", other], 0, [], 1.0)
    assert meeting._pair("[::1]:65535") == ("::1", 65535)
