"""Merkle trees as their writer and readers of tiles see them: tile paths (c2sp.org/tlog-tiles), roots and proofs over stored hashes."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from hashlib import sha256

from knhk_verify.errors import Bad
from knhk_verify.tree import EMPTY, HASH, node_hash

TILE = 256  # hashes in a full tile, entries in a full bundle

# (level, index) → hash of the perfect subtree over leaves [index·2^level, (index+1)·2^level)
Read = Callable[[int, int], bytes]


def subtree_hash(hashes: bytes) -> bytes:
    """Root over `hashes`: 2^k hashes of 32 bytes, k ≥ 0, one after another."""
    while len(hashes) > HASH:
        hashes = b"".join([sha256(b"\1" + hashes[i : i + 64]).digest() for i in range(0, len(hashes), 64)])
    return hashes


def subtrees(start: int, end: int) -> list[tuple[int, int]]:
    """(level, index) of the perfect subtrees that make up leaves [start, end), left to right; start aligned to them."""
    parts = []
    while start < end:
        level = (end - start).bit_length() - 1
        parts.append((level, start >> level))
        start += 1 << level
    return parts


def fold(parts: Sequence[bytes]) -> bytes:
    """Root over the hashes of perfect subtrees, left to right, each smaller than the one before."""
    if not parts:
        return EMPTY
    root = parts[-1]
    for part in parts[-2::-1]:
        root = node_hash(part, root)
    return root


def range_root(read: Read, start: int, end: int) -> bytes:
    """MTH(D[start:end]) of RFC 6962; `start` is a multiple of the largest power of two in the range."""
    return fold([read(level, index) for level, index in subtrees(start, end)])


def _split(size: int) -> int:
    return 1 << ((size - 1).bit_length() - 1)


def inclusion_proof(read: Read, index: int, size: int) -> list[bytes]:
    """Audit path of leaf `index` in the tree of `size` leaves, leaf end first (RFC 9162 §2.1.3.1)."""
    if not 0 <= index < size:
        raise Bad(f"index {index}", f"must be below the size {size}")
    start, end, path = 0, size, []
    while end - start > 1:
        middle = start + _split(end - start)
        if index < middle:
            path.append(range_root(read, middle, end))
            end = middle
        else:
            path.append(range_root(read, start, middle))
            start = middle
    return path[::-1]


def consistency_proof(read: Read, old: int, new: int) -> list[bytes]:
    """Proof that the tree of `old` leaves is a prefix of the tree of `new` leaves (RFC 9162 §2.1.4.1)."""
    if not 0 <= old <= new:
        raise Bad(f"sizes {old}, {new}", "must be 0 ≤ old ≤ new")
    if old in (0, new):
        return []
    start, end, path = 0, new, []
    while end != old:
        middle = start + _split(end - start)
        if old <= middle:
            path.append(range_root(read, middle, end))
            end = middle
        else:
            path.append(range_root(read, start, middle))
            start = middle
    if start:
        path.append(range_root(read, start, end))
    return path[::-1]


# ---- tiles: c2sp.org/tlog-tiles ---------------------------------------------------------------


def tile_path(level: int | None, n: int, width: int = TILE) -> str:
    """Path of tile `n` of `level` (None: entries bundle), e.g. tile/0/x001/067.p/8."""
    groups = [f"{n % 1000:03d}"]
    while n := n // 1000:
        groups.append(f"x{n % 1000:03d}")
    name = "entries" if level is None else str(level)
    return f"tile/{name}/{'/'.join(reversed(groups))}" + ("" if width == TILE else f".p/{width}")


_TILE_PATH = re.compile(r"tile/(0|[1-9]\d?|entries)/((?:x\d{3}/){0,6}\d{3})(?:\.p/([1-9]\d?|1\d\d|2[0-4]\d|25[0-5]))?", re.ASCII)


def parse_tile_path(path: str) -> tuple[int | None, int, int]:
    """(level or None, n, width) of a path that `tile_path` makes; raises Bad for any other."""
    if not (match := _TILE_PATH.fullmatch(path)):
        raise Bad(path, "is not the path of a tile")
    level = None if match[1] == "entries" else int(match[1])
    n, width = int(match[2].replace("x", "").replace("/", "")), int(match[3] or TILE)
    if tile_path(level, n, width) != path:
        raise Bad(path, "is not the path of a tile")
    return level, n, width


def parse_bundle_of_entries(data: bytes, where: str) -> Iterator[tuple[int, bytes]]:
    """(offset, entry) of an entries bundle: each a u16 length and that many bytes. Raises Bad with the offset."""
    offset = 0
    while offset < len(data):
        end = offset + 2 + int.from_bytes(data[offset : offset + 2], "big")
        if offset + 2 > len(data) or end > len(data):
            raise Bad(f"{where} offset {offset}", "the entry goes past the end of the bundle")
        yield offset, data[offset + 2 : end]
        offset = end


class Tiles:
    """Hash reader over tiles: `fetch(path)` gives the bytes of a tile of the tree of `size` leaves."""

    def __init__(self, fetch: Callable[[str], bytes], size: int) -> None:
        self._fetch, self.size, self._cache = fetch, size, dict[tuple[int, int], bytes]()

    def __call__(self, level: int, index: int) -> bytes:
        row, depth = divmod(level, 8)
        n = (index << depth) // TILE
        if (row, n) not in self._cache:
            width = min(TILE, (self.size >> 8 * row) - n * TILE)
            path = tile_path(row, n, width)
            tile = self._fetch(path)
            if len(tile) != width * HASH:
                raise Bad(path, f"has {len(tile)} bytes: must be {width * HASH}")
            self._cache[row, n] = tile
        start = ((index << depth) % TILE) * HASH
        return subtree_hash(self._cache[row, n][start : start + (HASH << depth)])
