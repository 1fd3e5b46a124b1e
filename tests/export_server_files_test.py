"""What stands beside the versions is what TensorFlow Serving and Compose read."""

import http.server
import subprocess
import threading

import keras
import pytest
import tensorflow as tf
import yaml
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, text_format
from tensorflow_serving.apis import prediction_log_pb2
from tensorflow_serving.config import model_server_config_pb2

from export import saved_model, server_files
from tests.served import make_network

INT, BOOL, STRING = 3, 8, 9  # types of descriptor.proto


def message(name, fields):
    """Makes a message class as a .proto file would: {field: a type, or another's fields}."""
    file = descriptor_pb2.FileDescriptorProto(name=f"{name}.proto", syntax="proto3")

    def add(to, called, members):
        to.name = called
        for number, (field, kind) in enumerate(members.items(), 1):
            repeated = isinstance(kind, list)
            (kind,) = kind if repeated else (kind,)
            entry = to.field.add(name=field, number=number, label=3 if repeated else 1)
            if isinstance(kind, dict):
                inner = f"Of{field}"
                add(to.nested_type.add(), inner, kind)
                entry.type, entry.type_name = 11, inner
            else:
                entry.type = kind

    add(file.message_type.add(), name, fields)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName(name))


# As session_bundle_config.proto and monitoring_config.proto have them, which no package brings.
BATCHING = message(
    "BatchingParameters",
    {
        **{
            name: {"value": INT}
            for name in (
                "max_batch_size",
                "batch_timeout_micros",
                "max_enqueued_batches",
                "num_batch_threads",
            )
        },
        "thread_pool_name": {"value": STRING},
        "allowed_batch_sizes": [INT],
        "pad_variable_length_inputs": BOOL,
    },
)
MONITORING = message("MonitoringConfig", {"prometheus_config": {"enable": BOOL, "path": STRING}})


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """The directory of a network of which two versions were exported, the second a canary."""
    keras.utils.set_random_seed(0)
    directory = tmp_path_factory.mktemp("serving") / "tiny-1.0"
    for label in ("stable", "canary"):
        options = saved_model.Options(label=label, verified=False)
        saved_model.export(make_network(), directory, options)
    return directory


def parsed(path, message):
    return text_format.Parse(path.read_text(), message)


def test_models_config_holds_every_version_and_names_two(served):
    config = parsed(served / "models.config", model_server_config_pb2.ModelServerConfig())
    (model,) = config.model_config_list.config
    assert (model.name, model.base_path) == ("tiny-1.0", "/models/tiny-1.0")
    assert model.model_platform == "tensorflow"
    assert model.model_version_policy.WhichOneof("policy_choice") == "all"
    assert dict(model.version_labels) == {"stable": 1, "canary": 2}


def sizes_of(version):
    file = str(version / "assets.extra" / "tf_serving_warmup_requests")
    for record in tf.data.TFRecordDataset(file).as_numpy_iterator():
        request = prediction_log_pb2.PredictionLog.FromString(record).predict_log.request
        ((_, tensor),) = request.inputs.items()
        yield tensor.tensor_shape.dim[0].size


def test_batching_joins_requests_to_sizes_that_are_warm(served):
    found = parsed(served / "batching_parameters.txt", BATCHING())
    sizes = list(found.allowed_batch_sizes)
    assert sizes == sorted(set(sizes)) and sizes[0] >= 1
    assert sizes[-1] == found.max_batch_size.value  # or the server does not start
    assert found.num_batch_threads.value > 0 and found.max_enqueued_batches.value > 0
    assert set(sizes_of(served / "2")) == set(sizes)


def test_prometheus_is_told_where_it_finds_its_figures(served):
    found = parsed(served / "monitoring.config", MONITORING()).prometheus_config
    assert found.enable and found.path == "/monitoring/prometheus/metrics"


def service(text):
    ((name, found),) = yaml.safe_load(text)["services"].items()
    return name, found


@pytest.mark.parametrize("batching", [False, True])
def test_compose_starts_the_server_with_files_that_are_there(served, batching):
    text = (served / "compose.yaml").read_text()
    name, found = service(text.replace("# - --", "- --") if batching else text)
    major, minor, _ = tf.__version__.split(".")
    assert (name, found["image"]) == ("tiny-1.0", f"tensorflow/serving:{major}.{minor}.0")
    ((source, target, mode),) = (volume.split(":") for volume in found["volumes"])
    assert (source, mode) == (".", "ro")
    flags = dict(flag.removeprefix("--").split("=") for flag in found["command"])
    files = [name for name in flags if name.endswith("_file")]
    assert len(files) == 2 + batching
    for name in files:
        assert flags[name].startswith(f"{target}/")
        assert (served / flags[name].removeprefix(f"{target}/")).is_file()
    assert flags["allow_version_labels_for_unavailable_models"] == "true"
    # The server does not start with one of these two alone.
    assert ("enable_batching" in flags) == ("batching_parameters_file" in flags) == batching


@pytest.mark.parametrize(
    ("answer", "healthy"),
    [
        ('{"model_version_status": [{"version": "1", "state": "AVAILABLE"}]}', True),
        ('{"model_version_status": [{"version": "1", "state": "LOADING"}]}', False),
        ('{"state": "END", "status": {"error_code": "UNAVAILABLE"}}', False),
        ('{"error": "Servable not found"}', False),
        (None, False),
    ],
)
def test_the_health_check_asks_for_the_stable_version(served, answer, healthy):
    asked = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            self.send_response(200 if healthy else 404)
            self.end_headers()
            self.wfile.write(answer.encode())

        def log_message(self, *_):
            pass

    command = service((served / "compose.yaml").read_text())[1]["healthcheck"]["test"]
    assert command[:3] == ["CMD", "bash", "-c"]
    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        port = str(server.server_address[1])
        if answer is None:
            server.server_close()
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        if answer is not None:
            thread.start()
        line = command[3].replace("/8501", f"/{port}")
        done = subprocess.run(["bash", "-c", line], capture_output=True, timeout=20, check=False)
        if answer is not None:
            server.shutdown()
            thread.join()
    assert (done.returncode == 0) == healthy
    assert asked == ([] if answer is None else ["/v1/models/tiny-1.0/labels/stable"])


def test_what_was_changed_by_hand_stays_and_its_sizes_are_warm(served):
    (served / "compose.yaml").write_text("mine")
    (served / "batching_parameters.txt").write_text(
        "# allowed_batch_sizes: 5\nmax_batch_size { value: 3 }\nallowed_batch_sizes: 3\n"
    )
    options = saved_model.Options(verified=False)
    version = saved_model.export(make_network(), served, options)
    assert (served / "compose.yaml").read_text() == "mine"
    assert set(sizes_of(version)) == {3}
    (served / "batching_parameters.txt").write_text("max_batch_size { value: 3 }")
    with pytest.raises(ValueError, match="has no allowed_batch_sizes; delete it"):
        saved_model.export(make_network(), served, options)


@pytest.mark.parametrize("name", ["my net", 'a"b', "größe", "a:b", ".hidden"])
def test_a_name_that_a_url_would_escape_is_refused(tmp_path, name):
    with pytest.raises(ValueError, match="--directory ends in .*letters, digits"):
        server_files.check_name(tmp_path / name)
    assert server_files.check_name(tmp_path / name / ".." / "cifar-10_v2.1") == "cifar-10_v2.1"


def test_a_first_version_is_no_canary_and_leaves_nothing(tmp_path):
    options = saved_model.Options(label="canary", verified=False)
    with pytest.raises(ValueError, match="has no stable version; leave --label=canary out"):
        saved_model.export(make_network(), tmp_path / "new", options)
    assert not (tmp_path / "new").exists()
