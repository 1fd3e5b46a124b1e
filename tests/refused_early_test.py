"""What the end of a program would refuse is refused at its beginning."""

import errno
import json
import os
import shutil
import types

import keras
import numpy as np
import pytest
import tensorflow as tf

from export import saved_model
from sat_tf.callbacks import tensorboard
from sat_tf.evaluation.report import artefacts
from sat_tf.runs import atomic, checkpoints


def with_free(monkeypatch, num_bytes):
    def disk_usage(path):
        os.stat(path)  # as the real one: a path that is not there has no disk
        return types.SimpleNamespace(free=num_bytes)

    monkeypatch.setattr(shutil, "disk_usage", disk_usage)


def test_two_evaluations_cannot_write_one_report(tmp_path):
    report = tmp_path / "new" / "report.json"
    with artefacts.reserve(["html"], report):
        with pytest.raises(ValueError, match="another process is evaluating into .*report.json"):
            with artefacts.reserve([], report):
                pass
        with artefacts.reserve([], report.with_name("other.json")):
            pass
    with artefacts.reserve([], report):
        pass
    assert list(report.parent.iterdir()) == []


def test_a_lock_that_a_killed_process_left_is_taken(tmp_path):
    (tmp_path / "report.lock").touch()
    with artefacts.reserve([], tmp_path / "report.json"):
        assert (tmp_path / "report.lock").exists()
    assert not (tmp_path / "report.lock").exists()


def test_a_report_that_cannot_be_written_is_refused(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="cannot write .*file/report.json: .*give another --json"):
        with artefacts.reserve([], tmp_path / "file" / "report.json"):
            pass
    for name in ("report.json", "report.html", "report.images.npz"):
        (tmp_path / name).mkdir()
        with pytest.raises(OSError, match=f"{name}: it is a directory; give another name"):
            with artefacts.reserve(["html", "npz"], tmp_path / "report.json"):
                pass
        (tmp_path / name).rmdir()


@pytest.mark.parametrize("kind", artefacts.KINDS)
def test_a_report_of_one_kind_takes_the_place_of_none_of_another(kind, tmp_path):
    path = tmp_path / "report.json"
    artefacts.refuse_other_kind(path, kind)
    for found in artefacts.KINDS:
        path.write_text(json.dumps({"flags": dict.fromkeys(artefacts.KINDS), found: []}))
        if found == kind:
            artefacts.refuse_other_kind(path, kind)
            continue
        with pytest.raises(ValueError, match=f"is a report of {found} and would become .*{kind};"):
            artefacts.refuse_other_kind(path, kind)
    for text in ("[1]", "{}", "no report"):
        path.write_text(text)
        artefacts.refuse_other_kind(path, kind)


def test_a_device_is_never_replaced_by_a_file(tmp_path):
    pipe = tmp_path / "report.json"
    os.mkfifo(pipe)
    with pytest.raises(OSError, match="report.json: it is a device or pipe; give another name"):
        with artefacts.reserve([], pipe):
            pass
    with pytest.raises(OSError, match="report.json: it is a device or pipe"):
        atomic.write_text(pipe, "{}")
    assert pipe.is_fifo() and list(tmp_path.iterdir()) == [pipe]


def test_what_does_not_fit_on_the_disk_is_refused_with_the_bytes_that_are_missing(
    tmp_path, monkeypatch
):
    with_free(monkeypatch, 1000)
    atomic.require_space(tmp_path / "not" / "there", 1000, "files")
    with pytest.raises(OSError, match="files take about 1,234 bytes and 1,000 are free, 234 too"):
        atomic.require_space(tmp_path / "not" / "there", 1234, "files")


def test_a_run_needs_three_states_and_two_networks_less_what_is_there(tmp_path, monkeypatch):
    state = [keras.Variable(np.zeros(100, np.float32)), keras.Variable(np.zeros(50, np.float32))]
    with_free(monkeypatch, 5 * 600)
    checkpoints.require_space(tmp_path, state)
    with_free(monkeypatch, 5 * 600 - 1)
    with pytest.raises(OSError, match="3,000 bytes and 2,999 are free, 1 too few"):
        checkpoints.require_space(tmp_path, state)
    (tmp_path / "network.keras").write_bytes(b"1")
    checkpoints.require_space(tmp_path, state)


def test_adversarial_images_need_room_once_and_for_each_copy(tmp_path, monkeypatch):
    path, shape = tmp_path / "report.json", (5, 3, 2, 4)
    with_free(monkeypatch, 0)
    artefacts.require_space(["html", "plots"], [path], shape, "float32")
    for names, image_type, needed in (
        (["npz"], "float32", 2 * 480),
        (["html", "npz", "tfrecord"], "float32", 3 * 480),
        (["tfrecord"], "uint8", 2 * 120),
    ):
        with_free(monkeypatch, needed)
        artefacts.require_space(names, [path], shape, image_type)
        with_free(monkeypatch, needed - 1)
        with pytest.raises(OSError, match=f"images take about {needed:,} bytes .*, 1 too few"):
            artefacts.require_space(names, [path], shape, image_type)
        with_free(monkeypatch, 2 * needed - 1)
        with pytest.raises(OSError, match=f"about {2 * needed:,} bytes .*, 1 too few"):
            artefacts.require_space(names, [path, path.with_name("b.json")], shape, image_type)
        with_free(monkeypatch, needed - 1)
    path.with_suffix(".images.npy").write_bytes(b"1")  # of the evaluation that goes on
    artefacts.require_space(names, [path], shape, image_type)
    with pytest.raises(ValueError, match="image_type is 'int8'; use one of: float32, uint8"):
        artefacts.require_space(names, [path], shape, "int8")


def test_an_export_that_does_not_fit_leaves_nothing(tmp_path, monkeypatch):
    inputs = keras.Input((4, 4, 3))
    network = keras.Model(inputs, keras.layers.Dense(3)(keras.layers.Flatten()(inputs)))
    with_free(monkeypatch, 2 * 4 * (48 * 3 + 3) - 1)
    with pytest.raises(OSError, match="1,176 bytes and 1,175 are free, 1 too few"):
        saved_model.export(network, tmp_path / "served")
    assert not (tmp_path / "served").exists()
    (tmp_path / "file").touch()
    with_free(monkeypatch, 10**9)
    with pytest.raises(OSError, match="cannot make the directory .*; give another --directory"):
        saved_model.export(network, tmp_path / "file" / "served")


def full_disk(*_, **__):
    raise tf.errors.ResourceExhaustedError(None, None, "/some; where/.tmp; No space left on device")


def test_tensorflows_words_at_a_full_disk_become_ours(tmp_path, monkeypatch):
    said = "No space left on device \\(7 bytes are free\\)"
    with_free(monkeypatch, 7)
    monkeypatch.setattr(tf.saved_model, "save", full_disk)
    (tmp_path / "served" / ".1").mkdir(parents=True)
    with pytest.raises(OSError, match=f"cannot write .*served/1: {said}; nothing is left"):
        saved_model._save(types.SimpleNamespace(answers={}), tmp_path / "served" / ".1" / "1", None)
    monkeypatch.setattr(tf.io, "TFRecordWriter", full_disk)
    with pytest.raises(OSError, match=f"cannot write .*logs/train: {said}; with that mended"):
        tensorboard.start_session(tmp_path / "logs" / "train", 3)

    def python_full(*_, **__):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(tf.io, "TFRecordWriter", python_full)
    with pytest.raises(OSError, match=f"cannot write .*logs/train: {said}"):
        tensorboard.start_session(tmp_path / "logs" / "train", 3)
