"""A bucket for tests: a real HTTP server on this machine that serves a folder and can misbehave."""

import contextlib
import re
import threading
import time
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer


class Bucket:
    """Serves a folder at `url`. What is set on it holds from the next request on.

    Attributes:
      fail_next: as many requests are answered by `failure`.
      fail_until: requests before this time (of time.monotonic) are answered by `failure`.
      failure: an HTTP status, "cut" (half of the contents and the end of the connection) or "silence" (nothing).
      failing: which paths fail, a regular expression.
      ranges: whether parts of files are sent when asked for.
      requests: (method, path, Range header or None) of all so far.
    """

    def __init__(self, folder):
        self.folder = str(folder)
        self.fail_next, self.fail_until, self.failure, self.failing = 0, 0.0, 503, ".*"
        self.ranges = True
        self.requests = []
        self.lock = threading.Lock()
        self.closing = threading.Event()
        bucket = self

        class Handler(SimpleHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True  # it holds each answer back for 40 ms

            def __init__(self, *args):
                super().__init__(*args, directory=bucket.folder)

            def log_message(self, *_):
                pass

            def do_HEAD(self):
                bucket.answer(self)

            do_GET = do_HEAD

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True)

    def fails(self, path):
        with self.lock:
            if not re.search(self.failing, path):
                return False
            if self.fail_next > 0:
                self.fail_next -= 1
                return True
            return time.monotonic() < self.fail_until

    def answer(self, handler):
        byte_range = handler.headers.get("Range")
        self.requests.append((handler.command, handler.path, byte_range))
        failure = self.failure if self.fails(handler.path) else None
        if failure == "silence":
            self.closing.wait(30)
            handler.close_connection = True
            return
        if isinstance(failure, int):
            handler.send_error(failure)
            return
        path = handler.translate_path(handler.path)
        try:
            with open(path, "rb") as file:
                data = file.read()
        except IsADirectoryError:
            getattr(super(type(handler), handler), f"do_{handler.command}")()
            return
        except FileNotFoundError:
            handler.send_error(404)
            return
        total, first = len(data), 0
        match = re.fullmatch(r"bytes=(\d+)-(\d+)", byte_range or "") if self.ranges else None
        if match:
            first, last = int(match[1]), min(int(match[2]), total - 1)
            if first >= total:
                handler.send_error(416)
                return
            data = data[first : last + 1]
        handler.send_response(206 if match else 200)
        if match:
            handler.send_header("Content-Range", f"bytes {first}-{first + len(data) - 1}/{total}")
        handler.send_header("Content-Length", str(len(data)))
        if self.ranges:
            handler.send_header("Accept-Ranges", "bytes")
        handler.end_headers()
        if handler.command == "GET":
            if failure == "cut":
                data = data[: len(data) // 2]
                handler.close_connection = True
            with contextlib.suppress(ConnectionError):  # a client that has seen enough
                handler.wfile.write(data)


@contextlib.contextmanager
def serve(folder):
    """Yields a Bucket that serves `folder`."""
    bucket = Bucket(folder)
    bucket.thread.start()
    try:
        yield bucket
    finally:
        bucket.closing.set()
        bucket.server.shutdown()
        bucket.server.server_close()
