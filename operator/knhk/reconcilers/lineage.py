"""What happened about one person or business key, in the order of the log: decisions with what made them, consents, erasures, exports."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from knhk.lockchain.events import Said
from knhk.model.consents import EVENTS
from knhk.model.times import rfc3339_ns
from knhk_runtime.envelope import parse_envelope
from knhk_runtime.record import Observation, Record, parse_observation
from knhk_runtime.unsealing import NO_ACCESS, Unsealer
from knhk_verify.leaf import KINDS, MODES, VERDICTS, Leaf, parse_leaf
from knhk_verify.note import unb64
from knhk_verify.signed import parse_json

CONSENT_EVENTS = {event: state for state, event in EVENTS.items()}
NOT_A_PERSON = ("action", "iss")
BRINGS = ("StepAdvanced", "Promoted")


@dataclass(frozen=True)
class Wanted:
    """What it is about: a text that attributes of O have (or that a body has at one of the JSON pointers), tags (64 hexadecimal digits), or
    receipts."""

    text: str = ""
    tags: frozenset[str] = frozenset()
    receipts: frozenset[bytes] = frozenset()
    pointers: tuple[str, ...] = ()

    def has(self, seen: Observation) -> bool:
        if not self.text:
            return False
        named = (value for name, value in seen.attributes if name not in NOT_A_PERSON and not name.startswith("consent."))
        return self.text in named or self.text in _pointed(seen.body, self.pointers)


def _pointed(body: bytes, pointers: Sequence[str]) -> Iterator[str]:
    if not pointers:
        return
    from knhk_runtime.subjects import Privacy, Rule

    bare = Observation(0, "", "", b"", b"", (), body)
    for pointer in pointers:
        yield Privacy((Rule("", pointer=pointer),)).subject_of(bare)


@dataclass(frozen=True)
class Kept:
    """A record about the subject. `state`: clear, sealed, or erased; `record`: in clear where it may be read."""

    where: str
    state: str
    record: Record | None


def kept_of(records: Iterable[tuple[str, Leaf, Record]], wanted: Wanted, unsealer: Unsealer = NO_ACCESS) -> dict[bytes, Kept]:
    """Records about it, by the bytes of their leaves; no others are opened. Raises Bad, and as the key store does."""
    found: dict[bytes, Kept] = {}
    about = ((where, leaf, record) for where, leaf, record in records if is_about(where, leaf.receipt_id, record, wanted))
    for where, leaf, record in unsealer.ahead(about, lambda each: each[2]):
        clear = unsealer.open(record, f"record of {leaf.receipt_id.hex()}")
        kept = Kept(where, "clear", clear) if isinstance(clear, Record) else Kept(where, clear.value, None)
        found.update((data, kept) for data in record.leaves)
    return found


def is_about(where: str, receipt: bytes, record: Record, wanted: Wanted) -> bool:
    """Whether a record, sealed or in clear, is about it. Raises Bad."""
    if record.erased or receipt in wanted.receipts:
        return receipt in wanted.receipts
    if record.sealed:
        return parse_envelope(record.observation, where).tag.hex() in wanted.tags
    return wanted.has(parse_observation(record.observation, where))


@dataclass
class _Log:
    """What policy events tell, gathered once. Rows: (index, predicate)."""

    packs: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    approvals: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    live: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    data: dict[str, str] = field(default_factory=dict)
    consents: list[dict[str, Any]] = field(default_factory=list)

    def take(self, index: int, statement: Mapping[str, Any]) -> None:
        predicate, (subject,) = statement["predicate"], statement["subject"]
        kind, digest, name = predicate["kind"], subject["digest"]["sha256"], subject["name"]
        told = {"index": index, "time": predicate["time"], "stage": predicate.get("stage", "")}
        if "pack" in predicate:
            pack = predicate["pack"]
            short = str(pack.get("digest", "")).removeprefix("sha256:")[:40]
            self.packs[short] = pack
            if kind == "Approved":
                unreviewed = bool(predicate.get("evidence", {}).get("unreviewed", False))
                self.approvals.setdefault(short, []).append({**told, "approver": predicate["actor"], "unreviewed": unreviewed})
            if kind in BRINGS:
                self.live.setdefault(short, []).append({**told, "event": kind})
        if kind == "DataPublished":
            self.data[digest] = name

    def consent(self, index: int, predicate: Mapping[str, Any]) -> None:
        evidence = predicate["evidence"]
        row = {"index": index, "time": predicate["time"], "purpose": evidence["purpose"], "state": CONSENT_EVENTS[predicate["kind"]]}
        self.consents.append(row)

    def held(self, time: str) -> list[dict[str, Any]]:
        """What was recorded of each purpose by then (to the second)."""
        found: dict[str, dict[str, Any]] = {}
        for row in self.consents:
            if row["time"][:19] <= time[:19]:
                found[row["purpose"]] = row
        return [{name: row[name] for name in ("purpose", "state", "index")} for _, row in sorted(found.items())]


def lineage(
    entries: Iterable[tuple[int, bytes | Mapping[str, Any]]], kept: Mapping[bytes, Kept], wanted: Wanted, absent: str = "gone"
) -> list[dict[str, Any]]:
    """Rows in the order of the log, of an event where it stands first; nothing is verified here. `entries`: by index, all of them, or those
    that are about it and what tells of their packs and data, which may be statements. `absent`: what is told of records that are not in
    `kept`. Raises Bad for what is no entry."""
    log, rows, said = _Log(), list[dict[str, Any]](), Said()
    for index, entry in entries:
        if isinstance(entry, Mapping) or entry[:1] == b"{":
            statement = entry if isinstance(entry, Mapping) else statement_of(index, entry)
            if not said.is_new(statement, f"entry {index}"):
                continue
            log.take(index, statement)
            if (row := about(index, statement, wanted.tags)) is not None:
                rows.append(row)
                if row["kind"] in CONSENT_EVENTS:
                    log.consent(index, statement["predicate"])
        elif entry in kept or entry[100:116] in wanted.receipts:
            rows.append(_decision(index, entry, kept.get(entry), absent))
    for row in rows:
        if row["what"] == "decision":
            _explain(row, log)
    return rows


def untold(entries: Iterable[bytes]) -> tuple[frozenset[str], bool]:
    """What tags are needed for in a log: namespaces of consents, and whether there are events about subjects of a key store. Raises Bad."""
    namespaces, others = set[str](), False
    for index, entry in enumerate(entries):
        if entry[:1] == b"{":
            told = statement_of(index, entry)
            what, _, rest = str(told["subject"][0]["name"]).partition("/")
            if what == "consent":
                namespaces.add(rest.partition("/")[0])
            others = others or (what == "subject" and told["predicate"]["kind"] != "SubjectExported")
    return frozenset(namespaces), others


def statement_of(index: int, entry: bytes) -> dict[str, Any]:
    """What a policy event states; nothing is verified. Raises Bad."""
    where = f"entry {index}"
    found: dict[str, Any] = parse_json(unb64(parse_json(entry, where)["dsseEnvelope"]["payload"], "payload"), where)
    return found


def about(index: int, statement: Mapping[str, Any], tags: Collection[str]) -> dict[str, Any] | None:
    """A policy event whose subject is the person: consent/NAMESPACE/TAG, subject/TAG."""
    predicate, name = statement["predicate"], str(statement["subject"][0]["name"])
    what, _, rest = name.partition("/")
    if what not in ("consent", "subject") or rest.rpartition("/")[2] not in tags:
        return None
    evidence = {name: value for name, value in predicate.get("evidence", {}).items() if name not in ("targets", "leafHashes", "keys")}
    told = {"index": index, "time": predicate["time"], "what": what, "kind": predicate["kind"], "actor": predicate["actor"]}
    return {**told, "subject": name, "evidence": evidence}


def _decision(index: int, entry: bytes, kept: Kept | None, absent: str) -> dict[str, Any]:
    leaf = parse_leaf(entry, f"entry {index}")
    row: dict[str, Any] = {
        "index": index,
        "time": rfc3339_ns(leaf.time_ns),
        "what": "decision",
        "kind": KINDS[leaf.kind],
        "verdict": VERDICTS[leaf.verdict],
        "mode": MODES[leaf.mode],
        "arm": "candidate" if leaf.flags & 1 else "stable",
        "receipt": leaf.receipt_id.hex(),
        "pack": leaf.pack.hex() if any(leaf.pack) else "",
        "record": kept.state if kept else absent,
        "where": kept.where if kept else "",
    }
    if kept is not None and kept.record is not None:
        seen = parse_observation(kept.record.observation, kept.where)
        row |= {"route": seen.route, "bundle": seen.bundle.hex() if any(seen.bundle) else ""}
        row["told"] = {name: value for name, value in seen.attributes if name.startswith("consent.")}
    return row


def _explain(row: dict[str, Any], log: _Log) -> None:
    """Which pack and data decided, whose approvals made it live, and which consents held then."""
    digest, bundle = row["pack"], row.pop("bundle", "")
    pack = log.packs.get(digest, {})
    name = f"{pack['namespace']}/{pack['name']}@{pack['version']}" if pack else ""
    row["pack"] = {"name": name, "digest": str(pack.get("digest", digest))} if digest else None
    row["data"] = {"name": log.data.get(bundle, ""), "digest": f"sha256:{bundle}"} if bundle else None
    row["approvals"] = log.approvals.get(digest, [])
    row["live"] = log.live.get(digest, [])
    row["consents"] = log.held(row["time"])


def in_clear(kept: Kept) -> dict[str, Any] | None:
    """O as people read it; the body as JSON where it is that, else in base64. None for what is not in clear."""
    import base64

    if kept.record is None:
        return None
    seen = parse_observation(kept.record.observation, kept.where)
    try:
        body: Any = json.loads(seen.body) if seen.body else None
    except (ValueError, RecursionError):
        body = {"base64": base64.b64encode(seen.body).decode()}
    told = {"time": rfc3339_ns(seen.time_ns), "route": seen.route, "region": seen.region}
    return {**told, "attributes": dict(seen.attributes), "body": body, "where": kept.where}
