"""Light client of the sequencer for agents: its Unix socket, or HTTPS with a client's certificate."""

from __future__ import annotations

import json
import struct
from collections.abc import Collection, Sequence
from pathlib import Path

from knhk_runtime.http1 import HttpClient, Https, Unreachable
from knhk_runtime.record import entry_key

CONFLICT, AGAIN, LACKS = 409, (408, 429), (403, 404)


class SequencerUnavailable(Exception):
    """The sequencer did not acknowledge: not reached, too busy, or its storage fails. Repeat the same batch; appends are idempotent."""


class SequencerRefused(Exception):
    """The sequencer refused the request as malformed; repeating it does not help."""


class SequencerLacks(SequencerRefused):
    """The sequencer has no such request for this client: it may be of a release before."""


class SequencerConflict(SequencerRefused):
    """Entries of a batch, by number, are another's, or their keys have another leaf. The others count only when they are sent again."""

    def __init__(self, text: str, items: frozenset[int]) -> None:
        super().__init__(text)
        self.items = items


class CopyElsewhere(SequencerRefused):
    """The copy of an outbox ends at another place than the frames begin."""


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

    async def claim(self, sources: Collection[bytes]) -> None:
        """Says that these rings are this client's, 8 bytes each; raises as `append_leaves`."""
        await self._request("POST", "/sources", b"".join(sorted(sources)))

    async def copied(self, outbox: str) -> tuple[int, int] | None:
        """(segment, offset) where the copy of this outbox of ours ends; None when there is none. Raises as `append_leaves`."""
        found = json.loads(await self._request("GET", f"/records?outbox={outbox}"))
        return None if found["segment"] is None else (int(found["segment"]), int(found["offset"]))

    async def copy(self, outbox: str, at: tuple[int, int], frames: bytes) -> None:
        """Whole frames of our outbox that begin at (segment, offset), durable. Raises CopyElsewhere, and as `append_leaves`."""
        try:
            await self._request("POST", f"/records?outbox={outbox}&segment={at[0]}&offset={at[1]}", frames)
        except SequencerConflict as error:
            raise CopyElsewhere(str(error)) from error

    async def stages(self, known: tuple[int, int] | None) -> dict[str, float]:
        """How many entries of the log have come how far (`durable`, `published`, `regions`), as soon as one of the latter two is more than
        known, after some seconds at the latest; None: at once."""
        query = f"?published={known[0]}&regions={known[1]}" if known is not None else ""
        told = json.loads(await self._request("GET", f"/stages{query}"))
        return {name: told[name] for name in ("durable", "published", "regions", "unwitnessed_s")}

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
        if answer.status in (200, 204):
            return answer.body
        text = f"{method} {target}: {answer.status}: {answer.body[:500].decode(errors='replace')}"
        if answer.status == CONFLICT:
            raise SequencerConflict(text, _items(answer.body))
        if answer.status in LACKS:
            raise SequencerLacks(text)
        kind = SequencerRefused if 400 <= answer.status < 500 and answer.status not in AGAIN else SequencerUnavailable
        raise kind(text)


def _items(body: bytes) -> frozenset[int]:
    try:
        return frozenset(number for number in json.loads(body)["items"] if isinstance(number, int))
    except (ValueError, KeyError, TypeError):
        return frozenset()
