"""litewitness as a process on one key and one log, and the SSH agent that it asks for signatures."""

from __future__ import annotations

import base64
import hashlib
import http.client
import socketserver
import sqlite3
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from knhk_runtime.tlog.notes import format_vkey
from knhk_verify.note import COSIGNATURE, Verifier, b64
from knhk_verify.tree import EMPTY

NAME = "litewitness.example/third"
REQUEST_IDENTITIES, IDENTITIES, SIGN_REQUEST, SIGNATURE, REFUSED = 11, 12, 13, 14, 5  # draft-ietf-sshm-ssh-agent


def _text(data: bytes) -> bytes:
    return len(data).to_bytes(4, "big") + data


class Agent(socketserver.ThreadingUnixStreamServer):
    """An SSH agent that holds one Ed25519 key."""

    daemon_threads = True

    def __init__(self, path: Path, key: Ed25519PrivateKey) -> None:
        self.key = key
        self.blob = _text(b"ssh-ed25519") + _text(key.public_key().public_bytes_raw())
        super().__init__(str(path), _Requests)

    @property
    def fingerprint(self) -> str:
        return "SHA256:" + base64.b64encode(hashlib.sha256(self.blob).digest()).decode().rstrip("=")


class _Requests(socketserver.StreamRequestHandler):
    def handle(self) -> None:
        assert isinstance(self.server, Agent)
        while head := self.rfile.read(4):
            body = self.rfile.read(int.from_bytes(head, "big"))
            self.wfile.write(_text(self._answer(self.server, body)))

    def _answer(self, agent: Agent, body: bytes) -> bytes:
        if body[0] == REQUEST_IDENTITIES:
            return bytes([IDENTITIES]) + (1).to_bytes(4, "big") + _text(agent.blob) + _text(b"witness")
        if body[0] == SIGN_REQUEST and body[1:].startswith(_text(agent.blob)):
            rest = body[1 + len(_text(agent.blob)) :]
            signature = agent.key.sign(rest[4 : 4 + int.from_bytes(rest[:4], "big")])
            return bytes([SIGNATURE]) + _text(_text(b"ssh-ed25519") + _text(signature))
        return bytes([REFUSED])


@contextmanager
def serving(program: Path, folder: Path, log: Verifier, key: Ed25519PrivateKey, port: int) -> Iterator[Verifier]:
    """litewitness on 127.0.0.1:`port` for this log; gives its verifier."""
    witness = Verifier(NAME, key.public_key().public_bytes_raw(), COSIGNATURE)
    with Agent(folder / "agent", key) as agent:
        threading.Thread(target=agent.serve_forever, daemon=True).start()
        words = ["-db", str(folder / "db"), "-ssh-agent", str(folder / "agent"), "-key", agent.fingerprint, "-name", NAME]
        process = subprocess.Popen([str(program), *words, "-listen", f"127.0.0.1:{port}"], stderr=subprocess.PIPE, text=True)
        try:
            _until_it_answers(process, port)
            with sqlite3.connect(folder / "db") as database:
                database.execute("INSERT INTO log (origin, tree_size, tree_hash) VALUES (?, 0, ?)", (log.name, b64(EMPTY)))
                database.execute("INSERT INTO key (origin, key) VALUES (?, ?)", (log.name, format_vkey(log)))
            database.close()
            yield witness
        finally:
            process.terminate()
            process.communicate(timeout=60)
            agent.shutdown()


def _until_it_answers(process: subprocess.Popen[str], port: int) -> None:
    deadline = time.monotonic() + 60
    while True:
        with suppress(OSError):
            return _look(port)
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.02)


def _look(port: int) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request("GET", "/")
        connection.getresponse().read()
    finally:
        connection.close()
