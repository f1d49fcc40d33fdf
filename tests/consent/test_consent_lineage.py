"""Which records are about a person, in clear and sealed, and what a reader gets of them."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, cast

import pytest

from knhk.cli import main
from knhk.lockchain.events import PolicyEvent, statement
from knhk.model.subjects import tag_of
from knhk.reconcilers.lineage import Kept, Wanted, in_clear, kept_of, lineage
from knhk.wiring.lineage import Asked, Tags, wanted_of
from knhk_runtime.record import Record, parse_record
from knhk_runtime.subject_keys import ErasableKeys
from knhk_runtime.unsealing import NO_ACCESS, Unsealer
from knhk_verify.leaf import parse_leaf

VECTORS = json.loads((Path(__file__).parents[2] / "formats" / "vectors" / "envelope.json").read_bytes())
ANNA, ZOE = (row["tag"] for row in VECTORS["tags"][:2])
ADMITTED = VECTORS["records"][0]


def record(form: str) -> Record:
    """Of a vector: its frame without length and checksum."""
    return parse_record(bytes.fromhex(ADMITTED[form])[8:], form)


class Keys:
    """A key store whose every key is this one; None: it was destroyed."""

    def __init__(self, key: bytes | None) -> None:
        self.key = key

    def found(self, ids: Collection[bytes]) -> dict[bytes, bytes | None]:
        return dict.fromkeys(ids, self.key)


def reader(key: bytes | None) -> Unsealer:
    return Unsealer(cast(ErasableKeys, Keys(key)))


READERS = {"clear": reader(bytes.fromhex(VECTORS["key"])), "erased": reader(None), "sealed": NO_ACCESS}


def kept(form: str, wanted: Wanted, who: str = "clear") -> list[Kept]:
    found = record(form)
    return list(kept_of([("here", parse_leaf(found.leaves[0], form), found)], wanted, READERS[who]).values())


@pytest.mark.parametrize(("text", "found"), [("anna", True), ("ann", False), ("create", False)])
def test_what_lies_in_clear_is_found_by_a_whole_attribute(text: str, found: bool) -> None:
    assert [one.state for one in kept("plain", Wanted(text))] == (["clear"] if found else [])


def test_what_lies_in_clear_is_found_by_a_place_in_the_body_that_was_named() -> None:
    assert kept("plain", Wanted("1")) == []
    (one,) = kept("plain", Wanted("1", pointers=("/id",)))
    told = in_clear(one)
    assert told is not None
    assert (told["attributes"], told["body"]) == ({"sub": "anna"}, {"id": "1"})


def test_a_sealed_record_is_found_by_its_tag_and_told_by_who_may_open_it() -> None:
    assert kept("sealed", Wanted("anna", frozenset((ZOE,)))) == []
    (one,) = kept("sealed", Wanted("anna", frozenset((ANNA,))))
    told = in_clear(one)
    assert told is not None
    assert (one.state, told["body"]) == ("clear", {"id": "1"})


def test_a_consent_that_is_said_once_more_after_its_withdrawal_is_not_held() -> None:
    """Who writes a log can put the old event in again, in other bytes around what is signed."""
    leaf = record("sealed").leaves[0]

    def said(kind: str, day: int) -> dict[str, Any]:
        event = PolicyEvent(kind, (f"consent/erp/{ANNA}", ANNA), "local:ada", f"2020-11-{day:02}T10:00:00Z", evidence={"purpose": "hiring"})
        return statement(event)

    told: list[bytes | Mapping[str, Any]] = [said("ConsentGranted", 1), said("ConsentWithdrawn", 2), said("ConsentGranted", 1), leaf]
    rows = lineage(enumerate(told), {}, Wanted(tags=frozenset((ANNA,)), receipts=frozenset((parse_leaf(leaf).receipt_id,))))
    assert [row["index"] for row in rows] == [0, 1, 3]
    assert [(held["state"], held["index"]) for held in rows[-1]["consents"]] == [("Withdrawn", 1)]


def test_a_name_that_looks_like_a_receipt_is_a_name_too() -> None:
    """An account number of 32 hexadecimal digits, say: all about it is found, and can be exported."""
    name, tag = "0123456789abcdef" * 2, tag_of(bytes(32), "0123456789abcdef" * 2)
    found = wanted_of(Asked(name, "ats", False, (), "", None), Tags(tag, None))
    assert (found.text, found.tags, found.receipts) == (name, {tag}, {bytes.fromhex(name)})


@pytest.mark.parametrize("why", ["sealed", "erased"])
def test_who_may_not_open_it_learns_that_it_is_there_and_nothing_of_it(why: str) -> None:
    (one,) = kept("sealed", Wanted("anna", frozenset((ANNA,))), why)
    assert (one.state, in_clear(one)) == (why, None)


@pytest.mark.parametrize(
    ("words", "wrong"),
    [
        (("--subject", "c-117", "--reason", "asked", "--verdict", "DENY"), "--verdict"),
        (("--subject", "c-117", "--reason", "asked", "--ca-file", "ca.crt"), "--ca-file"),
        (("--format", "csv", "--account", "knhk-exporter"), "--account"),
        (("--format", "csv", "--pointer", "/id"), "--pointer"),
        (("--format", "csv", "--tag"), "--tag"),
    ],
)
def test_an_export_ignores_nothing_that_was_asked_of_it(
    words: tuple[str, ...], wrong: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert main(["--home", str(tmp_path), "receipt", "export", "--out", str(out), *words, "-o", "json"]) == 2
    assert json.loads(capsys.readouterr().err)["error"].startswith(f"{wrong}: must not be given")
    assert not out.exists()
