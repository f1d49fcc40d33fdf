"""verify_log: recompute a whole log folder (formats/log.md) from its entries up and list everything that does not fit."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from knhk_verify.errors import Bad
from knhk_verify.note import Checkpoint, Verifier, open_checkpoint, parse_vkey, unb64
from knhk_verify.record import check_record, entry_key, parse_leaf, parse_record, parse_wal_payload, scan_frames
from knhk_verify.signed import Keys, member, parse_json, verify_event, verify_keys
from knhk_verify.tree import (
    HASH,
    TILE,
    fold,
    leaf_hash,
    parse_bundle_of_entries,
    parse_tile_path,
    subtree_hash,
    subtrees,
    tile_path,
)

MISSING = bytes(HASH)
LIVE_TRIES = 5


@dataclass
class Report:
    """What was found. `bad`: {where, what} of everything that does not verify; `notes`: the same for what is worth knowing
    (records not yet in the log, torn tails, repeated records). Sizes count entries below the checkpoint."""

    size: int = 0
    root: str = ""
    receipts: int = 0
    leaves: int = 0
    events: int = 0
    observations: int = 0
    erased: int = 0
    bad: list[dict[str, str]] = field(default_factory=list)
    notes: list[dict[str, str]] = field(default_factory=list)


class _Audit:
    def __init__(self, log_dir: Path) -> None:
        self.dir = log_dir
        self.report = Report()
        self.hashes = bytearray()  # leaf hashes, 32 bytes each
        self.places = list[str]()  # file and offset of each entry
        self.keys_seen = dict[bytes, int]()  # idempotency key → index
        self.events = list[tuple[str, bytes]]()
        self.waiting = set[bytes]()  # leaf hashes of entries in the WAL
        self.files = dict[tuple[int | None, int, int], str]()  # tiles that were there
        # How far the log had acknowledged each agent before its entries were read.
        self.sources = {path: self.acked(path) for path in sorted((log_dir / "observations").glob("*")) if path.is_dir()}

    def bad(self, where: str, what: str) -> None:
        self.report.bad.append({"where": where, "what": what})

    def note(self, where: str, what: str) -> None:
        self.report.notes.append({"where": where, "what": what})

    def read(self, name: str) -> bytes | None:
        """Bytes of a file of the log; missing or unreadable is bad."""
        try:
            return (self.dir / name).read_bytes()
        except OSError as error:
            self.bad(name, f"cannot be read: {error.strerror}")
            return None

    def checkpoint(self, verifier: Verifier) -> Checkpoint | None:
        if (data := self.read("checkpoint")) is None:
            return None
        try:
            return open_checkpoint(data, verifier)
        except Bad as error:
            self.bad(error.where, error.what)
            return None

    def entries(self, tiles: dict[tuple[int | None, int, int], str]) -> None:
        """All entries, in order; what follows the checkpoint (a live log) too."""
        widest = dict[int, int]()
        for level, n, width in tiles:
            if level is None:
                widest[n] = max(width, widest.get(n, 0))
        for n in range(max(widest, default=-1) + 1):
            width = widest.get(n, TILE)
            path = tile_path(None, n, width)
            found = list[tuple[int, bytes]]()
            try:
                for offset, entry in parse_bundle_of_entries(self.read(path) or b"", path):
                    found.append((offset, entry))
            except Bad as error:
                self.bad(error.where, f"entry {n * TILE + len(found)}: {error.what}")
            if len(found) != width:
                self.bad(path, f"has {len(found)} entries: must be {width}")
            for offset, entry in found[:width]:
                self.entry(f"{path} offset {offset}", entry)
            for index in range(len(self.places), n * TILE + width):
                self.places.append(f"{path} (entry {index} could not be read)")
                self.hashes += MISSING

    def entry(self, where: str, entry: bytes) -> None:
        index = len(self.places)
        self.places.append(where)
        self.hashes += leaf_hash(entry)
        try:
            key = entry_key(entry)
            if entry[:1] == b"{":
                self.events.append((f"{where} (entry {index})", entry))
                self.report.events += 1
            else:
                parse_leaf(entry)
                self.report.leaves += 1
        except Bad as error:
            self.bad(f"{where} (entry {index})", str(error))
            return
        if key in self.keys_seen:
            self.bad(f"{where} (entry {index})", f"has the same idempotency key as entry {self.keys_seen[key]}")
        self.keys_seen.setdefault(key, index)

    def root(self, rows: list[bytes], size: int) -> bytes:
        def read(level: int, index: int) -> bytes:
            row, depth = divmod(level, 8)
            start = (index << depth) * HASH
            return subtree_hash(rows[row][start : start + (HASH << depth)])

        return fold([read(level, index) for level, index in subtrees(0, size)])

    def rows(self, hashes: bytes) -> list[bytes]:
        """Hashes of each tile level over all entries."""
        rows = [hashes]
        while len(rows[-1]) >= TILE * HASH:
            last, full = rows[-1], len(rows[-1]) // (TILE * HASH) * TILE * HASH
            rows.append(b"".join(subtree_hash(last[i : i + TILE * HASH]) for i in range(0, full, TILE * HASH)))
        return rows

    def tiles(self, tiles: dict[tuple[int | None, int, int], str], rows: list[bytes], checkpoint: Checkpoint | None) -> None:
        """Every tile file against the entries; says whether tile or entry was altered when the root can tell."""
        stored = bytearray(self.hashes)
        differing = list[tuple[int, int, int, str]]()
        for (level, n, width), path in sorted(tiles.items(), key=lambda item: item[1]):
            if level is None:
                self.partial_bundle(n, width, path)
                continue
            if (data := self.read(path)) is None:
                continue
            start = n * TILE * HASH
            expected = rows[level][start : start + width * HASH] if level < len(rows) else b""
            if len(data) != width * HASH or len(expected) != width * HASH:
                self.bad(path, f"has {len(data) / HASH:g} hashes, the entries give {len(expected) // HASH}: must be {width}")
                continue
            if level == 0:
                stored[start : start + len(data)] = data
            differing += [(level, n, i, path) for i in range(width) if data[i * HASH :][:HASH] != expected[i * HASH :][:HASH]]
        altered_entries = False
        if checkpoint and checkpoint.size <= len(self.places):
            root = self.root(rows, checkpoint.size)
            if root != checkpoint.root:
                altered_entries = self.root(self.rows(bytes(stored)), checkpoint.size) == checkpoint.root
                self.bad("checkpoint", f"its root is {checkpoint.root.hex()}, entries 0 to {checkpoint.size - 1} give {root.hex()}")
        for level, n, i, path in differing:
            if level == 0 and altered_entries:
                self.bad(self.places[n * TILE + i], f"entry {n * TILE + i} was altered: its hash is not the one in {path}")
            else:
                source = self.places[n * TILE + i] if level == 0 else tile_path(level - 1, n * TILE + i)
                self.bad(f"{path} hash {i} (offset {i * HASH})", f"is not what {source} gives")
        if checkpoint:
            self.missing_tiles(checkpoint.size, tiles)

    def partial_bundle(self, n: int, width: int, path: str) -> None:
        """An older partial bundle holds the same entries as the widest one."""
        if width == TILE or (data := self.read(path)) is None:
            return
        try:
            entries = [leaf_hash(entry) for _, entry in parse_bundle_of_entries(data, path)]
        except Bad as error:
            self.bad(error.where, error.what)
            return
        start = n * TILE * HASH
        if b"".join(entries) != bytes(self.hashes[start : start + width * HASH]):
            self.bad(path, "its entries differ from those of the wider bundle, or their number is wrong")

    def missing_tiles(self, size: int, tiles: dict[tuple[int | None, int, int], str]) -> None:
        levels: list[int | None] = [None, *range(max(1, (size.bit_length() + 7) // 8))]
        for level in levels:
            row = size >> 8 * (level or 0)
            wanted = [(level, n, TILE) for n in range(row // TILE)] + ([(level, row // TILE, row % TILE)] if row % TILE else [])
            for tile in wanted:
                if tile not in tiles and (tile[0], tile[1], TILE) not in tiles:
                    self.bad(tile_path(*tile), f"is missing; the checkpoint of size {size} needs it")

    def signed_keys(self, root_public: bytes | None) -> Keys | None:
        if not (self.dir / "keys.json").exists():
            return None
        if root_public is None and not (self.dir / "root.pub").exists():
            self.bad("keys.json", "cannot be checked: give the pinned root key (--root)")
            return None
        try:
            root = root_public or unb64((self.read("root.pub") or b"").decode("ascii", "replace").strip(), "root.pub")
            return verify_keys(self.read("keys.json") or b"", root)
        except Bad as error:
            self.bad(error.where, error.what)
            return None

    def check_keys(self, keys: Keys | None, verifier: Verifier) -> None:
        """The log's key is one of role log; every event is signed by one of role rollout."""
        if keys is None and self.events:
            self.bad(self.events[0][0], f"{len(self.events)} policy events cannot be checked without a good keys.json")
        if keys is None:
            return
        if not any(k.public == verifier.public and k.name == verifier.name for k in keys.roles.get("log", {}).values()):
            self.bad("keys.json roles.log", f"does not name the checkpoint key of {verifier.name}")
        for where, entry in self.events:
            try:
                verify_event(entry, keys, where)
            except Bad as error:
                self.bad(error.where, error.what)

    def meta(self, verifier: Verifier) -> None:
        if not (self.dir / "meta.json").exists():
            return
        try:
            meta = parse_json(self.read("meta.json") or b"", "meta.json")
            for name, value in (("origin", verifier.name), ("vkey", str(verifier))):
                if member(meta, name, str, "meta.json") != value:
                    self.bad(f"meta.json {name}", f"{meta[name]!r}: must be {value!r}")
        except Bad as error:
            self.bad(error.where, error.what)

    def wal(self) -> None:
        """CRCs of the sequencer's segments, where they are at hand, and the entries that wait in them for a checkpoint."""
        for segment in sorted((self.dir / "wal").glob("*.seg")):
            name = str(segment.relative_to(self.dir))
            try:
                frames, end = scan_frames(data := self.read(name) or b"", self.segment_number(segment) or 0, name)
                for offset, payload in frames:
                    self.waiting.update(leaf_hash(entry) for entry in parse_wal_payload(payload, f"{name} offset {offset}")[2])
            except Bad as error:
                self.bad(error.where, error.what)
                continue
            if end < len(data):
                self.note(f"{name} offset {end}", f"{len(data) - end} bytes of a write that was cut off")

    def observations(self) -> None:
        """Every outbox segment: CRCs, hashes recomputed, and each leaf equal to its entry in the log."""
        for source, acked in self.sources.items():
            matched = set[bytes]()
            segments = sorted(source.glob("*.seg"))
            for position, segment in enumerate(segments):
                name, number = str(segment.relative_to(self.dir)), self.segment_number(segment)
                if number is None or number != (self.segment_number(segments[0]) or 0) + position:
                    self.bad(name, "is not named as the segment that follows the one before")
                    continue
                if (data := self.read(name)) is None:
                    continue
                try:
                    frames, end = scan_frames(data, number, name)
                except Bad as error:
                    self.bad(error.where, error.what)
                    continue
                if end < len(data):
                    tell = self.bad if segment != segments[-1] or (number, len(data)) <= acked else self.note
                    tell(f"{name} offset {end}", f"{len(data) - end} bytes of a write that was cut off")
                if (number, end) < acked[:2] and acked[0] == number:
                    self.bad(f"{name} offset {end}", f"ends before offset {acked[1]}, up to which it was acknowledged")
                for offset, payload in frames:
                    self.record(payload, f"{name} offset {offset}", (number, offset) < acked, matched)

    def segment_number(self, segment: Path) -> int | None:
        name = segment.stem
        return int(name, 16) if len(name) == 16 and set(name) <= set("0123456789abcdef") else None

    def acked(self, source: Path) -> tuple[float, float]:
        """(segment, offset) that the log has acknowledged; all of it when the file is missing."""
        name = str((source / "acked").relative_to(self.dir))
        if not (source / "acked").exists() or (data := self.read(name)) is None:
            return (float("inf"), 0.0)
        words = data.decode("ascii", "replace").split()
        if len(words) != 2 or len(words[0]) != 16 or not words[1].isdecimal():
            self.bad(name, "must be a segment of 16 hexadecimal digits and an offset")
            return (float("inf"), 0.0)
        try:
            return int(words[0], 16), int(words[1])
        except ValueError:
            self.bad(name, "must be a segment of 16 hexadecimal digits and an offset")
            return (float("inf"), 0.0)

    def record(self, payload: bytes, where: str, acked: bool, matched: set[bytes]) -> None:
        try:
            record = parse_record(payload, where)
            check_record(record, where)
        except Bad as error:
            self.bad(error.where, error.what)
            return
        self.report.observations += 1
        self.report.erased += record.erased
        for arm, leaf in enumerate(record.leaves):
            key = entry_key(leaf)
            index = self.keys_seen.get(key)
            same = index is not None and self.hashes[index * HASH : (index + 1) * HASH] == leaf_hash(leaf)
            if same:
                matched.add(key)
            elif key in matched:
                self.note(f"{where} leaf {arm}", f"repeats receipt {key[:16].hex()}; the log holds the first")
            elif index is not None:
                self.bad(f"{where} leaf {arm}", f"is not the leaf of receipt {key[:16].hex()} in the log, entry {index}")
            elif acked and leaf_hash(leaf) not in self.waiting:
                self.bad(f"{where} leaf {arm}", f"receipt {key[:16].hex()} is not in the log, though acknowledged")
            else:
                self.note(f"{where} leaf {arm}", "is not in the log yet")


def _tile_files(audit: _Audit) -> dict[tuple[int | None, int, int], str]:
    """(level or None, n, width) → path of all tiles in the folder; others are bad, temporary ones are passed over. A folder of
    partial tiles may go while it is listed (a live log); one that cannot be read is bad."""
    tiles = dict[tuple[int | None, int, int], str]()

    def unreadable(error: OSError) -> None:
        if not isinstance(error, FileNotFoundError):
            audit.bad(os.path.relpath(error.filename, audit.dir), f"cannot be read: {error.strerror}")

    for folder, _, names in os.walk(audit.dir / "tile", onerror=unreadable):
        for name in names:
            path = (Path(folder) / name).relative_to(audit.dir).as_posix()
            if path.endswith(".tmp"):
                continue
            try:
                tiles[parse_tile_path(path)] = path
            except Bad as error:
                audit.bad(error.where, error.what)
    return tiles


def verify_log(log_dir: str | Path, vkey: str, root_public: bytes | None = None) -> Report:
    """Report over the log in `log_dir`. `vkey`: the trusted checkpoint key in note format. `root_public`: the pinned root key
    (raw, 32 bytes); without it the folder's own root.pub is used, which shows damage but not a forger who replaced both.
    Raises Bad only for a malformed `vkey`."""
    verifier, folder = parse_vkey(vkey), Path(log_dir)
    for _ in range(LIVE_TRIES):
        audit = _Audit(folder)
        audit.wal()
        checkpoint = audit.checkpoint(verifier)
        report = _audit(audit, checkpoint, verifier, root_public)
        if not report.bad or checkpoint is None:
            break
        after = _Audit(folder)
        if after.checkpoint(verifier) == checkpoint and _tile_files(after).keys() == audit.files.keys():
            break  # else the log went on meanwhile: files seen at different times need not fit, partial tiles may be gone
    return report


def _audit(audit: _Audit, checkpoint: Checkpoint | None, verifier: Verifier, root_public: bytes | None) -> Report:
    audit.meta(verifier)
    files = audit.files = _tile_files(audit)
    audit.entries(files)
    audit.tiles(files, audit.rows(bytes(audit.hashes)), checkpoint)
    if checkpoint and checkpoint.size > len(audit.places):
        audit.bad("checkpoint", f"covers {checkpoint.size} entries, the folder has {len(audit.places)}")
    audit.check_keys(audit.signed_keys(root_public), verifier)
    audit.observations()
    report = audit.report
    report.size, report.root = (checkpoint.size, checkpoint.root.hex()) if checkpoint else (0, "")
    report.receipts = len({key[:16] for key in audit.keys_seen if key[16] < 0x80})
    return report


def log_entries(log_dir: str | Path) -> Iterator[bytes]:
    """All entries in a log folder, in order, unverified; raises Bad with file and offset for a bundle that cannot be read."""
    audit = _Audit(Path(log_dir))
    bundles = dict[int, int]()
    for level, n, width in _tile_files(audit):
        if level is None:
            bundles[n] = max(width, bundles.get(n, 0))
    for n, width in sorted(bundles.items()):
        path = tile_path(None, n, width)
        for _, entry in parse_bundle_of_entries((audit.dir / path).read_bytes(), path):
            yield entry


def report_json(report: Report) -> dict[str, Any]:
    """Plain data of a report, in a fixed order."""
    return {name: getattr(report, name) for name in Report.__dataclass_fields__}
