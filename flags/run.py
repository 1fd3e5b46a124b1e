"""Where and how a run goes."""

from absl import flags

from flags import numbers


def define() -> None:
    """Defines the flags; only a program calls it."""
    flags.DEFINE_string(
        "workdir",
        None,
        "The whole state of the run: a directory, or gs://BUCKET/RUN; default: runs/DATASET.",
    )
    flags.DEFINE_bool("overwrite", False, "Delete what the workdir holds and start again.")
    numbers.whole("seed", 0, "Seed of weights, order, augmentation and attacks.", 0)
    flags.DEFINE_string("strategy", "one_device", "one_device, mirrored, tpu or multi_worker.")
    flags.DEFINE_string(
        "cluster", "tf_config", "Where multi_worker finds the workers: tf_config or slurm."
    )
    numbers.real(
        "worker_timeout", 600.0, "Seconds that workers wait for each other to start.", 0.0, 86_400.0
    )
    numbers.whole("logical_cpus", 1, "Logical devices the CPU is split into, for mirrored.", 1, 64)
    numbers.whole(
        "threads", 0, "Threads of a CPU operation; 0: as many as there are cores.", 0, 1_024
    )
    flags.DEFINE_enum(
        "precision",
        "float32",
        ["float32", "mixed_bfloat16", "mixed_float16"],
        "Keras dtype policy.",
    )
    flags.DEFINE_bool("deterministic", True, "Deterministic operations: the same run bit for bit.")
    flags.DEFINE_bool("jit_compile", False, "Compile the step with XLA; slower on a CPU.")
    flags.DEFINE_bool(
        "remat",
        False,
        "Rematerialization: gradients compute the inside of a network's blocks again instead of "
        "keeping it, for less memory and one more forward pass.",
    )
    numbers.whole(
        "steps_per_execution",
        1,
        "Steps that the device does at a time; progress, checkpoints and signals wait for them. It "
        "must divide the steps of an epoch; another number may round the last bits otherwise.",
        1,
    )
    numbers.span("profile", "Steps that TensorBoard's profiler records, from 1 on: first,last.")
    numbers.whole("checkpoint_every", 0, "Steps between checkpoints; 0: one each epoch.", 0)
    numbers.whole("picture_grid", 8, "Images in TensorBoard's picture grid; 0: no grid.", 0, 64)
    numbers.whole("test_steps", 20, "PGD steps of the test after training; 0: none.", 0, 10_000)
