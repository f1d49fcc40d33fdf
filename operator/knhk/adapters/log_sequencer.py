"""Log by the sequencer process, HTTP/1.1 over its Unix socket or TLS (formats/log.md)."""

from __future__ import annotations

import http.client
import json
import socket
import ssl
import struct
import threading
import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from knhk.model.faults import Fault, NotFound, Refused, Waiting
from knhk_runtime.http1 import Https
from knhk_runtime.record import entry_key

BATCH = 32_768  # leaves of one request, below both bounds of the sequencer
EVENTS = 64  # policy events of one, which may be large, and proofs
RETRY_AFTER_S = 0.5
AGAIN = (408, 429)
AT_ONCE = 4  # more of one client the sequencer refuses


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str, timeout_s: float) -> None:
        super().__init__("localhost", timeout=timeout_s)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


@dataclass(frozen=True)
class _Way:
    """A connection, and what it was made with."""

    connection: http.client.HTTPConnection
    context: ssl.SSLContext | None


def _close(ways: list[_Way]) -> None:
    for way in ways:
        way.connection.close()


class SequencerLog:
    """`knhk.ports.log.Log`. Any thread: a few connections are kept, each for one request at a time; whoever finds none free waits."""

    def __init__(self, server: str | Path | Https, timeout_s: float = 10.0) -> None:
        self._server, self._timeout_s = server, timeout_s
        self._free = threading.BoundedSemaphore(AT_ONCE)
        self._kept: list[_Way] = []
        weakref.finalize(self, _close, self._kept)

    def append_event(self, bundle: bytes) -> int:
        """See the port."""
        return int(json.loads(self._request("POST", "/event", bundle))["index"])

    def append_events(self, bundles: Sequence[bytes]) -> list[int]:
        """See the port."""
        return self._appended(bundles, EVENTS)

    def append_leaves(self, leaves: Sequence[bytes]) -> list[int]:
        """See the port."""
        return self._appended(leaves, BATCH)

    def _appended(self, entries: Sequence[bytes], of: int) -> list[int]:
        indexes = list[int]()
        for start in range(0, len(entries), of):
            items = [entry_key(entry) + len(entry).to_bytes(2, "big") + entry for entry in entries[start : start + of]]
            answer = self._request("POST", "/append", b"".join([len(items).to_bytes(4, "big"), *items]))
            if len(answer) != 8 * len(items):
                raise Waiting("LogAnswer", "the sequencer's answer does not fit the batch", RETRY_AFTER_S)
            indexes += struct.unpack(f">{len(items)}Q", answer)
        return indexes

    def index_of(self, key: bytes) -> int:
        """See the port."""
        return int(json.loads(self._request("GET", f"/index/{key.hex()}"))["index"])

    def proof(self, index: int) -> str:
        """See the port."""
        try:
            return self._request("GET", f"/proof/{index}").decode()
        except NotFound as error:
            raise Waiting("NotCovered", str(error), RETRY_AFTER_S) from error

    def proofs(self, indexes: Sequence[int]) -> list[str | None]:
        """See the port."""
        found = list[str | None]()
        for start in range(0, len(indexes), EVENTS):
            wanted = ",".join(map(str, indexes[start : start + EVENTS]))
            try:
                found += json.loads(self._request("GET", f"/proofs?of={wanted}"))["proofs"]
            except NotFound as error:
                raise Waiting("LogOfBefore", f"{error}: the sequencer must be of this release", RETRY_AFTER_S) from error
        return found

    def checkpoint(self) -> str:
        """See the port."""
        return self._request("GET", "/checkpoint").decode()

    def health(self) -> dict[str, Any]:
        """How far the log is (formats/log.md). Raises Waiting while its storage fails."""
        told: dict[str, Any] = json.loads(self._request("GET", "/health"))
        return told

    def _way(self, context: ssl.SSLContext | None) -> _Way:
        if isinstance(self._server, Https):
            made: http.client.HTTPConnection = http.client.HTTPSConnection(
                self._server.host, self._server.port, timeout=self._timeout_s, context=context
            )
        else:
            made = _UnixConnection(str(self._server), self._timeout_s)
        return _Way(made, context)

    def _old(self, context: ssl.SSLContext | None) -> _Way | None:
        """A kept connection that was made with this context; others are closed."""
        while self._kept:
            way = self._kept.pop()
            if way.context is context and way.connection.sock is not None:
                return way
            way.connection.close()
        return None

    def _answered(self, way: _Way, method: str, target: str, body: bytes | None) -> tuple[int, bytes]:
        try:
            way.connection.request(method, target, body)
            answer = way.connection.getresponse()
            data = answer.read()
        except BaseException:
            way.connection.close()
            raise
        self._kept.append(way)
        return answer.status, data

    def _asked(self, method: str, target: str, body: bytes | None) -> tuple[int, bytes]:
        context = self._server.context() if isinstance(self._server, Https) else None
        if (old := self._old(context)) is not None:
            try:
                return self._answered(old, method, target, body)
            except TimeoutError:
                raise
            except (OSError, http.client.HTTPException):
                pass  # the server has closed it meanwhile; every request may be made twice
        return self._answered(self._way(context), method, target, body)

    def _request(self, method: str, target: str, body: bytes | None = None) -> bytes:
        try:
            with self._free:
                status, data = self._asked(method, target, body)
        except (OSError, http.client.HTTPException) as error:
            what = f"{type(error).__name__}: {error}"
            if not isinstance(self._server, Https):
                absent = isinstance(error, FileNotFoundError | ConnectionRefusedError)
                what = f"{'nobody listens there' if absent else what}; is the sequencer running? (knhk up)"
            message = f"{self._server}: {what}"
            raise Waiting("LogUnreachable", message, RETRY_AFTER_S) from error
        if status in (200, 204):
            return data
        raise self._fault(target, status, data)

    def _fault(self, target: str, status: int, data: bytes) -> Exception:
        try:
            told = json.loads(data)
            where, what = str(told["where"]), str(told["what"])
        except (ValueError, KeyError, TypeError):
            where, what = target, data[:200].decode(errors="replace")
        if status == 404:
            return NotFound(f"{where}: {what}")
        if 400 <= status < 500 and status not in AGAIN:
            return Refused([Fault(where, what, "must be as in formats/log.md")])
        return Waiting("LogStorage", f"{where}: {what}", RETRY_AFTER_S)
