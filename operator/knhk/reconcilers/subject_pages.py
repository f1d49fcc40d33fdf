"""What is kept about one subject of a namespace, beside the log, page by page (formats/erasures.md): records as they are, sealed or in
clear, and the policy events that tell of him and of what decided, each about him with its proof.

A page is of the entries after an index. Segments of the archive are read in the order of the first entry that they have; as soon as the
page is full and what follows is of later entries only, none is read any more, and the next page does not read those whose last entry is
behind it. So an export reads a segment once, and again where a page ends."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from knhk.model.faults import Corrupt, Waiting
from knhk.ports.recorded import Copy, Told
from knhk.reconcilers import lineage
from knhk.reconcilers.delta import point_of, record_of
from knhk.reconcilers.erasing import Beside
from knhk.reconcilers.evidence import size_of
from knhk.reconcilers.ledger import Kept
from knhk.reconcilers.lineage import Wanted
from knhk_runtime.record import Record
from knhk_runtime.tlog.served import Served
from knhk_verify.errors import Bad, demand

MAX_ROWS, MAX_BYTES = 1024, 3 << 20  # of a page, before base64; a client takes answers of 8 MiB


@dataclass(frozen=True)
class Place:
    """Where a record lies: in a segment of an outbox, or it came from the archive."""

    where: str
    found: Path | Record


@dataclass
class _Page:
    """The entries of least index of those that were offered, as many as fit; `end`: from there on it takes none, for others came before."""

    end: int
    is_cut: bool = False
    held: int = 0
    rows: dict[int, tuple[bytes, Place, int]] = field(default_factory=dict)
    _last: list[int] = field(default_factory=list)  # their indexes, negative: a heap with the greatest first

    def offer(self, index: int, entry: bytes, place: Place, size: int) -> None:
        if index >= self.end or index in self.rows:
            return
        self.rows[index] = entry, place, size
        heapq.heappush(self._last, -index)
        self.held += size
        while len(self.rows) > MAX_ROWS or (self.held > MAX_BYTES and len(self.rows) > 1):
            self.end, self.is_cut = -heapq.heappop(self._last), True
            self.held -= self.rows.pop(self.end)[2]


@dataclass
class PagesBeside(Beside):
    """`knhk.ports.recorded.SubjectPages`; `namespace`: whose records these are; `kept`: the archive's segments as they are now."""

    namespace: str = ""
    kept: Callable[[], Kept] = field(kw_only=True)

    def records(self, tag: bytes, subject: str, pointers: tuple[str, ...], note: str, after: int) -> tuple[list[Copy], bool]:
        """See the port. Outboxes are read first: what leaves them meanwhile is in the archive."""
        log, wanted = self._under(note), Wanted(subject, frozenset((tag.hex(),)), frozenset(), pointers)
        outboxes = dict(self._in_outboxes(wanted))
        page = _Page(log.size)
        self._archived(page, log, wanted, after)
        for index, entry in enumerate(log.entries(after + 1), after + 1) if outboxes else ():
            if index >= page.end:
                break
            if (found := outboxes.get(entry)) is not None:
                page.offer(index, entry, *found)
        again = {place.found for _, place, _ in page.rows.values() if isinstance(place.found, Path)}
        records = {leaf: record for _, record in self._recorded(again) if not record.erased for leaf in record.leaves}
        made = list[Copy]()
        for index, (entry, place, _) in sorted(page.rows.items()):
            record = place.found if isinstance(place.found, Record) else records.get(entry)
            if record is None:
                raise Waiting("Outbox", f"{place.where}: was archived meanwhile: the page is asked for again", 1.0)
            made.append(Copy(index, entry, place.where, record, log.inclusion(index, note)))
        return made, page.is_cut

    def events(self, tag: bytes, digests: Collection[str], note: str, after: int) -> tuple[list[Told], bool, bool]:
        """See the port."""
        log, found, held, consents = self._under(note), list[Told](), 0, False
        for index, entry in enumerate(log.entries(after + 1), after + 1):
            if entry[:1] != b"{":
                continue
            statement = lineage.statement_of(index, entry)
            consents = consents or str(statement["subject"][0]["name"]).startswith(f"consent/{self.namespace}/")
            is_his = self._is_his(index, statement, tag.hex())
            if is_his or _explains(statement, digests):
                if held > MAX_BYTES or len(found) == MAX_ROWS:
                    return found, True, consents
                found.append(Told(index, entry, log.inclusion(index, note) if is_his else ""))
                held += len(entry)
        return found, False, consents

    def _in_outboxes(self, wanted: Wanted) -> Iterator[tuple[bytes, tuple[Place, int]]]:
        """Leaves of what is about the subject: where it lies, and its size."""
        here = (path for path in self._segments() if self.is_here(point_of(path.parent.name)))
        for path, record in self._recorded(here):
            if self._is_about(point_of(path.parent.name), record, wanted):
                place = Place(f"{path.parent.name}/{path.name}", path)
                yield from ((leaf, (place, _size(record))) for leaf in record.leaves)

    def _archived(self, page: _Page, log: Served, wanted: Wanted, after: int) -> None:
        (tag,), kept = wanted.tags, self.kept()
        files = sorted((file.first, name) for name, file in kept.files.items() if file.last > after)  # -1, -1: it has none of the log
        for first, name in files:
            if first >= page.end:
                break
            for row in kept.about(name, self.namespace, tag, in_clear=wanted.text != ""):
                index, record = row.log_index, record_of(row)
                if index is None or not after < index < page.end or not self._is_about(row.point, record, wanted):
                    continue
                if log.entry(index) == row.leaf:
                    page.offer(index, row.leaf, Place(f"archive: {row.source}", record), _size(record))

    def _under(self, note: str) -> Served:
        log, size = self.log(), size_of(note, "checkpoint")
        demand(0 < size <= log.size, "checkpoint", "must be one of this log")
        return log.before(size)

    def _is_about(self, point: str, record: Record, wanted: Wanted) -> bool:
        if not self.is_here(point) or record.erased:
            return False
        try:
            return lineage.is_about("a record", b"", record, wanted) or (wanted.text != "" and self._whose(point, record) == wanted.text)
        except Bad as error:
            raise Corrupt("a record", str(error)) from error  # left out, it would be missed by nobody

    def _is_his(self, index: int, statement: dict[str, Any], tag: str) -> bool:
        """A tag is of one namespace's key; an event that says another is not his all the same."""
        row = lineage.about(index, statement, (tag,))
        if row is None:
            return False
        said = row["subject"].split("/")[1] if row["what"] == "consent" else row["evidence"].get("namespace", self.namespace)
        return bool(said == self.namespace)


def _explains(statement: dict[str, Any], digests: Collection[str]) -> bool:
    predicate = statement["predicate"]
    if predicate["kind"] == "DataPublished" and statement["subject"][0]["digest"]["sha256"] in digests:
        return True
    return str(predicate.get("pack", {}).get("digest", "")).removeprefix("sha256:")[:40] in digests


def _size(record: Record) -> int:
    return len(record.observation) + sum(map(len, record.actions)) + sum(map(len, record.leaves))
