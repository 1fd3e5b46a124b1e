"""Distribution strategies by name."""

import functools

import tensorflow as tf

NAMES = ("one_device", "mirrored", "tpu", "multi_worker")


@functools.cache
def strategy(name: str) -> tf.distribute.Strategy:
    """Makes a strategy; a process has one of each name.

    Two strategies over the same devices would number their collective operations alike, and
    TensorFlow then refuses the second one's: "Shape mismatch in the collective instance".

    - one_device: the first GPU, else the CPU;
    - mirrored: all GPUs of this machine, else all its logical CPUs;
    - tpu: the TPU that this machine is attached to (`TPU_NAME`, or "local");
    - multi_worker: the workers of the environment variable TF_CONFIG. Call it before any other
      TensorFlow operation.

    Raises:
      ValueError: an unknown name, with the list; no TPU found.
    """
    if name == "one_device":
        device = "/gpu:0" if tf.config.list_logical_devices("GPU") else "/cpu:0"
        return tf.distribute.OneDeviceStrategy(device)
    if name == "mirrored":
        kind = "GPU" if tf.config.list_logical_devices("GPU") else "CPU"
        return tf.distribute.MirroredStrategy(
            [device.name for device in tf.config.list_logical_devices(kind)]
        )
    if name == "tpu":
        return tf.distribute.TPUStrategy(_connect_to_tpu())
    if name == "multi_worker":
        return tf.distribute.MultiWorkerMirroredStrategy()
    raise ValueError(f"strategy {name!r} is unknown; use one of: {', '.join(NAMES)}")


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
