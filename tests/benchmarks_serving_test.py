"""The benchmark of a served version measures its requests, and an export takes its sizes."""

import re

import keras
import numpy as np
import pytest

from benchmarks import serving
from export import saved_model, server_files
from sat_tf.runs import sealed
from tests.served import make_network


def rows(speeds):
    """Makes rows of {size: pictures a second}, and decoys of another signature."""
    return [
        {"signature": signature, "num_images": size, "images_per_second": factor * speed}
        for signature, factor in (("uint8_pixels", 1), ("encoded_images", -1))
        for size, speed in speeds.items()
    ]


@pytest.mark.parametrize(
    ("speeds", "sizes"),
    [
        ({1: 100, 8: 500, 64: 1000}, [1, 8, 64]),
        ({1: 100, 8: 900, 64: 1000}, [1, 8]),
        ({1: 100, 8: 899, 64: 1000}, [1, 8, 64]),
        ({64: 90, 8: 100, 1: 95}, [1]),
        ({4: 10}, [4]),
    ],
)
def test_batches_end_where_larger_ones_gain_little(speeds, sizes):
    assert serving.recommended(rows(speeds)) == sizes


def test_the_middle_and_the_95th_of_100_requests_are_told():
    seconds = np.random.default_rng(0).permutation(np.arange(101)) / 1000
    (row,) = serving.figures({("uint8_pixels", 5): seconds})
    assert (row["signature"], row["num_images"]) == ("uint8_pixels", 5)
    np.testing.assert_allclose([row["median_ms"], row["p95_ms"]], [50, 95])
    np.testing.assert_allclose(row["images_per_second"], 5 / 0.050)


def test_its_sizes_become_those_of_the_next_version(tmp_path, forked):
    directory, file = tmp_path / "tiny", tmp_path / "serving.json"
    keras.utils.set_random_seed(0)
    network = make_network()
    saved_model.export(network, directory, saved_model.Options(verified=False))
    flags = [f"--directory={directory}", "--sizes=2, 1", "--rounds=2", f"--json={file}"]
    status, out, err = forked.run("benchmarks.serving", *flags)
    assert status == 0, err
    kinds = ("decoding", "encoded_images", "serving_default", "uint8_pixels")
    found = [(kind, int(size)) for kind, size in re.findall(r"(?m)^(\w+) +(\d) +[\d.]+ ", out)]
    assert found == [(kind, size) for kind in kinds for size in (1, 2)]
    content = sealed.read_json(file)
    assert [(row["signature"], row["num_images"]) for row in content["requests"]] == found
    assert all(0 < row["median_ms"] <= row["p95_ms"] for row in content["requests"])
    batching = server_files.measured(file)
    assert list(batching.sizes) == content["batch_sizes"]
    options = saved_model.Options(batching=batching, verified=False)
    saved_model.export(network, directory, options)
    assert server_files.batch_sizes(directory) == batching.sizes
    text = (directory / "batching_parameters.txt").read_text()
    assert f"measured by python -m benchmarks.serving on {content['machine']}" in text


def test_what_it_cannot_measure_is_said_in_a_line(tmp_path, forked):
    for arguments, said in (
        ([], "--directory is missing; give what was exported: serving/NAME"),
        ([f"--directory={tmp_path}"], "holds no version; give what was exported"),
        (["--directory=x", "--sizes=0"], "--sizes is 0; give numbers of pictures, such as"),
    ):
        status, out, err = forked.run("benchmarks.serving", *arguments)
        assert (status, out, len(err.splitlines())) == (2, "", 1)
        assert said in err


@pytest.mark.parametrize("content", [{}, {"batch_sizes": [2, 1], "machine": ""}])
def test_a_file_of_another_program_gives_no_sizes(tmp_path, content):
    sealed.write_json(tmp_path / "other.json", content)
    with pytest.raises(ValueError, match="is not what python -m benchmarks.serving --json=FILE"):
        server_files.measured(tmp_path / "other.json")
