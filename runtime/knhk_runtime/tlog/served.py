"""A log read by its paths (c2sp.org/tlog-tiles), from wherever they are served: entries, roots, proofs, the first difference of two.

What is read is as the server gives it: whoever gets a proof verifies it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from knhk_runtime.sequencer.edge import Edge
from knhk_runtime.tlog.notes import format_proof
from knhk_runtime.tlog.tree import (
    TILE,
    Read,
    Tiles,
    consistency_proof,
    inclusion_proof,
    parse_bundle_of_entries,
    parse_tile_path,
    range_root,
    subtrees,
    tile_path,
)
from knhk_verify.errors import Bad
from knhk_verify.note import b64, unb64
from knhk_verify.signed import member, parse_json
from knhk_verify.tree import HASH, leaf_hash

# path → bytes; None: it is not there
Fetch = Callable[[str], bytes | None]


class Served:
    """Reads the log `name`, as far as its checkpoint of `size` entries reaches. Raises Bad for what is missing or malformed."""

    def __init__(self, name: str, fetch: Fetch, size: int) -> None:
        self.name, self.size, self._fetch = name, size, fetch
        self._kept: tuple[int, list[bytes]] = (-1, [])
        self.read: Read = Tiles(self._tile, size)

    def before(self, size: int) -> Served:
        """The same log as it was with `size` entries: the beginnings of its tiles and bundles of now."""

        def fetch(path: str) -> bytes:
            level, n, _ = parse_tile_path(path)
            return self.bundle(n)[1] if level is None else self.tile(level, n)

        return Served(self.name, fetch, size)

    def _one(self, path: str) -> bytes:
        """Bytes at a tile's path, or of the full tile that has taken its place."""
        level, n, width = parse_tile_path(path)
        if (data := self._fetch(path)) is not None:
            return data
        if width < TILE and (data := self._fetch(tile_path(level, n))) is not None:
            return data
        raise Bad(f"{self.name}/{path}", "is not there: the log is damaged, or serves no entries of this size")

    def _tile(self, path: str) -> bytes:
        return self._one(path)[: parse_tile_path(path)[2] * HASH]

    def entry(self, index: int) -> bytes:
        """Bytes of an entry."""
        if not 0 <= index < self.size:
            raise Bad(f"{self.name} entry {index}", f"is not under the checkpoint of size {self.size}: try again in a second")
        return self.entries_of(index // TILE)[index % TILE]

    def entries(self, start: int = 0) -> Iterator[bytes]:
        """All entries from `start` on, in order."""
        for n in range(start // TILE, -(-self.size // TILE)):
            yield from self.entries_of(n)[max(0, start - n * TILE) :]

    def entries_under(self, root: bytes) -> Iterator[bytes]:
        """All entries, in order; at their end Bad when they do not give this root."""
        edge = Edge()
        for n in range(-(-self.size // TILE)):
            entries = self.entries_of(n)
            edge.extend(b"".join(map(leaf_hash, entries)))
            yield from entries
        if edge.root() != root:
            raise Bad(f"{self.name}/tile/entries", "do not give the root that the checkpoint signs: some were altered")

    def bundle(self, n: int) -> tuple[str, bytes]:
        """(path, bytes) of bundle `n`, as wide as this size needs it."""
        path = tile_path(None, n, min(TILE, self.size - n * TILE))
        return path, b"".join(len(entry).to_bytes(2, "big") + entry for entry in self.entries_of(n))

    def tile(self, level: int, n: int) -> bytes:
        """Hashes of a tile."""
        return self._tile(tile_path(level, n, min(TILE, (self.size >> 8 * level) - n * TILE)))

    def entries_of(self, n: int) -> list[bytes]:
        """Entries of a bundle; the last one that was asked for is kept."""
        kept = self._kept
        if kept[0] != n:
            kept = self._kept = n, self._read_bundle(n)
        return kept[1]

    def _read_bundle(self, n: int) -> list[bytes]:
        width = min(TILE, self.size - n * TILE)
        path = tile_path(None, n, width)
        entries = [entry for _, entry in parse_bundle_of_entries(self._one(path), f"{self.name}/{path}")]
        if len(entries) < width:
            raise Bad(f"{self.name}/{path}", f"has {len(entries)} entries: must have {width}")
        return entries[:width]

    def root(self, size: int) -> bytes:
        """Root of the first `size` entries."""
        return range_root(self.read, 0, size)

    def inclusion(self, index: int, note: str) -> str:
        """tlog-proof text of an entry under `note`, the checkpoint of this size."""
        return format_proof(index, inclusion_proof(self.read, index, self.size), note)

    def consistency(self, old: int, note: str, known: bytes = b"") -> str:
        """Consistency proof from size `old` to `note`, the checkpoint of this size (formats/receipt.md). `known`: the root of size `old` of
        who is to take it. Where a proof leaves that tree out, and it is another here, ours stands first: so the proof is one of a fork."""
        path = consistency_proof(self.read, old, self.size)
        if known and 0 < old < self.size and not old & (old - 1) and (here := self.root(old)) != known:
            path = [here, *path]
        return f"old {old}\n" + "".join(f"{b64(hash_)}\n" for hash_ in path) + f"\n{note}"


def first_difference(one: Read, other: Read, size: int) -> int | None:
    """Index of the first entry below `size` that two logs do not share; None when all are the same."""
    for level, index in subtrees(0, size):
        if one(level, index) != other(level, index):
            while level:
                level, index = level - 1, 2 * index
                index += one(level, index) == other(level, index)
            return index
    return None


def receipt_of(entry: bytes, index: int, proof: str) -> dict[str, Any]:
    """The receipt of an entry (formats/receipt.md); the caller verifies it. Raises Bad for an entry of no known kind."""
    told: dict[str, Any] = {"logIndex": index, "proof": proof}
    if entry[:1] != b"{":
        return {"leaf": b64(entry), "receipt": entry[100:116].hex(), **told}
    payload = member(parse_json(entry, f"entry {index}"), "dsseEnvelope.payload", str, f"entry {index}")
    statement = parse_json(unb64(payload, f"entry {index} payload"), f"entry {index} payload")
    return {"event": member(statement, "predicate.kind", str, f"entry {index}"), "bundle": entry.decode(), **told}
