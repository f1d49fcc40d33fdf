"""Lineage and export of one subject, for commands: which log and records are read, and by whose right."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from knhk.adapters.log_sequencer import SequencerLog
from knhk.adapters.secrets_folder import FolderSecrets
from knhk.lockchain import PolicyEvent, statement
from knhk.model.canonical import canonical, sha256_hex
from knhk.model.faults import Fault, NotFound, Refused, Stalled
from knhk.model.subjects import tag_of
from knhk.model.times import rfc3339
from knhk.reconcilers import index_pages, lineage
from knhk.reconcilers.consent_book import subject_key
from knhk.reconcilers.evidence import Bundle, Provable, judge, write
from knhk.reconcilers.lineage import Kept, Wanted
from knhk.wiring import evidence, privacy, replays
from knhk.wiring.home import Home
from knhk.wiring.log_opening import Opened, opened
from knhk.wiring.privacy import KeyPlace
from knhk_runtime.record import Record, check_record
from knhk_verify.errors import Bad
from knhk_verify.evidence import Step
from knhk_verify.leaf import Leaf


@dataclass(frozen=True)
class Asked:
    """Whose lineage: SUBJECT, a tag, or a receipt id (32 hexadecimal digits); of which log and archive."""

    subject: str
    namespace: str
    is_tag: bool
    pointers: tuple[str, ...]
    log: str
    archive: str | None
    keys: KeyPlace | None = None  # of the namespace, in place of the home's key store

    @property
    def is_receipt(self) -> bool:
        """Some names look like one, too."""
        return not self.is_tag and len(self.subject) == 32 and set(self.subject) <= set("0123456789abcdef")


@dataclass(frozen=True)
class Found:
    """`missing`: which rows cannot be here for want of a key, and why."""

    rows: Sequence[dict[str, Any]]
    kept: dict[bytes, Kept]
    log: Provable
    note: str
    size: int
    name: str = ""
    missing: tuple[str, ...] = ()


def find(asked: Asked, home: Home) -> Found:
    """Raises NotFound (a receipt, too, that the log does not have), Bad, Waiting, Stalled."""
    tags = _tags_of(asked, home)
    wanted = wanted_of(asked, tags)
    log = opened(asked.log)
    folder = evidence.folder(asked.log)
    if asked.archive:
        replays.archive_of(asked.archive, log.note.partition("\n")[0])
    records = replays.archived(asked.archive, log.served) if asked.archive else replays.recorded(folder, log.served) if folder else iter(())
    sealed = 0

    def there() -> Iterator[tuple[str, Leaf, Record]]:
        nonlocal sealed
        for where, leaf, record in records:
            if record is not None:
                sealed += record.sealed
                yield where, leaf, record

    unsealer = privacy.unsealer(asked.keys or home, needed=asked.keys is not None)
    try:
        kept = lineage.kept_of(there(), wanted, unsealer)
    finally:
        unsealer.close()
    rows = lineage.lineage(enumerate(log.served.entries()), kept, wanted)
    missing = _missing(asked, home, tags, rows, sealed, log)
    if asked.is_receipt and not (rows or missing):
        raise NotFound(f"{asked.log}: no receipt {asked.subject} in this log, and nothing about who is called so")
    return Found(rows, kept, log.served, log.note, log.served.size, log.served.name, missing)


@dataclass(frozen=True)
class Tags:
    """Of a name, by the key of the namespace's consents and by that of the key store, which are one key in newer homes; None where the key
    is not at hand, `why` says why. With a tag in place of a name `differ` tells that the two are different keys."""

    consents: str | None
    sealed: str | None
    why: str = ""
    differ: bool = False


def _tags_of(asked: Asked, home: Home) -> Tags:
    sealed = next(iter(privacy.tags_of(asked.keys or home, asked.subject)), None)
    try:
        consents = _of_consents(home, asked.namespace, asked.subject) if asked.keys is None else _by_service(asked.keys, asked.subject)
    except Stalled as error:
        return Tags(None, sealed, str(error))
    return Tags(consents, sealed, differ=sealed not in (None, consents))


def _by_service(keys: KeyPlace, subject: str) -> str:
    """The tag of the namespace's consents, hexadecimal. Raises Stalled where the service does not know their key, and as it."""
    store = privacy.service(keys)
    try:
        if store.consents_key is None:
            raise Stalled("NoSecret", unknown_key(keys.namespace))
        return tag_of(store.consents_key, subject)
    finally:
        store.close()


def two_tags(namespace: str) -> str:
    """What is missing by a tag alone."""
    two = "has an older key of tags for its consents than for its sealed records: a tag finds what is under one of them, a name both"
    return f"namespace {namespace} {two}"


def unknown_key(namespace: str) -> str:
    """What is missing where the key service does not know by which key tags of consents are made."""
    must = "knhk-keys must be able to read Secret knhk-subjects there (manifests/consent/subjects-key.yaml)"
    return f"consents of {namespace} are searched by the tag of sealed records alone, which need not be theirs: {must}"


def _of_consents(home: Home, namespace: str, subject: str) -> str:
    """Raises Stalled."""
    return tag_of(subject_key(FolderSecrets(home.secrets), namespace), subject)


def wanted_of(asked: Asked, tags: Tags) -> Wanted:
    """Without the key of the namespace, and that of the key store, a name is sought in what lies in clear alone."""
    if asked.is_tag:
        return Wanted(tags=frozenset((asked.subject,)))
    receipts = frozenset((bytes.fromhex(asked.subject),)) if asked.is_receipt else frozenset[bytes]()
    made = frozenset(tag for tag in (tags.consents, tags.sealed) if tag is not None)
    return Wanted(asked.subject, made, receipts, asked.pointers)


def _missing(asked: Asked, home: Home, tags: Tags, rows: Sequence[dict[str, Any]], sealed: int, log: Opened) -> tuple[str, ...]:
    """Which rows cannot be found for want of a key. `sealed`: how many records are."""
    if asked.is_receipt and any(row.get("receipt") == asked.subject for row in rows):
        return ()
    namespaces, others = lineage.untold(log.served.entries())
    others = others or sealed > 0
    if asked.is_tag:
        return (two_tags(asked.namespace),) if tags.differ and asked.namespace in namespaces and others else ()
    found = list[str]()

    def searched(namespace: str) -> bool:
        with suppress(Stalled):
            return _of_consents(home, namespace, asked.subject) == tags.sealed
        return False

    if tags.consents is None and asked.keys is not None:
        met = any(row["what"] == "consent" for row in rows)  # then they have the tag that was searched
        found += [tags.why] if asked.namespace in namespaces and not met else []
    elif tags.consents is None and (others_of := [name for name in sorted(namespaces) if not searched(name)]):
        found.append(f"consents of {', '.join(others_of)} are not searched (name one by --namespace): {tags.why}")
    if tags.sealed is None and others:
        found.append("sealed records, erasures and holds are not searched: the key store is not at hand, or this user may not use its key")
    return tuple(found)


def _tag(asked: Asked, home: Home) -> str:
    """Of the namespace: by the key service, else by the key of its consents. Raises Stalled."""
    if asked.keys is not None:
        return privacy.tags_of(asked.keys, asked.subject)[0]
    return _of_consents(home, asked.namespace, asked.subject)


def verified(found: Found, trust: evidence.Trust) -> list[Step]:
    """Holds every row against the log's checkpoint and its signer's key, and each kept record against its leaf; `verified` of the rows says
    what came of it. Raises Bad."""
    steps = list[Step]()
    for row in found.rows:
        bundle = Bundle()
        bundle.prove(found.log, row["index"], found.note)
        files = bundle.files()
        judged = trust.evidence()
        judge(judged, files)
        own = [*judged.steps, *_held(found, row)]
        row["verified"] = all(step.ok for step in own)
        steps += own
    return steps


def _held(found: Found, row: Mapping[str, Any]) -> list[Step]:
    """The record of a decision, where it is in clear, against its leaf."""
    kept = found.kept.get(found.log.entry(row["index"])) if row["what"] == "decision" else None
    if kept is None or kept.record is None:
        return []
    what = f"entry {row['index']}: O and A are what the leaf commits to"
    try:
        check_record(kept.record, kept.where)
    except Bad as bad:
        return [Step(what, "", False, str(bad))]
    return [Step(what, "none", True, kept.where)]


@dataclass(frozen=True)
class Exported:
    """`receipt`: index of the event that says so; `missing`: as Found has it."""

    folder: Path
    rows: int
    records: int
    unreadable: int
    receipt: int
    missing: tuple[str, ...]


def export(asked: Asked, home: Home, trust: evidence.Trust, out: Path, reason: str, actor: str) -> Exported:
    """Writes all about a subject into a new folder, after the log has the event that it was read. Raises Stalled without the right: the key
    of the namespace's tags and the rollout key of the home; Refused; and as `find`."""
    from knhk.wiring.signing import signer_in

    demand_new(out)
    tag = asked.subject if asked.is_tag else _tag(asked, home)
    found = find(asked, home)

    def tell(event: PolicyEvent) -> int:
        namespaced = replace(event, evidence={"namespace": asked.namespace, **event.evidence})
        return SequencerLog(home.sequencer_socket).append_event(signer_in(home.keys).bundle("rollout", statement(namespaced)))

    receipt = announced(found, tag, asked.subject, reason, actor, tell)
    return written(found, tag, asked.namespace, trust.keys_json, out, receipt)


def demand_new(out: Path) -> None:
    """Raises Refused."""
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise Refused([Fault("--out", str(out), "must be a new or an empty folder")])


def announced(found: Found, tag: str, subject: str, reason: str, actor: str, tell: Callable[[PolicyEvent], int]) -> int:
    """Access to personal data is an event, in the log before anything is written; its index. Raises NotFound when there is nothing, and as
    `tell`, which adds the namespace."""
    if not found.rows:
        raise NotFound(f"{subject}: nothing in this log is about it")
    entries = sha256_hex(canonical([row["index"] for row in found.rows]))
    said = {"rows": len(found.rows), "size": found.size, "reason": reason, "entries": entries}
    return tell(PolicyEvent("SubjectExported", (f"subject/{tag}", tag), actor, rfc3339(time.time_ns()), evidence=said))


def written(found: Found, tag: str, namespace: str, keys_json: bytes, out: Path, receipt: int) -> Exported:
    """All that was found, into a new folder."""
    bundle = Bundle()
    for row in found.rows:
        bundle.prove(found.log, row["index"], found.note)
    out.mkdir(mode=0o700, parents=True, exist_ok=True)
    write(out, bundle, keys_json)
    records = _records(out, found)
    unreadable = sum(1 for row in found.rows if row["what"] == "decision" and row["record"] != "clear")
    document = {"subject": tag, "namespace": namespace, "exported": receipt, "missing": list(found.missing), "rows": list(found.rows)}
    (out / "subject.json").write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n")
    (out / "index.html").write_text(_index(out, found, receipt, unreadable))
    return Exported(out, len(found.rows), records, unreadable, receipt, found.missing)


def _records(out: Path, found: Found) -> int:
    """O of each record that may be read, under the number of its entry."""
    written = 0
    for row in found.rows:
        kept = found.kept.get(found.log.entry(row["index"])) if row["what"] == "decision" else None
        told = lineage.in_clear(kept) if kept is not None else None
        if told is not None:
            (out / "records").mkdir(exist_ok=True)
            (out / "records" / f"{row['index']}.json").write_text(json.dumps(told, indent=1, ensure_ascii=False) + "\n")
            written += 1
    return written


def _index(out: Path, found: Found, receipt: int, unreadable: int) -> str:
    rows = found.rows
    decisions = sum(row["what"] == "decision" for row in rows)
    consents = ("consent, as the guard knew it", "consent, as recorded by that second")
    columns = ("entry", "time (UTC)", "what happened", "of", "by", *consents, "record")
    return index_pages.page(
        "What is kept about one person",
        index_pages.paragraph(
            f"Written {datetime.now(UTC):%Y-%m-%d %H:%M} UTC; that it was written is entry {receipt} of the log. "
            f"Decisions: {decisions}, of which the payload of {unreadable} is sealed, erased or not here. Events: {len(rows) - decisions}."
        ),
        *(index_pages.paragraph(f"Missing: {each}.") for each in found.missing),
        index_pages.listed(
            (
                "`records/N.json`: what was decided upon, in clear",
                "`receipts/N.json`: proof that the log has entry N",
                "`subject.json`: the table below for programs",
            )
        ),
        index_pages.how_to_check(),
        index_pages.heading("What happened, in the order of the log"),
        index_pages.table(columns, (_line(row, (out / "records" / f"{row['index']}.json").exists()) for row in rows)),
    )


def _line(row: dict[str, Any], written: bool) -> tuple[index_pages.Cell, ...]:
    entry = index_pages.Link(f"receipts/{row['index']}.json", str(row["index"]))
    if row["what"] != "decision":
        evidence_ = row["evidence"]
        return (entry, row["time"], row["kind"], evidence_.get("purpose", row["subject"]), row["actor"], "", "", "")
    pack = row["pack"]["name"] if row["pack"] else "judged by no pack"
    approvers = ", ".join(sorted({one["approver"] for one in row["approvals"]})) or ("nobody approved it" if row["pack"] else "")
    knew = ", ".join(f"{name.removeprefix('consent.')}: {state}" for name, state in row.get("told", {}).items())
    held = ", ".join(f"{one['purpose']}: {one['state']}" for one in row["consents"])
    record = index_pages.Link(f"records/{row['index']}.json", "payload") if written else row["record"]
    return (entry, row["time"], f"{row['verdict'] or row['kind']} ({row['mode'].lower()})", pack, approvers, knew, held, record)
