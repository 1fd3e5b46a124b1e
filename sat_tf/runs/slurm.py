"""The workers of a SLURM job step, from the variables that `srun` gives to each task."""

import json
import os

import tensorflow as tf

_FIRST_PORT = 10_000
_PORTS_OF_A_JOB = 16  # tasks on a node
_JOBS = 1_250  # with ports of their own on a node, all below those that Linux gives to anyone


def tf_config() -> str:
    """Returns the `TF_CONFIG` of this task: all tasks of the step are workers.

    The names of the nodes are resolved by `tf.distribute.cluster_resolver.SlurmClusterResolver`,
    without its choice of GPUs: SLURM has made that. It sorts the nodes by name, so that node10
    comes before node9 and a task's rank need not be its worker's number: that is the place of its
    own address. Jobs on one node get ports by their number.

    Raises:
      ValueError: this is no task of a job step, or its variables contradict each other.
    """
    try:
        port = _FIRST_PORT + _PORTS_OF_A_JOB * (int(os.environ["SLURM_JOB_ID"]) % _JOBS)
        number = int(os.environ["SLURM_STEP_NUM_TASKS"])
        # On a machine without GPUs it would count them by a program that is not there.
        resolver = tf.distribute.cluster_resolver.SlurmClusterResolver(
            port_base=port, gpus_per_node=number, gpus_per_task=1, auto_set_gpu=False
        )
        addresses = resolver.cluster_spec().job_tasks("worker")
        node, place = os.environ["SLURMD_NODENAME"], int(os.environ["SLURM_LOCALID"])
        index = addresses.index(f"{node}:{port + place}")
    except (KeyError, ValueError, RuntimeError, IndexError) as error:
        raise ValueError(
            "--cluster=slurm reads the variables of a task of SLURM "
            f"({type(error).__name__}: {error}); start every worker by srun, or use "
            "--cluster=tf_config"
        ) from error
    return json.dumps(
        {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": index}}
    )
