"""Training batches made by the workers of a tf.data service, in the order of seed and step.

Dispatcher and workers are TensorFlow's (`tf.data.experimental.service`; docs/scaling.md). Of W
workers number w makes part w of W of every batch (`Shard`), by a job of its own that leaves the
others nothing to do, and the parts are joined: the batch is the one of no service, bit for bit. The
service itself keeps no order: with "dynamic" sharding work goes to who asks first, with "off" every
worker makes every batch, and coordinated reads leave out a worker that takes over 0.1 seconds.

What that costs: a batch waits for the slowest worker; W must divide the batch and is fixed when the
dispatcher starts; a worker that is lost, started again or silent for `SILENCE` seconds ends the
run, which goes on from its last checkpoint by the same command. Pixels travel as float32, without
compression. Of record files that are read in fewer lanes than W, a worker reads more than its part,
as any shard does.
"""

import dataclasses
import functools
import itertools
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator

import tensorflow as tf

from sat_tf.data.info import Request, Shard

PATIENCE = 20.0  # seconds in which dispatcher and workers have to answer
SILENCE = 600.0  # seconds that a batch may take
SAY_EVERY = 30.0  # seconds between two lines about what is waited for
_ENDLESS = 2**40


def distributed(
    make: Callable[[Request], tf.data.Dataset], service: str, request: Request
) -> tf.data.Dataset:
    """Reads the stream of a request, as `make(request)` makes it, through a service.

    While a worker sends nothing, stderr says every `SAY_EVERY` seconds which one it is.

    Args:
      make: makes the endless stream (images, labels) of a part of every batch.
      service: "grpc://host:port" of the dispatcher.
      request: what `data.load` was asked for, or the part of it that is not of extra images.

    Raises:
      ValueError: an address of another form; the batch cannot be shared out over the workers.
      ConnectionError: no dispatcher, or not all of its workers, answered in time.
      tf.errors.InvalidArgumentError: while it is read: a worker was lost or started again, sent
        nothing for `SILENCE` seconds, or failed.
    """
    number, start = num_workers(service), request.start_step
    made = {
        f"worker {worker} (of {number}, from 0) of the data service {service}": _made_by(
            worker, make(piece).enumerate(start), service
        )
        for worker, piece in enumerate(_pieces(request, number))
        if piece.own  # of few images beside extra ones a worker may have none
    }
    spec = tuple(part.element_spec[1] for part in made.values())
    read = functools.partial(_in_time, made, start)
    return tf.data.Dataset.from_generator(read, output_signature=spec).map(_joined)


def _pieces(request: Request, number: int) -> list[Request]:
    """Cuts what a request reads of every batch into a part for each worker of the service."""
    shard, own = request.shard, request.own
    if request.part is not None:  # beside extra images, in any number
        borders = [own.start + len(own) * worker // number for worker in range(number + 1)]
        parts = [range(*ends) for ends in itertools.pairwise(borders)]
        return [dataclasses.replace(request, part=part) for part in parts]
    pieces = shard.count * shard.replicas * number
    if request.batch_size % pieces:
        raise ValueError(
            f"a batch of {request.batch_size} cannot be cut into a piece for each of {number} "
            f"workers of the data service and {shard.count * shard.replicas} replicas; make "
            f"--batch_size a multiple of {pieces}, or start another number of workers"
        )
    shards = [
        Shard(shard.index * number + worker, shard.count * number) for worker in range(number)
    ]
    return [dataclasses.replace(request, shard=shard) for shard in shards]


def _made_by(worker, batches, service):
    """Has one of the workers make a stream, and the others an empty one: so it keeps its order."""
    here = _workers().take(1).filter(lambda place: place == worker).repeat()
    made = tf.data.Dataset.zip((here, batches)).map(lambda _, batch: batch).prefetch(2)
    return made.apply(_through(service))


def _in_time(made: dict[str, tf.data.Dataset], start_step: int) -> Iterator[tuple[tuple, ...]]:
    """Reads the parts of one batch after the other, as long as they come, in time and in order.

    TensorFlow itself waits for a worker that is gone without a word or an end.

    Args:
      made: (step, part of its batch) endlessly, by the name of whoever makes it.
      start_step: of the first batch.

    Raises:
      ValueError: a part does not come; in the words of an assertion, as all pipelines refuse.
    """
    iterators: list[Iterator] = []

    def read(found: list) -> None:
        try:
            iterators.extend(map(iter, () if iterators else made.values()))
            for one in iterators:
                found.append(next(one))
        except Exception as error:  # said below, by the thread that waits
            found.append(error)

    for step in itertools.count(start_step):
        found: list = []
        late = _late(threading.Thread(target=read, args=(found,), daemon=True), found, list(made))
        if late:
            said = f"{late} has sent nothing for {SILENCE:g} seconds: start it again, then the run"
        elif isinstance(found[-1], Exception) and not isinstance(found[-1], StopIteration):
            why = getattr(found[-1], "message", str(found[-1])).partition("\n")[0]
            said = f"the data service failed ({why}): start the run again when that is mended"
        elif isinstance(found[-1], StopIteration) or {int(own) for own, _ in found} != {step}:
            said = "a worker of the data service was lost or started again: start the run again"
        else:
            yield tuple(part for _, part in found)
            continue
        raise ValueError(f"assertion failed: [{said}, to go on]")


def _late(reader: threading.Thread, found: list, names: list[str]) -> str | None:
    """Says while a reader reads whose part it waits for; returns who did not send it in time."""
    start = time.monotonic()
    reader.start()
    reader.join(min(SAY_EVERY, SILENCE))
    while reader.is_alive():
        name = names[min(len(found), len(names) - 1)]
        waited = time.monotonic() - start
        if waited >= SILENCE:
            return name
        line = f"waiting for {name}: {waited:.0f} of {SILENCE:g} seconds"
        print(line, file=sys.stderr, flush=True)
        reader.join(min(SAY_EVERY, SILENCE - waited))
    return None


def _joined(*parts):
    """Joins the parts of a batch."""
    return tuple(tf.concat(pieces, 0) for pieces in zip(*parts, strict=True))


@functools.cache
def num_workers(service: str) -> int:
    """Asks a service how many workers it has, once all of them are there.

    Raises:
      ValueError: an address of another form; a dispatcher that was not told its workers.
      ConnectionError: not all answered within `PATIENCE` seconds.
    """
    deadline = time.monotonic() + PATIENCE
    _await_dispatcher(service, deadline)
    seen: list[tf.errors.OpError | list[tuple[int, int]]] = []
    asking = threading.Thread(target=_ask, args=(service, seen, deadline), daemon=True)
    asking.start()  # a service without any worker never answers
    asking.join(max(0.0, deadline - time.monotonic()))
    last = seen[-1] if seen else []
    if isinstance(last, tf.errors.OpError):
        raise ValueError(
            f"the data service {service} shares out no data ({last.message}); start its dispatcher "
            "with the addresses of all its workers"
        ) from last
    if not _complete(last):
        count = f"{len(last)} of {last[0][1]}" if last else "none"
        raise ConnectionError(
            f"of the workers of the data service {service} {count} came within {PATIENCE:g} "
            "seconds; start all of them, or leave --data_service out"
        )
    return len(last)


def _await_dispatcher(service, deadline):
    scheme, _, address = service.partition("://")
    host, _, port = address.rpartition(":")
    if scheme != "grpc" or not host or not port.isdecimal() or int(port) >= 2**16:
        raise ValueError(f"the data service {service!r} is no address; write grpc://host:port")
    while True:
        try:
            return socket.create_connection((host.strip("[]"), int(port)), PATIENCE).close()
        except OSError as error:
            if time.monotonic() > deadline or not isinstance(error, ConnectionRefusedError):
                raise ConnectionError(
                    f"no dispatcher of a data service answers at {service} ({error}); start it "
                    "(docs/scaling.md), or leave --data_service out"
                ) from error
            time.sleep(0.2)


def _ask(service, seen, deadline):
    """Appends [(number of a worker, number of all)] until all are there, or an error."""
    numbers = _workers().batch(2).take(1).apply(_through(service))
    while time.monotonic() < deadline and not (seen and _complete(seen[-1])):
        try:
            seen.append([(first, second - first) for first, second in numbers.as_numpy_iterator()])
        except tf.errors.OpError as error:
            seen.append(error)
            return
        time.sleep(0.5)


def _complete(seen):
    return bool(seen) and sorted(first for first, _ in seen) == list(range(seen[0][1]))


def _workers():
    """Of W workers number w sees w, w + W, w + 2 W, ..."""
    hint = tf.data.experimental.SHARD_HINT  # for which it puts W and w
    return tf.data.Dataset.range(_ENDLESS).shard(hint, hint)


def _through(service):
    kind = tf.data.experimental.service
    return kind.distribute(
        kind.ShardingPolicy.HINT, service, target_workers="ANY", compression=None
    )
