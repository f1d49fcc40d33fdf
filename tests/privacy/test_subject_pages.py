"""All about one subject beside a log, page by page: every page together has all of it once, and an archive is not read anew for each."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest
from privacy_world import ANNA, BOB, NOON_NS, POINT, SOURCE, Vault

from knhk.adapters import delta_parquet
from knhk.ports.recorded import Copy
from knhk.reconcilers import subject_pages
from knhk.reconcilers.ledger import Kept
from knhk.reconcilers.subject_pages import PagesBeside
from knhk.wiring.archive import opened_folder
from knhk_runtime.objects.port import ObjectStore

HOUR_NS = 3600 * 10**9


@dataclass
class Counted:
    """Segments of an archive, and how often each was read."""

    store: ObjectStore
    reads: Counter[str] = field(default_factory=Counter)

    def kept(self) -> Kept:
        reads = self.reads

        class Counting(Kept):
            def read(self, name: str) -> bytes:
                reads[name] += 1
                return super().read(name)

        return Counting(self.store, delta_parquet)


def pages_beside(vault: Vault, counted: Counted) -> tuple[PagesBeside, str]:
    vault.yard.log.integrate()
    made = PagesBeside(
        observations=vault.yard.log_dir / "observations",
        archive=None,
        log=lambda: opened_folder(vault.yard.log_dir).served,
        closed=vault.closed,
        clock=vault.yard.clock,
        rows=lambda: iter(()),
        privacy={POINT: vault.privacy},
        is_here=lambda point: point.startswith("erp/"),
        namespace="erp",
        kept=counted.kept,
    )
    return made, (vault.yard.log_dir / "checkpoint").read_text()


def pages(beside: PagesBeside, note: str, tag: bytes, subject: str) -> Iterator[list[Copy]]:
    after, more = -1, True
    while more:
        found, more = beside.records(tag, subject, (), note, after)
        assert found or not more
        yield found
        after = found[-1].index if found else after


@pytest.fixture
def counted(vault: Vault) -> Counted:
    """Twenty hours of ANNA and BOB, each hour a segment of six rows; every fourth record in clear. The newest are in outboxes alone."""
    for hour in range(20):
        for number in range(6):
            vault.record((ANNA, BOB)[number % 2], NOON_NS + hour * HOUR_NS, sealed=number % 4 != 3 and number != 4)
    vault.yard.archived(remove=True)
    for number in range(4):
        vault.record((ANNA, BOB)[number % 2], NOON_NS + 21 * HOUR_NS)
    return Counted(vault.yard.store)


@pytest.mark.parametrize("rows", [1, 2, 7, 1000])
def test_pages_have_everything_once_in_the_order_of_the_log(
    vault: Vault, counted: Counted, rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subject_pages, "MAX_ROWS", rows)
    beside, note = pages_beside(vault, counted)
    found = [copy for page in pages(beside, note, vault.tag(ANNA), ANNA) for copy in page]
    assert [copy.index for copy in found] == [number for number, who in vault.names.items() if who == ANNA]
    log = opened_folder(vault.yard.log_dir).served
    assert all(copy.entry == log.entry(copy.index) in copy.record.leaves for copy in found)
    assert {copy.record.sealed for copy in found} == {True, False}


def test_by_a_tag_alone_what_is_sealed_is_found_and_nothing_in_clear(vault: Vault, counted: Counted) -> None:
    beside, note = pages_beside(vault, counted)
    (page,) = pages(beside, note, vault.tag(ANNA), "")
    assert len(page) == 42
    assert all(copy.record.sealed for copy in page)


def test_a_segment_is_read_once_and_again_where_a_page_ends_in_it(vault: Vault, counted: Counted, monkeypatch: pytest.MonkeyPatch) -> None:
    beside, note = pages_beside(vault, counted)
    assert len(list(pages(beside, note, vault.tag(ANNA), ANNA))) == 1
    assert (len(counted.reads), set(counted.reads.values())) == (20, {1})
    counted.reads.clear()
    monkeypatch.setattr(subject_pages, "MAX_ROWS", 4)
    so_many = len(list(pages(beside, note, vault.tag(ANNA), ANNA)))
    assert counted.reads.total() <= 20 + 2 * so_many  # the one that it ends in, and one from which it takes nothing


def test_a_page_ends_by_its_bytes_and_a_record_that_is_larger_is_a_page(
    vault: Vault, counted: Counted, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subject_pages, "MAX_BYTES", 1)
    beside, note = pages_beside(vault, counted)
    found = list(pages(beside, note, vault.tag(ANNA), ANNA))
    assert [len(page) for page in found] == [1] * 62


def test_what_leaves_an_outbox_while_a_page_is_made_is_in_it(vault: Vault, counted: Counted) -> None:
    """The archive takes what the outbox has between the two looks."""
    beside, note = pages_beside(vault, counted)
    before = beside.kept

    def archived() -> Kept:
        vault.yard.outboxes[SOURCE].segments.rotate()
        vault.yard.archived(remove=True)
        return before()

    beside.kept = archived
    (page,) = pages(beside, note, vault.tag(ANNA), ANNA)
    assert len(page) == 62
