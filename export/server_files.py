"""What a server needs beside the versions: batching, monitoring and a compose file.

Each is written where it is missing and then left alone, so that ports and limits may be changed in
it; models.config, which changes with every export, is in `export.labels`.

Sources: tensorflow_serving's session_bundle_config.proto and monitoring_config.proto; the flags of
tensorflow_model_server; the Compose specification.
"""

import dataclasses
import re
from pathlib import Path

import tensorflow as tf

from sat_tf.runs import atomic, sealed

BATCHING, MONITORING, COMPOSE = "batching_parameters.txt", "monitoring.config", "compose.yaml"
_BATCHING = """\
# Batch sizes: {source}.
# The warm-up of the versions exported since has the same sizes.
max_batch_size {{ value: {largest} }}
batch_timeout_micros {{ value: 2000 }}
num_batch_threads {{ value: 4 }}
max_enqueued_batches {{ value: 100 }}
{allowed}"""
_MONITORING = """\
prometheus_config {
  enable: true
  path: "/monitoring/prometheus/metrics"
}
"""
_COMPOSE = """\
# docker compose up, in this directory. REST is at port 8501, gRPC at 8500.
services:
  {name}:
    image: tensorflow/serving:{release}
    restart: unless-stopped
    ports:
      - "8500:8500"
      - "8501:8501"
    volumes:
      - .:/models/{name}:ro
    command:
      - --model_config_file=/models/{name}/models.config
      - --model_config_file_poll_wait_seconds=10
      - --allow_version_labels_for_unavailable_models=true
      - --monitoring_config_file=/models/{name}/monitoring.config
      # Joins requests into batches. A picture that is refused fails its whole batch, the requests
      # of others in it too: for clients that you know.
      # - --enable_batching=true
      # - --batching_parameters_file=/models/{name}/batching_parameters.txt
    healthcheck:
      # The image has bash and no curl.
      test:
        - CMD
        - bash
        - -c
        - >-
          exec 3<>/dev/tcp/127.0.0.1/8501 &&
          printf 'GET /v1/models/{name}/labels/stable HTTP/1.0\\r\\n\\r\\n' >&3 &&
          grep -q '"AVAILABLE"' <&3
      interval: 10s
      timeout: 5s
      retries: 3
      start_period: 60s
"""


@dataclasses.dataclass(frozen=True)
class Batching:
    """Sizes of batches, rising, and where they come from, in words."""

    sizes: tuple[int, ...] = (1, 8, 64)
    source: str = "a starting point; python -m benchmarks.serving measures better ones"


def check_name(directory: Path) -> str:
    """Returns the name under which a server knows what is in a directory.

    Raises:
      ValueError: it has letters that a URL or a configuration file would have to escape.
    """
    name = directory.resolve().name
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name):
        raise ValueError(
            f"--directory ends in {name!r}, which servers take for the network's name; letters, "
            "digits, '.', '_' and '-' were expected"
        )
    return name


def measured(path: str | Path) -> Batching:
    """Reads the sizes that `python -m benchmarks.serving --json` recommends.

    Raises:
      OSError: the file cannot be read.
      ValueError: it is damaged or of another program.
    """
    content = sealed.read_json(path)
    sizes, machine = content.get("batch_sizes"), content.get("machine")
    if not sizes or sizes != sorted(set(sizes)) or machine is None:
        raise ValueError(f"{path} is not what python -m benchmarks.serving --json=FILE writes")
    return Batching(tuple(sizes), f"measured by python -m benchmarks.serving on {machine}")


def batch_sizes(directory: Path) -> tuple[int, ...]:
    """Returns the sizes of `<name>/batching_parameters.txt`, the default where there is none.

    Raises:
      ValueError: the file names none.
    """
    path = directory / BATCHING
    if not path.exists():
        return Batching().sizes
    text = re.sub(r"(?m)^\s*#.*", "", path.read_text(encoding="utf-8"))
    sizes = tuple(int(size) for size in re.findall(r"allowed_batch_sizes:\s*(\d+)", text))
    if not sizes:
        raise ValueError(f"{path} has no allowed_batch_sizes; delete it to have it written anew")
    return sizes


def write(directory: Path, name: str, batching: Batching | None = None) -> None:
    """Writes the files that are missing in `<name>`, and the sizes of batches that are given."""
    release = ".".join(tf.__version__.split(".")[:2]) + ".0"
    texts = {
        BATCHING: _batching_parameters(batching or Batching()),
        MONITORING: _MONITORING,
        COMPOSE: _COMPOSE.format(name=name, release=release),
    }
    for file, text in texts.items():
        if not (directory / file).exists() or (file == BATCHING and batching is not None):
            atomic.write_text(directory / file, text)


def _batching_parameters(batching):
    """Returns the text; requests are joined up to the last size and padded to the next."""
    sizes = batching.sizes
    allowed = "".join(f"allowed_batch_sizes: {size}\n" for size in sizes)
    return _BATCHING.format(source=batching.source, largest=sizes[-1], allowed=allowed)
