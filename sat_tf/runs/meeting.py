"""Workers meet before TensorFlow starts, which waits for absent ones without a word or an end."""

import json
import select
import socket
import sys
import time
from collections.abc import Sequence

_LOOK = 0.5  # seconds between two looks at who is there
_ANSWER = 5.0  # seconds that a connected process has to say who it is, or to leave


def meet(
    addresses: Sequence[str],
    index: int,
    settings: Sequence[str],
    timeout: float,
    say_every: float = 30.0,
) -> None:
    """Returns once all workers are here with the same settings.

    Worker 0 listens on its own address, which TensorFlow takes over afterwards; the others connect
    to it, and it lets all of them go at once. Meanwhile stderr says who is missing.

    Args:
      addresses: "host:port" of each worker.
      index: of this worker.
      settings: a line for each flag that all must agree on, such as "--epsilon=8".
      timeout: seconds to wait for the others.
      say_every: seconds between two lines about who is missing.

    Raises:
      ValueError: a worker has other settings, which are named, or an address is no "host:port" or
        stands twice.
      ConnectionError: not all came in time; who is missing is named. This worker's port is taken.
    """
    start = said = time.monotonic()
    pairs = [_pair(address) for address in addresses]
    if len(set(pairs)) < len(pairs):
        raise ValueError(
            f"TF_CONFIG names a worker twice: {', '.join(addresses)}; give each its own host:port"
        )
    party = (_Chief if index == 0 else _Follower)(pairs, index, list(settings))
    try:
        while missing := party.missing():
            now = time.monotonic()
            names = ", ".join(f"worker {one} ({addresses[one]})" for one in missing)
            if now - start > timeout:
                raise ConnectionError(
                    f"{names} did not come within {timeout:g} seconds; start all workers, or give "
                    "a longer --worker_timeout"
                )
            if now - said >= say_every:
                said = now
                waited = f"{now - start:.0f} of {timeout:g} seconds"
                print(f"waiting for {names}: {waited}", file=sys.stderr, flush=True)
        problem = party.part()
    finally:
        party.close()
    if problem:
        raise ValueError(
            f"the workers differ in their flags: {problem}; start them with the same ones"
        )


class _Chief:
    """Worker 0: knows who is there."""

    def __init__(self, addresses, index, settings):
        self._settings, self._others = settings, range(1, len(addresses))
        self._here: dict[int, tuple[socket.socket, list[str]]] = {}
        self._listener = _listening(index, addresses[index][1])

    def missing(self):
        """Lets in who is at the door; returns who is not here, and tells it to who is."""
        if _readable(self._listener, _LOOK):
            connection, _ = self._listener.accept()
            hello = _receive(connection, _ANSWER)
            if hello and hello.get("index") in self._others:
                self._leave(hello["index"])  # it was here and has been started again
                self._here[hello["index"]] = connection, hello["settings"]
            else:
                connection.close()
        for index, (connection, _) in list(self._here.items()):
            if _receive(connection, 0.0) is None:  # it has ended meanwhile
                self._leave(index)
        missing = [one for one in self._others if one not in self._here]
        if missing:
            self._tell({"missing": missing})
        return missing

    def part(self):
        """Lets all go; returns how their settings differ, if they do."""
        problems = [
            f"worker {index} has {_some(theirs, self._settings)} where worker 0 has "
            f"{_some(self._settings, theirs)}"
            for index, (_, theirs) in sorted(self._here.items())
            if set(theirs) != set(self._settings)
        ]
        self._tell({"missing": [], "problem": "; ".join(problems)})
        for connection, _ in self._here.values():
            _receive(connection, _ANSWER)  # that it leaves first: the port is free at once then
        return "; ".join(problems)

    def close(self):
        self._listener.close()
        for index in list(self._here):
            self._leave(index)

    def _leave(self, index):
        connection, _ = self._here.pop(index, (None, None))
        if connection is not None:
            connection.close()

    def _tell(self, message):
        for connection, _ in self._here.values():
            _send(connection, message)


class _Follower:
    """Another worker: knows what the chief tells it."""

    def __init__(self, addresses, index, settings):
        # TensorFlow will need the port; without it, it would leave the others waiting.
        _listening(index, addresses[index][1]).close()
        self._address, self._hello = addresses[0], {"index": index, "settings": settings}
        self._connection, self._problem = None, ""

    def missing(self):
        """Returns who is not here, as far as it is known: the chief, or whom the chief misses."""
        if self._connection is None:
            try:
                self._connection = socket.create_connection(self._address, timeout=_ANSWER)
            except OSError:
                time.sleep(_LOOK)
                return [0]
            _send(self._connection, self._hello)
        message = _receive(self._connection, _ANSWER)
        if not message:  # no chief of ours, or one that has ended
            self.close()
            time.sleep(_LOOK)
            return [0]
        self._problem = message.get("problem", "")
        return message["missing"]

    def part(self):
        return self._problem

    def close(self):
        if self._connection is not None:
            self._connection.close()
            self._connection = None


def _listening(index, port):
    try:
        return socket.create_server(("", port))
    except OSError as error:
        raise ConnectionError(
            f"worker {index} cannot listen on port {port} ({error.strerror}); end what does, or "
            "name another port in TF_CONFIG"
        ) from error


def _pair(address):
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 2**16:
        raise ValueError(f"{address!r} in TF_CONFIG is no address; write such as localhost:12345")
    return host.strip("[]"), int(port)


def _some(lines, others):
    return " ".join(sorted(set(lines) - set(others))) or "none of these"


def _readable(connection, seconds):
    return bool(select.select([connection], [], [], seconds)[0])


def _send(connection, message):
    try:
        connection.sendall(json.dumps(message).encode() + b"\n")
    except OSError:
        pass  # it has ended, which the next look finds


def _receive(connection, seconds):
    """Returns the next message, {} where none comes in time, None where the other has ended."""
    if not _readable(connection, seconds):
        return {}
    line = b""
    try:
        connection.settimeout(_ANSWER)
        while not line.endswith(b"\n"):
            byte = connection.recv(1)  # no byte of the next message
            if not byte:
                return None
            line += byte
        message = json.loads(line)
    except (OSError, ValueError):
        return None
    return message if isinstance(message, dict) else None
