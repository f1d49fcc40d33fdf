"""How a Fulcio outside of a cluster reaches the issuer of its tokens, whose name only the cluster's DNS knows."""

from __future__ import annotations

import contextlib
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from socket import SHUT_WR, create_connection, socket
from typing import Any
from urllib.parse import urlsplit

sys.path.insert(0, str(Path(__file__).parents[1] / "sigstore"))
from control_plane import ISSUER
from private_stack import HOST

DISCOVERY: dict[str, Any] = {
    "apiVersion": "rbac.authorization.k8s.io/v1",
    "kind": "ClusterRoleBinding",
    "metadata": {"name": "fulcio-reads-the-issuer"},
    "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "system:service-account-issuer-discovery"},
    "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "Group", "name": "system:unauthenticated"}],
}
"""Who asks may read how tokens of this cluster are verified."""


@contextmanager
def way_to_the_issuer(server: str) -> Iterator[str]:
    """A proxy that knows one name, the issuer's, and leads to the API server, as the DNS of a cluster does. Its URL."""
    name, at = f"{urlsplit(ISSUER).hostname}:443", urlsplit(server)

    class Handler(BaseHTTPRequestHandler):
        def do_CONNECT(self) -> None:
            if self.path != name:
                self.send_error(403)
                return
            with create_connection((at.hostname or "", at.port or 443)) as there:
                self.send_response(200)
                self.end_headers()
                back = threading.Thread(target=_carry, args=(there, self.connection))
                back.start()
                _carry(self.connection, there)
                back.join()

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer((HOST, 0), Handler) as proxy:
        thread = threading.Thread(target=proxy.serve_forever)
        thread.start()
        try:
            yield f"http://{HOST}:{proxy.server_port}"
        finally:
            proxy.shutdown()
            thread.join()


def _carry(source: socket, sink: socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(65_536):
            sink.sendall(data)
    with contextlib.suppress(OSError):
        sink.shutdown(SHUT_WR)
