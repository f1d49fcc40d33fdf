"""Chapters of keys.json (formats/signed.md): keys that are over, closely packed; the root signs the digest of each."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from functools import lru_cache
from hashlib import sha256
from typing import Any

from knhk.model.canonical import canonical
from knhk_verify.errors import Bad, demand
from knhk_verify.note import b64, unb64
from knhk_verify.signed import KEYS, MAX_KEYS_BYTES, Key, keyid, member, parse_canonical, parse_json, verify_envelope

ROW, OUTSIDE_ROW = 36, 37  # bytes: when it ended, u32, and a raw Ed25519 key, or a compressed point of P-256
Point = Callable[[bytes], bytes]  # compressed point from SubjectPublicKeyInfo, DER, or that from it


def written(keys: Mapping[str, Sequence[Key]], outside: Mapping[str, Sequence[Key]], compressed: Point) -> str:
    """A chapter of keys by role, and of P-256 keys for a sigstore; each has an `until`."""
    names = sorted({(role, key.name) for role, held in keys.items() for key in held})
    parts = [{"role": role, "name": name, "rows": _rows([key for key in keys[role] if key.name == name])} for role, name in names]
    document: dict[str, Any] = {"keys": parts}
    rows = {role: _rows([key._replace(public=compressed(key.public)) for key in held]) for role, held in sorted(outside.items()) if held}
    if rows:
        document["sigstore"] = [{"role": role, "rows": text} for role, text in rows.items()]
    return canonical(document).decode()


def _rows(keys: Sequence[Key]) -> str:
    return b64(b"".join(int(key.until.timestamp()).to_bytes(4, "big") + key.public for key in keys if key.until is not None))


def outside_rows(data: bytes, root_public: bytes, spki: Point, where: str = "keys.json") -> dict[str, list[Key]]:
    """role → P-256 keys for a sigstore that are over, of the chapters that are there. Raises Bad."""
    document, chapters = _opened(data, root_public, where)
    digests, found = document.get("chapters", ()), dict[str, list[Key]]()
    for number, text in enumerate(chapters):
        place, chapter = f"{where} chapters[{number}]", text.encode("utf-8", "replace")
        demand(sha256(chapter).hexdigest() in digests, place, "has no digest that keys.json names: was altered")
        for part in member({"sigstore": []} | parse_canonical(chapter, place), "sigstore", list, place):
            role, rows = member(part, "role", str, place), unb64(member(part, "rows", str, place), place)
            found.setdefault(role, []).extend(
                _outside_key(rows[at : at + OUTSIDE_ROW], spki, place) for at in range(0, len(rows), OUTSIDE_ROW)
            )
    return found


def _outside_key(row: bytes, spki: Point, where: str) -> Key:
    try:
        return Key(spki(row[4:]), "", datetime.fromtimestamp(int.from_bytes(row[:4], "big"), UTC))
    except ValueError as error:
        raise Bad(where, "has a row of role sigstore that is no point of P-256") from error


def _opened(data: bytes, root_public: bytes, where: str) -> tuple[dict[str, Any], list[str]]:
    envelope = parse_json(data, where, MAX_KEYS_BYTES)
    payload = verify_envelope(envelope, KEYS, {keyid(root_public): root_public}, where)
    return dict(parse_json(payload, f"{where} payload")), [str(text) for text in envelope.get("chapters", ())]


def apart(data: bytes, where: str = "keys.json") -> tuple[bytes, tuple[str, ...]]:
    """keys.json without its chapters, and these; nothing is verified. Raises Bad."""
    envelope = parse_json(data, where, MAX_KEYS_BYTES)
    demand(
        isinstance(envelope, dict) and isinstance(envelope.get("chapters", []), list), where, "must be an envelope, with a list of chapters"
    )
    if "chapters" not in envelope:
        return data, ()
    return canonical({name: value for name, value in envelope.items() if name != "chapters"}), tuple(map(str, envelope["chapters"]))


def together(data: bytes, chapters: Collection[str], where: str = "keys.json") -> bytes:
    """keys.json with those of the chapters that it names, in its own order; nothing is verified. Raises Bad."""
    bare, own = apart(data, where)
    by_digest = {sha256(text.encode()).hexdigest(): text for text in (*own, *chapters)}
    held = [by_digest[digest] for digest in _payload(bare, where).get("chapters", ()) if digest in by_digest]
    return canonical({**parse_json(bare, where), "chapters": held}) if held else bare


def holding(data: bytes, ids: Collection[str], where: str = "keys.json") -> bytes:
    """keys.json with those of its chapters that have one of these keys, by keyid; nothing is verified. Raises Bad."""
    bare, chapters = _index(data, where)
    return together(bare, [text for text, named in chapters if not named.isdisjoint(ids)], where)


@lru_cache(2)  # points ask for the same keys.json at every look
def _index(data: bytes, where: str) -> tuple[bytes, tuple[tuple[str, frozenset[str]], ...]]:
    """keys.json without its chapters, and each of these with its keyids."""
    bare, chapters = apart(data, where)
    return bare, tuple((text, frozenset(keyid(key) for _role, keys in _former(text, where) for key in keys)) for text in chapters)


def newest(data: bytes, limit: int, where: str = "keys.json") -> bytes:
    """keys.json with the newest of its chapters for which `limit` bytes have room; nothing is verified. Raises Bad."""
    bare, chapters = apart(data, where)
    room, first = limit - len(bare), len(chapters)
    while first > 0 and (room := room - len(json.dumps(chapters[first - 1], ensure_ascii=False).encode()) - 16) >= 0:
        first -= 1
    return together(bare, chapters[first:], where)


@lru_cache(2)
def of_role(data: bytes, role: str, where: str = "keys.json") -> Mapping[str, bytes]:
    """keyid → raw key of all keys of a role, also of those that are over; nothing is verified. Raises Bad."""
    bare, chapters = apart(data, where)
    former = (key for text in chapters for named, keys in _former(text, where) if named == role for key in keys)
    rows = member(_payload(bare, where), f"roles.{role}", list, where)
    return {keyid(key): key for key in (*former, *(unb64(member(row, "pub", str, where), where) for row in rows))}


def _former(text: str, where: str) -> Iterator[tuple[str, list[bytes]]]:
    """(role, raw keys)."""
    for part in member(parse_json(text, where), "keys", list, where):
        rows = unb64(member(part, "rows", str, where), where)
        yield member(part, "role", str, where), [rows[at + 4 : at + ROW] for at in range(0, len(rows), ROW)]


def _payload(bare: bytes, where: str) -> dict[str, Any]:
    payload = member(parse_json(bare, where), "payload", str, where)
    return dict(parse_json(base64.b64decode(payload), f"{where} payload"))
