"""A server to test clients and exported versions against; it is not TensorFlow Serving.

It speaks what TensorFlow Serving does, by gRPC (`tests.serving_grpc`) and REST
(`tests.serving_rest`); its networks are loaded by TensorFlow alone (`tests.serving_models`), in a
process that can import neither Keras nor this project.

    python -m tests.serving_server serving/digits

serves what the directory's models.config says, writes {"grpc": port, "rest": port} as its first
line and runs until its stdin ends. A POST to /faults takes a JSON list; each further request takes
one from it: null, seconds to wait, or the name of a gRPC status to fail with. A GET of /asked
returns what has been asked since then.
"""

import argparse
import json
import os
import sys

ABSENT = ("keras", "sat_tf")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("directories", nargs="+")
    given = parser.parse_args()
    sys.modules.update(dict.fromkeys(ABSENT))  # TensorFlow imports Keras wherever it is installed
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    from tests import serving_grpc, serving_models, serving_rest

    models = serving_models.Models(given.directories, ABSENT)
    ports = {"grpc": serving_grpc.start(models), "rest": serving_rest.start(models)}
    print(json.dumps(ports), flush=True)
    sys.stdin.read()
    os._exit(0)


if __name__ == "__main__":
    main()
