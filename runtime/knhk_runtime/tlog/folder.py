"""A log folder (formats/log.md), read while it may be written: files come whole, by rename, and never change; a partial tile goes only
after the full one has come."""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from knhk_runtime.record import SEGMENT_HEAD, scan_frames
from knhk_runtime.tlog.tree import TILE, parse_bundle_of_entries, parse_tile_path, tile_path
from knhk_verify.errors import Bad
from knhk_verify.tree import HASH, leaf_hash

Tell = Callable[[str, str], None]
Tile = tuple[int | None, int, int]  # level (None: entries), number, width


@dataclass(frozen=True)
class Folder:
    """The files of a log; what cannot be read is told to `bad`."""

    path: Path
    bad: Tell

    def read(self, *names: str, needed: bool = True) -> tuple[str, bytes] | None:
        """(name, bytes) of the first of these files that is there; that none is there is bad when one is needed."""
        for name in names:
            try:
                return name, (self.path / name).read_bytes()
            except FileNotFoundError:
                continue
            except OSError as error:
                self.bad(name, f"cannot be read: {error.strerror}")
                return None
        if needed:
            self.bad(names[0], "is missing")
        return None

    def tiles(self) -> set[Tile]:
        """All tiles in the folder; what else is there is bad, but for files half-written under a temporary name."""
        tiles = set[Tile]()

        def unreadable(error: OSError) -> None:
            if not isinstance(error, FileNotFoundError):  # a folder of partial tiles may go while it is listed
                self.bad(os.path.relpath(error.filename, self.path), f"cannot be read: {error.strerror}")

        for folder, _, names in os.walk(self.path / "tile", onerror=unreadable):
            for name in names:
                path = (Path(folder) / name).relative_to(self.path).as_posix()
                try:
                    tiles |= {parse_tile_path(path)} if not path.endswith(".tmp") else set()
                except Bad as error:
                    self.bad(error.where, error.what)
        return tiles

    def tile(self, level: int | None, n: int, width: int) -> bytes | None:
        """Hashes of a tile (of a bundle those of its entries); of a partial one that has gone, the beginning of the full one."""
        path, full = tile_path(level, n, width), tile_path(level, n)
        if (found := self.read(path, *([full] if full != path else []))) is None:
            return None
        try:
            hashes = b"".join(leaf_hash(e) for _, e in parse_bundle_of_entries(found[1], path)) if level is None else found[1]
        except Bad as error:
            self.bad(error.where, error.what)
            return None
        return hashes if found[0] == path else hashes[: width * HASH]

    def bundles(self, tiles: set[Tile], size: int) -> Iterator[tuple[str, int, bytes]]:
        """(path, width, bytes) of the widest bundle of each number: all that a checkpoint of `size` needs (missing: no bytes), then
        those beyond that tiles speak of, up to the first that is not there."""
        widths = defaultdict[int, set[int]](set)
        for level, n, width in tiles:
            if not level:
                widths[n].add(width)
        reach = max([size, *(n * TILE + width << 8 * (level or 0) for level, n, width in tiles)])
        for n in range(-(-reach // TILE)):
            covered = min(TILE, size - n * TILE)
            partial = sorted(widths[n] | {covered} if covered > 0 else widths[n], reverse=True)
            found = self.read(*(tile_path(None, n, width) for width in (TILE, *partial, TILE)), needed=False)
            if found is None and (covered <= 0 or n > len(tiles)):
                return  # neither a stray name nor an absurd size makes this endless
            path, data = found or (tile_path(None, n, covered), b"")
            yield path, parse_tile_path(path)[2], data


def _refuse(where: str, what: str) -> None:
    raise Bad(where, what)


def log_entries(log_dir: str | Path) -> Iterator[bytes]:
    """All entries in a log folder, in order, unverified; raises Bad with file and offset for a bundle that cannot be read."""
    folder = Folder(Path(log_dir), _refuse)
    for path, width, data in folder.bundles({tile for tile in folder.tiles() if tile[0] is None}, 0):
        yield from islice((entry for _, entry in parse_bundle_of_entries(data, path)), width)


def segment_number(segment: Path) -> int:
    """Number in the name of a segment, -1 when it has none."""
    return int(segment.stem, 16) if re.fullmatch("[0-9a-f]{16}", segment.stem) else -1


def log_records(log_dir: str | Path) -> Iterator[tuple[str, bytes]]:
    """(file and offset, payload) of all records that agents keep beside a log, unverified; raises Bad for a segment that was altered or
    that is not named as one."""
    for segment in sorted(Path(log_dir).glob("observations/*/*.seg")):
        name, data, number = segment.relative_to(log_dir).as_posix(), segment.read_bytes(), segment_number(segment)
        if number < 0:
            raise Bad(name, "is not named as a segment: must be 16 hexadecimal digits")
        if len(data) >= SEGMENT_HEAD:  # else it has just begun
            yield from ((f"{name} offset {at}", payload) for at, payload in scan_frames(data, number, name)[0])
