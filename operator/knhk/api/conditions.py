"""Conditions as kstatus reads them: Ready always; Reconciling and Stalled only while they are True."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

MAX_MESSAGE = 4096
_PRESENT_WHILE_TRUE = ("Reconciling", "Stalled")


def condition(
    type: str,  # the API's own word
    status: bool | None,
    reason: str,
    message: str,
    generation: int,
    now: str,
) -> dict[str, Any]:
    """One condition; `status` None is Unknown; `now` is RFC 3339 UTC. `reason` must not be empty."""
    if not reason:
        raise ValueError(f"condition {type} must have a reason")
    return {
        "type": type,
        "status": {True: "True", False: "False", None: "Unknown"}[status],
        "reason": reason,
        "message": message[:MAX_MESSAGE],
        "lastTransitionTime": now,
        "observedGeneration": generation,
    }


def ready_of(status: Mapping[str, Any]) -> Mapping[str, Any]:
    """The condition Ready of a status, as it was told last; empty before that."""
    found: Mapping[str, Any] = next((c for c in status.get("conditions", ()) if c["type"] == "Ready"), {})
    return found


def with_condition(conditions: Sequence[Mapping[str, Any]], new: Mapping[str, Any]) -> list[dict[str, Any]]:
    """`conditions` with `new` in its place. The transition time moves only when status moved;
    Reconciling and Stalled leave when they are not True. The same input twice gives the same list."""
    kept = [dict(c) for c in conditions if c["type"] != new["type"]]
    if new["type"] in _PRESENT_WHILE_TRUE and new["status"] != "True":
        return kept
    before = next((c for c in conditions if c["type"] == new["type"]), None)
    row = dict(new)
    if before is not None and before["status"] == new["status"]:
        row["lastTransitionTime"] = before["lastTransitionTime"]
    return sorted([*kept, row], key=lambda c: str(c["type"]))
