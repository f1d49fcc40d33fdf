"""Policy events as in-toto statements."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any

from knhk.model.faults import Fault, Refused
from knhk_verify.errors import Bad
from knhk_verify.signed import POLICY_EVENT, STATEMENT, canonical, member, parse_time

_TEXTS = ("point", "stage", "arm", "reason")
_NUMBERS = ("step", "weight")


@dataclass(frozen=True)
class PolicyEvent:
    """What happened to a pack. `subject`: (name such as "pack/erp/invoice-controls@1.0.0", SHA-256 in hexadecimal). `time`:
    UTC as 2026-11-23T10:00:00Z. `pack` and `evidence`: plain JSON without floats; numbers are integers or decimal strings."""

    kind: str
    subject: tuple[str, str]
    actor: str
    time: str
    pack: Mapping[str, Any] | None = None
    point: str = ""
    stage: str = ""
    arm: str = ""
    step: int | None = None
    weight: int | None = None
    reason: str = ""
    evidence: Mapping[str, Any] = field(default_factory=dict)


class Said:
    """Statements that were met. Who writes a log can put a signed event in once more, in other bytes around what is signed: it counts where
    it stands first."""

    def __init__(self) -> None:
        self._digests = set[bytes]()

    def is_new(self, statement: Mapping[str, Any], where: str) -> bool:
        """Whether it is met for the first time. Raises Bad for what no signature is over."""
        known = len(self._digests)
        try:
            self._digests.add(sha256(canonical(statement)).digest())
        except (ValueError, RecursionError) as error:
            raise Bad(where, "is not canonical JSON") from error
        return len(self._digests) > known


def statement(event: PolicyEvent) -> dict[str, Any]:
    """The in-toto statement of an event; members that say nothing are left out. Raises Refused for a malformed event."""
    name, digest = event.subject
    predicate: dict[str, Any] = {"kind": event.kind, "actor": event.actor, "time": event.time}
    predicate |= {member: value for member in _TEXTS if (value := getattr(event, member))}
    predicate |= {member: value for member in _NUMBERS if (value := getattr(event, member)) is not None}
    if event.pack is not None:
        predicate["pack"] = dict(event.pack)
    if event.evidence:
        predicate["evidence"] = dict(event.evidence)
    made = {
        "_type": STATEMENT,
        "subject": [{"name": name, "digest": {"sha256": digest}}],
        "predicateType": POLICY_EVENT,
        "predicate": predicate,
    }
    parse_event(made)
    return made


def parse_event(document: Mapping[str, Any]) -> PolicyEvent:
    """Event of a statement, whose signature the caller has verified. Raises Refused with the member that is wrong."""
    try:
        return _parse(dict(document))
    except Bad as error:
        raise Refused([Fault(error.where, error.what, "must be a policy event as in formats/signed.md")]) from error


def _parse(document: dict[str, Any]) -> PolicyEvent:
    where = "statement"
    for name, wanted in (("_type", STATEMENT), ("predicateType", POLICY_EVENT)):
        if member(document, name, str, where) != wanted:
            raise Bad(f"{where} {name}", f"{document[name]!r} is not {wanted}")
    subjects = member(document, "subject", list, where)
    if len(subjects) != 1:
        raise Bad(f"{where} subject", f"has {len(subjects)} members, not one")
    subject = member(subjects[0], "name", str, where), member(subjects[0], "digest.sha256", str, where)
    if len(subject[1]) != 64 or not set(subject[1]) <= set("0123456789abcdef"):
        raise Bad(f"{where} subject", f"{subject[1]!r} is not a SHA-256 in hexadecimal")
    predicate = member(document, "predicate", dict, where)
    kind, actor, time = (member(predicate, name, str, f"{where} predicate") for name in ("kind", "actor", "time"))
    if not kind or not actor:
        raise Bad(f"{where} predicate", "has an empty kind or actor")
    parse_time(time, f"{where} predicate.time")
    kinds: dict[str, type] = dict.fromkeys(_TEXTS, str) | dict.fromkeys(_NUMBERS, int) | dict.fromkeys(("pack", "evidence"), dict)
    given = {name: member(predicate, name, type_, f"{where} predicate") for name, type_ in kinds.items() if name in predicate}
    if unknown := sorted(set(predicate) - {"kind", "actor", "time", *given}):
        raise Bad(f"{where} predicate", f"has the unknown member {unknown[0]!r}")
    return PolicyEvent(kind, subject, actor, time, **given)
