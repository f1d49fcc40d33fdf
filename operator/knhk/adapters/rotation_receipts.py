"""Receipts of rotations that were made where no log is at hand: rotated.json in a folder of keys (formats/signed.md). Whoever has both,
folder and log, brings them there."""

from __future__ import annotations

from pathlib import Path

from knhk.adapters.signer_roles import keys_of
from knhk.model.canonical import canonical
from knhk.model.faults import Corrupt
from knhk_runtime.durable import replace_file
from knhk_verify.errors import Bad
from knhk_verify.signed import Keys, member, parse_json, verify_event

FILE, KEPT = "rotated.json", 256


def keep(folder: Path, bundle: bytes) -> None:
    """The newest KEPT. Raises Corrupt."""
    path = folder / FILE
    rows = [*_rows(path), parse_json(bundle, str(path))]
    replace_file(path, canonical(rows[-KEPT:]), 0o600)


def receipts_in(folder: Path) -> tuple[bytes, ...]:
    """Bundles of rotations that keys.json bears out, the oldest first; one that was about to be made is not there yet. Raises Corrupt."""
    path, named = folder / FILE, keys_of(folder)
    if named is None:
        return ()
    return tuple(canonical(row) for row in _rows(path) if _happened(row, named, str(path)))


def _happened(row: object, named: Keys, where: str) -> bool:
    try:
        statement, _ = verify_event(canonical(row), named, where)
        kind, role = (member(statement, name, str, where) for name in ("predicate.kind", "predicate.evidence.role"))
    except Bad as error:
        raise Corrupt(error.where, error.what) from error
    subjects = [(subject.get("name"), subject["digest"]["sha256"]) for subject in statement["subject"]]
    return kind == "KeyRotated" and any(name == f"keys/{role}" and id_ in named.roles.get(role, {}) for name, id_ in subjects)


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
