"""Policy events as events of OCSF: class Entity Management (3004), what is managed being a policy, or what guards and people of it need."""

from __future__ import annotations

import json
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from knhk.lockchain.entries import Row
from knhk.model.times import from_rfc3339_ns

CREATE, READ, UPDATE, DELETE, ENABLE, ACTIVATE, DEACTIVATE, SUSPEND, RESUME, OTHER = 1, 2, 3, 4, 8, 10, 11, 12, 13, 99
NAMES: Mapping[int, str] = MappingProxyType(
    {
        CREATE: "Create",
        READ: "Read",
        UPDATE: "Update",
        DELETE: "Delete",
        ENABLE: "Enable",
        ACTIVATE: "Activate",
        DEACTIVATE: "Deactivate",
        SUSPEND: "Suspend",
        RESUME: "Resume",
    }
)
# What is not here is another activity, by the event's own name. Enable: some requests are judged by it; Activate: all are.
ACTIVITIES: Mapping[str, int] = MappingProxyType(
    {
        **dict.fromkeys(("Compiled", "Built", "Signed", "SchemaAccepted", "ConsentGranted"), CREATE),
        **dict.fromkeys(("SubjectExported",), READ),
        **dict.fromkeys(("PointChanged", "FlagChanged", "FlagSet", "DocumentRenewed", "Loosened", "Restored"), UPDATE),
        **dict.fromkeys(("KeyRotated", "TrustedRootPinned", "HooksIndexed", "DataPublished", "CommitApplied"), UPDATE),
        **dict.fromkeys(("Erased", "Deleted"), DELETE),
        **dict.fromkeys(("RolloutStarted", "StepAdvanced"), ENABLE),
        **dict.fromkeys(("Promoted",), ACTIVATE),
        **dict.fromkeys(("RolledBack", "Aborted", "Superseded", "Retired", "ConsentWithdrawn"), DEACTIVATE),
        **dict.fromkeys(("Stalled",), SUSPEND),
        **dict.fromkeys(("Resumed",), RESUME),
    }
)
FAILED = frozenset(("Refused", "SchemaRejected", "CommitDenied", "Stalled"))  # what was asked for was not done
INFORMATIONAL, LOW, MEDIUM = (1, "Informational"), (2, "Low"), (3, "Medium")
SEVERE: Mapping[str, tuple[int, str]] = MappingProxyType(
    {**dict.fromkeys(FAILED, LOW), **dict.fromkeys(("RolledBack", "Aborted", "Drifted", "Loosened", "Restored"), MEDIUM)}
)
POLICY, ANOTHER = 5, 99  # type_id of what is managed


def event(row: Row, version: str) -> dict[str, Any]:
    """A policy event of the index, as OCSF of this version has it."""
    statement = json.loads(row.data)
    predicate, subject = statement["predicate"], statement["subject"][0]
    kind, evidence = str(predicate["kind"]), predicate.get("evidence") or {}
    activity = ACTIVITIES.get(kind, OTHER)
    name = NAMES.get(activity, kind)
    severity_id, severity = SEVERE.get(kind, INFORMATIONAL)
    status_id, status = (2, "Failure") if kind in FAILED else (1, "Success")
    digest = str((predicate.get("pack") or {}).get("digest", "")).removeprefix("sha256:") or str(subject["digest"]["sha256"])
    rest = {member: predicate[member] for member in ("point", "stage", "arm", "step", "weight") if member in predicate}
    return {
        "category_uid": 3,
        "category_name": "Identity & Access Management",
        "class_uid": 3004,
        "class_name": "Entity Management",
        "activity_id": activity,
        "activity_name": name,
        "type_uid": 300_400 + activity,
        "type_name": f"Entity Management: {name}",
        "time": from_rfc3339_ns(predicate["time"]) // 10**6,
        "severity_id": severity_id,
        "severity": severity,
        "status_id": status_id,
        "status": status,
        "status_code": str(evidence.get("verdict") or kind),
        **({"comment": predicate["reason"]} if predicate.get("reason") else {}),
        "actor": {"user": {"name": str(predicate["actor"])}},
        "entity": _entity(subject, row, kind),
        "metadata": {
            "version": version,
            "product": {"name": "Reflex Enterprise", "vendor_name": "Reflex Enterprise", "feature": {"name": "policy events"}},
            "uid": row.name,
            "event_code": kind,
            "correlation_uid": digest[:40],
            "sequence": row.number,
            "log_name": "knhk.dev/policy-events",
        },
        "unmapped": {**rest, "evidence": evidence},
    }


def _entity(subject: Mapping[str, Any], row: Row, kind: str) -> dict[str, Any]:
    """What the event is of; of a pack as decisions name their policy, so that both can be joined."""
    traits, name, digest = row.traits, str(subject["name"]), str(subject["digest"]["sha256"])
    of = {"name": name, "uid": digest, **({"version": traits["version"]} if traits.get("version") else {})}
    if not name.startswith("pack/"):
        return {**of, "type_id": ANOTHER, "type": name.partition("/")[0]}
    policy = {
        "name": traits["pack"],
        "uid": traits["packDigest"] or digest[:40],
        "version": traits["version"],
        "group": {"name": traits["namespace"]},
        "is_applied": kind == "Promoted",
    }
    return {**of, "type_id": POLICY, "type": "Policy", "policy": policy}
