"""Training state survives damage, a full disk and a change of network."""

import errno
import os
import pathlib

import keras
import numpy as np
import pytest

from sat_tf.runs import atomic, checkpoints


def state(scale=1.0, width=4):
    layers = [keras.Input((3,)), keras.layers.Dense(width, name="dense")]
    network = keras.Sequential(layers, name="network")
    network.set_weights([np.full(w.shape, scale, w.dtype) for w in network.get_weights()])
    return network.variables


def test_the_newest_state_and_its_record_come_back(tmp_path):
    checkpoints.save(tmp_path, 5, state(1.0), {"best": None})
    checkpoints.save(tmp_path, 9, state(2.0), {"best": {"epoch": 3}})
    restored = state(0.0)
    assert checkpoints.restore(tmp_path, restored) == (9, {"best": {"epoch": 3}})
    assert all((v.numpy() == 2.0).all() for v in restored)


def test_an_empty_directory_restores_nothing(tmp_path):
    assert checkpoints.restore(tmp_path, state()) is None


def test_only_the_newest_files_are_kept(tmp_path):
    for step in range(5):
        checkpoints.save(tmp_path, step, state(), {}, keep=2)
    assert [path.name for path in sorted(tmp_path.iterdir())] == [
        "step_000000003.npz",
        "step_000000004.npz",
    ]


def test_a_file_of_a_later_step_counts_for_none_of_those_kept(tmp_path):
    for step in (3, 5, 9, 7):  # a run that went back from a damaged 9
        checkpoints.save(tmp_path, step, state(), {}, keep=2)
    steps = [int(path.stem[5:]) for path in sorted(tmp_path.iterdir())]
    assert steps == [5, 7, 9]


@pytest.mark.parametrize("damage", ["truncate", "flip", "empty"])
def test_a_damaged_file_gives_way_to_the_one_before(tmp_path, damage, capsys):
    checkpoints.save(tmp_path, 1, state(1.0), {"n": 1})
    path = checkpoints.save(tmp_path, 2, state(2.0), {"n": 2})
    content = bytearray(path.read_bytes())
    if damage == "truncate":
        content = content[: len(content) // 2]
    elif damage == "flip":
        place = content.index(np.float32(2.0).tobytes() * 4)
        content[place] ^= 1
    else:
        content = b""
    path.write_bytes(content)
    restored = state(0.0)
    assert checkpoints.restore(tmp_path, restored) == (1, {"n": 1})
    assert all((v.numpy() == 1.0).all() for v in restored)
    (warning,) = capsys.readouterr().err.splitlines()
    assert warning.startswith(f"warning: checkpoint {path} is damaged (")


def test_nothing_readable_is_an_error_not_a_fresh_start(tmp_path):
    checkpoints.save(tmp_path, 1, state(), {}).write_bytes(b"gone")
    with pytest.raises(ValueError, match="none of the 1 checkpoints .* --overwrite"):
        checkpoints.restore(tmp_path, state())


def test_what_was_made_a_second_time_in_a_process_takes_the_state_of_the_first(tmp_path):
    def made(scale):
        network = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
        optimizer = keras.optimizers.SGD(0.1, momentum=0.9)
        optimizer.build(network.trainable_variables)
        variables = [*network.variables, *optimizer.variables]
        for variable in variables:
            variable.assign(np.full(variable.shape, scale))
        return variables

    first, second = made(1.0), made(2.0)
    assert {one.path for one in first}.isdisjoint(one.path for one in second)  # as Keras counts
    path = checkpoints.save(tmp_path, 3, first, {})
    assert checkpoints.restore(tmp_path, second) == (3, {})
    assert all(np.all(np.asarray(variable) == 1) for variable in second)
    with np.load(path) as file:
        arrays = dict(file)
    for index, variable in enumerate(first):  # as files of before had it, counters and all
        (name,) = (name for name in arrays if name.startswith(f"{index:05d}:"))
        arrays[f"{index:05d}:{variable.path}"] = arrays.pop(name)
    np.savez(path, **arrays)
    third = made(4.0)
    assert checkpoints.restore(tmp_path, third) == (3, {})
    assert all(np.all(np.asarray(variable) == 1) for variable in third)


def test_another_network_is_refused(tmp_path):
    checkpoints.save(tmp_path, 1, state(), {})
    with pytest.raises(ValueError, match="shape"):
        checkpoints.restore(tmp_path, state(width=5))
    with pytest.raises(ValueError, match="another network or optimiser"):
        checkpoints.restore(tmp_path, state()[:1])


def test_a_full_disk_leaves_the_old_state(tmp_path, monkeypatch):
    checkpoints.save(tmp_path, 1, state(1.0), {})

    def full(path, **arrays):
        pathlib.Path(path).write_bytes(b"a part")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(np, "savez", full)
    with pytest.raises(OSError, match="No space left"):
        checkpoints.save(tmp_path, 2, state(2.0), {})
    assert [path.name for path in tmp_path.iterdir()] == ["step_000000001.npz"]
    restored = state(0.0)
    assert checkpoints.restore(tmp_path, restored) == (1, {})


def test_replacing_is_all_or_nothing(tmp_path):
    path = tmp_path / "file.txt"
    atomic.write_text(path, "old")
    with pytest.raises(RuntimeError), atomic.replacing(path) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_the_data_reach_the_disk_before_the_name_does(tmp_path, monkeypatch):
    done, path = [], tmp_path / "file.txt"
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda number: (done.append("data"), fsync(number)))
    monkeypatch.setattr(os, "replace", lambda *names: (done.append("name"), replace(*names)))
    atomic.write_text(path, "\u00e4")
    assert done == ["data", "name"] and path.read_bytes() == b"\xc3\xa4"
