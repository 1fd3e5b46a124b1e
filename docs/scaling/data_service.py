"""Starts the dispatcher or a worker of a tf.data service; needs TensorFlow and nothing else.

python data_service.py dispatcher 5050 first:5051 second:5051    all workers, by name and port
python data_service.py worker first:5051 dispatching:5050        its own address, the dispatcher's
"""

import sys

import tensorflow as tf

service = tf.data.experimental.service


def start(role: str, own: str, *others: str):
    """Starts a server, which serves for as long as it is kept."""
    port = int(own.rpartition(":")[2])
    if role == "dispatcher":
        return service.DispatchServer(service.DispatcherConfig(port, worker_addresses=others))
    (dispatcher,) = others
    return service.WorkerServer(service.WorkerConfig(dispatcher, worker_address=own, port=port))


if __name__ == "__main__":
    start(*sys.argv[1:]).join()
