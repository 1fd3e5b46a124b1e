"""Where and how a run goes."""

from absl import flags

flags.DEFINE_string(
    "workdir", None, "Directory that holds the whole state of the run; default: runs/DATASET."
)
flags.DEFINE_bool("overwrite", False, "Delete what the workdir holds and start again.")
flags.DEFINE_integer("seed", 0, "Seed of weights, order, augmentation and attacks.")
flags.DEFINE_string("strategy", "one_device", "one_device, mirrored, tpu or multi_worker.")
flags.DEFINE_integer(
    "logical_cpus", 1, "Logical devices the CPU is split into, for mirrored.", lower_bound=1
)
flags.DEFINE_integer(
    "threads", 0, "Threads of a CPU operation; 0: as many as there are cores.", lower_bound=0
)
flags.DEFINE_enum(
    "precision", "float32", ["float32", "mixed_bfloat16", "mixed_float16"], "Keras dtype policy."
)
flags.DEFINE_bool("deterministic", True, "Deterministic operations: the same run bit for bit.")
flags.DEFINE_bool("jit_compile", False, "Compile the step with XLA; slower on a CPU.")
flags.DEFINE_integer(
    "checkpoint_every", 0, "Steps between checkpoints; 0: one each epoch.", lower_bound=0
)
flags.DEFINE_integer(
    "picture_grid", 8, "Images in TensorBoard's picture grid; 0: no grid.", lower_bound=0
)
flags.DEFINE_integer(
    "test_steps", 20, "PGD steps of the test after training; 0: none.", lower_bound=0
)
