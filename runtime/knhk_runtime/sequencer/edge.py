"""The right edge of a tiled Merkle tree: all that appending needs to know of the tree."""

from __future__ import annotations

from dataclasses import dataclass, field

from knhk_hot.drain import hash_rows
from knhk_runtime.tlog.tree import TILE, fold, subtree_hash, subtrees
from knhk_verify.tree import HASH

FULL = TILE * HASH


def roots_of_tiles(tiles: bytes) -> bytes:
    """Roots of full tiles, one after another: all their nodes level by level, RFC 6962 §2.1."""
    hashes = tiles
    while len(hashes) > len(tiles) // TILE:
        hashes = hash_rows(1, hashes, 2 * HASH)
    return hashes


@dataclass
class Edge:
    """For each tile level the number of full tiles and the hashes of the last, not yet full one."""

    full: list[int] = field(default_factory=lambda: [0])
    rests: list[bytes] = field(default_factory=lambda: [b""])

    @property
    def size(self) -> int:
        """Number of leaves."""
        return self.full[0] * TILE + len(self.rests[0]) // HASH

    def copy(self) -> Edge:
        """An independent edge of the same tree."""
        return Edge(list(self.full), list(self.rests))

    def extend(self, hashes: bytes) -> list[tuple[int, int, int, bytes]]:
        """Append leaf hashes, 32 bytes each; returns the tiles that are new or longer: (level, n, width, bytes)."""
        changed = []
        level = 0
        while hashes:
            if level == len(self.full):
                self.full.append(0)
                self.rests.append(b"")
            data = self.rests[level] + hashes
            whole = len(data) // FULL * FULL
            for start in range(0, whole, FULL):
                tile = data[start : start + FULL]
                changed.append((level, self.full[level], TILE, tile))
                self.full[level] += 1
            self.rests[level] = data[whole:]
            if rest := data[whole:]:
                changed.append((level, self.full[level], len(rest) // HASH, rest))
            hashes, level = roots_of_tiles(data[:whole]), level + 1
        return changed

    def root(self) -> bytes:
        """Root of the tree."""
        parts = list[bytes]()
        for rest in reversed(self.rests):
            for level, index in subtrees(0, len(rest) // HASH):
                start = (index << level) * HASH
                parts.append(subtree_hash(rest[start : start + (HASH << level)]))
        return fold(parts)
