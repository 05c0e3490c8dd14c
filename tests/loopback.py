"""An HTTP server on loopback whose behaviour is a function."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

# Path, body (None of a GET) and number of a request to status, headers and body, as bytes or JSON.
# None cuts the connection; headers that promise more bytes than there are cut the body.
Behave = Callable[[str, Any, int], tuple[int, dict[str, str], Any] | None]


class Loopback:
    """What a server was asked: path, body, headers and time of each request."""

    def __init__(self, behave: Behave) -> None:
        self.behave = behave
        self.requests: list[tuple[str, Any, dict[str, str], float]] = []
        self.busy = self.most_busy = 0
        self.lock = threading.Lock()

    def handle(self, path, body, headers):
        with self.lock:
            number = len(self.requests)
            self.requests.append((path, body, headers, time.monotonic()))
            self.busy += 1
            self.most_busy = max(self.most_busy, self.busy)
        try:
            return self.behave(path, body, number)
        finally:
            with self.lock:
                self.busy -= 1


@contextmanager
def serving(behave: Behave, port: int = 0) -> Iterator[tuple[Loopback, str]]:
    """A server that runs until the block ends, and its URL; port 0 takes a free one."""
    loopback = Loopback(behave)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True
        wbufsize = -1

        def handle(self):
            try:
                super().handle()
            except (ConnectionError, TimeoutError):  # a client was killed, or `behave` hangs up
                self.close_connection = True

        def do_GET(self):
            self.do_POST()

        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers.get("content-length") or 0)) or "0")
            headers = {name.lower(): value for name, value in self.headers.items()}
            said = loopback.handle(self.path, body or None, headers)
            if said is None:
                self.close_connection = True
                return
            status, more, payload = said
            data = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
            told = {"content-type": "application/json", "content-length": str(len(data))} | more
            self.send_response(status)
            for name, value in told.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(data)
            self.close_connection = int(told["content-length"]) != len(data)

        def log_message(self, *args):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    try:
        yield loopback, f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
