"""Distribution strategies by name."""

import functools
import json
import os

import tensorflow as tf

from sat_tf.runs import slurm

NAMES = ("one_device", "mirrored", "tpu", "multi_worker")
CLUSTERS = ("tf_config", "slurm")
_TF_CONFIG_NEEDED = (
    "multi_worker finds no other workers in the environment variable TF_CONFIG ({}); give every "
    'process {{"cluster": {{"worker": ["host:port", "host:port"]}}, "task": {{"type": "worker", '
    '"index": 0}}}} with its own index'
)


@functools.cache
def strategy(name: str) -> tf.distribute.Strategy:
    """Makes a strategy; a process has one of each name.

    Two strategies over the same devices would number their collective operations alike, and
    TensorFlow then refuses the second one's: "Shape mismatch in the collective instance".

    - one_device: the first GPU, else the CPU;
    - mirrored: all GPUs of this machine, else all its logical CPUs;
    - tpu: the TPU that this machine is attached to (`TPU_NAME`, or "local");
    - multi_worker: the workers of the environment variable TF_CONFIG, which are waited for. Call
      it before any other TensorFlow operation.

    Raises:
      ValueError: an unknown name, with the list; no TPU found; no TF_CONFIG, or a wrong one.
    """
    if name == "one_device":
        device = "/gpu:0" if tf.config.list_logical_devices("GPU") else "/cpu:0"
        return tf.distribute.OneDeviceStrategy(device)
    if name == "mirrored":
        return tf.distribute.MirroredStrategy(devices_here())
    if name == "tpu":
        return tf.distribute.TPUStrategy(_connect_to_tpu())
    if name == "multi_worker":
        return _join_workers()
    raise ValueError(f"--strategy is {name!r}; use one of: {', '.join(NAMES)}")


def devices_here() -> list[str]:
    """Names all GPUs of this machine, where it has none all its logical CPUs."""
    kind = "GPU" if tf.config.list_logical_devices("GPU") else "CPU"
    return [device.name for device in tf.config.list_logical_devices(kind)]


def has_workers(strategy: tf.distribute.Strategy) -> bool:
    """Tells if other processes train along with this one."""
    workers = isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy)
    return workers and strategy.num_replicas_in_sync > len(strategy.extended.worker_devices)


def is_chief(strategy: tf.distribute.Strategy) -> bool:
    """Tells if this process is the one that writes to disk."""
    return strategy.extended.should_checkpoint


def of_all(strategy: tf.distribute.Strategy, number: int) -> list[int]:
    """Waits until all workers are here; returns the number that each of them gave, in order."""
    if not has_workers(strategy):
        return [number]
    numbers = _gathered(strategy)(tf.constant([number], tf.int64)).numpy()
    return numbers[:: len(strategy.extended.worker_devices)].tolist()  # every replica gave one


def agree(strategy: tf.distribute.Strategy, number: int, what: str) -> None:
    """Waits until all workers are here.

    Raises:
      ValueError: they differ in the number, called `what`.
    """
    numbers = of_all(strategy, number)
    if len(set(numbers)) > 1:
        raise ValueError(
            f"the workers differ in {what}: {', '.join(map(str, numbers))}; start them with the "
            "same flags, and a workdir that all of them see"
        )


@functools.cache
def _gathered(strategy):
    """Returns a function of this worker's number [1]; it is asked at every step: traced once."""

    @tf.function(autograph=False, input_signature=[tf.TensorSpec([1], tf.int64)])
    def gathered(number):
        return strategy.gather(strategy.run(lambda: tf.identity(number)), axis=0)

    return gathered


def overflow_everywhere(gradients: list[tf.Tensor | None]) -> list[tf.Tensor | None]:
    """Makes gradients NaN on all replicas where those of any are not finite.

    Call it on a replica. Keras's loss scaling asks one replica if float16 has overflowed, before
    the gradients are summed: the others' infinities would become weights, and several workers would
    wait for each other.
    """
    context = tf.distribute.get_replica_context()
    if context.num_replicas_in_sync == 1:
        return gradients
    finite = [tf.reduce_all(tf.math.is_finite(g)) for g in gradients if g is not None]
    overflowed = tf.cast(tf.logical_not(tf.reduce_all(tf.stack(finite))), tf.float32)
    overflowed = context.all_reduce(tf.distribute.ReduceOp.SUM, overflowed) > 0
    return [None if g is None else tf.where(overflowed, float("nan"), g) for g in gradients]


def split_cpu(num_devices: int) -> None:
    """Makes this process see its CPU as several logical devices, to try `mirrored` anywhere.

    Raises:
      ValueError: num_devices below 1, or TensorFlow has already started.
    """
    if num_devices < 1:
        raise ValueError(f"the number of logical CPUs is {num_devices}; give at least 1")
    cpu = tf.config.list_physical_devices("CPU")[0]
    try:
        tf.config.set_logical_device_configuration(
            cpu, [tf.config.LogicalDeviceConfiguration()] * num_devices
        )
    except RuntimeError as error:
        raise ValueError(f"the CPU cannot be split any more: {error}") from error


def _connect_to_tpu():
    try:
        resolver = tf.distribute.cluster_resolver.TPUClusterResolver.connect()
    except (ValueError, tf.errors.OpError, OSError) as error:
        raise ValueError(
            f"no TPU was found ({error}); set TPU_NAME, or use one of: one_device, mirrored"
        ) from error
    return resolver


def find_cluster(name: str, strategy: str) -> None:
    """Sees to it that TF_CONFIG names the workers of `multi_worker`.

    Args:
      name: "tf_config", where whoever starts the workers has set it, or "slurm" (see `slurm`).
      strategy: by name.

    Raises:
      ValueError: an unknown name, with the list; one that the strategy has no use for; no task of
        SLURM.
    """
    if name not in CLUSTERS:
        raise ValueError(f"--cluster is {name!r}; use one of: {', '.join(CLUSTERS)}")
    if name == "tf_config":
        return
    if strategy != "multi_worker":
        raise ValueError(
            f"--cluster={name} finds the workers of --strategy=multi_worker, and the strategy is "
            f"{strategy}; give both or neither"
        )
    os.environ["TF_CONFIG"] = slurm.tf_config()


def cluster() -> tuple[list[str], int]:
    """Reads the workers' addresses, "host:port", and this one's index from TF_CONFIG.

    Raises:
      ValueError: it is not there or of another form.
    """
    try:
        config = json.loads(os.environ["TF_CONFIG"])
        addresses, task = config["cluster"]["worker"], config["task"]
        known = task["type"] == "worker" and 0 <= int(task["index"]) < len(addresses)
        others = sorted(config["cluster"].keys() - {"worker"})
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(_TF_CONFIG_NEEDED.format(f"{type(error).__name__}: {error}")) from error
    if others:
        raise ValueError(_TF_CONFIG_NEEDED.format(f"beside workers there is {', '.join(others)}"))
    if not known:
        raise ValueError(_TF_CONFIG_NEEDED.format(f"no worker {task}"))
    return [str(address) for address in addresses], int(task["index"])


def _join_workers():
    addresses, _ = cluster()
    try:
        return tf.distribute.MultiWorkerMirroredStrategy()
    except tf.errors.OpError as error:
        raise ValueError(f"the workers {addresses} do not come together: {error}") from error
