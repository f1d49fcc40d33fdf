"""Health and metrics of the operator's process over HTTP: /healthz, /readyz, /metrics."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from knhk.model.faults import Stalled

Check = Callable[[], str]
"""Why it is not so; empty when it is."""

TEXT = "text/plain; charset=utf-8"
METRICS = "text/plain; version=0.0.4; charset=utf-8"


@contextmanager
def served(address: str, checks: Mapping[str, Check], metrics: Callable[[], bytes]) -> Iterator[None]:
    """Serves at HOST:PORT while the context lasts: each check at /NAME, with 200, or 503 and why. Raises Stalled."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            name = self.path.partition("?")[0].strip("/")
            if name == "metrics":
                self._answer(200, metrics(), METRICS)
            elif name in checks:
                why = checks[name]()
                self._answer(503 if why else 200, f"{why or 'ok'}\n".encode(), TEXT)
            else:
                self._answer(404, f"must be one of /{', /'.join([*checks, 'metrics'])}\n".encode(), TEXT)

        def _answer(self, status: int, body: bytes, media: str) -> None:
            self.send_response(status)
            self.send_header("Content-Type", media)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Probes are not worth a line each."""

    host, _, port = address.rpartition(":")
    try:
        server = ThreadingHTTPServer((host, int(port)), Handler)
    except (OSError, ValueError) as error:
        raise Stalled("NoHealthPort", f"--health {address}: must be HOST:PORT with a free port: {error}") from error
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, name="health", daemon=True)
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
