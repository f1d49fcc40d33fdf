"""Ways to a pod's port: what the API server refuses once ends that connection alone."""

from __future__ import annotations

import base64
import hashlib
import http.server
import json
import socket
import threading
from collections.abc import Iterator

import pytest
from kubernetes.client import ApiClient, Configuration

from knhk.adapters.port_forward_kube import forwarded

pytestmark = [pytest.mark.server, pytest.mark.timeout(300)]
WITHIN_S = 60.0
OF_WEBSOCKETS = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"


class Api(http.server.BaseHTTPRequestHandler):
    """Opens the first way, and refuses all others, as an API server whose pod goes away meanwhile."""

    protocol_version = "HTTP/1.1"
    answers: Iterator[int]

    def do_GET(self) -> None:
        status = next(self.answers)
        if status == 101:
            accept = hashlib.sha1((self.headers["Sec-WebSocket-Key"] + OF_WEBSOCKETS).encode()).digest()
            self.send_response(101)
            for name, value in (
                ("Upgrade", "websocket"),
                ("Connection", "Upgrade"),
                ("Sec-WebSocket-Accept", base64.b64encode(accept).decode()),
                ("Sec-WebSocket-Protocol", "v4.channel.k8s.io"),
            ):
                self.send_header(name, value)
            self.end_headers()
            self.wfile.flush()
            self.rfile.read(1)  # until it is closed
            self.close_connection = True
            return
        body = json.dumps({"kind": "Status", "message": "refused", "details": {"kind": "pods", "name": "p"}}).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.mark.parametrize("status", [404, 409, 503])
def test_a_connection_that_the_api_server_refuses_ends_and_the_next_is_tried_all_the_same(status: int) -> None:
    said = type("Said", (Api,), {"answers": iter((101, *[status] * 3))})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), said) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            where = Configuration(host=f"http://127.0.0.1:{server.server_port}")
            with forwarded(lambda: ApiClient(where), "knhk-system", "knhk-log-0", 8449) as at:
                for _ in range(3):
                    with socket.create_connection(at, WITHIN_S) as here:
                        assert here.recv(1) == b""
        finally:
            server.shutdown()
            thread.join()
