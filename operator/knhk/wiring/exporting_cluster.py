"""Lineage and export of one subject of a cluster's namespace: keys by the key service, records and events beside the log, the event by the
operator, each by the right of who asks. What was sealed is opened here."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from knhk.adapters.erasures_remote import Begun, RemoteExports
from knhk.adapters.keys_remote import RemoteKeyStore
from knhk.adapters.token_client import Whom
from knhk.lockchain import PolicyEvent
from knhk.ports.recorded import Copy, Told
from knhk.reconcilers import lineage
from knhk.reconcilers.evidence import size_of
from knhk.reconcilers.lineage import Kept, Wanted
from knhk.wiring.lineage import Exported, Found, announced, two_tags, unknown_key, written
from knhk.wiring.privacy import KeyPlace, service
from knhk_runtime.envelope import tag_of
from knhk_runtime.record import parse_observation
from knhk_runtime.unsealing import Unsealer
from knhk_verify.errors import Bad
from knhk_verify.leaf import parse_leaf


@dataclass(frozen=True)
class Given:
    """What was given of a log: entries and proofs by index, under one checkpoint."""

    entries: dict[int, bytes]
    proofs: dict[int, str]

    def entry(self, index: int) -> bytes:
        return self.entries[index]

    def inclusion(self, index: int, note: str) -> str:
        if not (proof := self.proofs.get(index, "")).endswith(note):
            raise Bad(f"entry {index}", "must come with a proof under the checkpoint that was given first")
        return proof


@dataclass(frozen=True)
class Subject:
    """A name, or a tag (64 hexadecimal digits); `pointers`: where bodies in clear may have the name."""

    text: str
    is_tag: bool
    pointers: tuple[str, ...] = ()


@dataclass(frozen=True)
class Tags:
    """`sealed`: under which records are; `consents`: under which consents are, None where the key service does not know their key. With a
    tag in place of a name both are that one, and `differ` tells that another name's would not be."""

    sealed: bytes
    consents: bytes | None
    differ: bool = False

    @property
    def searched(self) -> frozenset[bytes]:
        return frozenset((self.sealed, self.consents or self.sealed))

    def missing(self, namespace: str, rows: Sequence[dict[str, Any]]) -> tuple[str, ...]:
        """Of a namespace that has consents: whether this person's may be among those that were not found."""
        if self.differ:
            return (two_tags(namespace),)
        if self.consents is None and not any(row["what"] == "consent" for row in rows):
            return (unknown_key(namespace),)
        return ()


def _tags_of(subject: Subject, store: RemoteKeyStore) -> Tags:
    """Raises as RemoteKeyStore."""
    if subject.is_tag:
        tag, key = bytes.fromhex(subject.text), store.consents_key
        return Tags(tag, None if key is None else tag, key not in (None, store.tags_key))
    sealed, key = tag_of(store.tags_key, subject.text), store.consents_key
    return Tags(sealed, None if key is None else tag_of(key, subject.text))


@dataclass(frozen=True)
class Exporter:
    """Of one namespace, by two tokens. Raises as the two servers say: Stalled for who may not, Waiting for what is cut off: nothing
    was written then, and it may be begun again."""

    keys: KeyPlace
    there: RemoteExports

    def find(self, subject: Subject) -> tuple[Found, str, Begun]:
        """Rows about it, its tag, and who asks. Raises Bad and Corrupt, too."""
        begun, store = self.there.begin(), service(self.keys)
        unsealer = Unsealer(store, whole=False)
        try:
            tags = _tags_of(subject, store)
            text, tag = "" if subject.is_tag else subject.text, tags.sealed
            copies = list(self.there.records(tag, text, subject.pointers, begun.note))
            receipts = frozenset(each.entry[100:116] for each in copies)
            wanted = Wanted(text, frozenset(each.hex() for each in tags.searched), receipts, subject.pointers)
            kept = lineage.kept_of(((each.where, parse_leaf(each.entry, each.where), each.record) for each in copies), wanted, unsealer)
        finally:
            unsealer.close()
        told, consented = self.there.events(tag, _explained(copies, kept), begun.note)
        for other in tags.searched - {tag}:
            told += self.there.events(other, (), begun.note)[0]
        rows: list[Copy | Told] = [*copies, *told]
        log = Given({row.index: row.entry for row in rows}, {row.index: row.proof for row in rows})
        found = lineage.lineage(sorted(log.entries.items()), kept, wanted)
        missing = tags.missing(self.keys.namespace, found) if consented else ()
        return Found(found, kept, log, begun.note, size_of(begun.note, "checkpoint"), missing=missing), tag.hex(), begun

    def export(self, subject: Subject, out: Path, reason: str) -> Exported:
        """As `knhk.wiring.lineage.export`."""
        found, tag, begun = self.find(subject)

        def tell(event: PolicyEvent) -> int:
            return self.there.append(self.there.sign(event))

        return written(found, tag, self.keys.namespace, begun.keys_json, out, announced(found, tag, subject.text, reason, begun.user, tell))


def _explained(copies: list[Copy], kept: dict[bytes, Kept]) -> frozenset[str]:
    """Packs and data that decided."""
    packs = {parse_leaf(each.entry, each.where).pack for each in copies}
    seen = (parse_observation(each.record.observation, each.where) for each in kept.values() if each.record is not None)
    return frozenset(digest.hex() for digest in packs | {each.bundle for each in seen} if any(digest))


@contextmanager
def exporting_there(keys: KeyPlace, beside: Whom) -> Iterator[Exporter]:
    """By the tokens at hand."""
    with ExitStack() as stack:
        there = RemoteExports(beside, keys.namespace)
        stack.callback(there.close)
        yield Exporter(keys, there)


@contextmanager
def exporting_in(kubeconfig: Path, namespace: str, account: str) -> Iterator[Exporter]:
    """As an account of the namespace. Raises as `ways`, too."""
    from knhk.wiring.erasing_cluster import EXPORTER, ways

    with ways(kubeconfig, namespace, account, EXPORTER) as (keys, beside), exporting_there(keys, beside) as exporter:
        yield exporter
