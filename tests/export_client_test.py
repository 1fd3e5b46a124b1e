"""The client against a server of another process: its answers, and one line for what goes wrong."""

import dataclasses
import json
import socket
import time

import keras
import numpy as np
import pytest
from PIL import Image

from export import remote, saved_model
from tests.served import NAMES, encode, logits_of, make_network, random_pixels
from tests.serving_process import client as run
from tests.serving_process import serving

PROTOCOLS = ("grpc", "rest")


@pytest.fixture(scope="module")
def network():
    keras.utils.set_random_seed(0)
    return make_network()


@pytest.fixture(scope="module")
def served(network, tmp_path_factory):
    directory = tmp_path_factory.mktemp("serving") / "pets"
    options = saved_model.Options(class_names=NAMES, verified=False)
    saved_model.export(network, directory, options)
    canary = dataclasses.replace(options, version=3, label="canary")
    saved_model.export(network, directory, canary)
    with serving(directory) as server:
        yield server


@pytest.fixture
def ask(served):
    """Runs the client against the server by a protocol."""

    def asked(protocol, *arguments, **environment):
        served.fails(*asked.faults)
        address = f"--server={served.addresses[protocol]}"
        return run(address, "--model=pets", *arguments, **environment)

    asked.faults = ()
    return asked


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures")
    for index, pixels in enumerate(random_pixels(7)):
        (folder / f"{index}.png").write_bytes(encode(pixels))
    return sorted(folder.iterdir())


@pytest.fixture(scope="module")
def broken(tmp_path_factory):
    """A JPEG whose end is missing."""
    path = tmp_path_factory.mktemp("broken") / "broken.jpg"
    path.write_bytes(encode(random_pixels(1)[0], "jpeg")[:300])
    return path


def softmax(logits):
    scores = np.exp(logits - logits.max(axis=1, keepdims=True))
    return scores / scores.sum(axis=1, keepdims=True)


@pytest.mark.parametrize("batch_size", [1, 3, 32])
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_pictures_are_answered_as_the_network_answers_them(
    ask, served, network, files, protocol, batch_size
):
    arguments = ("--json", "--top=3", f"--batch_size={batch_size}", *files)
    status, out, err = ask(protocol, *arguments)
    assert (status, err) == (0, [])
    found = json.loads(out)
    assert [one["picture"] for one in found] == [str(path) for path in files]
    expected = softmax(logits_of(network, np.stack([Image.open(path) for path in files])))
    for one, chances in zip(found, expected, strict=True):
        order = np.argsort(-chances)
        assert [entry["class"] for entry in one["classes"]] == order.tolist()
        np.testing.assert_allclose(
            [entry["probability"] for entry in one["classes"]], chances[order], atol=1e-5
        )
        assert one["classes"][0]["label"] == NAMES[order[0]]
    sizes = [int(line.split()[-1]) for line in served.asked() if line.startswith("predict")]
    assert sizes == [min(batch_size, 7 - start) for start in range(0, 7, batch_size)]


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_the_table_has_a_line_for_each_picture_with_its_classes_in_percent(
    ask, network, files, protocol
):
    status, out, err = ask(protocol, "--top=2", *files[:3], files[0])
    assert (status, err) == (0, [])
    head, rule, *lines = out.splitlines()
    assert {len(line) for line in (rule, *lines)} == {len(head)} and set(rule) == {"-"}
    pixels = np.stack([Image.open(path) for path in (*files[:3], files[0])])
    for line, path, chances in zip(
        lines, (*files[:3], files[0]), softmax(logits_of(network, pixels)), strict=True
    ):
        first, second = np.sort(chances)[:-3:-1]
        assert line.startswith(f"{path} ") and f"{NAMES[np.argmax(chances)]}  " in line
        assert line.split()[-1] == f"{100 * second:.2f}" and f" {100 * first:.2f} " in line


def test_names_of_all_classes_come_from_a_file_that_names_each(ask, files, tmp_path):
    labels = tmp_path / "labels.txt"
    labels.write_text("x\ny\nz\n", encoding="utf-8")
    status, out, _ = ask("rest", "--json", f"--labels={labels}", files[0])
    assert status == 0
    assert {one["class"]: one["label"] for one in json.loads(out)[0]["classes"]} == {
        0: "x", 1: "y", 2: "z"
    }  # fmt: skip
    labels.write_text("x\ny\n", encoding="utf-8")
    assert ask("rest", f"--labels={labels}", files[0]) == (
        2, "", ["export.client: --labels names 2 classes, the network has 3"]
    )  # fmt: skip


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_one_bad_picture_takes_no_other_answer_with_it(
    ask, served, files, broken, tmp_path, protocol
):
    (tmp_path / "text.jpg").write_text("no picture")
    bad = (broken, tmp_path, tmp_path / "text.jpg", tmp_path / "missing.jpg")
    status, out, err = ask(protocol, "--json", *files[:4], *bad, *files[4:])
    assert status == 2
    found = {one["picture"]: one for one in json.loads(out)}
    assert list(found) == [str(path) for path in (*files[:4], *bad, *files[4:])]
    assert {path for path, one in found.items() if "error" in one} == set(map(str, bad))
    address = served.addresses[protocol]
    assert err == [
        f"export.client: {broken}: {address}: Invalid JPEG data, size 300 (INVALID_ARGUMENT)",
        f"export.client: {tmp_path}: is a directory; give its files, such as DIRECTORY/*.jpg",
        f"export.client: {tmp_path / 'text.jpg'}: is neither a JPEG nor a PNG",
        f"export.client: {tmp_path / 'missing.jpg'}: cannot be read: No such file or directory",
    ]
    _, out, _ = ask(protocol, "--json", *files)
    for one in json.loads(out):  # as if the bad ones had not been there
        kept = [entry["probability"] for entry in found[one["picture"]]["classes"]]
        np.testing.assert_allclose([c["probability"] for c in one["classes"]], kept, atol=1e-6)


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--model=cats"], "Servable not found for request: Latest(cats) (NOT_FOUND)"),
        (["--model_version=2"], "Servable not found for request: Specific(pets, 2) (NOT_FOUND)"),
        (["--version_label=beta"],
         "Unrecognized servable version label: beta (INVALID_ARGUMENT)"),
    ],
)  # fmt: skip
def test_a_network_that_is_not_there_is_one_line(ask, served, files, protocol, arguments, words):
    status, out, err = ask(protocol, *arguments, files[0])
    asked = f"; --model={'cats' if 'cats' in words else 'pets'} was asked for"
    hint = asked if "NOT_FOUND" in words else ""
    assert (status, out) == (2, "")
    assert err == [f"export.client: {served.addresses[protocol]}: {words}{hint}"]


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_version_is_named_by_its_number_or_its_label(ask, served, files, protocol):
    for argument, expected in (
        ("--top=3", 3),  # none is named: the highest, though it is on trial
        ("--model_version=1", 1),
        ("--version_label=stable", 1),
        ("--version_label=canary", 3),
    ):
        assert ask(protocol, argument, files[0])[0] == 0
        assert served.asked()[-1] == f"predict encoded_images {expected} 1"


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_signature_that_takes_no_pictures_is_one_line(ask, files, protocol):
    for name, words in (
        ("nope", "the network has no signature 'nope'; it has encoded_images, serving_default, "
                 "uint8_pixels"),
        ("uint8_pixels", "signature 'uint8_pixels' takes pixels uint8 [N, 12, 10, 3]; one input of "
                         "strings, encoded pictures, was expected"),
    ):  # fmt: skip
        answer = ask(protocol, f"--signature={name}", files[0])
        assert answer == (2, "", [f"export.client: {words}"])


def test_both_protocols_give_the_same_status(ask):
    answers = [ask(protocol, "--status", "--json") for protocol in PROTOCOLS]
    assert answers[0] == answers[1] and answers[0][0] == 0
    found = json.loads(answers[0][1])
    assert [(one["number"], one["state"]) for one in found["versions"]] == [
        (1, "AVAILABLE"), (3, "AVAILABLE")
    ]  # fmt: skip
    assert found["answering"] == 3
    assert found["signatures"]["encoded_images"] == {
        "inputs": {"image_bytes": "string [N]"},
        "outputs": {"classes": "int64 [N]", "labels": "string [N]", "logits": "float32 [N, 3]",
                    "probabilities": "float32 [N, 3]"},
    }  # fmt: skip
    assert list(found["signatures"]) == ["encoded_images", "serving_default", "uint8_pixels"]
    status, out, _ = ask("grpc", "--status")
    assert (
        status == 0 and "serving_default of version 3\n  takes pixels float32 [N, 12, 10, 3]" in out
    )


def test_the_other_protocols_port_is_told_from_a_server_that_is_away(ask, served, files):
    rest_port = served.rest.removeprefix("http://")
    assert run(f"--server={rest_port}", files[0]) == (2, "", [
        f"export.client: {rest_port}: this port speaks HTTP, not gRPC; give {served.rest} for REST "
        "(UNIMPLEMENTED)"
    ])  # fmt: skip
    status, out, (line,) = run(f"--server=http://{served.grpc}", files[0])
    assert (status, out) == (2, "") and "this port does not speak HTTP" in line
    assert line.endswith("; for gRPC give HOST:PORT without http:// (UNIMPLEMENTED)")
    status, _, (line,) = run(f"--server=https://{rest_port}", files[0])
    assert status == 2 and "no TLS connection" in line


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_server_that_is_away_is_one_line_after_the_retries(files, protocol):
    with socket.socket() as closed:  # bound and not listening: nobody else gets the port
        closed.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{closed.getsockname()[1]}"
        address = address if protocol == "grpc" else f"http://{address}"
        status, out, err = run(f"--server={address}", "--retries=1", files[0])
    assert (status, out) == (2, "") and len(err) == 1
    assert err[0].startswith(f"export.client: {address}: ") and "Connection refused" in err[0]


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_only_an_unavailable_server_is_asked_again(ask, served, files, protocol):
    ask.faults = ("UNAVAILABLE", "UNAVAILABLE")
    begun = time.monotonic()
    assert ask(protocol, "--retries=2", files[0])[0] == 0
    assert time.monotonic() - begun >= remote.FIRST_WAIT * (1 + 2)
    assert served.asked() == ["metadata"] * 3 + ["predict encoded_images 3 1"]
    status, _, err = ask(protocol, "--retries=1", files[0])
    assert (status, len(err), served.asked()) == (2, 1, ["metadata"] * 2)
    assert err[0].endswith("as asked for: UNAVAILABLE (UNAVAILABLE)")
    ask.faults = ("RESOURCE_EXHAUSTED",)
    status, _, err = ask(protocol, "--retries=5", files[0])
    assert (status, len(err), served.asked()) == (2, 1, ["metadata"])
    assert "RESOURCE_EXHAUSTED" in err[0]


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_late_answer_is_one_line_and_keeps_the_answers_before_it(ask, served, files, protocol):
    ask.faults = (None, None, 5)
    begun = time.monotonic()
    status, out, err = ask(protocol, "--json", "--batch_size=2", "--timeout=2", *files)
    assert time.monotonic() - begun < 5 and status == 2
    assert [one["picture"] for one in json.loads(out)] == [str(path) for path in files[:2]]
    assert err == [
        f"export.client: {served.addresses[protocol]}: no answer within 2 seconds (--timeout) "
        "(DEADLINE_EXCEEDED); 5 of 7 pictures have no answer"
    ]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "no pictures are given; name files, or give --status or --compare=RUN"),
        (["--status", "a.jpg"], "--status asks about no pictures; leave them and --compare out"),
        (["--server=localhost", "a.jpg"], "the server is 'localhost'; give HOST:PORT for gRPC"),
        (["--server=http://", "a.jpg"], "the server is 'http://'; expected http://HOST:PORT"),
        (["--server=http://a:b", "a.jpg"], "the server is 'http://a:b'; expected http://HOST:PORT"),
        (["--model_version=1", "--version_label=x", "a.jpg"], "give a version or a label of one"),
        (
            ["--labels=none.txt", "a.jpg"],
            "--labels=none.txt cannot be read: [Errno 2] No such file",
        ),
    ],
)
def test_what_cannot_be_asked_is_one_line(arguments, words):
    status, out, err = run(*arguments)
    assert (status, out, len(err)) == (2, "", 1) and err[0].startswith(f"export.client: {words}")


def test_nothing_is_imported_that_a_protocol_can_do_without(ask, files, tmp_path):
    for protocol, absent in (
        ("grpc", ("tensorflow.python", "keras", "numpy")),
        ("rest", ("tensorflow", "keras", "numpy", "grpc", "google.protobuf")),
    ):
        status, _, err = ask(protocol, files[0], PYTHONPROFILEIMPORTTIME="1")
        imported = {line.rpartition("|")[2].strip() for line in err}
        assert status == 0 and "export.client" not in absent and "json" in imported
        assert imported.isdisjoint(absent)
    (tmp_path / "grpc.py").write_text("raise ModuleNotFoundError('No module named grpc')")
    assert ask("rest", files[0], PYTHONPATH=str(tmp_path))[0] == 0
    status, _, (line,) = ask("grpc", files[0], PYTHONPATH=str(tmp_path))
    assert status == 2 and "pip install -r requirements-serving.txt" in line
    (tmp_path / "tensorflow.py").write_text("raise ModuleNotFoundError('No module named tf')")
    status, _, (line,) = ask("rest", "--compare=run", PYTHONPATH=str(tmp_path))
    assert status == 2 and line.endswith("(No module named tf): pip install -r requirements.txt")
