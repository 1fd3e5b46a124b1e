"""Training batches made by the workers of a tf.data service, in the order of seed and step.

Dispatcher and workers are TensorFlow's (`tf.data.experimental.service`; docs/scaling.md). Of W
workers number w makes part w of W of every batch (`Shard`), by a job of its own that leaves the
others nothing to do, and the parts are joined: the batch is the one of no service, bit for bit. The
service itself keeps no order: with "dynamic" sharding work goes to who asks first, with "off" every
worker makes every batch, and coordinated reads leave out a worker that takes over 0.1 seconds.

What that costs: a batch waits for the slowest worker; W must divide the batch and is fixed when the
dispatcher starts; a worker that is lost or started again ends the run, which goes on from its last
checkpoint by the same command. Pixels travel as float32, without compression. Of record files that
are read in fewer lanes than W, a worker reads more than its part, as any shard does.
"""

import functools
import socket
import threading
import time
from collections.abc import Callable

import tensorflow as tf

from sat_tf.data.info import Request, Shard

PATIENCE = 20.0  # seconds in which dispatcher and workers have to answer
_ENDLESS = 2**40


def distributed(
    make: Callable[[Shard], tf.data.Dataset], service: str, request: Request
) -> tf.data.Dataset:
    """Reads the stream of a request, as `make(request.shard)` makes it, through a service.

    Args:
      make: makes the endless stream (images, labels) of a part of every batch.
      service: "grpc://host:port" of the dispatcher.
      request: what `data.load` was asked for.

    Raises:
      ValueError: an address of another form; the batch cannot be shared out over the workers.
      ConnectionError: no dispatcher, or not all of its workers, answered in time.
      tf.errors.InvalidArgumentError: while it is read: a worker was lost, or started again.
    """
    number, shard, start = num_workers(service), request.shard, request.start_step
    pieces = shard.count * shard.replicas * number
    if request.batch_size % pieces:
        raise ValueError(
            f"a batch of {request.batch_size} cannot be cut into a piece for each of {number} "
            f"workers of the data service and {shard.count * shard.replicas} replicas; make "
            f"--batch_size a multiple of {pieces}, or start another number of workers"
        )
    parts = []
    for part in range(number):
        batches = make(Shard(shard.index * number + part, shard.count * number)).enumerate(start)
        parts.append(_made_by(part, batches, service))
    return tf.data.Dataset.zip(tuple(parts)).enumerate(start).map(_joined)


def _made_by(worker, batches, service):
    """Has one of the workers make a stream, and the others an empty one: so it keeps its order."""
    here = _workers().take(1).filter(lambda place: place == worker).repeat()
    made = tf.data.Dataset.zip((here, batches)).map(lambda _, batch: batch).prefetch(2)
    made = made.apply(_through(service))
    # A service that is given up ends the stream, and so would the epoch: this is no step's number.
    specs = made.element_spec[1]
    lost = [tf.zeros([side or 0 for side in spec.shape], spec.dtype) for spec in specs]
    return made.concatenate(tf.data.Dataset.from_tensors((tf.constant(-1, tf.int64), tuple(lost))))


def _joined(step, parts):
    """Joins the parts of a batch, after a look whether they are those of one."""
    steps, batches = zip(*parts, strict=True)
    said = "a worker of the data service was lost or started again: start the run again, to go on"
    right = tf.reduce_all(tf.stack(steps) == step)
    with tf.control_dependencies([tf.debugging.Assert(right, [said])]):
        images, labels = (tf.concat(pieces, 0) for pieces in zip(*batches, strict=True))
    return images, labels


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
