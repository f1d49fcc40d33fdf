"""fsck: a log in a folder or an object store, checked from the bytes up: what does not fit and where, and what of it can be mended.

The entries are what counts: they give the leaf hashes, these the tiles, these the root that the checkpoint's signature vouches for. When
they do, every tile is derivable, and what is altered or missing is written anew; when they do not, and the stored hashes do, the entries
were altered, and nothing can make them again."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from knhk.model.faults import NotFound
from knhk.model.progress import Far, counted, unheard
from knhk_runtime.objects.port import PLAIN, ObjectStore
from knhk_runtime.record import entry_key, parse_wal_payload, scan_frames
from knhk_runtime.sequencer.edge import Edge
from knhk_runtime.sequencer.publication import COMMITS
from knhk_runtime.tlog.notes import format_vkey
from knhk_runtime.tlog.tree import TILE, parse_bundle_of_entries, parse_tile_path, tile_path
from knhk_verify.errors import Bad
from knhk_verify.leaf import parse_leaf
from knhk_verify.note import Checkpoint, Verifier, open_checkpoint
from knhk_verify.signed import parse_json
from knhk_verify.tree import HASH, leaf_hash


@dataclass(frozen=True)
class Finding:
    """`mend`: bytes that must be there ("" when it is to be removed); None when nothing that is safely derivable mends it."""

    where: str
    what: str
    mend: bytes | None = None


@dataclass
class Checked:
    """`bad`: what does not fit; `notes`: what no reader minds, and is only in the way."""

    size: int = 0
    root: str = ""
    tiles: int = 0
    bad: list[Finding] = field(default_factory=list)
    notes: list[Finding] = field(default_factory=list)

    def mendable(self) -> list[Finding]:
        """Those that `mend` mends."""
        return [found for found in (*self.bad, *self.notes) if found.mend is not None]


class _Fsck:
    def __init__(self, store: ObjectStore, verifier: Verifier, far: Far) -> None:
        self.store, self.verifier, self.far, self.found = store, verifier, far, Checked()
        self.sizes = {row.key: row.size for row in store.list()}
        self.tiles = dict[tuple[int | None, int], list[int]]()  # level and number → widths that are there
        self.leaves, self.stored = bytearray(), bytearray()  # leaf hashes as the entries give them, and as tiles of level 0 say
        self.suspects = list[Finding]()  # tiles of hashes that the entries do not give
        self.older = list[Finding]()  # tiles that only older checkpoints may need
        self.keys = dict[bytes, int]()

    def bad(self, where: str, what: str, mend: bytes | None = None) -> None:
        self.found.bad.append(Finding(where, what, mend))

    def note(self, where: str, what: str, mend: bytes | None = None) -> None:
        self.found.notes.append(Finding(where, what, mend))

    def read(self, key: str) -> bytes | None:
        try:
            return self.store.get(key).data
        except NotFound:
            return None

    def checkpoints(self) -> list[tuple[Checkpoint, str]]:
        """Those that the log signed and keeps, the larger last, and their names: what is published, and with witnesses what waits for
        them. Empty when one cannot be read: then nobody knows how far the log reaches."""
        found = list[tuple[Checkpoint, str]]()
        for name in COMMITS:
            data = self.read(name)
            if data is None:
                if name == "checkpoint":
                    self.bad(name, "is missing")
                    return []
                continue
            try:
                found.append((open_checkpoint(data, self.verifier, name), name))
            except Bad as error:
                self.bad(error.where, error.what)
                return []
        return sorted(found, key=lambda each: each[0].size)

    def listed(self) -> None:
        widths = defaultdict[tuple[int | None, int], list[int]](list)
        for key in self.sizes:
            if not key.startswith("tile/"):
                continue
            try:
                level, n, width = parse_tile_path(key)
                widths[level, n].append(width)
            except Bad:
                self.note(key, "is no tile")
        self.tiles = {tile: sorted(found, reverse=True) for tile, found in widths.items()}

    def bundle(self, n: int, width: int) -> list[bytes]:
        """Entries of a bundle that a checkpoint needs, from it or a wider one; of one that cannot be read nothing."""
        path = tile_path(None, n, width)
        wider = [tile_path(None, n, other) for other in self.tiles.get((None, n), []) if other > width]
        for key in (path, *wider):
            data = self.read(key)
            if data is None:
                continue
            try:
                entries = [entry for _, entry in parse_bundle_of_entries(data, key)]
            except Bad as error:
                self.bad(error.where, error.what)
                continue
            if len(entries) != parse_tile_path(key)[2]:
                self.bad(key, f"has {len(entries)} entries: must be {parse_tile_path(key)[2]}")
                continue
            if key != path and path not in self.sizes and TILE not in self.tiles[None, n]:
                self.suspects.append(Finding(path, f"is missing; {key} begins with it", _bundle(entries[:width])))
            return entries[:width]
        if path not in self.sizes:
            self.bad(path, f"is missing; entries {n * TILE} to {n * TILE + width - 1} are in it")
        return []

    def entries(self, size: int) -> Edge:
        """The tree that the entries give. Every tile of hashes is compared on the way."""
        edge = Edge()
        for n in range(-(-size // TILE)):
            self.far("entries", n * TILE, size)
            width = min(TILE, size - n * TILE)
            entries = self.bundle(n, width)
            for index, entry in enumerate(entries, n * TILE):
                self.entry(index, entry)
            hashes = b"".join(map(leaf_hash, entries)).ljust(width * HASH, b"\0")
            self.leaves += hashes
            for level, at, count, tile in edge.extend(hashes):
                if count == TILE:
                    self.compare(level, at, tile)
        for level, rest in enumerate(edge.rests):
            if rest:
                self.compare(level, edge.full[level], rest)
        return edge

    def entry(self, index: int, entry: bytes) -> None:
        where = f"{tile_path(None, index // TILE)} entry {index}"
        try:
            key = entry_key(entry)
            if entry[:1] != b"{":
                parse_leaf(entry)
        except Bad as error:
            self.bad(where, str(error))
            return
        if self.keys.setdefault(key, index) != index:
            self.bad(where, f"has the idempotency key of entry {self.keys[key]}")

    def compare(self, level: int, n: int, tile: bytes) -> None:
        """A tile that is needed, and the narrower ones beside it, which older checkpoints need."""
        width = len(tile) // HASH
        there = self.tiles.get((level, n), [])
        for other in {width, *(each for each in there if each < width)}:
            if width == TILE and other != TILE:
                continue  # to be removed
            path, wanted = tile_path(level, n, other), tile[: other * HASH]
            data = self.read(path)
            if other == width and level == 0:
                self.stored += (data or b"")[: width * HASH].ljust(width * HASH, b"\0")
            if data is None:
                if not any(each > other for each in there):  # else readers take the beginning of that one
                    self.suspects.append(Finding(path, "is missing", wanted))
            elif data != wanted and other < width:
                self.older.append(
                    Finding(path, "is not the beginning of the wider one: altered, or of a writer that never published it", wanted)
                )
            elif data != wanted:
                at = next((i for i in range(other) if data[i * HASH :][:HASH] != wanted[i * HASH :][:HASH]), other)
                below = f"entry {n * TILE + at}" if level == 0 else tile_path(level - 1, n * TILE + at)
                what = (
                    f"hash {at} (offset {at * HASH}) is not what {below} gives"
                    if at < other
                    else f"has {len(data)} bytes: must be {len(wanted)}"
                )
                self.suspects.append(Finding(path, what, wanted))

    def judge(self, checkpoint: Checkpoint, name: str, edge: Edge) -> None:
        """The root says who was altered: hashes, or entries."""
        if edge.root() == checkpoint.root:
            self.found.bad += self.suspects
            self.found.notes += self.older
            return
        of_hashes = Edge()
        of_hashes.extend(bytes(self.stored))
        self.bad(name, f"its root is {checkpoint.root.hex()}, the entries give {edge.root().hex()}")
        if of_hashes.root() == checkpoint.root:
            for index in range(checkpoint.size):
                at = slice(index * HASH, index * HASH + HASH)
                if self.leaves[at] != self.stored[at]:
                    path = tile_path(None, index // TILE, min(TILE, checkpoint.size - index // TILE * TILE))
                    self.bad(f"{path} entry {index}", "was altered or is missing: its hash is not the one under the checkpoint")
        else:
            self.found.bad += [Finding(each.where, each.what) for each in self.suspects]

    def begins(self, older: Checkpoint, name: str) -> None:
        """That the larger tree begins with the other that the log signed."""
        edge = Edge()
        edge.extend(bytes(self.leaves[: older.size * HASH]))
        if edge.root() != older.root:
            self.bad(name, f"its root is {older.root.hex()}, the first {older.size} entries give {edge.root().hex()}")

    def beyond(self, size: int) -> None:
        """Tiles that no reader of this checkpoint asks for."""
        for (level, n), widths in self.tiles.items():
            covered = (size >> 8 * (level or 0)) - n * TILE
            for width in widths:
                path = tile_path(level, n, width)
                self.found.tiles += width <= covered
                if width > covered:
                    self.note(path, "no checkpoint covers it: a writer was cut off here", b"")
                elif width < TILE <= covered:
                    self.note(path, "is replaced by the full tile", b"" if TILE in widths else None)

    def wal(self, size: int) -> None:
        """Frames of the segments beside a folder's log, and that what they hold below the checkpoint is what it has."""
        segments = sorted(key for key in self.sizes if key.startswith("wal/") and key.endswith(".seg"))
        for key in counted(segments, self.far, "segments of the WAL", len(segments)):
            data = self.read(key)
            if data is None:
                continue
            own = key.count("/") == 1  # else of one epoch, whose indexes another machine may have given to others
            try:
                frames, end = scan_frames(data, int(key[-20:-4], 16), key)
                for offset, payload in frames:
                    first, _, entries = parse_wal_payload(payload, f"{key} offset {offset}")
                    for index, entry in enumerate(entries, first):
                        if own and index < size and leaf_hash(entry) != self.leaves[index * HASH : (index + 1) * HASH]:
                            self.bad(f"{key} offset {offset}", f"entry {index} is not the one under the checkpoint")
            except (Bad, ValueError) as error:
                self.bad(getattr(error, "where", key), getattr(error, "what", "is not named as a segment"))
                continue
            if end < len(data):
                self.note(f"{key} offset {end}", f"{len(data) - end} bytes of a write that was cut off: the sequencer cuts them")

    def meta(self) -> None:
        data = self.read("meta.json")
        if data is None:
            self.bad("meta.json", "is missing: the sequencer writes it at its next start")
            return
        try:
            meta = parse_json(data, "meta.json")
            if not isinstance(meta, dict) or meta.get("vkey") != format_vkey(self.verifier):
                self.bad("meta.json vkey", f"must be {format_vkey(self.verifier)}")
        except Bad as error:
            self.bad(error.where, error.what)


def _bundle(entries: Sequence[bytes]) -> bytes:
    return b"".join(len(entry).to_bytes(2, "big") + entry for entry in entries)


def fsck(store: ObjectStore, verifier: Verifier, far: Far = unheard) -> Checked:
    """Everything about a log that is wrong; nothing is changed. Reads all of it. Raises as the store does."""
    work = _Fsck(store, verifier, far)
    work.listed()
    work.meta()
    signed = work.checkpoints()
    if not signed:
        return work.found
    checkpoint, name = signed[-1]
    work.judge(checkpoint, name, work.entries(checkpoint.size))
    for older in signed[:-1]:
        work.begins(*older)
    work.beyond(checkpoint.size)
    work.wal(checkpoint.size)
    work.found.size, work.found.root = checkpoint.size, checkpoint.root.hex()
    return work.found


def mend(store: ObjectStore, checked: Checked) -> Iterator[Finding]:
    """Writes or removes what can be mended, and tells each. Nobody else may write the log meanwhile."""
    for found in checked.mendable():
        if found.mend:
            store.put(found.where, found.mend, PLAIN)
        else:
            store.delete([found.where])
        yield found
