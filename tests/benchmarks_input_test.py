"""The benchmark of the feed reads pictures as training does, and counts cores from what it took."""

import numpy as np
import pytest
import tensorflow as tf

from benchmarks import input as feed_benchmark
from benchmarks.timing import Times
from sat_tf.runs import sealed


def test_cores_follow_from_processor_seconds_and_the_assumed_steps():
    times = Times(np.array([1.0, 2.0, 4.0]), np.array([5.0, 4.0, 2.5]), [None] * 3)
    given = {
        "steps": 2, "batch_size": 200, "image_size": 100, "steps_per_second": 2.51,
        "cores_per_worker": 3,
    }  # fmt: skip
    found = feed_benchmark.figures(times, given)
    # 400 images a round: 80, 100 and 160 a processor second, 400, 200 and 100 by the clock.
    np.testing.assert_allclose(found["images_per_second_of_a_core"], [100, 90, 130])
    np.testing.assert_allclose(found["images_per_second_by_the_clock"], [200, 150, 300])
    # 502 images/s an accelerator, 120,000 bytes each as float32.
    expected = [(1, 502, 6, 2), (2, 1004, 11, 4), (4, 2008, 21, 7), (8, 4016, 41, 14)]
    for row, (number, images, cores, workers) in zip(found["needed"], expected, strict=True):
        assert (row["accelerators"], row["cores"], row["service_workers"]) == (
            number, cores, workers,
        )  # fmt: skip
        assert row["images_per_second"] == pytest.approx(images)
        assert row["megabytes_per_second"] == pytest.approx(images * 0.12)
    lines = feed_benchmark.report(found, given).splitlines()
    assert lines[2].split() == ["one", "core", "100", "90", "to", "130"]
    assert lines[-1].split() == ["8", "4,016", "41", "14", "482"]


def test_it_reads_pictures_of_one_size_and_writes_its_figures(tmp_path, forked):
    source, file = tmp_path / "source", tmp_path / "input.json"
    rng = np.random.default_rng(0)
    for name in ("one.jpg", "deep/two.JPEG"):
        pixels = rng.integers(0, 256, (40, 30, 3), np.uint8)
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_bytes(tf.io.encode_jpeg(pixels).numpy())
    flags = [f"--pictures={source}", "--batch_size=4", "--image_size=16", "--rounds=2"]
    status, out, err = forked.run("benchmarks.input", *flags, "--steps=1", f"--json={file}")
    assert status == 0, err
    assert "JPEGs of 500 x 375" in out and "to 16 x 16 in batches of 4, 2 rounds of 1" in out
    assert "assumed, not measured: an accelerator does 8 steps a second of 4 images" in out
    content = sealed.read_json(file)
    assert len(content["seconds"]["feed"]["processor"]) == 2
    assert [row["images_per_second"] for row in content["needed"]] == [32, 64, 128, 256]
    folder = tmp_path / "written"
    folder.mkdir()
    size = feed_benchmark.write_pictures(source, folder, 5)
    written = sorted(folder.rglob("*.jpg"))
    assert [one.parent.name for one in written] == ["a", "a", "a", "b", "b"]
    assert {tuple(tf.io.extract_jpeg_shape(one.read_bytes()).numpy()) for one in written} == {
        (375, 500, 3)
    }
    assert size == pytest.approx(np.mean([one.stat().st_size for one in written[:1]]), rel=0.2)


@pytest.mark.parametrize("flags, said", [
    ([], "--pictures is missing; give a folder of JPEGs"),
    (["--pictures=tests/data"], "tests/data has no JPEG (.jpg, .jpeg); give --pictures a folder"),
])  # fmt: skip
def test_what_cannot_be_measured_is_refused_in_one_line(flags, said, forked):
    status, _, err = forked.run("benchmarks.input", *flags)
    assert status == 2 and said in err and len(err.splitlines()) == 1
