"""What a client does itself, against what TensorFlow does, and a server that counts requests."""

import http.server
import inspect
import json
import math
import pathlib
import re
import threading
import types

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from tensorflow.core.framework import tensor_pb2

from export import client, comparison, remote, signatures
from export.remote import over_rest, pictures, tensors
from flags import client as client_flags
from tests import programs

SHAPES = arrays.array_shapes(min_dims=1, max_dims=4, min_side=1, max_side=4)


@given(arrays.arrays(st.sampled_from([np.float32, np.uint8]), SHAPES))
def test_pixels_are_sent_as_tensorflow_reads_them(values):
    proto = tensor_pb2.TensorProto()
    tensors.fill(proto, values)
    found = tf.make_ndarray(proto)
    assert found.dtype == values.dtype
    np.testing.assert_array_equal(found, values)


@given(st.lists(st.binary(max_size=20), min_size=1))
def test_encoded_pictures_are_sent_as_tensorflow_reads_them(values):
    proto = tensor_pb2.TensorProto()
    tensors.fill(proto, values)
    assert tf.make_ndarray(proto).tolist() == values


@given(
    arrays.arrays(st.sampled_from([np.float32, np.float64, np.int32, np.int64]), SHAPES),
    st.booleans(),
)
def test_answers_are_read_as_tensorflow_writes_them(values, alike):
    if alike:  # then one value stands for all
        values = np.full_like(values, values.flat[0])
        proto = tf.make_tensor_proto(values.flat[0], values.dtype, values.shape)
    else:
        proto = tf.make_tensor_proto(values)  # packed where there are several
    np.testing.assert_array_equal(np.array(tensors.read(proto), values.dtype), values)


@given(st.lists(st.text(), min_size=1))
def test_texts_are_read_as_tensorflow_writes_them(texts):
    assert tensors.read(tf.make_tensor_proto(texts)) == texts


def test_an_answer_of_another_type_or_without_rows_is_refused():
    for proto in (tf.make_tensor_proto([True]), tf.make_tensor_proto(1.0)):
        with pytest.raises(ValueError, match="the server answers with DT_.*; expected DT_FLOAT"):
            tensors.read(proto)


class Counted:
    """Refuses every batch with a bad picture or more than `most`, and counts the requests."""

    def __init__(self, most=10**9, code="INVALID_ARGUMENT"):
        self.most, self.code, self.num_requests = most, code, 0

    def predict(self, signature, inputs):
        ((name, encoded),) = inputs.items()
        assert (signature, name) == ("encoded_images", "image_bytes")
        self.num_requests += 1
        if b"bad" in encoded or len(encoded) > self.most:
            raise remote.Failed(self.code, "no")
        return {"length": [len(one) for one in encoded], "bytes": encoded}


@given(
    st.lists(st.sampled_from([b"bad", b"a", b"bc"]), min_size=1, max_size=40), st.integers(1, 40)
)
def test_every_good_picture_is_answered_and_every_bad_one_refused(encoded, most):
    server = Counted(most)
    found = pictures.ask(server, "encoded_images", "image_bytes", encoded)
    for one, answer in zip(encoded, found, strict=True):
        if one == b"bad":
            assert isinstance(answer, remote.Failed)
        else:
            assert answer == {"length": len(one), "bytes": one}


@pytest.mark.parametrize("place", [0, 13, 31])
def test_one_bad_picture_costs_two_requests_for_each_halving(place):
    server = Counted()
    encoded = [b"a"] * 32
    encoded[place] = b"bad"
    pictures.ask(server, "encoded_images", "image_bytes", encoded)
    assert server.num_requests == 1 + 2 * math.log2(32)


def test_what_is_no_fault_of_a_picture_is_not_asked_in_halves():
    server = Counted(code="RESOURCE_EXHAUSTED")
    with pytest.raises(remote.Failed):
        pictures.ask(server, "encoded_images", "image_bytes", [b"a", b"bad"])
    assert server.num_requests == 1


@pytest.mark.parametrize(
    ("said", "line"),
    [
        ("assertion failed: [not a JPEG]\n\t [[{{node map/Assert}}]]", "not a JPEG"),
        ("assertion failed: [at most] [4 5]\n\t [[x]]", "at most 4 5"),
        ("{{function_node f}} Input 3 is [odd]\n\t [[{{node g}}]]", "Input 3 is [odd]"),
        ("", "no reason given"),
        ("{{node x}}\n", "no reason given"),
    ],
)
def test_a_servers_words_lose_the_names_of_nodes(said, line):
    assert remote.brief(said) == line


@given(st.text())
def test_the_words_of_an_error_are_read_back_from_the_escapes_of_c(text):
    escaped = "".join(f"\\{octet:03o}" for octet in text.encode("utf-8"))
    assert over_rest._unescaped(escaped) == text
    assert over_rest._unescaped(r"\n\t\'\"\\ \q") == "\n\t'\"\\ \\q"


@pytest.fixture
def odd():
    """A server of other things: answers what it is given, by HTTP."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            status, body = self.server.answer
            self.send_response(status)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *arguments):
            pass

    server = http.server.HTTPServer(("localhost", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.parametrize(
    ("status", "body", "code", "words"),
    [
        (200, b"<html>", "UNKNOWN", "HTTP status 200 with an answer that is no JSON object"),
        (404, b"", "NOT_FOUND", "HTTP status 404 with an answer that is no JSON object"),
        (502, b"[]", "UNKNOWN", "HTTP status 502 with an answer that is no JSON object"),
        (200, b"{}", "UNKNOWN", "the answer has no object 'metadata'"),
        (400, json.dumps({"error": "gro\\303\\237er\\n\\t Hund"}).encode(), "INVALID_ARGUMENT",
         "großer"),
        (400, json.dumps({"error": "odd \\x"}).encode(), "INVALID_ARGUMENT", "odd \\x"),
    ],
)  # fmt: skip
def test_an_odd_answer_by_http_is_one_line(odd, status, body, code, words):
    odd.answer = (status, body)
    address = f"http://localhost:{odd.server_address[1]}"
    server = remote.connect(address, remote.Model("pets"), retries=0)
    with pytest.raises(remote.Failed) as failed:
        server.signatures()
    assert failed.value.code == code and str(failed.value) == f"{address}: {words} ({code})"


def test_every_flag_of_the_client_reaches_what_it_decides(monkeypatch, capsys, tmp_path):
    (tmp_path / "names").write_text("ox\ncat\nfly\n", encoding="utf-8")
    asked = {
        "server": "there:1", "model": "pets", "version_label": "canary", "timeout": "2.5",
        "retries": "1", "signature": "mine", "batch_size": "5", "top": "2",
        "labels": str(tmp_path / "names"), "json": "true", "num_images": "6", "resize": "fit",
        "data_dir": "sets",
    }  # fmt: skip
    seen, closed = {}, types.SimpleNamespace(close=lambda: None)

    def noted(name, result):
        return lambda *given, **options: seen.update({name: (given, options)}) or result

    def run(*more):
        arguments = [f"--{name}={value}" for name, value in asked.items()]
        values = programs.parsed(client_flags.define, *arguments, *more)
        monkeypatch.setattr(client.flags, "FLAGS", values)
        with pytest.raises(SystemExit) as ended:
            client.main([] if more else ["a.png"])
        return ended.value.code

    answer = {"probabilities": [0.1, 0.2, 0.7], "classes": 2, "labels": "its own"}
    found = comparison.Comparison(4, "mine", "6 images", 0.5, 0.25)
    monkeypatch.setattr(remote, "connect", noted("connect", closed))
    monkeypatch.setattr(client.pictures, "classify", noted("classify", [("a.png", answer)]))
    compare = comparison.compare
    monkeypatch.setattr(comparison, "compare", noted("compare", found))
    assert run() == 0
    model = remote.Model("pets", None, "canary")
    assert seen["connect"] == (("there:1", model, 2.5, 1), {})
    assert seen["classify"] == ((closed, "mine", ["a.png"], 5), {})
    (told,) = json.loads(capsys.readouterr().out)
    assert [(one["class"], one["label"]) for one in told["classes"]] == [(2, "fly"), (1, "cat")]
    assert run("--compare=runs/pets") == 1  # a difference above the tolerance
    options = {"batch_size": 5, "num_images": 6, "resize": "fit", "data_dir": "sets"}
    assert seen["compare"] == ((closed, pathlib.Path("runs/pets"), []), options)
    asked["model_version"] = asked.pop("version_label") and "4"
    assert run("--compare=runs/pets") == 1
    assert seen["connect"][0][1] == remote.Model("pets", 4, None)
    unless_told = programs.parsed(client_flags.define).flag_values_dict()
    assert unless_told.keys() - {"status", "compare", "version_label"} == asked.keys()
    for name in options:  # alike in Python
        assert unless_told[name] == inspect.signature(compare).parameters[name].default
    assert unless_told["signature"] == signatures.ENCODED


def test_a_status_shows_every_version_and_what_the_answering_one_takes_and_gives(capsys):
    pixels = {"pixels": remote.Tensor("float32", (None, 2, 3, 1))}
    gives = {"classes": remote.Tensor("int64", (None,)), "logits": remote.Tensor("float32", (4, 5))}
    old, new = remote.Version(1, "END", ""), remote.Version(2, "AVAILABLE", "is slow")
    server = types.SimpleNamespace(
        versions=lambda: [new, old],
        signatures=lambda: (2, {"mine": remote.Signature(pixels, gives)}),
    )
    asked = types.SimpleNamespace(json=False, model="pets", server="there:1")
    assert client.status(server, asked) == 0
    assert capsys.readouterr() == (
        "version 1  END\nversion 2  AVAILABLE  is slow\nmine of version 2\n"
        "  takes pixels float32 [N, 2, 3, 1]\n  gives classes int64 [N], logits float32 [4, 5]\n",
        "",
    )
    server.versions = lambda: [old]
    assert client.status(server, asked) == 2
    out, err = capsys.readouterr()
    assert out == "version 1  END\n" and "no version of pets is available at there:1" in err


@pytest.mark.parametrize("given", [1, 2])
def test_answers_before_a_failure_are_shown_and_pictures_without_one_counted(
    given, monkeypatch, capsys
):
    def answers(*_):
        yield "a.png", {"probabilities": [0.25, 0.75]}
        if given == 2:
            yield "b.png", remote.Failed("INVALID_ARGUMENT", "no picture")
        raise remote.Failed("UNAVAILABLE", "it is away")

    monkeypatch.setattr(client.pictures, "classify", answers)
    asked = types.SimpleNamespace(labels=None, signature="", batch_size=2, top=5, json=False)
    assert client.predict(None, ["a.png", "b.png", "c.png", "d.png"], asked) == 2
    out, err = capsys.readouterr()
    assert re.sub(" +", " ", out.splitlines()[2]) == "a.png class 1 75.00 class 0 25.00"
    *refused, stopped = err.splitlines()
    assert [line.rpartition("b.png: ")[2] for line in refused] == ["no picture"] * (given - 1)
    assert stopped.endswith(f"it is away; {4 - given} of 4 pictures have no answer")
