"""Receipts of what the root signed where no log is at hand, rotations and trusted roots: rotated.json in a folder of keys
(formats/signed.md). Whoever has both, folder and log, brings them there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from knhk.adapters.signer_roles import keys_of, outside_of
from knhk.model.canonical import canonical
from knhk.model.faults import Corrupt
from knhk_runtime.durable import replace_file
from knhk_verify.errors import Bad
from knhk_verify.note import unb64
from knhk_verify.signed import Keys, member, parse_json, verify_event

FILE, KEPT = "rotated.json", 256
ROTATED, PINNED, SIGSTORE = "KeyRotated", "TrustedRootPinned", "keys/sigstore"


def keep(folder: Path, bundle: bytes) -> None:
    """The newest KEPT, without a trusted root that was about to be pinned and is not. Raises Corrupt."""
    path = folder / FILE
    rows, pinned = _rows(path), outside_of(folder).trusted_root
    told = [_statement(row, str(path)) for row in rows]
    left = [row for row, mistaken in zip(rows, _unpinned(told, pinned), strict=True) if not mistaken]
    replace_file(path, canonical([*left, parse_json(bundle, str(path))][-KEPT:]), 0o600)


def receipts_in(folder: Path) -> tuple[bytes, ...]:
    """Bundles that keys.json bears out, the oldest first; what was about to be is not there yet. Raises Corrupt."""
    path, named = folder / FILE, keys_of(folder)
    if named is None:
        return ()
    rows = _rows(path)
    try:
        told = [verify_event(canonical(row), named, str(path))[0] for row in rows]
    except Bad as error:
        raise Corrupt(error.where, error.what) from error
    mistaken = _unpinned(told, outside_of(folder).trusted_root)
    return tuple(
        canonical(row) for row, said, not_so in zip(rows, told, mistaken, strict=True) if not not_so and _stands(said, named, str(path))
    )


def _unpinned(told: Sequence[Mapping[str, Any]], pinned: str | None) -> list[bool]:
    """Of each statement whether it says that a trusted root was pinned, and none was. That can be so of the last one only: before the next
    was written it went."""
    last = max((at for at, said in enumerate(told) if said["predicate"]["kind"] == PINNED), default=-1)
    return [at == last and (SIGSTORE, pinned) not in _subjects(said) for at, said in enumerate(told)]


def _stands(said: Mapping[str, Any], named: Keys, where: str) -> bool:
    if said["predicate"]["kind"] == PINNED:
        return True
    try:
        role = member(said, "predicate.evidence.role", str, where)
    except Bad as error:
        raise Corrupt(error.where, error.what) from error
    new = (id_ for name, id_ in _subjects(said) if name == f"keys/{role}")
    return said["predicate"]["kind"] == ROTATED and any(id_ in named.roles.get(role, {}) for id_ in new)


def _subjects(said: Mapping[str, Any]) -> list[tuple[str, str]]:
    return [(subject.get("name"), subject["digest"]["sha256"]) for subject in said["subject"]]


def _statement(row: object, where: str) -> Mapping[str, Any]:
    """Of a bundle that we wrote; whether its signature is one is not asked."""
    try:
        said = parse_json(unb64(member(row, "dsseEnvelope.payload", str, where), where), where)
        member(said, "predicate.kind", str, where)
        member(said, "subject", list, where)
    except Bad as error:
        raise Corrupt(error.where, error.what) from error
    found: Mapping[str, Any] = said
    return found


def _rows(path: Path) -> list[object]:
    try:
        found = parse_json(path.read_bytes(), str(path))
    except FileNotFoundError:
        return []
    except Bad as error:
        raise Corrupt(error.where, error.what) from error
    if not isinstance(found, list):
        raise Corrupt(str(path), "must be a list of bundles")
    return found
