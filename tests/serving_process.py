"""The test server in a process of its own, and the client in another."""

import contextlib
import json
import os
import pathlib
import subprocess
import sys
import urllib.request

ROOT = pathlib.Path(__file__).parent.parent


class Serving:
    """A running server: its addresses, what it was asked, and what is to go wrong there."""

    def __init__(self, ports):
        self.grpc, self.rest = f"localhost:{ports['grpc']}", f"http://localhost:{ports['rest']}"
        self.addresses = {"grpc": self.grpc, "rest": self.rest}

    def fails(self, *faults):
        """Has the next requests fail; see `tests.serving_server`. Forgets what was asked."""
        self._request("/faults", json.dumps(faults).encode())

    def asked(self):
        """Returns the requests since `fails`."""
        return json.loads(self._request("/asked"))

    def post(self, path, body):
        """Returns the HTTP status and the answer, from JSON, to a request of `body` as JSON."""
        try:
            return 200, json.loads(self._request(path, json.dumps(body).encode()))
        except urllib.error.HTTPError as error:
            with error:
                return error.code, json.loads(error.read())

    def _request(self, path, body=None):
        with urllib.request.urlopen(self.rest + path, body, timeout=60) as answer:
            return answer.read()


@contextlib.contextmanager
def serving(*directories):
    """Starts the server for exported networks, each with all its versions, and yields it."""
    command = [sys.executable, "-m", "tests.serving_server", *map(str, directories)]
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": "-1"}
    with subprocess.Popen(
        command, cwd=ROOT, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL, text=True,
    ) as process:  # fmt: skip
        yield Serving(json.loads(process.stdout.readline()))
        process.stdin.close()


def client(*arguments, **environment):
    """Runs `python -m export.client`; returns its status, stdout and the lines of stderr."""
    done = subprocess.run(
        [sys.executable, "-m", "export.client", *map(str, arguments)], cwd=ROOT,
        env=os.environ | environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    return done.returncode, done.stdout, done.stderr.splitlines()
