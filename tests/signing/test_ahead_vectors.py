"""The vectors of formats/ahead.md: turns made ahead as whoever brings them into force reads them, and what each look does."""

from __future__ import annotations

import base64
import json
import lzma
from datetime import datetime
from typing import Any

import pytest
from ahead_vectors import FILE, made
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from knhk.adapters import keys_ahead
from knhk.lockchain import chapters
from knhk.model.faults import Corrupt
from knhk.wiring.turning import turned
from knhk_verify.signed import verify_event

VECTORS: dict[str, Any] = json.loads(FILE.read_bytes())
ROOT = base64.b64decode(VECTORS["root_pub"])
LOOKS = [pytest.param(row, id=row["why"]) for row in VECTORS["looks"]]
REFUSED = [pytest.param(row, id=row["why"]) for row in VECTORS["refused"]]


def supply(data: str = VECTORS["xz"]) -> keys_ahead.Supply:
    return keys_ahead.read(base64.b64decode(data), keys_ahead.FILE)


def encoded(files: dict[str, str]) -> dict[str, bytes]:
    return {name: text.encode() for name, text in files.items()}


def test_the_vectors_are_fresh() -> None:
    fresh, kept = json.loads(made()), json.loads(FILE.read_bytes())
    for each in (fresh, kept):  # what XZ gives is another library's affair
        assert each.pop("xz")
        assert each["not_brought"].pop("data")
        assert all(row.pop("data") for row in each["refused"])
    assert kept == fresh, "stale: run python tests/signing/ahead_vectors.py and review the diff"


def test_turns_are_read_and_written_as_they_stand() -> None:
    read = supply()
    assert [step.keys_json.decode() for step in read.steps] == VECTORS["keys_json"]
    assert lzma.decompress(keys_ahead.written(read)).decode() == VECTORS["unpacked"]
    assert lzma.decompress(base64.b64decode(VECTORS["xz"])).decode() == VECTORS["unpacked"]
    for row in VECTORS["due"]:
        assert read.due(datetime.fromisoformat(row["now"])).at == datetime.fromisoformat(row["at"])


def test_keys_are_sealed_and_receipts_are_by_the_key_from_before() -> None:
    for step in supply().steps:
        key: Any = load_pem_private_key(step.files["rollout.key"], VECTORS["password"].encode())
        assert key.private_bytes_raw().hex() == VECTORS["seeds"][f"{step.at:%Y-%m-%dT%H:%M:%SZ}"]
        named = keys_ahead.keys_in(step, ROOT)
        assert named.away == 0
        assert len(chapters.apart(step.keys_json)[1]) == 1
        for receipt in step.receipts:
            statement, by = verify_event(receipt, named)
            assert statement["predicate"]["evidence"]["old"] == by
            assert named.roles["rollout"][by].until is not None


@pytest.mark.parametrize("row", LOOKS)
def test_a_look_brings_what_is_due(row: dict[str, Any]) -> None:
    then = turned(encoded(row["there"]), supply(), ROOT, datetime.fromisoformat(row["now"]))
    assert then == (None if row["then"] is None else encoded(row["then"]))


@pytest.mark.parametrize("row", REFUSED)
def test_what_is_no_supply_is_refused(row: dict[str, Any]) -> None:
    with pytest.raises(Corrupt, match="must"):
        supply(row["data"])


def test_what_the_root_has_not_signed_does_not_come() -> None:
    row = VECTORS["not_brought"]
    with pytest.raises(Corrupt, match=r"keys.json.*none is a key allowed here"):
        turned(encoded(row["there"]), supply(row["data"]), ROOT, datetime.fromisoformat(row["now"]))
