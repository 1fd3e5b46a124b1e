"""Workers of a SLURM job step find each other; the variables are such as SLURM sets."""

import json

import pytest

from sat_tf.runs import distribution, slurm

NAMES = ("JOB_ID", "PROCID", "LOCALID", "STEP_NUM_TASKS", "STEP_NODELIST", "STEP_TASKS_PER_NODE")


@pytest.fixture
def task(monkeypatch):
    """Sets what SLURM tells a task of a step."""
    for name in ("SLURMD_NODENAME", "TF_CONFIG", *(f"SLURM_{name}" for name in NAMES)):
        monkeypatch.delenv(name, raising=False)

    def of(rank, node, place, nodes, tasks_per_node, number, job=70_003):
        values = (job, rank, place, number, nodes, tasks_per_node)
        for name, value in zip(NAMES, values, strict=True):
            monkeypatch.setenv(f"SLURM_{name}", str(value))
        monkeypatch.setenv("SLURMD_NODENAME", node)

    return of


def found(name="slurm"):
    distribution.find_cluster(name, "multi_worker")
    return distribution.cluster()


def test_every_task_is_the_worker_at_its_own_address(task):
    # SLURM counts its ranks through node9 first; by name node10 is the first.
    places = [("node9", 0), ("node9", 1), ("node10", 0)]
    seen = {}
    for rank, (node, place) in enumerate(places):
        task(rank, node, place, "node[9-10]", "2,1", 3)
        addresses, index = found()
        host, _, port = addresses[index].partition(":")
        assert host == node and len(set(addresses)) == 3
        seen[index] = (tuple(addresses), int(port) - place)
    assert sorted(seen) == [0, 1, 2] and len(set(seen.values())) == 1


def test_jobs_that_follow_each_other_have_ports_of_their_own(task):
    ports = []
    for job in range(500, 503):
        task(0, "a1", 0, "a1", "16", 16, job)
        ports += [
            int(one.partition(":")[2]) for one in json.loads(slurm.tf_config())["cluster"]["worker"]
        ]
    assert len(set(ports)) == 48 and min(ports) > 1_024 and max(ports) < 32_768


def test_outside_of_a_step_it_is_said_what_is_missing(task, monkeypatch):
    with pytest.raises(ValueError, match="KeyError: 'SLURM_JOB_ID'.*start every worker by srun"):
        found()
    task(0, "a1", 0, "b[1-2]", "1(x2)", 2)
    with pytest.raises(ValueError, match="a1:.* is not in list.*start every worker by srun"):
        found()
    monkeypatch.delenv("SLURM_STEP_NODELIST")
    with pytest.raises(ValueError, match="SLURM_STEP_NODELIST not found.*by srun"):
        found()


def test_an_unknown_cluster_lists_the_valid_ones_and_others_strategies_have_none(task):
    with pytest.raises(ValueError, match="--cluster is 'pbs'; use one of: tf_config, slurm"):
        found("pbs")
    with pytest.raises(ValueError, match="the strategy is mirrored; give both or neither"):
        distribution.find_cluster("slurm", "mirrored")
    distribution.find_cluster("tf_config", "mirrored")
