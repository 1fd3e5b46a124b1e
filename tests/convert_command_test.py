"""What the flags and the names of the files say; the programs that come after each other."""

import json
import os
import subprocess
import sys
import types

import numpy as np
import pytest
import tensorflow as tf

from sat_tf import convert, models
from sat_tf.released import names as released
from sat_tf.released.choice import Choice, choose
from tests.released_graphs import given, random_values, resnet_tensors, write_checkpoint

# Sides in pixels, of the paper (Tan and Le 2019, and 600 for L1).
SIDES = {"b0": 224, "b1": 240, "b2": 260, "b3": 300, "b4": 380, "b5": 456, "b6": 528, "b7": 600}
FUNCTIONS = {"silu": "swish", "gelu": "gelu_tanh"}  # of others the name is ours


def read_out(name):
    """What a released name says by itself: model, activation, side of the images."""
    kind, second, *rest = name.split("-")
    if kind == "efficientnet":
        return f"{kind}-{second.replace('bL1', 'l1')}", "swish", SIDES.get(second, 600)
    family = {"Res": "resnet", "ResX": "resnext"}[kind.rstrip("0123456789")]
    groups = "".join(f"-{part}" for part in rest if "x" in part)
    sides = [int(part) for part in rest if part.isdecimal()]
    model = family + kind.lstrip("ResX") + groups
    return model, FUNCTIONS.get(second, second), *(sides or [224])


def test_released_names_say_what_they_hold(tmp_path):
    assert len(released.RELEASES) == 24
    for name, release in released.RELEASES.items():
        assert read_out(name) == release[:3]
        for prefix in (name, tmp_path / name / "model.ckpt-109474"):
            chosen = choose(given(checkpoint=str(prefix)))
            assert chosen.model in models.NAMES
            assert (chosen.model, chosen.activation) == (release.model, release.activation)
            assert chosen.image_size == release.image_size
            assert bool(chosen.ema) == (name == "efficientnet-bL1-enhanced")
            expected = ("rgb", "center_crop") if "efficient" in name else ("bgr", "shorter_side")
            assert (chosen.channel_order, chosen.eval_resize) == expected


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({}, "--model is not given and model is no released name; use one of: resnet50"),
        ({"model": "resnet18"}, "--model=resnet18 is not known; use one of: resnet50"),
        ({"model": "resnet50"}, "--activation is not given"),
        ({"model": "resnet50", "activation": "swosh"}, "unknown activation 'swosh'"),
        ({"model": "efficientnet-b0", "activation": "relu"}, "=relu contradicts efficientnet-b0"),
        ({"model": "efficientnet-b0", "channel_order": "bgr"}, "bgr does not apply"),
        ({"model": "resnet50", "activation": "relu", "ema": True}, "--ema does not apply"),
        ({"checkpoint": "a/Res50-relu", "activation": "swish"}, "Res50-relu, which has relu"),
        ({"checkpoint": "Res50-gelu", "activation": "gelu"}, "Res50-gelu, which has gelu_tanh"),
        ({"checkpoint": "Res50-relu", "model": "resnet101"}, "Res50-relu, which is resnet50"),
    ],
)
def test_what_contradicts_the_name_or_the_family_is_refused(values, words):
    with pytest.raises(ValueError, match=words):
        choose(given(**{"checkpoint": "model", **values}))


def test_a_name_of_its_own_takes_the_flags(tmp_path):
    values = {"model": "resnet50", "activation": "silu", "image_size": 299, "channel_order": "rgb"}
    chosen = choose(given(checkpoint=str(tmp_path / "model"), **values))
    assert chosen == Choice("resnet50", "silu", 299, "rgb", None)
    chosen = choose(given(checkpoint="model", model="efficientnet-b3"))
    assert chosen == Choice("efficientnet-b3", "swish", 300, "rgb", None)


def start(*arguments):
    environment = {k: v for k, v in os.environ.items() if k != "TF_CPP_MIN_LOG_LEVEL"}
    return subprocess.run(
        [sys.executable, "-m", *map(str, arguments)],
        capture_output=True, text=True, env=environment,
    )  # fmt: skip


@pytest.mark.slow
def test_the_program_says_in_one_line_what_is_wrong(tmp_path):
    missing = tmp_path / "Res50-silu"
    ended = start("sat_tf.convert", f"--checkpoint={missing}", f"--output={tmp_path / 'new'}")
    assert ended.returncode == 2
    assert ended.stderr.count("\n") == 1 and f"there is no {missing}.index" in ended.stderr


@pytest.mark.slow
def test_a_converted_network_is_evaluated_and_exported(tmp_path):
    prefix = write_checkpoint(tmp_path / "Res50-relu", random_values(resnet_tensors()))
    run_path, images = tmp_path / "run", tmp_path / "images"
    for split in ("train", "val"):
        for label in ("n01440764", "n01443537"):
            (images / split / label).mkdir(parents=True)
            for index in range(2):
                pixels = np.random.default_rng(index).integers(0, 256, (70, 90, 3), np.uint8)
                png = tf.io.encode_png(pixels).numpy()
                (images / split / label / f"{index}.png").write_bytes(png)
    (tmp_path / "classes").write_text("0\n1\n")
    steps = (
        ("sat_tf.convert", f"--checkpoint={prefix}", "--image_size=64", f"--output={run_path}"),
        (
            "sat_tf.evaluate", f"--workdir={run_path}", f"--dataset=folder:{images}",
            "--attacks=pgd-2", f"--classes={tmp_path / 'classes'}",
        ),
        ("export.saved_model", f"--workdir={run_path}", f"--directory={tmp_path / 'serving'}"),
    )  # fmt: skip
    for step in steps:
        ended = start(*step)
        assert ended.returncode == 0, ended.stderr
    (report_path,) = run_path.glob("report_pgd-2_dataset-folder-*.json")
    report = json.loads(report_path.read_text("utf-8"))
    assert report["classes"] == 1000
    extra = tmp_path / "serving" / "1" / "assets.extra" / "metadata.json"
    facts = json.loads(extra.read_text("utf-8"))
    assert facts["resize"] == "shorter_side"
    assert facts["training"]["converted"]["checkpoint"] == "Res50-relu"


@pytest.mark.parametrize("values", [
    {"model": "efficientnet-b0", "ema": True}, {"model": "efficientnet-b0", "ema": False},
    {"model": "resnet50", "activation": "relu", "image_size": 96, "channel_order": "rgb"},
])  # fmt: skip
def test_every_flag_reaches_the_network_the_plan_and_what_is_told(values, monkeypatch):
    built, matched = [], []
    checkpoint = types.SimpleNamespace(tensors="tensors")
    monkeypatch.setattr(convert, "Checkpoint", lambda prefix: {"model": checkpoint}[prefix])
    monkeypatch.setattr(
        convert.models, "build", lambda *given, **options: built.append((*given, options)) or "net"
    )
    monkeypatch.setattr(convert, "match", lambda *given: matched.append(given) or "plan")
    asked = given(checkpoint="model", **values)
    chosen = choose(asked)
    *parts, facts, account = convert.SOURCES["paper"](asked)
    assert parts == [checkpoint, "net", "plan"]
    assert matched == [("net", "tensors", values.get("ema"))]
    shape = {"activation": chosen.activation, "image_size": chosen.image_size}
    assert built == [(chosen.model, {**shape, "num_classes": 1000})]
    told = {**shape, "model": chosen.model, "eval_resize": chosen.eval_resize}
    told["class_order"] = "sorted WordNet ids, n01440764 first"
    assert {name: facts[name] for name in told} == told
    assert facts["converted"] == {
        "channel_order": values.get("channel_order", "rgb"), "ema": values.get("ema", False)
    }  # fmt: skip
    assert ("averaged weights" in account) == values.get("ema", False)
