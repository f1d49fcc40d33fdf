"""verify_log: recompute a log folder (formats/log.md) from its entries up and list everything that does not fit.

The log may be written meanwhile, and nothing is read twice for it. Files come whole, by rename, and never change: all that
exists of one tile begins alike, and a partial one goes only after the full one has come. What agents were told and what
waits in the WAL is read before the checkpoint, so that it is under the checkpoint or in hand; tiles are listed after the
checkpoint, so that they reach as far as it does. What lies beyond it must agree with itself, as far as it is there."""

from __future__ import annotations

import re
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Any

from knhk.model.progress import Far, counted, unheard
from knhk_runtime.record import SEGMENT_HEAD, check_record, entry_key, parse_record, parse_wal_payload, scan_frames
from knhk_runtime.tlog.folder import Folder, Tile, segment_number
from knhk_runtime.tlog.notes import format_vkey
from knhk_runtime.tlog.policy import Policy
from knhk_runtime.tlog.tree import TILE, parse_bundle_of_entries, range_root, subtree_hash, tile_path
from knhk_verify.errors import Bad
from knhk_verify.leaf import parse_leaf
from knhk_verify.note import Checkpoint, Verifier, open_checkpoint, open_note, parse_vkey, unb64
from knhk_verify.signed import TIME, Keys, canonical, member, parse_json, parse_time, verify_event, verify_keys
from knhk_verify.tree import HASH, leaf_hash

MISSING = bytes(HASH)


@dataclass
class Report:
    """What was found. `bad`: {where, what} of everything that does not verify; `notes`: the same for what is worth knowing
    (records not yet in the log, torn tails, repeated records and events). Numbers count entries below the checkpoint."""

    size: int = 0
    root: str = ""
    receipts: int = 0
    leaves: int = 0
    events: int = 0
    observations: int = 0
    erased: int = 0
    bad: list[dict[str, str]] = field(default_factory=list)
    notes: list[dict[str, str]] = field(default_factory=list)


def _needed(size: int) -> set[Tile]:
    """The tiles that a checkpoint of `size` entries needs."""
    tiles = set[Tile]()
    for level in (None, *range((size.bit_length() + 7) // 8)):
        full, rest = divmod(size >> 8 * (level or 0), TILE)
        tiles |= {(level, n, TILE) for n in range(full)} | ({(level, full, rest)} if rest else set())
    return tiles


class _Audit:
    def __init__(self, log_dir: Path, far: Far) -> None:
        self.report, self.far = Report(), far
        self.folder = Folder(log_dir, self.bad)
        self.hashes = bytearray()  # leaf hashes, 32 bytes each
        self.places = list[str]()  # file and offset of each entry
        self.bundles = set[str]()  # paths of the bundles that the entries were read from
        self.keys_seen = dict[bytes, int]()  # idempotency key → index
        self.events = list[tuple[str, bytes]]()
        self.waiting = set[bytes]()  # leaf hashes of entries in the WAL
        # How far the log has acknowledged each agent.
        self.sources = {path: self.acked(path) for path in sorted((log_dir / "observations").glob("*")) if path.is_dir()}
        self.wal()

    def bad(self, where: str, what: str) -> None:
        self.report.bad.append({"where": where, "what": what})

    def note(self, where: str, what: str) -> None:
        self.report.notes.append({"where": where, "what": what})

    def name(self, path: Path) -> str:
        return path.relative_to(self.folder.path).as_posix()

    def checkpoint(self, verifier: Verifier, policy: Policy | None) -> Checkpoint | None:
        if (found := self.folder.read("checkpoint")) is None:
            return None
        try:
            opened = open_checkpoint(found[1], verifier)
            signed = open_note(found[1], policy.witnesses)[1] if policy else frozenset()
        except Bad as error:
            self.bad(error.where, error.what)
            return None
        if policy and not policy.holds(signed):
            told = ", ".join(sorted(key.name for key in signed)) or "nobody"
            self.bad("checkpoint", f"is cosigned by {told}: must be by a quorum of the policy's witnesses")
        return opened

    def entries(self, tiles: set[Tile], size: int) -> None:
        """All entries, in order: those below `size`, and what is there beyond."""
        for path, width, data in self.folder.bundles(tiles, size):
            self.far("entries", len(self.places), size)
            self.bundles.add(path)
            found, first = list[tuple[int, bytes]](), len(self.places)
            try:
                for offset, entry in parse_bundle_of_entries(data, path):
                    found.append((offset, entry))
            except Bad as error:
                self.bad(error.where, f"entry {first + len(found)}: {error.what}")
            if len(found) != width:
                self.bad(path, f"has {len(found)} entries: must be {width}")
            for offset, entry in found[:width]:
                self.entry(f"{path} offset {offset}", entry, len(self.places) < size)
            for index in range(len(self.places), first + width):
                self.places.append(f"{path} (entry {index} could not be read)")
                self.hashes += MISSING

    def entry(self, where: str, entry: bytes, covered: bool) -> None:
        index = len(self.places)
        self.places.append(where)
        self.hashes += leaf_hash(entry)
        try:
            key = entry_key(entry)
            if entry[:1] == b"{":
                self.events.append((f"{where} (entry {index})", entry))
                self.report.events += covered
            else:
                parse_leaf(entry)
                self.report.leaves += covered
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

        return range_root(read, 0, size)

    def rows(self, hashes: bytes) -> list[bytes]:
        """Hashes of each tile level over all entries."""
        rows = [hashes]
        while len(rows[-1]) >= TILE * HASH:
            last, full = rows[-1], len(rows[-1]) // (TILE * HASH) * TILE * HASH
            rows.append(b"".join(subtree_hash(last[i : i + TILE * HASH]) for i in range(0, full, TILE * HASH)))
        return rows

    def tiles(self, tiles: set[Tile], checkpoint: Checkpoint | None) -> None:
        """Every tile against the entries; says whether tile or entry was altered when the root can tell."""
        rows, stored = self.rows(bytes(self.hashes)), bytearray(self.hashes)
        differing = list[tuple[int | None, int, int, str]]()
        for level, n, width in counted(sorted(tiles, key=lambda tile: tile_path(*tile)), self.far, "tiles", len(tiles)):
            if (path := tile_path(level, n, width)) in self.bundles or (found := self.folder.tile(level, n, width)) is None:
                continue
            start = n * TILE * HASH
            expected = rows[level or 0][start : start + width * HASH] if (level or 0) < len(rows) else b""
            if len(found) != width * HASH or len(expected) != width * HASH:
                self.bad(path, f"has {len(found) / HASH:g} hashes, the entries give {len(expected) // HASH}: must be {width}")
                continue
            if level == 0:
                stored[start : start + len(found)] = found
            differing += [(level, n, i, path) for i in range(width) if found[i * HASH :][:HASH] != expected[i * HASH :][:HASH]]
        altered_entries = False
        if checkpoint and checkpoint.size <= len(self.places):
            root = self.root(rows, checkpoint.size)
            if root != checkpoint.root:
                altered_entries = self.root(self.rows(bytes(stored)), checkpoint.size) == checkpoint.root
                self.bad("checkpoint", f"its root is {checkpoint.root.hex()}, entries 0 to {checkpoint.size - 1} give {root.hex()}")
        for level, n, i, path in differing:
            source = tile_path(level - 1, n * TILE + i) if level else self.places[n * TILE + i]
            if level is None:
                self.bad(f"{path} entry {i}", f"is not the one of {source}")
            elif level == 0 and altered_entries:
                self.bad(source, f"entry {n * TILE + i} was altered: its hash is not the one in {path}")
            else:
                self.bad(f"{path} hash {i} (offset {i * HASH})", f"is not what {source} gives")

    def signed_keys(self, root_public: bytes | None, given: bytes | None) -> Keys | None:
        if (keys := ("", given) if given is not None else self.folder.read("keys.json", needed=False)) is None:
            return None
        named = self.folder.read("root.pub", needed=False) if root_public is None else None
        if root_public is None and named is None:
            self.bad("keys.json", "cannot be checked: give the pinned root key (--root)")
            return None
        try:
            return verify_keys(keys[1], unb64(named[1].decode("ascii", "replace").strip(), "root.pub") if named else root_public or b"")
        except Bad as error:
            self.bad(error.where, error.what)
            return None

    def check_keys(self, keys: Keys | None, verifier: Verifier, pinned: bool) -> None:
        """The log's key is one of role log; every event is signed by one of role rollout. Of a pinned root there must be keys.json."""
        if keys is None and self.events:
            self.bad(self.events[0][0], f"{len(self.events)} policy events cannot be checked without a good keys.json")
        elif keys is None and pinned and not self.report.bad:
            self.bad("keys.json", f"is not there: nothing shows that the root vouches for the key of {verifier.name}: give it (--keys)")
        if keys is None:
            return
        if not any(k.public == verifier.public and k.name == verifier.name for k in keys.roles.get("log", {}).values()):
            self.bad("keys.json roles.log", f"does not name the checkpoint key of {verifier.name}")
        self.check_events(keys)

    def check_events(self, keys: Keys) -> None:
        """Signatures, and that an event says nothing once more, and is not of before others that stand before it by a key that is over."""
        said = dict[bytes, str]()  # what is signed, not the bytes around it → where it stands first
        latest = datetime.min.replace(tzinfo=UTC)
        for where, entry in counted(self.events, self.far, "policy events", len(self.events)):
            try:
                event, keyid = verify_event(entry, keys, where)
            except Bad as error:
                self.bad(error.where, error.what)
                continue
            if (first := said.setdefault(sha256(canonical(event)).digest(), where)) != where:
                self.note(where, f"says what {first} says: one event stands in the log twice, in other bytes")
            at, until = parse_time(event["predicate"]["time"], where), keys.roles["rollout"][keyid].until
            if until is not None and until < latest:
                self.note(
                    where,
                    f"is of {at:{TIME}}, by a key that was over at {until:{TIME}}, and stands after an event of {latest:{TIME}}: "
                    "it waited for the log, or is not as old as it says",
                )
            latest = max(latest, at)

    def meta(self, verifier: Verifier) -> None:
        if (found := self.folder.read("meta.json", needed=False)) is None:
            return
        try:
            meta = parse_json(found[1], "meta.json")
            for name, value in (("origin", verifier.name), ("vkey", format_vkey(verifier))):
                if member(meta, name, str, "meta.json") != value:
                    self.bad(f"meta.json {name}", f"{meta[name]!r}: must be {value!r}")
        except Bad as error:
            self.bad(error.where, error.what)

    def wal(self) -> None:
        """CRCs of the sequencer's segments, where they are at hand, and the entries that wait in them for a checkpoint."""
        for segment in sorted((self.folder.path / "wal").glob("*.seg")):
            frames, end, size = self.frames(segment, outbox=False)
            try:
                for offset, payload in frames:
                    where = f"wal/{segment.name} offset {offset}"
                    self.waiting.update(leaf_hash(entry) for entry in parse_wal_payload(payload, where)[2])
            except Bad as error:
                self.bad(error.where, error.what)
            if end < size:
                self.note(f"wal/{segment.name} offset {end}", f"{size - end} bytes of a write that was cut off")

    def frames(self, segment: Path, outbox: bool) -> tuple[list[tuple[int, bytes]], int, int]:
        """([(offset, payload)], their end, size of the file); nothing of one that was altered. One of an outbox begins empty; one of
        the WAL comes whole, and goes when a checkpoint covers it."""
        name = self.name(segment)
        found = self.folder.read(name, needed=outbox)
        data = found[1] if found else b""
        if found is None or (outbox and len(data) < SEGMENT_HEAD):
            return [], 0, len(data)
        try:
            frames, end = scan_frames(data, max(0, segment_number(segment)), name)
        except Bad as error:
            self.bad(error.where, error.what)
            return [], len(data), len(data)
        return frames, end, len(data)

    def observations(self) -> None:
        """Every outbox segment: CRCs, hashes recomputed, and each leaf equal to its entry in the log."""
        seen, count = 0, sum(1 for source in self.sources for _ in source.glob("*.seg"))
        for source, acked in self.sources.items():
            matched, segments, reached = set[bytes](), sorted(source.glob("*.seg")), (0, SEGMENT_HEAD)
            for position, segment in enumerate(segments):
                self.far("segments of records", seen, max(seen, count))
                seen += 1
                name, number = self.name(segment), segment_number(segment)
                if number < 0 or number != segment_number(segments[0]) + position:
                    self.bad(name, "is not named as the segment that follows the one before")
                    continue
                frames, end, size = self.frames(segment, outbox=True)
                reached = (number, end)
                if end < max(size, SEGMENT_HEAD):
                    tell = self.bad if segment != segments[-1] or (number, max(size, SEGMENT_HEAD)) <= acked else self.note
                    tell(f"{name} offset {end}", f"{size - end} bytes of a write that was cut off")
                for offset, payload in frames:
                    self.record(payload, f"{name} offset {offset}", (number, offset) < acked, matched)
            if reached < acked:
                what = (
                    f"ends at offset {reached[1]} of segment {reached[0]}, it was acknowledged to offset {acked[1]} of segment {acked[0]}"
                )
                self.bad(self.name(segments[-1] if segments else source), what)

    def acked(self, source: Path) -> tuple[int, int]:
        """(segment, offset) up to which the log has acknowledged; all that is there when the file, older than any record, is lost."""
        mark = (0, 0)
        for segment in sorted(source.glob("*.seg")):
            with suppress(FileNotFoundError):  # an empty one is made anew after a crash
                mark = (segment_number(segment), segment.stat().st_size)
        if found := self.folder.read(name := self.name(source / "acked"), needed=False):
            text = re.fullmatch(rb"([0-9a-f]{16}) (0|[1-9][0-9]{0,18})\n?", found[1])
            mark = (int(text[1], 16), int(text[2])) if text else mark
            if text is None:
                self.bad(name, "must be a segment of 16 hexadecimal digits and an offset")
        return mark

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


def verify_log(
    log_dir: str | Path,
    vkey: str,
    root_public: bytes | None = None,
    policy: Policy | None = None,
    keys_json: bytes | None = None,
    far: Far = unheard,
) -> Report:
    """Report over the log in `log_dir`. `vkey`: the trusted checkpoint key in note format. `root_public`: the pinned root key
    (raw, 32 bytes), which a keys.json must vouch by; without it the folder's own root.pub is used, which shows damage but not a forger who
    replaced both, and one without keys.json is judged by `vkey` alone. `policy`: a
    quorum of its witnesses must have cosigned the checkpoint. `keys_json`: in place of the folder's own, which a mirror has not.
    Raises Bad only for a malformed `vkey`."""
    verifier, audit = parse_vkey(vkey), _Audit(Path(log_dir), far)
    checkpoint = audit.checkpoint(verifier, policy)
    size = checkpoint.size if checkpoint else 0
    audit.meta(verifier)
    tiles = audit.folder.tiles()
    audit.entries(tiles, size)
    audit.tiles(tiles | _needed(min(size, len(audit.places))), checkpoint)
    if size > len(audit.places):
        audit.bad("checkpoint", f"covers {size} entries, the folder has {len(audit.places)}")
    audit.check_keys(audit.signed_keys(root_public, keys_json), verifier, root_public is not None)
    audit.observations()
    report = audit.report
    report.size, report.root = size, checkpoint.root.hex() if checkpoint else ""
    report.receipts = len({key[:16] for key, index in audit.keys_seen.items() if key[16] < 0x80 and index < size})
    return report


def report_json(report: Report) -> dict[str, Any]:
    """Plain data of a report, in a fixed order."""
    return {name: getattr(report, name) for name in Report.__dataclass_fields__}
