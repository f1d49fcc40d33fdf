"""The index of receipts gives what a reading of the whole log gives, at any moment, after any interruption."""

from __future__ import annotations

import random
import re
import sqlite3
import sys
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from log_of_entries import CONTROLS, LIMITS, ORIGIN, OTHERS, PACKS, START_NS, Written, leaf

from knhk.adapters import receipt_index
from knhk.adapters.receipt_index import ReceiptIndex, decisions, policy_events
from knhk.lockchain.entries import Row
from knhk.lockchain.receipts import label_value
from knhk.model.faults import Refused
from knhk.model.selection import EVENT_FIELDS, EVENT_LABELS, Selection, equal, field_selector, holds, label_selector
from knhk.wiring.receipts import Follower, LogPlace
from knhk_runtime.record import encode_leaf
from knhk_verify.leaf import KINDS, VERDICTS, Leaf, parse_leaf

NONE = bytes(20)


@pytest.fixture
def index(tmp_path: Path) -> ReceiptIndex:
    return ReceiptIndex(tmp_path / "index.db")


def pages(index: ReceiptIndex, selection: Selection, limit: int) -> list[Row]:
    """All of them, page by page."""
    found, before = list[Row](), None
    while True:
        page = index.page(selection, limit, before)
        assert len(page.rows) <= limit
        found += page.rows
        assert page.more is None or before is None or page.more < before
        if page.more is None:
            assert page.total in (None, len(found))
            return found
        before = page.more


SELECTORS = (
    "",
    "verdict=DENY",
    "verdict!=DENY,pack=invoice-controls",
    "metadata.namespace=erp",
    "metadata.namespace=crm,arm=candidate",
    "brownout=true",
    "kind=REFUSED,metadata.namespace=erp",
    "kind=POLICY",
    "event=Promoted,pack=limits",
    "pack=",
    "verdict=DENY,verdict=ADMIT",
)


def some(seed: int, written: Written, count: int) -> list[bytes]:
    """Entries of three packs in four rings; some are judged by no pack."""
    chance = random.Random(seed)
    made = list[bytes]()
    for number in range(count):
        ring = chance.choice((b"RING0001", b"RING0002", b"RING0003", b"RING0004"))
        pack = {b"RING0001": CONTROLS, b"RING0002": LIMITS, b"RING0003": OTHERS}.get(ring, CONTROLS)
        if chance.random() < 0.05:
            made.append(written.event(chance.choice(("Promoted", "RolledBack")), pack, step=number))
        elif chance.random() < 0.2:
            made.append(leaf(number, ring=ring, pack=NONE, kind=4, verdict=2))
        else:
            made.append(leaf(number, ring=ring, pack=pack, verdict=chance.choice((1, 1, 2)), flags=chance.choice((0, 0, 1, 8))))
    return made


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("limit", [1, 7, 500])
def test_pages_are_what_a_reading_of_all_entries_gives(written: Written, index: ReceiptIndex, seed: int, limit: int) -> None:
    written.add(*(written.event("Signed", pack) for pack in PACKS), *some(seed, written, 150))
    index.follow(ORIGIN, written.served)
    everything = list(index.rows())
    assert [row.number for row in everything] == list(range(153))
    assert {row.traits["namespace"] for row in everything} == {"erp", "crm"}
    for text in SELECTORS:
        selection = field_selector(text)
        expected = [row for row in reversed(everything) if holds(selection, row.traits)]
        assert pages(index, selection, limit) == expected, text


def test_an_entry_is_found_by_its_index_of_whichever_kind(written: Written, index: ReceiptIndex) -> None:
    written.add(written.event("Signed"), leaf(1), leaf(2), written.event("Promoted"))
    index.follow(ORIGIN, written.served)
    everything = list(index.rows())
    for row in everything:
        asked = field_selector(f"logIndex={row.number}")
        assert index.page(asked, 9).rows == (row,)
        assert list(index.rows(asked)) == [row]
        assert index.page((decisions(), *asked), 9).rows == ((row,) if row.traits["kind"] != "POLICY" else ())
        assert index.page((policy_events(), *asked), 9).total == (row.traits["kind"] == "POLICY")
    spelt = ("logIndex=03", "logIndex=3.0", "logIndex=3e0", "logIndex=+3", "logIndex= 3", "logIndex=٣")  # 3 is a policy event
    for wrong in (*spelt, "logIndex=4", f"logIndex={10**30}", "logIndex=x", "logIndex=", "logIndex=1,verdict=DENY"):
        assert index.page(field_selector(wrong), 9).rows == (), wrong
    with pytest.raises(Refused, match="must be =: one receipt is asked for by it"):
        field_selector("logIndex!=1")


def test_a_page_is_of_the_log_as_it_was_when_the_first_was_asked_for(written: Written, index: ReceiptIndex) -> None:
    written.add(written.event("Signed"), *(leaf(n) for n in range(5)))
    index.follow(ORIGIN, written.served)
    first = index.page((), 3)
    written.add(*(leaf(n) for n in range(5, 9)))
    index.follow(ORIGIN, written.served)
    assert [row.number for row in first.rows + index.page((), 9, first.more).rows] == [5, 4, 3, 2, 1, 0]


def test_an_index_that_was_killed_at_any_transaction_goes_on_from_it(
    written: Written, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(receipt_index, "BATCH", 16)
    written.add(*(written.event("Signed", pack) for pack in PACKS), *some(7, written, 120))
    whole = ReceiptIndex(tmp_path / "whole.db")
    whole.follow(ORIGIN, written.served)
    for stop in (0, 3, 7):
        killed, log, roots = ReceiptIndex(tmp_path / f"{stop}.db"), written.served, iter(range(99))
        root = log.root

        def dies(size: int, roots: object = roots, root: object = root, stop: int = stop) -> bytes:
            if next(roots) == stop:  # type: ignore[call-overload]
                raise KeyboardInterrupt
            return root(size)  # type: ignore[operator, no-any-return]

        log.root = dies  # type: ignore[method-assign]
        with pytest.raises(KeyboardInterrupt):
            killed.follow(ORIGIN, log)
        assert killed.size == 16 * stop
        again = ReceiptIndex(tmp_path / f"{stop}.db")
        again.follow(ORIGIN, written.served)
        assert list(again.rows()) == list(whole.rows())


def test_another_log_or_a_shorter_one_is_read_anew(written: Written, index: ReceiptIndex, tmp_path: Path) -> None:
    written.add(written.event("Signed"), leaf(1), leaf(2))
    index.follow(ORIGIN, written.served)
    other = Written(tmp_path / "other")
    other.add(other.event("Signed"), leaf(3))
    index.follow(ORIGIN, other.served)
    assert [row.number for row in index.page((), 9).rows] == [1, 0]
    other.add(leaf(4))
    assert index.follow(ORIGIN, other.served) == 1


def test_a_file_that_is_no_index_is_made_one(written: Written, tmp_path: Path) -> None:
    (tmp_path / "index.db").write_bytes(b"rubbish" * 1000)
    index = ReceiptIndex(tmp_path / "index.db")
    written.add(leaf(1))
    assert index.follow(ORIGIN, written.served) == 1


def test_a_file_that_became_malformed_in_its_middle_is_made_anew_and_said(
    written: Written, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Whoever meets it: here one who reads. Other threads then read the new one, too."""
    written.add(written.event("Signed"), *(leaf(n) for n in range(2000)))
    follower = Follower(ReceiptIndex(tmp_path / "index.db"), LogPlace(str(written.folder)))
    follower.look()
    index, born = follower.index, follower.index.born
    with ThreadPoolExecutor(1) as other:
        assert len(list(other.submit(lambda: list(index.rows())).result())) == 2001
        index.close()
        other.submit(index.close).result()
        with (tmp_path / "index.db").open("r+b") as file:
            size = file.seek(0, 2)
            file.seek(16 << 10)
            file.write(b"\xa5" * (size - (16 << 10)))
        with pytest.raises(sqlite3.DatabaseError):
            list(index.rows())
        follower.look()
        assert "malformed: it is made anew" in caplog.text
        assert index.born != born
        assert len(other.submit(lambda: list(index.rows())).result()) == len(list(index.rows())) == 2001
        other.submit(index.close).result()


def test_what_no_pack_judged_is_of_the_namespace_of_its_ring_as_soon_as_that_is_known(written: Written, index: ReceiptIndex) -> None:
    written.add(leaf(1, pack=NONE, kind=4, verdict=2), written.event("Signed"))
    index.follow(ORIGIN, written.served)
    assert index.page(field_selector("metadata.namespace=,kind=REFUSED"), 9).total == 1
    written.add(leaf(2), leaf(3, pack=NONE, kind=4, verdict=2), leaf(4, ring=b"RING0009", pack=NONE, kind=4, verdict=2))
    index.follow(ORIGIN, written.served)
    found = index.page(field_selector("metadata.namespace=erp,kind=REFUSED"), 9)
    assert [row.number for row in found.rows] == [3, 0]
    assert [row.number for row in index.page(field_selector("metadata.namespace=,kind=REFUSED"), 9).rows] == [4]


def test_one_receipt_is_found_by_its_id_with_both_of_its_arms(written: Written, index: ReceiptIndex) -> None:
    written.add(written.event("Signed"), leaf(1), leaf(1, flags=1, verdict=2), leaf(2))
    index.follow(ORIGIN, written.served)
    receipt = (b"RING0001" + (1).to_bytes(8, "big")).hex()
    assert [row.number for row in index.page(field_selector(f"receipt={receipt}"), 9).rows] == [2, 1]
    assert [row.number for row in index.page(field_selector(f"metadata.name={receipt}-candidate"), 9).rows] == [2]
    assert [row.number for row in index.page(field_selector(f"metadata.name={receipt},verdict=DENY"), 9).rows] == []
    assert index.page(field_selector("metadata.name=nonsense"), 9).rows == ()


EVENT_SELECTORS = (
    "",
    "event=Promoted",
    "event!=Promoted,pack=limits",
    "stage=production,verdict=Pass",
    "stage=",
    "actor=ann,metadata.namespace=erp",
    "point=orders",
    "time=2026-11-21",
    "time=2026-11,time!=2026-11-20T10",
    "metadata.namespace=knhk-system",
    "packDigest=" + CONTROLS[:20].hex(),
)


def happenings(written: Written) -> None:
    """Policy events between leaves; one of them is of no namespace."""
    production = {"stage": "production", "evidence": {"verdict": "Pass"}, "point": "point/erp/orders"}
    written.add(
        written.event("Signed"),
        leaf(1),
        written.event("Approved", actor="ann", stage="production", time="2026-11-20T11:00:00Z"),
        written.event("Promoted", time="2026-11-21T12:00:00Z", **production),
        written.event("Promoted", LIMITS, actor="system:serviceaccount:erp:ci", time="2026-10-21T12:00:00Z"),
        leaf(2),
        written.event("RolledBack", LIMITS, time="2026-11-22T12:00:00Z", evidence={"verdict": "Fail"}),
        written.nobodys("KeyRotated"),
    )


@pytest.mark.parametrize("limit", [1, 3, 500])
def test_policy_events_are_found_by_what_they_say(written: Written, index: ReceiptIndex, limit: int) -> None:
    happenings(written)
    index.follow(ORIGIN, written.served)
    everything = [row for row in index.rows() if row.traits["kind"] == "POLICY"]
    assert [row.name for row in everything][:3] == ["signed-00000000", "approved-00000002", "promoted-00000003"]
    found = dict[str, list[int]]()
    for text in EVENT_SELECTORS:
        selection = (policy_events(), *field_selector(text, known=EVENT_FIELDS))
        found[text] = [row.number for row in pages(index, selection, limit)]
        assert found[text] == [row.number for row in reversed(everything) if holds(selection, row.traits)], text
    assert found["stage=production,verdict=Pass"] == [3]
    assert found["actor=ann,metadata.namespace=erp"] == [2]
    assert found["time=2026-11-21"] == [3]
    assert found["time=2026-11,time!=2026-11-20T10"] == [7, 6, 3, 2]
    (labelled,) = pages(index, label_selector(f"actor={label_value('system:serviceaccount:erp:ci')}", known=EVENT_LABELS), limit)
    assert labelled.number == 4
    (named,) = pages(index, (policy_events(), equal("name", "promoted-00000003")), limit)
    assert named.number == 3
    assert pages(index, (policy_events(), equal("name", "promoted-00000002")), limit) == []


def test_pages_of_large_events_are_small(written: Written, index: ReceiptIndex, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(receipt_index, "PAGE_BYTES", 3000)
    written.add(*(written.event("Promoted", evidence={"told": "x" * 1000, "n": n}) for n in range(7)), leaf(1))
    index.follow(ORIGIN, written.served)
    first = index.page((policy_events(),), 500)
    assert 1 <= len(first.rows) <= 2
    assert [row.number for row in pages_of_any_size(index, (policy_events(),))] == list(range(6, -1, -1))


def pages_of_any_size(index: ReceiptIndex, selection: Selection) -> list[Row]:
    found, page = list[Row](), index.page(selection, 500)
    while True:
        found += page.rows
        if page.more is None:
            return found
        page = index.page(selection, 500, page.more)


@pytest.mark.parametrize("step", [1, 2, 2048])
def test_what_comes_after_an_index_is_told_in_steps_and_once(
    written: Written, index: ReceiptIndex, step: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(receipt_index, "STEP", step)
    happenings(written)
    index.follow(ORIGIN, written.served)
    one = (b"RING0001" + (2).to_bytes(8, "big")).hex()
    singles = (f"receipt={one}", f"metadata.name={one}", f"metadata.name={one}-candidate", "logIndex=5", "metadata.name=promoted-00000003")
    assert [len(index.page(field_selector(text), 9).rows) for text in singles] == [1, 1, 0, 1, 1]
    shared = ((), (policy_events(),), (decisions(),), field_selector("pack=limits"), (equal("verdict", "Pass"),))
    for selection in (*shared, *map(field_selector, singles)):
        for start in range(9):
            found, at = list[Row](), start
            while at < index.size:
                rows, end = index.after(selection, at)
                assert end > at
                found, at = found + rows, end
            assert found == [row for row in index.rows(selection) if row.number >= start]


TRAITS = {"pack": "limits", "verdict": "DENY", "cached": "false"}


@pytest.mark.parametrize(
    ("text", "fits"),
    [
        ("pack=limits", True),
        ("pack==limits,verdict=DENY", True),
        ("verdict!=DENY", False),
        ("pack in (a, limits),verdict", True),
        ("pack notin (a,b), !version", True),
        ("!pack", False),
        ("version", False),
        ("version!=1.0.0", True),
    ],
)
def test_label_selectors_hold_as_kubernetes_says(text: str, fits: bool) -> None:
    assert holds(label_selector(text), TRAITS) == fits


@pytest.mark.parametrize("text", ["actor=x", "verdict", "verdict=DENY,,x=", "name=x", "pack<3", "=x", "receipt!=aa", "metadata.name!=aa"])
def test_a_selector_that_means_nothing_is_refused_and_not_taken_for_everything(text: str) -> None:
    with pytest.raises(Refused):
        field_selector(text)


@pytest.mark.parametrize(
    ("read", "text", "must"),
    [
        (field_selector, "verdict=deny", "verdict=deny: must be DENY"),
        (label_selector, "class in (R1, R2),pack=x", "class=R2: must be one of R1, W1, C1, none"),
        (field_selector, "mode!=OFF", "mode=OFF: must be one of ENFORCED, OBSERVED"),
        (label_selector, "failOpen=yes", "failOpen=yes: must be one of true, false"),
    ],
)
def test_a_value_that_no_receipt_has_is_refused_and_not_answered_by_none(read: Any, text: str, must: str) -> None:
    """Who mistypes one would take an empty answer for "there are none"."""
    with pytest.raises(Refused, match=re.escape(must)):
        read(text)


def test_what_may_be_empty_is_asked_for_by_nothing() -> None:
    assert field_selector("verdict=") == (equal("verdict", ""),)


@pytest.mark.parametrize("text", ["actor=x", "receipt=aa", "namespace=erp", "pack in limits", "pack>3", "a b", "verdict=DENY;"])
def test_a_label_selector_that_means_nothing_is_refused(text: str) -> None:
    with pytest.raises(Refused):
        label_selector(text)


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    "text",
    [
        "pack in (" + "  ," * 200 + "!",
        "pack in (" + " " * 8000 + "!",
        "pack in (a" + " , b" * 2000,
        "pack" + " " * 8000 + "!",
        "!" + " " * 8000 + "!",
        "verdict=" + " " * 8000 + "!",
        "a" * 8000 + "!",
    ],
    ids=("empty", "spaces", "many", "key", "not", "value", "word"),
)
def test_no_text_of_a_selector_takes_more_than_a_moment(text: str) -> None:
    """The expression that reads it holds the interpreter, and with it everybody else: were there many ways to read a space, sixty of them
    would keep the server of receipts busy for years."""
    for read in (field_selector, label_selector):
        with pytest.raises(Refused):
            read(text)


@pytest.mark.parametrize(
    ("text", "fits"),
    [("pack in ( a , limits )", True), ("pack in ( , b)", False), (" pack  notin  ( a ) , ! version ", True), ("pack in(limits)", True)],
)
def test_spaces_of_a_label_selector_mean_nothing(text: str, fits: bool) -> None:
    assert holds(label_selector(text), TRAITS) == fits


def made_up(count: int, packs: Sequence[bytes], start: int) -> Iterator[bytes]:
    """Leaves no two of which have the same kind, verdict, class, mode, flags, region and pack."""
    for number in range(count):
        shape, pack = divmod(number, len(packs))
        verdict, region, flags = 1 + shape % 2, shape // 2 % 4, shape // 8 % 64
        mode, klass, more = 1 + shape // 512 % 2, shape // 1024 % 4, shape // 4096
        h = (start + number).to_bytes(32, "big")
        receipt = b"LIAR0001" + (start + number).to_bytes(8, "big")
        yield encode_leaf(Leaf(1, klass, verdict, mode, flags, region + 4 * more, h, h, packs[pack][:20], START_NS, receipt))


def work(index: ReceiptIndex, selection: Selection, before: int | None = None) -> int:
    """What a page takes, in instructions of SQLite's machine and calls of Python's."""
    done = [0]

    def step(*_: object) -> None:
        done[0] += 1

    index._db.set_progress_handler(step, 1)
    sys.setprofile(step)
    try:
        index.page(selection, 20, before)
    finally:
        sys.setprofile(None)
        index._db.set_progress_handler(None, 1)
    return done[0]


def test_a_guard_that_lies_makes_no_page_dearer_however_many_shapes_it_makes(
    written: Written, index: ReceiptIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a pack that is named, and of 300 that are not: after some thousands of shapes, each page costs what it did after some hundreds."""
    monkeypatch.setattr(receipt_index, "MISSES", 256)
    asked = [
        (field_selector(text), at)
        for text in ("", "verdict=DENY", "pack=limits,verdict=DENY", "region=3", "region=99")
        for at in (None, 1, 2)
    ]
    packs = [CONTROLS, *(n.to_bytes(32, "little") for n in range(1000, 1300))]
    written.add(*(written.event("Signed", pack) for pack in PACKS), *(leaf(n, pack=LIMITS, verdict=1 + n % 2) for n in range(50)))

    def cost() -> list[int]:
        size = index.size
        return [work(index, selection, at and size * at // 3) for selection, at in asked]

    written.leaves(made_up(600, packs[:3], 1000))
    written.leaves(made_up(1200, packs, 5000))
    index.follow(ORIGIN, written.served)
    few = cost()
    written.leaves(made_up(5000, [CONTROLS], 20000))
    written.leaves(made_up(12000, packs, 40000))
    index.follow(ORIGIN, written.served)
    many = cost()
    assert max(many) < 2 * max(few), (few, many)
    assert index.shapes() == receipt_index.OWN + 1 + receipt_index.STRANGERS + 1 + 2
    found = index.page(field_selector("pack=limits,verdict=DENY"), 500)
    assert (len(found.rows), found.more) == (25, None), "who asks for another pack does not look at them"


def test_shapes_of_what_is_long_past_are_not_read(written: Written, index: ReceiptIndex) -> None:
    written.add(*(written.event("Signed", pack) for pack in PACKS))
    written.leaves(made_up(60, [CONTROLS], 1000))
    written.leaves(leaf(n, pack=LIMITS) for n in range(30))
    index.follow(ORIGIN, written.served)
    read = list[str]()
    index._db.set_trace_callback(read.append)
    page = index.page((), 20)
    index._db.set_trace_callback(None)
    assert [row.traits["pack"] for row in page.rows] == ["limits"] * 20
    assert sum("INDEXED BY entries_by_shape" in statement for statement in read) == 1


def test_a_receipt_that_is_not_there_costs_the_same_however_many_shapes_there_are(written: Written, index: ReceiptIndex) -> None:
    asked = [field_selector(text) for text in ("receipt=" + "5f" * 16, "logIndex=999999")]
    written.add(written.event("Signed"), leaf(1))
    index.follow(ORIGIN, written.served)
    few = [work(index, selection) for selection in asked]
    written.leaves(made_up(300, [CONTROLS, LIMITS, OTHERS], 1000))
    index.follow(ORIGIN, written.served)
    many = [work(index, selection) for selection in asked]
    assert all(after < 1.5 * before for before, after in zip(few, many, strict=True)), (few, many)


def test_all_that_fit_are_counted_where_what_is_asked_for_holds_of_every_decision(
    written: Written, index: ReceiptIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(receipt_index, "OWN", 1)
    written.add(written.event("Signed"), *(leaf(n, flags=n) for n in range(9)))
    index.follow(ORIGIN, written.served)
    asked = ("kind!=POLICY", "kind!=POLICY,pack=invoice-controls", "kind!=DECISION", "kind=DECISION")
    assert [index.page(field_selector(text), 3).total for text in asked] == [9, 9, None, None]


@pytest.mark.parametrize(("own", "strangers", "misses"), [(1, 1, 2), (3, 5, 7), (64, 256, 8192)])
def test_what_a_guard_makes_up_is_found_by_what_it_says_whatever_has_no_shape_of_its_own(
    written: Written, index: ReceiptIndex, own: int, strangers: int, misses: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pages, what comes after an index, and a reading of everything give the same as the leaves themselves; and so before and after the
    pack of a stranger is named, and after it is known whose a ring without a pack is."""
    for name, value in (("OWN", own), ("STRANGERS", strangers), ("MISSES", misses), ("BATCH", 64)):
        monkeypatch.setattr(receipt_index, name, value)
    nobodys = [leaf(n, ring=b"LIAR0002", pack=NONE, kind=2 + n % 3, verdict=n % 3, flags=n % 8) for n in range(40)]
    lies = list(made_up(600, [CONTROLS, LIMITS, *(bytes((n,)) * 32 for n in range(104, 112))], 1000))
    random.Random(5).shuffle(lies)
    written.add(written.event("Signed"))
    written.leaves([*nobodys, *lies])
    index.follow(ORIGIN, written.served)
    agree(index, written, {CONTROLS}, {})
    written.add(written.event("Signed", LIMITS), *made_up(60, [LIMITS], 5000), leaf(9000, ring=b"LIAR0002", pack=LIMITS))
    written.add(*(leaf(9100 + n, ring=b"LIAR0002", pack=NONE, kind=4, flags=n) for n in range(9)))
    index.follow(ORIGIN, written.served)
    agree(index, written, {CONTROLS, LIMITS}, {b"LIAR0002": "erp"})


def agree(index: ReceiptIndex, written: Written, named: set[bytes], homes: Mapping[bytes, str]) -> None:
    packs = {pack[:20]: PACKS[pack] for pack in named}
    told = list[tuple[int, dict[str, str]]]()
    for number, entry in enumerate(written.served.entries(0)):
        if len(entry) == 118:
            said = parse_leaf(entry)
            namespace, pack = packs.get(said.pack, (homes.get(said.receipt_id[:8], "") if said.pack == NONE else "", ""))
            told.append(
                (
                    number,
                    {
                        "namespace": namespace,
                        "pack": pack,
                        "packDigest": "" if said.pack == NONE else said.pack.hex(),
                        "kind": KINDS[said.kind],
                        "verdict": VERDICTS[said.verdict],
                        "region": str(said.region),
                        "cached": str(bool(said.flags & 4)).lower(),
                    },
                )
            )
    asked = ("", "verdict=DENY", "pack=limits,cached=true", "pack=", "metadata.namespace=erp,kind!=DECISION", "region=1,verdict!=ADMIT")
    for text in (*asked, f"packDigest={(bytes((110,)) * 20).hex()}", "metadata.namespace=,cached=false"):
        selection = (decisions(), *field_selector(text))
        expected = [number for number, traits in told if holds(selection, traits)]
        assert expected or LIMITS not in named, text
        assert [row.number for row in reversed(pages(index, selection, 50))] == expected, text
        assert [row.number for row in index.rows(selection)] == expected, text
        assert [row.number for row in index.after(selection, 0)[0]] == expected, text
        known = dict(told)
        for row in index.rows(selection):
            assert known[row.number].items() <= row.traits.items()
