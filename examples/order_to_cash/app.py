"""A small order-to-cash service: HTTP in front of SQLite, with no validation of its own.

It believes every request that reaches it: guarding it is the work of the enforcement point in front. It stores what arrived, and the
receipt id under which it was admitted, so that anyone can hold its rows against the log.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import signal
import socketserver
import sqlite3
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

SCHEMA = """
CREATE TABLE IF NOT EXISTS entries (
  id INTEGER PRIMARY KEY,
  kind TEXT NOT NULL CHECK (kind IN ('invoice', 'approval')),
  invoice TEXT NOT NULL,
  currency TEXT,
  payable TEXT,
  receipt TEXT NOT NULL,
  body_sha256 TEXT NOT NULL
);
CREATE INDEX IF NOT EXISTS entries_invoice ON entries (invoice);
"""


class Books:
    """The application's database. One connection, one lock: SQLite has one writer anyway."""

    def __init__(self, path: Path) -> None:
        self._lock = threading.Lock()
        self._db = sqlite3.connect(path, check_same_thread=False)
        self._db.execute("PRAGMA journal_mode=WAL")
        self._db.execute("PRAGMA synchronous=NORMAL")
        self._db.executescript(SCHEMA)

    def add(self, kind: str, invoice: str, body: bytes, receipt: str) -> None:
        """Stores one admitted request."""
        doc = _document(body)
        totals = doc.get("totals")
        payable = totals.get("payable") if isinstance(totals, dict) else None
        row = (
            kind,
            invoice or str(doc.get("uuid", "")),
            str(doc.get("currency", "")),
            str(payable or ""),
            receipt,
            hashlib.sha256(body).hexdigest(),
        )
        columns = "kind, invoice, currency, payable, receipt, body_sha256"
        with self._lock, self._db:
            self._db.execute(f"INSERT INTO entries ({columns}) VALUES (?, ?, ?, ?, ?, ?)", row)

    def find(self, invoice: str) -> list[dict[str, str]]:
        """All entries about one invoice."""
        query = "SELECT kind, currency, payable, receipt FROM entries WHERE invoice = ? ORDER BY id"
        with self._lock:
            rows = self._db.execute(query, (invoice,)).fetchall()
        return [dict(zip(("kind", "currency", "payable", "receipt"), row, strict=True)) for row in rows]


def _document(body: bytes) -> dict[str, object]:
    envelope = json.loads(body)
    doc = envelope.get("doc") if isinstance(envelope, dict) else None
    return doc if isinstance(doc, dict) else {}


class Handler(BaseHTTPRequestHandler):
    """POST /invoices, POST /invoices/ID/approve, GET /invoices/ID."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    books: Books

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length", "0")))
        parts = self.path.strip("/").split("/")
        receipt = self.headers.get("knhk-receipt", "")
        try:
            if parts == ["invoices"]:
                self.books.add("invoice", "", body, receipt)
            elif len(parts) == 3 and parts[0] == "invoices" and parts[2] == "approve":
                self.books.add("approval", parts[1], body, receipt)
            else:
                self._answer(404, {"error": "no such resource"})
                return
        except ValueError as error:
            self._answer(500, {"error": f"the application broke on it: {error}"})
            return
        self._answer(201, {"stored": True, "receipt": receipt})

    def do_GET(self) -> None:
        parts = self.path.strip("/").split("/")
        if len(parts) == 2 and parts[0] == "invoices":
            self._answer(200, {"entries": self.books.find(parts[1])})
        else:
            self._answer(404, {"error": "no such resource"})

    def _answer(self, status: int, document: dict[str, object]) -> None:
        data = json.dumps(document).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: object) -> None:
        """Quiet: the story is told by the demo."""


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 256


class SocketHandler(Handler):
    disable_nagle_algorithm = False  # there is none


class SocketServer(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    daemon_threads = True
    request_queue_size = 256


def listen(socket: Path | None, port: int) -> tuple[socketserver.BaseServer, dict[str, str | int]]:
    """The server, and where it listens: a Unix socket of mode 0600, which only its owner reaches, or loopback TCP, which every user of
    this machine reaches: past the enforcement point."""
    if socket is None:
        server = Server(("127.0.0.1", port), Handler)
        return server, {"port": server.server_port}
    before = os.umask(0o177)
    try:
        return SocketServer(str(socket), SocketHandler), {"socket": str(socket)}
    finally:
        os.umask(before)


def main() -> int:
    """Serves until SIGTERM; prints where it listens."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--db", type=Path, required=True, help="SQLite file, made when missing")
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--socket", type=Path, help="Unix socket, in a folder that only the enforcement point's user may enter")
    where.add_argument("--port", type=int, default=0, help="port on 127.0.0.1; 0 takes a free one")
    args = parser.parse_args()
    Handler.books = Books(args.db)
    server, where_it_is = listen(args.socket, args.port)
    signal.signal(signal.SIGTERM, lambda *_: threading.Thread(target=server.shutdown).start())
    print(json.dumps(where_it_is), flush=True)
    server.serve_forever(poll_interval=0.1)
    if args.socket:
        args.socket.unlink(missing_ok=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
