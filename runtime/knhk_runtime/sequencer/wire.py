"""Bodies of `POST /append` and `POST /event` (formats/log.md): strict parsing with little work per entry."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from itertools import product

from knhk_runtime.record import entry_key
from knhk_verify.errors import Bad
from knhk_verify.leaf import CLASSES, KINDS, LEAF_SIZE, MODES, VERDICTS, parse_leaf
from knhk_verify.signed import BUNDLE, member, parse_json

MAX_BODY_BYTES = 8 << 20
MAX_ENTRIES = 65_536
MAX_ENTRY_BYTES = 65_535
KEY_BYTES, SOURCE_BYTES = 17, 8
MAX_SOURCES = 1024
_LEAF_ITEM = struct.Struct(f">{KEY_BYTES}sH{LEAF_SIZE}s")
# The first six bytes that a leaf may have, so that one look-up judges six fields.
_HEADS = frozenset(bytes((1, *head)) for head in product(KINDS, CLASSES, VERDICTS, MODES, range(64)))


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


def _leaves(body: bytes) -> Append | None:
    """The append when every item is a leaf without fault, else None."""
    keys, sizes, entries = zip(*_LEAF_ITEM.iter_unpack(memoryview(body)[4:]), strict=True)
    whole = set(sizes) == {LEAF_SIZE} and all(
        e[:6] in _HEADS and e[100:116] == k[:16] and e[5] & 1 == k[16] and e[116:] == b"\0\0" for k, e in zip(keys, entries, strict=True)
    )
    return Append(keys, entries, body[4:]) if whole and all(e[1] == 1 or not any(e[40:72]) for e in entries) else None


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


def parse_append(body: bytes) -> Append:
    """Append of a body: u32 n, then n × {key 17 bytes, entry str16}; raises Bad with item and offset."""
    count = int.from_bytes(body[:4], "big")
    if len(body) >= 4 and count > MAX_ENTRIES:
        raise TooMany("body offset 0", f"states {count} entries: must be at most {MAX_ENTRIES}")
    if len(body) < 4 or count == 0:
        raise Bad("body offset 0", f"must begin with the number of entries, 1 to {MAX_ENTRIES}")
    if len(body) == 4 + count * _LEAF_ITEM.size and (append := _leaves(body)):
        return append
    keys, entries = _items_of(body, 4, count)
    for number, (key, entry) in enumerate(zip(keys, entries, strict=True)):
        check_entry(key, entry, f"item {number}")
    return Append(tuple(keys), tuple(entries), body[4:])


def parse_leaves(body: bytes) -> Append:
    """`parse_append` of leaves alone; raises NotALeaf for a policy event among them."""
    append = parse_append(body)
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
