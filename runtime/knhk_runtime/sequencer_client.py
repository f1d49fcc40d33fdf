"""Light client of the sequencer for agents: HTTP/1.1 on a Unix socket by asyncio streams, one request at a time."""

from __future__ import annotations

import asyncio
import json
import struct
from collections.abc import Sequence
from pathlib import Path

from knhk_verify.record import entry_key

MAX_ANSWER_BYTES = 8 << 20


class SequencerUnavailable(Exception):
    """The sequencer did not acknowledge: not reached, or its storage fails. Repeat the same batch; appends are idempotent."""


class SequencerRefused(Exception):
    """The sequencer refused the request as malformed; repeating it does not help."""


def encode_batch(entries: Sequence[bytes]) -> bytes:
    """Body of `POST /append`: u32 n, then n × {key 17 bytes, entry str16}; at most 65,536 entries and 8 MiB."""
    items = [entry_key(entry) + len(entry).to_bytes(2, "big") + entry for entry in entries]
    return b"".join([len(items).to_bytes(4, "big"), *items])


class SequencerClient:
    """One connection, made anew after an error. Safe for several tasks of one event loop; requests go one after another."""

    def __init__(self, path: str | Path, timeout_s: float = 10.0) -> None:
        self._path, self._timeout_s = str(path), timeout_s
        self._lock = asyncio.Lock()
        self._stream: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def append_leaves(self, leaves: Sequence[bytes]) -> list[int]:
        """Index of each leaf, after the sequencer's fdatasync. Raises SequencerUnavailable or SequencerRefused."""
        return await self.append_body(encode_batch(leaves))

    async def append_body(self, body: bytes) -> list[int]:
        """The same for a body made as by `encode_batch`."""
        answer = await self._request("POST", "/append", body)
        if len(answer) != 8 * int.from_bytes(body[:4], "big"):
            raise SequencerUnavailable("the answer does not fit the batch")
        return list(struct.unpack(f">{len(answer) // 8}Q", answer))

    async def append_event(self, bundle: bytes) -> int:
        """Index of a policy event, durable."""
        return int(json.loads(await self._request("POST", "/event", bundle))["index"])

    async def checkpoint(self) -> str:
        """The newest signed checkpoint."""
        return (await self._request("GET", "/checkpoint")).decode()

    async def close(self) -> None:
        """Close the connection."""
        async with self._lock:
            self._drop()

    def _drop(self) -> None:
        if self._stream:
            self._stream[1].close()
        self._stream = None

    async def _request(self, method: str, target: str, body: bytes = b"") -> bytes:
        async with self._lock:
            try:
                async with asyncio.timeout(self._timeout_s):
                    status, answer = await self._exchange(method, target, body)
            except (OSError, EOFError, ValueError, asyncio.LimitOverrunError) as error:
                self._drop()
                raise SequencerUnavailable(f"{self._path}: {type(error).__name__}: {error}") from error
            except BaseException:
                self._drop()
                raise
        if status == 200:
            return answer
        kind = SequencerRefused if 400 <= status < 500 else SequencerUnavailable
        raise kind(f"{method} {target}: {status}: {answer[:500].decode(errors='replace')}")

    async def _exchange(self, method: str, target: str, body: bytes) -> tuple[int, bytes]:
        if self._stream is None or self._stream[0].at_eof():
            self._drop()
            self._stream = await asyncio.open_unix_connection(self._path)
        reader, writer = self._stream
        writer.write(f"{method} {target} HTTP/1.1\r\nHost: sequencer\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)
        await writer.drain()
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        fields = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:])}
        size = int(fields.get("content-length", "-1"))
        if not 0 <= size <= MAX_ANSWER_BYTES:
            raise ValueError("the answer states no usable Content-Length")
        answer = await reader.readexactly(size)
        if fields.get("connection", "").lower() == "close":
            self._drop()
        return int(head[0].split(" ")[1]), answer
