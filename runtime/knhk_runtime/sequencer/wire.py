"""Bodies of `POST /append` and `POST /event` (formats/log.md): strict parsing with little work per entry."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from functools import cached_property

from knhk_hot.leaves import sound_leaves
from knhk_runtime.record import entry_key
from knhk_verify.errors import Bad
from knhk_verify.leaf import CLASSES, KINDS, LEAF_SIZE, MODES, VERDICTS, parse_leaf
from knhk_verify.signed import BUNDLE, member, parse_json

MAX_BODY_BYTES = 8 << 20
MAX_ENTRIES = 65_536
MAX_ENTRY_BYTES = 65_535
KEY_BYTES, SOURCE_BYTES = 17, 8
MAX_SOURCES = 1024
_LEAF_ITEM = struct.Struct(f">{KEY_BYTES}s2x{LEAF_SIZE}s")
_ALLOWED = b"".join(bytes(b in field for b in range(256)) for field in ((1,), KINDS, CLASSES, VERDICTS, MODES, range(64)))


class TooMany(Bad):
    """An append states more entries than one may have."""


class NotALeaf(Bad):
    """A policy event from one who may append leaves alone."""


@dataclass(frozen=True)
class Append:
    """Entries to append, with their keys, and their items as they stand in the body and in the WAL. `client`: whom its certificate names;
    empty for who came by the socket, to whom everything belongs. `claims`: sources that are to be the client's, without a leaf yet."""

    keys: tuple[bytes, ...]
    entries: tuple[bytes, ...]
    items: bytes
    client: str = ""
    claims: frozenset[bytes] = frozenset()

    @cached_property
    def sources(self) -> frozenset[bytes]:
        """Rings that its leaves are of."""
        return frozenset(key[:SOURCE_BYTES] for key, entry in zip(self.keys, self.entries, strict=True) if len(entry) == LEAF_SIZE)

    @property
    def size(self) -> int:
        """Bytes that wait with it."""
        return len(self.items) + SOURCE_BYTES * len(self.claims)


def item(key: bytes, entry: bytes) -> bytes:
    """An entry as it stands in a body and in the WAL: key, u16 length, bytes."""
    return key + len(entry).to_bytes(2, "big") + entry


def check_entry(key: bytes, entry: bytes, where: str) -> None:
    """Raises Bad unless the entry is a leaf or a policy event in form, and `key` is its own."""
    if entry[:1] != b"{":
        parse_leaf(entry, where)
    elif member(parse_json(entry, where), "mediaType", str, where) != BUNDLE:
        raise Bad(f"{where} mediaType", f"must be {BUNDLE}")
    if entry_key(entry) != key:
        raise Bad(f"{where} key", f"{key.hex()}: must be {entry_key(entry).hex()}, the key of the entry")


def _leaves(body: bytes, count: int) -> Append | None:
    """The append when every item is a leaf without fault, else None."""
    items = body[4:]
    if len(items) != count * _LEAF_ITEM.size or sound_leaves(items, _ALLOWED) < count:
        return None
    keys, entries = zip(*_LEAF_ITEM.iter_unpack(items), strict=True)
    return Append(keys, entries, items)


def _items_of(data: bytes, at: int, count: int) -> tuple[list[bytes], list[bytes]]:
    """(keys, entries) of `count` items that fill `data` from `at`; raises Bad with the offset."""
    keys, entries = list[bytes](), list[bytes]()
    for number in range(count):
        head = at + KEY_BYTES + 2
        end = head + int.from_bytes(data[at + KEY_BYTES : head], "big")
        if end > len(data) or head > len(data):
            raise Bad(f"body offset {at}", f"item {number} goes past the end")
        keys.append(data[at : at + KEY_BYTES])
        entries.append(data[head:end])
        at = end
    if at != len(data):
        raise Bad(f"body offset {at}", f"{len(data) - at} bytes after the last item")
    return keys, entries


def _count(body: bytes) -> int:
    count = int.from_bytes(body[:4], "big")
    if len(body) >= 4 and count > MAX_ENTRIES:
        raise TooMany("body offset 0", f"states {count} entries: must be at most {MAX_ENTRIES}")
    if len(body) < 4 or count == 0:
        raise Bad("body offset 0", f"must begin with the number of entries, 1 to {MAX_ENTRIES}")
    return count


def _entries(body: bytes) -> Append:
    keys, entries = _items_of(body, 4, _count(body))
    for number, (key, entry) in enumerate(zip(keys, entries, strict=True)):
        check_entry(key, entry, f"item {number}")
    return Append(tuple(keys), tuple(entries), body[4:])


def parse_append(body: bytes) -> Append:
    """Append of a body: u32 n, then n × {key 17 bytes, entry str16}; raises Bad with item and offset."""
    return _leaves(body, _count(body)) or _entries(body)


def parse_leaves(body: bytes) -> Append:
    """`parse_append` of leaves alone; raises NotALeaf for a policy event among them."""
    if append := _leaves(body, _count(body)):
        return append
    append = _entries(body)
    event = next((number for number, entry in enumerate(append.entries) if entry[:1] == b"{"), None)
    if event is not None:
        raise NotALeaf(f"item {event}", "must be a leaf: policy events are appended by the operator alone")
    return append


def parse_sources(body: bytes) -> frozenset[bytes]:
    """Body of `POST /sources`; raises Bad."""
    if not 0 < len(body) <= MAX_SOURCES * SOURCE_BYTES or len(body) % SOURCE_BYTES:
        raise Bad("body", f"must be 1 to {MAX_SOURCES} sources of {SOURCE_BYTES} bytes")
    return frozenset(body[at : at + SOURCE_BYTES] for at in range(0, len(body), SOURCE_BYTES))


def parse_event(body: bytes) -> Append:
    """Append of one policy event; raises Bad."""
    if not 0 < len(body) <= MAX_ENTRY_BYTES or body[:1] != b"{":
        raise Bad("body", f"must be a JSON object of at most {MAX_ENTRY_BYTES} bytes")
    key = entry_key(body)
    check_entry(key, body, "event")
    return Append((key,), (body,), item(key, body))
