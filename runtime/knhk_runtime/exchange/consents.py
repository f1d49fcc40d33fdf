"""Consents of a point: the signed document, and the table in which the shim looks (formats/consent.md)."""

from __future__ import annotations

import hashlib
import mmap
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from knhk.model.canonical import canonical, sha256_hex
from knhk.model.consents import BASE, DOCUMENT, MAX_CHANGES, NOTHING, PAYLOAD_TYPE, Masks, base_records
from knhk.model.faults import Corrupt, Fault, Refused
from knhk.model.subjects import KEY_BYTES
from knhk_runtime.durable import replace_file
from knhk_runtime.point import PointConfig
from knhk_runtime.signatures import verify_document
from knhk_verify.errors import Bad
from knhk_verify.note import unb64
from knhk_verify.signed import Keys, parse_json, parse_time

MAGIC = b"KNCONS01"
HEADER_BYTES, SLOT_WORDS = 64, 3
_AT_FRESH, _AT_SLOTS = 2, 8  # in words
LEAST_SLOTS = 1 << 14
MAX_BASE_BYTES = 1 << 28
_SHORT = re.compile(r"[0-9a-f]{32}")
_MEMBERS = frozenset(("version", "point", "origin", "epoch", "issued", "notAfter", "key", "purposes", "base", "changes"))
_NOBODY = bytes(KEY_BYTES)


@dataclass(frozen=True)
class Document:
    """A verified consents.json. `base`: (SHA-256, subjects); `after`: digest of the document whose reader needs no base; `digest`: its
    own."""

    epoch: int
    issued: datetime
    not_after_ns: int
    key: bytes
    purposes: tuple[str, ...]
    base: tuple[str, int] | None
    after: str | None
    changes: tuple[tuple[bytes, Masks], ...]
    digest: str


def read_consents(data: bytes, keys: Keys, now: datetime, point: PointConfig, where: str) -> Document:
    """Raises Refused."""
    try:
        said = verify_document(data, PAYLOAD_TYPE, keys.of("rollout", now), where)
        faults = [Fault(f"{where}: {name}", repr(said.get(name))[:120], must) for name, ok, must in _checks(said, point) if not ok]
        if faults:
            raise Refused(faults)
        return Document(
            said["epoch"],
            parse_time(said["issued"], f"{where}: issued"),
            int(parse_time(said["notAfter"], f"{where}: notAfter").timestamp()) * 10**9,
            unb64(said["key"], f"{where}: key"),
            tuple(said["purposes"]),
            (said["base"]["sha256"], said["base"]["subjects"]) if said["base"] else None,
            said["base"]["after"] if said["base"] else None,
            tuple((bytes.fromhex(tag), (granted, withdrawn)) for tag, granted, withdrawn in said["changes"]),
            sha256_hex(canonical(said)),
        )
    except Bad as error:
        raise Refused([Fault(error.where, error.what, "must be consents of this point, signed by a key of role rollout")]) from error


def _checks(said: Mapping[str, Any], point: PointConfig) -> Iterator[tuple[str, bool, str]]:
    iris = [iri for _, iri in point.consent_purposes]
    yield "members", set(said) == _MEMBERS, f"must be exactly {', '.join(sorted(_MEMBERS))}"
    yield "version", said.get("version") == 1, "must be 1"
    yield "point", said.get("point") == point.point, f"must be {point.point}"
    yield "epoch", _is_count(said.get("epoch"), -1), "must be -1 or more"
    yield "issued", isinstance(said.get("issued"), str) and isinstance(said.get("notAfter"), str), "must be a time, notAfter too"
    yield "key", _is_key(said.get("key")), f"must be {KEY_BYTES} bytes in base64"
    yield "purposes", said.get("purposes") == iris, f"must be those of point.json: {', '.join(iris)}"
    yield "base", said.get("base", 0) is None or _is_base(said.get("base")), "must be null or sha256, subjects and after"
    changes = said.get("changes")
    fine = isinstance(changes, list) and len(changes) <= MAX_CHANGES and all(map(_is_change, changes))
    yield "changes", fine, f"must be at most {MAX_CHANGES} of [tag, granted, withdrawn]"


def _is_count(value: object, least: int = 0) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and least <= value < 2**63


def _is_key(value: object) -> bool:
    try:
        return isinstance(value, str) and len(unb64(value, "key")) == KEY_BYTES
    except Bad:
        return False


def _is_base(value: object) -> bool:
    if not isinstance(value, dict) or set(value) != {"sha256", "subjects", "after"} or not _is_count(value["subjects"]):
        return False
    return _is_digest(value["sha256"]) and (value["after"] is None or _is_digest(value["after"]))


def _is_digest(value: object) -> bool:
    return isinstance(value, str) and re.fullmatch(r"[0-9a-f]{64}", value) is not None


def _is_change(row: object) -> bool:
    if not isinstance(row, list) or len(row) != 3 or not isinstance(row[0], str) or not _SHORT.fullmatch(row[0]):
        return False
    return all(_is_count(mask) and mask < 2**32 for mask in row[1:])


class Full(Exception):
    """A table has no room for another subject."""


class Table:
    """A file that the shim maps; this process is its only writer."""

    def __init__(self, path: Path, slots: int, key: bytes) -> None:
        """Makes the file, or goes on with the one that is there. Raises OSError."""
        self.path, self.slots = path, slots
        head = MAGIC + slots.to_bytes(8, "little") + bytes(8) + key + bytes(8)
        if not _is_table(path, head, slots):
            _make(path, head, slots)
        handle = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            self._map = mmap.mmap(handle, 0)
        finally:
            os.close(handle)
        self._words = memoryview(self._map).cast("Q")
        self.used = sum(1 for at in self._places() if self._words[at] or self._words[at + 1])

    def _places(self) -> range:
        return range(_AT_SLOTS, len(self._words), SLOT_WORDS)

    def _find(self, tag: bytes) -> int:
        """Where the tag stands, or the free slot for it."""
        first, second = int.from_bytes(tag[:8], "little"), int.from_bytes(tag[8:], "little")
        mask, words = self.slots - 1, self._words
        for step in range(self.slots):
            at = _AT_SLOTS + SLOT_WORDS * ((first + step) & mask)
            found = words[at], words[at + 1]
            if found in ((first, second), (0, 0)):
                return at
        raise Full

    def put(self, tag: bytes, masks: Masks) -> None:
        """What the shim sees from now on. Raises Full."""
        at, state, words = self._find(tag), masks[0] | masks[1] << 32, self._words
        if not (words[at] or words[at + 1]):
            if masks == NOTHING:
                return
            if 2 * self.used >= self.slots:
                raise Full
            words[at + 1] = int.from_bytes(tag[8:], "little")
            words[at] = int.from_bytes(tag[:8], "little")
            self.used += 1
        if words[at + 2] != state:
            words[at + 2] = state

    def tags(self) -> Iterator[bytes]:
        """Those of whom something is known."""
        for at in self._places():
            if self._words[at + 2]:
                yield self._words[at].to_bytes(8, "little") + self._words[at + 1].to_bytes(8, "little")

    def fresh_until(self, ns: int) -> None:
        self._words[_AT_FRESH] = ns

    def close(self) -> None:
        """The file stays for who maps it."""
        self._words.release()
        self._map.close()


def _is_table(path: Path, head: bytes, slots: int) -> bool:
    try:
        with path.open("rb") as file:
            found, size = file.read(HEADER_BYTES), os.fstat(file.fileno()).st_size
    except FileNotFoundError:
        return False
    same = found[:16] == head[:16] and found[24:] == head[24:]
    return same and size == HEADER_BYTES + 8 * SLOT_WORDS * slots


def _make(path: Path, head: bytes, slots: int) -> None:
    temporary = path.with_suffix(".tmp")
    temporary.unlink(missing_ok=True)
    with temporary.open("xb") as file:
        os.fchmod(file.fileno(), 0o600)
        file.write(head)
        file.truncate(HEADER_BYTES + 8 * SLOT_WORDS * slots)
    temporary.replace(path)


def _slots_for(subjects: int) -> int:
    """A power of two of which at most half is used for a while."""
    return max(LEAST_SLOTS, 1 << (2 * (subjects + MAX_CHANGES) - 1).bit_length())


@dataclass
class Consents:
    """DIR/desired/consents.json and its base → tables in DIR/private. One thread. The newest table is what the shim is told; the one before
    is kept up to date until there is another."""

    desired: Path
    private: Path
    state: Path

    def __post_init__(self) -> None:
        self._tables: list[Table] = []
        self._made_of: tuple[bytes, Sequence[str]] = (b"", ())
        self._base: tuple[str, int] | None = None
        self._last = ""  # digest of the document that the tables say
        self._told: Path | None = None  # the table that the shim is told of
        self._accepted = self._load()

    def _load(self) -> tuple[int, str]:
        path = self.state / DOCUMENT
        try:
            said = parse_json(path.read_bytes(), str(path))
            return int(said["epoch"]), str(said["issued"])
        except FileNotFoundError:
            return -1, ""
        except (Bad, KeyError, TypeError, ValueError) as error:
            raise Corrupt(str(path), f"must be as the agent wrote it: {error}") from error

    def config(self, point: PointConfig) -> dict[str, Any] | None:
        """`consent` of the shim's configuration. Before a first document all is stale."""
        if not point.consent_purposes:
            return None
        iris = tuple(iri for _, iri in point.consent_purposes)
        if not self._tables or self._made_of[1] != iris:
            self._open(_NOBODY, iris, LEAST_SLOTS)
        names = [name for name, _ in point.consent_purposes]
        self._told = self._tables[-1].path
        return {"subject": point.consent_subject, "purposes": names, "path": os.fspath(self._told)}

    def apply(self, data: bytes, keys: Keys, now: datetime, point: PointConfig) -> bool:
        """Takes a document; true when the shim must be told of another table. Raises Refused, Corrupt and OSError, and then nothing is
        fresher than it was."""
        where = str(self.desired / DOCUMENT)
        document = read_consents(data, keys, now, point, where)
        order = document.epoch, document.issued.isoformat()
        if order < self._accepted:
            must = f"must be {self._accepted[0]}, issued {self._accepted[1]}, or later: an older document is refused"
            raise Refused([Fault(f"{where}: epoch", f"{order[0]}, issued {order[1]}", must)])
        known = document.base in (None, self._base) or (document.after is not None and document.after == self._last)
        base = None if known or document.base is None else self._read_base(document)
        if order != self._accepted:
            replace_file(self.state / DOCUMENT, canonical({"epoch": order[0], "issued": order[1]}))
            self._accepted = order
        another = self._fit(document)
        try:
            self._put(document, base)
        except Full:
            self._open(document.key, document.purposes, 2 * self._tables[-1].slots)
            another = True
            self._leave(document, base)
        if another:
            self._put(document, self._read_base(document) if document.base is not None else None)
        self._base, self._last = document.base, document.digest
        for table in self._tables:
            table.fresh_until(document.not_after_ns)
        return self._tables[-1].path != self._told

    def _leave(self, document: Document, base: dict[bytes, Masks] | None) -> None:
        """The table before is full. Until the shim has the next one, who is not there is unknown, and whom it holds must be as of now."""
        full = self._tables.pop(0)
        for tag, masks in {**(base or {}), **dict(document.changes)}.items():
            with suppress(Full):
                full.put(tag, masks)
        full.close()

    def _read_base(self, document: Document) -> dict[bytes, Masks]:
        path = self.desired / BASE
        with path.open("rb") as file:
            data = file.read(MAX_BASE_BYTES + 1)
        if document.base is None or hashlib.sha256(data).hexdigest() != document.base[0]:
            raise Corrupt(str(path), f"must have the SHA-256 that {DOCUMENT} says")
        try:
            return base_records(data)
        except ValueError as error:
            raise Corrupt(str(path), str(error)) from error

    def _fit(self, document: Document) -> bool:
        """A table for this key, these purposes and so many subjects; true when it is another one."""
        subjects = len(document.changes) + (document.base[1] if document.base else 0)
        if self._tables and self._made_of == (document.key, document.purposes) and 2 * subjects <= self._tables[-1].slots:
            return False
        self._open(document.key, document.purposes, _slots_for(subjects))
        return True

    def _open(self, key: bytes, purposes: Sequence[str], slots: int) -> None:
        """Tables of another key or of other purposes are nobody's any more: to keep them up to date would say what is not so."""
        name = sha256_hex(canonical([slots, key.hex(), list(purposes)]))[:16]
        made = Table(self.private / f"consents-{name}.map", slots, key)
        kept = self._tables[-1:] if self._made_of == (key, purposes) else []
        for gone in self._tables[: len(self._tables) - len(kept)]:
            gone.fresh_until(0)
            gone.close()
        self._tables, self._made_of, self._base, self._last = [*kept, made], (key, tuple(purposes)), None, ""
        names = {table.path.name for table in self._tables}
        for path in self.private.glob("consents-*.map"):
            if path.name not in names and not kept:
                path.unlink(missing_ok=True)

    def _put(self, document: Document, base: dict[bytes, Masks] | None) -> None:
        """What changed last comes first: a withdrawal does not wait for a base."""
        changed = dict(document.changes)
        for table in self._tables:
            for tag, masks in changed.items():
                table.put(tag, masks)
            if base is None:
                continue
            for tag, masks in base.items():
                if tag not in changed:
                    table.put(tag, masks)
        if base is not None or document.base is None:
            known = base or {}
            for table in self._tables:
                for tag in [tag for tag in table.tags() if tag not in known and tag not in changed]:
                    table.put(tag, NOTHING)
