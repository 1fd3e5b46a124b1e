"""Google Cloud Storage on this machine, as far as TensorFlow asks it: its own client is what runs.

TensorFlow speaks to two hosts by https. The variables of `serving` send it here, to a proxy that
answers in their name with a certificate of its own. An object appears whole, with the last byte of
its upload, as in the real one. Everybody may do everything, and there is one bucket, `bucket`.
"""

import contextlib
import http.server
import json
import re
import ssl
import subprocess
import threading
import urllib.parse

BUCKET = "bucket"
HOSTS = ("www.googleapis.com", "storage.googleapis.com")


@contextlib.contextmanager
def serving(folder):
    """Yields a store, and the environment variables of processes that take it for the real one."""
    key, certificate = folder / "key.pem", folder / "certificate.pem"
    names = ",".join(f"DNS:{host}" for host in HOSTS)
    subprocess.run(
        [*"openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=store".split(),
         "-keyout", key, "-out", certificate, "-addext", f"subjectAltName={names}"],
        check=True, capture_output=True,
    )  # fmt: skip
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    with Store(context) as store:
        threading.Thread(target=store.serve_forever, daemon=True).start()
        yield (
            store,
            {
                "https_proxy": f"http://127.0.0.1:{store.server_port}",
                "CURL_CA_BUNDLE": str(certificate),
                "GOOGLE_AUTH_TOKEN_FOR_TESTING": "anybody",
            },
        )
        store.shutdown()


class Store(http.server.ThreadingHTTPServer):
    """The objects of the bucket.

    Attributes:
      objects: the content of each, by name.
      puts: the names of the objects that were put, in order.
      left: how many more may be put; after that everything is refused. None: any number.
      withheld: the name of an object whose content is refused.
      silent: whether nothing is answered any more.
    """

    daemon_threads = True

    def __init__(self, context):
        super().__init__(("127.0.0.1", 0), _Connection)
        self.context, self.lock = context, threading.RLock()
        self.objects, self.puts = {}, []
        self.left, self.withheld, self.silent = None, None, False
        self.over = threading.Event()

    def put(self, name, content):
        """Makes an object; returns whether it may be."""
        if self.left == 0:
            return False
        if self.left is not None:
            self.left -= 1
        self.objects[name] = content
        self.puts.append(name)
        return True

    def listed(self, prefix="", delimiter=None, maxResults=None, **_):
        """Lists names with a prefix; those with a delimiter behind it as one, up to there."""
        found, folders = [], []
        for name in sorted(self.objects):
            if name.startswith(prefix):
                inner, cut, _ = name[len(prefix) :].partition(delimiter or "\0")
                (folders if cut else found).append(prefix + inner + cut)
        items = [{"name": name} for name in found][: maxResults and int(maxResults)]
        return {"items": items, "prefixes": list(dict.fromkeys(folders))}

    def shutdown(self):
        self.over.set()
        super().shutdown()


class _Connection(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def finish(self):
        super().finish()
        self.connection.close()  # that of TLS, of which the server does not know

    def do_CONNECT(self):
        self.send_response(200)
        self.end_headers()
        try:
            self.connection = self.server.context.wrap_socket(self.connection, server_side=True)
        except OSError:  # the client has ended
            self.close_connection = True
            return
        self.rfile, self.wfile = self.connection.makefile("rb"), self.connection.makefile("wb", 0)
        self.close_connection = False

    def _request(self):
        body, store = self._body(), self.server
        url = urllib.parse.urlsplit(self.path)
        asked = dict(urllib.parse.parse_qsl(url.query))
        if store.silent:
            store.over.wait()
        with store.lock:
            if store.left == 0:
                status, answer = 403, {}
            elif self.headers["Host"] == HOSTS[1]:
                status, answer = self._content(url.path)
            elif url.path.startswith("/upload/"):
                return self._upload(url.path, asked, body)
            else:
                status, answer = self._metadata(url.path, asked)
        self._answer(status, answer)

    do_GET = do_PUT = do_POST = do_DELETE = _request

    def _upload(self, path, asked, body):
        if asked.get("uploadType") == "resumable":
            name = urllib.parse.quote(asked["name"], safe="")
            place = f"https://{HOSTS[0]}{path}?name={name}"
            return self._answer(200, {}, Location=place)
        # TensorFlow asks with an empty body how much has arrived of an upload that failed.
        is_question = (self.headers["Content-Range"] or "").startswith("bytes */")
        if is_question and int(self.headers["Content-Range"].rpartition("/")[2]):
            return self._answer(308, {})
        return self._answer(200 if self.server.put(asked["name"], body) else 403, {})

    def _content(self, path):
        name = urllib.parse.unquote(path).split("/", 2)[2]
        if name == self.server.withheld:
            return 403, {}
        if (content := self.server.objects.get(name)) is None:
            return 404, {}
        first, last = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers["Range"]).groups()
        if int(first) >= len(content):
            return 416, {}
        return 206, content[int(first) : int(last) + 1]

    def _metadata(self, path, asked):
        bucket, _, name = path.removeprefix("/storage/v1/b/").partition("/o")
        if bucket != BUCKET:
            return 404, {}
        if not path.startswith(f"/storage/v1/b/{BUCKET}/o"):
            return 200, {"location": "EU"}
        name = urllib.parse.unquote(name.removeprefix("/"))
        if not name:
            return 200, self.server.listed(**asked)
        if name not in self.server.objects:
            return 404, {}
        if self.command == "DELETE":
            del self.server.objects[name]
            return 204, b""
        size = str(len(self.server.objects[name]))
        return 200, {"size": size, "generation": "1", "updated": "2020-01-01T00:00:00.000Z"}

    def _body(self):
        if self.headers["Transfer-Encoding"] != "chunked":
            return self.rfile.read(int(self.headers["Content-Length"] or 0))
        body = b""
        while size := int(self.rfile.readline(), 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def _answer(self, status, content, **headers):
        content = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)
