"""What is kept about one subject of a namespace, beside the log, page by page (formats/erasures.md): records as they are, sealed or in
clear, and the policy events that tell of him and of what decided, each about him with its proof."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from knhk.model.faults import Corrupt
from knhk.ports.recorded import Copy, Told
from knhk.reconcilers import lineage
from knhk.reconcilers.erasing import Beside
from knhk.reconcilers.evidence import size_of
from knhk.reconcilers.lineage import Wanted
from knhk_runtime.record import Record
from knhk_runtime.tlog.served import Served
from knhk_verify.errors import Bad, demand

MAX_ROWS, MAX_BYTES = 1024, 3 << 20  # of a page, before base64; a client takes answers of 8 MiB


@dataclass
class PagesBeside(Beside):
    """`knhk.ports.recorded.SubjectPages`; `namespace`: whose records these are."""

    namespace: str = ""

    def records(self, tag: bytes, subject: str, pointers: tuple[str, ...], note: str, after: int) -> tuple[list[Copy], bool]:
        """See the port."""
        log, wanted = self._under(note), Wanted(subject, frozenset((tag.hex(),)), frozenset(), pointers)

        def is_wanted(point: str, record: Record) -> bool:
            return self._is_about(point, record, wanted)

        indexes = sorted(index for index in self._found(is_wanted) if after < index < log.size)
        ahead = {log.entry(index): index for index in indexes[:MAX_ROWS]}
        found, held, is_cut = dict[int, tuple[bytes, str, Record]](), 0, len(indexes) > MAX_ROWS
        for where, point, record in self._all():
            if not is_wanted(point, record):
                continue
            for leaf in record.leaves:
                if (index := ahead.get(leaf)) is not None and index not in found:
                    found[index] = leaf, where, record
                    held += _size(record)
            while held > MAX_BYTES and len(found) > 1:
                last, is_cut = max(found), True
                held -= _size(found.pop(last)[2])
                ahead = {leaf: index for leaf, index in ahead.items() if index < last}
        return [Copy(index, *found[index], log.inclusion(index, note)) for index in sorted(found)], is_cut

    def events(self, tag: bytes, digests: Collection[str], note: str, after: int) -> tuple[list[Told], bool]:
        """See the port."""
        log, found, held = self._under(note), list[Told](), 0
        for index, entry in enumerate(log.entries(after + 1), after + 1):
            if entry[:1] != b"{":
                continue
            statement = lineage.statement_of(index, entry)
            is_his = self._is_his(index, statement, tag.hex())
            if is_his or _explains(statement, digests):
                if held > MAX_BYTES or len(found) == MAX_ROWS:
                    return found, True
                found.append(Told(index, entry, log.inclusion(index, note) if is_his else ""))
                held += len(entry)
        return found, False

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
