"""Light client of the sequencer for agents: its Unix socket, or HTTPS with a client's certificate."""

from __future__ import annotations

import json
import struct
from collections.abc import Sequence
from pathlib import Path

from knhk_runtime.http1 import HttpClient, Https, Unreachable
from knhk_runtime.record import entry_key

TOO_MANY = 429


class SequencerUnavailable(Exception):
    """The sequencer did not acknowledge: not reached, too busy, or its storage fails. Repeat the same batch; appends are idempotent."""


class SequencerRefused(Exception):
    """The sequencer refused the request as malformed; repeating it does not help."""


def encode_batch(entries: Sequence[bytes]) -> bytes:
    """Body of `POST /append`: u32 n, then n × {key 17 bytes, entry str16}; at most 65,536 entries and 8 MiB."""
    items = [entry_key(entry) + len(entry).to_bytes(2, "big") + entry for entry in entries]
    return b"".join([len(items).to_bytes(4, "big"), *items])


class SequencerClient:
    """One connection, made anew after an error. Safe for several tasks of one event loop; requests go one after another."""

    def __init__(self, server: str | Path | Https, timeout_s: float = 10.0) -> None:
        self._client = HttpClient(server if isinstance(server, Https) else Path(server))
        self._timeout_s = timeout_s

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
        await self._client.close()

    async def _request(self, method: str, target: str, body: bytes = b"") -> bytes:
        try:
            answer = await self._client.request(method, target, body, timeout_s=self._timeout_s)
        except Unreachable as error:
            raise SequencerUnavailable(str(error)) from error
        if answer.status == 200:
            return answer.body
        kind = SequencerRefused if 400 <= answer.status < 500 and answer.status != TOO_MANY else SequencerUnavailable
        raise kind(f"{method} {target}: {answer.status}: {answer.body[:500].decode(errors='replace')}")
