"""The two kinds that are served: what selects them, what their columns and schemas are, and how a row of the index becomes one."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from knhk.adapters.receipt_index import decisions, policy_events
from knhk.lockchain import bundle_of
from knhk.lockchain.entries import Row
from knhk.lockchain.receipts import named
from knhk.model.selection import EVENT_FIELDS, EVENT_LABELS, EVENT_TRAITS, FIELDS, FLAGS, LABELS, TRAITS, Requirement, Traits
from knhk.model.times import rfc3339_ns
from knhk_verify.note import b64

GROUP, VERSION = "receipts.knhk.dev", "v1alpha1"
API_VERSION = f"{GROUP}/{VERSION}"
HOMELESS = "knhk-system"  # where receipts are whose namespace nothing in the log tells
Document = dict[str, Any]
Column = tuple[str, str, str, int]  # title, type, what it says, and whether only `-o wide` shows it (1)


def text(told: str) -> Document:
    return {"type": "string", "description": told}


@dataclass(frozen=True)
class Kind:
    """`what` its entries are; `fields` and `labels`: those that select, each with the trait of the index. `said`: (spec, status) of a row;
    `evidence`: what more of spec a single object has, by who reads entries of the log;
    `outside`: what more of status, by the entry and the events Notarised of it. `spec` and `status`: properties of the schema."""

    kind: str
    plural: str
    singular: str
    short: str
    what: Requirement
    fields: Mapping[str, str]
    labels: Mapping[str, str]
    columns: tuple[Column, ...]
    doc: str
    named: str
    spec: Mapping[str, Document]
    status: Mapping[str, Document]
    said: Callable[[Row], tuple[Document, Document]]
    time: Callable[[Row], str]
    cells: Callable[[Row], list[str | int]]
    evidence: Callable[[Callable[[int], bytes], int], Document]
    outside: Callable[[bytes, Iterable[Row]], Document] = lambda entry, told: {}

    def document(self, row: Row, origin: str) -> Document:
        """The object, without proof."""
        spec, status = self.said(row)
        return {"apiVersion": API_VERSION, "kind": self.kind, "metadata": self.metadata(row, origin), "spec": spec, "status": status}

    def metadata(self, row: Row, origin: str) -> Document:
        """Version: the size of the log with which it came; it never changes."""
        return {
            "name": row.name,
            "namespace": row.traits["namespace"] or HOMELESS,
            "uid": str(uuid.uuid5(uuid.NAMESPACE_URL, f"{origin}/{row.number}")),
            "resourceVersion": str(row.number + 1),
            "creationTimestamp": self.time(row)[:19] + "Z",
            "labels": {label: row.traits[trait] for label, trait in self.labels.items() if row.traits.get(trait)},
        }


# ---- decisions -------------------------------------------------------------------------------------


def _decided(row: Row) -> tuple[Document, Document]:
    leaf, traits = row.leaf, row.traits
    status: Document = {name: traits[name] for name in ("kind", "verdict", "class", "mode", "arm", "pack", "version") if traits[name]}
    status |= {"packDigest": leaf.pack.hex()} if any(leaf.pack) else {}
    status |= {"region": leaf.region, "time": rfc3339_ns(leaf.time_ns), "flags": [flag for flag in FLAGS if traits[flag] == "true"]}
    return {"leaf": b64(row.data), "receipt": leaf.receipt_id.hex(), "logIndex": row.number}, status


def _decision_cells(row: Row) -> list[str | int]:
    traits = row.traits
    pack = _pack(traits) or (row.leaf.pack.hex()[:12] if traits["packDigest"] else "")
    flags = ",".join(flag for flag in FLAGS if traits[flag] == "true")
    middle = [traits[name] for name in ("kind", "class", "mode")]
    return [row.name, traits["verdict"], pack, *middle, rfc3339_ns(row.leaf.time_ns)[:23] + "Z", traits["arm"], flags, row.number]


def _pack(traits: Traits) -> str:
    return f"{traits['pack']}@{traits['version']}" if traits["pack"] else ""


_INDEX: Document = {"type": "integer", "format": "int64", "description": "Index in the log."}
_PROOF = {
    "proof": text("Inclusion proof, c2sp.org/tlog-proof text. Lists leave it out: get the object to have it."),
    "checkpoint": text("The signed checkpoint that the proof leads to."),
}

DECISION = Kind(
    kind="DecisionReceipt",
    plural="decisionreceipts",
    singular="decisionreceipt",
    short="drcpt",
    what=decisions(),
    fields={name: trait for name, trait in FIELDS.items() if name != "event"},
    labels=LABELS,
    columns=(
        ("Name", "string", "Receipt id; that of a candidate's judgement ends in -candidate.", 0),
        ("Verdict", "string", "ADMIT, DENY, or none.", 0),
        ("Pack", "string", "Pack that judged, and its version.", 0),
        ("Kind", "string", "DECISION, PARK, UNAVAILABLE or REFUSED.", 0),
        ("Class", "string", "R1, W1, C1 or none.", 0),
        ("Mode", "string", "ENFORCED, or OBSERVED: judged beside.", 0),
        ("Time", "string", "When it was decided, by the clock of the enforcement point.", 0),
        ("Arm", "string", "stable or candidate.", 1),
        ("Flags", "string", "stale, cached, brownout, failOpen, resumed.", 1),
        ("Index", "integer", "Index in the log.", 1),
    ),
    doc="A decision, proven by a log. Nobody writes it here: the log does. Fields that select: metadata.name, "
    f"metadata.namespace, receipt, logIndex, {', '.join(TRAITS)}; the same but name, namespace, receipt and logIndex are labels.",
    named="Name: the receipt id. Namespace: that of the pack.",
    spec={
        "leaf": text("The log entry, 118 bytes, base64."),
        "receipt": text("Receipt id, 32 hexadecimal digits, as in the header knhk-receipt of the answer."),
        "logIndex": _INDEX,
        **_PROOF,
    },
    status={
        "kind": text("DECISION, PARK (202 was answered), UNAVAILABLE (503), or REFUSED (no pack judged)."),
        "verdict": text("ADMIT, DENY, or none."),
        "class": text("R1, W1, C1, or none: which tier decided."),
        "mode": text("ENFORCED, or OBSERVED: judged beside, not enforced."),
        "arm": text("stable or candidate."),
        "pack": text("Name of the pack that judged; none when no pack did."),
        "version": text("Its version."),
        "packDigest": text("First 20 bytes of the SHA-256 of its image index, hexadecimal."),
        "region": {"type": "integer", "format": "int32", "description": "Number of the region in the log's configuration."},
        "time": text("When it was decided, RFC 3339 in UTC, nanoseconds, by the clock of the enforcement point."),
        "flags": {
            "type": "array",
            "items": {"type": "string"},
            "description": "Of stale, cached, brownout, failOpen, resumed those that are set.",
        },
    },
    said=_decided,
    time=lambda row: rfc3339_ns(row.leaf.time_ns),
    cells=_decision_cells,
    evidence=lambda _, __: {},
)

# ---- policy events ---------------------------------------------------------------------------------


def _happened(row: Row) -> tuple[Document, Document]:
    traits, statement = row.traits, json.loads(row.data)
    spec: Document = {"event": traits["event"], **named(statement["predicate"]), "logIndex": row.number}
    status: Document = {name: traits[name] for name in ("time", "version", "packDigest") if traits[name]}
    status |= {"subject": statement["subject"][0]["name"], "statement": statement}
    return spec, status


def _outside(entry: bytes, told: Iterable[Row]) -> Document:
    """The first that is about this very entry."""
    for row in told:
        try:
            return {"sigstore": bundle_of(entry, json.loads(row.data)).decode(), "sigstoreIndex": row.number}
        except ValueError:  # Bad is one
            continue
    return {}


def _event_cells(row: Row) -> list[str | int]:
    traits = row.traits
    words = [traits[name] for name in ("stage", "verdict", "actor")]
    return [row.name, traits["event"], _pack(traits), *words, row.number, traits["time"], traits["point"]]


POLICY = Kind(
    kind="PolicyReceipt",
    plural="policyreceipts",
    singular="policyreceipt",
    short="prcpt",
    what=policy_events(),
    fields=EVENT_FIELDS,
    labels=EVENT_LABELS,
    columns=(
        ("Name", "string", "The event and its index in the log, as its Receipt is named while there is one.", 0),
        ("Event", "string", "Kind of the policy event, such as Promoted or RolledBack.", 0),
        ("Pack", "string", "Pack that it speaks of, and its version.", 0),
        ("Stage", "string", "Stage of the rollout that it speaks of.", 0),
        ("Verdict", "string", "What the judge said then: Pass, Fail or Undecided.", 0),
        ("Actor", "string", "Who acted.", 0),
        ("Index", "integer", "Index in the log.", 0),
        ("Time", "string", "When it happened, by the clock of who signed it.", 0),
        ("Point", "string", "EnforcementPoint that it speaks of.", 1),
    ),
    doc="A policy event, proven by a log, for as long as there is the log: Receipts of knhk.dev leave by number and age. Fields that "
    f"select: metadata.name, metadata.namespace, logIndex, {', '.join(EVENT_TRAITS)}, and time, of which a part selects all that lies in "
    "it (2026-11: a month); the same but name, namespace, logIndex, version and time are labels.",
    named="Name: the event and its index in the log. Namespace: that of the pack, or of what else it speaks of.",
    spec={
        "event": text("Kind of the policy event, such as Promoted or RolledBack."),
        "pack": text("PolicyPack that it speaks of."),
        "point": text("EnforcementPoint that it speaks of."),
        "stage": text("Stage of the rollout that it speaks of."),
        "verdict": text("What the judge said then: Pass, Fail or Undecided."),
        "actor": text("Who acted, whole; label actor has as much of it as a label may have."),
        "bundle": text("The signed event: a sigstore bundle v0.3, JSON. Lists leave it out: get the object to have it."),
        "logIndex": _INDEX,
        **_PROOF,
    },
    status={
        "time": text("When it happened, RFC 3339 in UTC, by the clock of who signed it."),
        "subject": text("What it speaks of, such as pack/erp/invoice-controls@1.0.0."),
        "version": text("Version of the pack."),
        "packDigest": text("First 20 bytes of the SHA-256 of its image index, hexadecimal."),
        "statement": {
            "type": "object",
            "description": "The in-toto statement that spec.bundle signs (formats/signed.md).",
            "x-kubernetes-preserve-unknown-fields": True,
        },
        "sigstore": text("What a sigstore said of it, if the log has that: a bundle v0.3, JSON. Lists leave it out."),
        "sigstoreIndex": {"type": "integer", "format": "int64", "description": "Index of the event Notarised that has it."},
    },
    said=_happened,
    time=lambda row: row.traits["time"],
    cells=_event_cells,
    evidence=lambda entry, number: {"bundle": entry(number).decode()},
    outside=_outside,
)

KINDS = (DECISION, POLICY)
