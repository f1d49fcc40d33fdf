"""Objects of Kubernetes: the point that is named judges each question as any request, and what it says is told as an API server reads it.

Nothing is decided here. A point that cannot say anything now is no answer: then the configuration's failurePolicy decides.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote

from knhk.adapters.point_client import PointClient, Told
from knhk.api.review import FORBIDDEN, Review, allowed, audited, denied
from knhk.model.faults import Fault, Waiting

CORE = "core"  # the group without a name, in paths
SHOWN = 10
ADMITTED, REFUSED = 200, range(400, 500)
AGAIN = frozenset({401, 408, 429})  # said of the question's way, not of the object


class Objects:
    """Judges of objects by points."""

    def __init__(self, points: PointClient) -> None:
        self._points = points

    async def judged(self, review: Review, *, namespace: str, point: str) -> Mapping[str, Any]:
        """The verdict of the point on the question as it came. Raises NotFound and Waiting."""
        return answered(review, await self._points.ask(namespace, point, path_of(review), review.body))


def path_of(review: Review) -> str:
    """Where a point is asked: /GROUP/RESOURCE/OPERATION/NAMESPACE; its routes choose by it."""
    segments = (review.group or CORE, review.resource, review.operation, review.namespace or "-")
    return "".join(f"/{quote(segment, safe='')}" for segment in segments)


def answered(review: Review, told: Told) -> Mapping[str, Any]:
    """What the point's answer means for the object. Raises Waiting when it means nothing."""
    problem = _problem(told.body)
    notes = {"receipt": told.receipt, **({"pack": str(problem["pack"])} if "pack" in problem else {})}
    if told.status == ADMITTED and told.receipt:  # without one it was no point that said it
        return audited(allowed(review, _warnings(problem, told.receipt)), notes)
    if told.status in REFUSED and told.status not in AGAIN and problem:
        answer = denied(review, _faults(review, problem), FORBIDDEN)
        answer["response"]["status"]["message"] += f"\n{_by(problem, told.receipt)}"
        return audited(answer, notes)
    without = "" if told.receipt else " without a receipt"
    raise Waiting("NoVerdict", f"the point answered {told.status}{without}: {problem.get('title', 'nothing')}", 1.0)


def _problem(body: bytes) -> Mapping[str, Any]:
    """A problem document (RFC 9457), or nothing."""
    try:
        found = json.loads(body) if body else {}
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _violations(problem: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    found = problem.get("violations")
    return [row for row in found if isinstance(row, dict)] if isinstance(found, list) else []


def _faults(review: Review, problem: Mapping[str, Any]) -> list[Fault]:
    rows = _violations(problem)
    if not rows:
        must = f"must be one that the point can judge: {problem.get('title', 'it was refused')}"
        return [Fault(f"{review.kind} {review.name}", review.operation, must)]
    return [Fault(str(row.get("path") or row.get("guard")), str(row.get("value", "")), str(row.get("message", ""))) for row in rows]


def _warnings(problem: Mapping[str, Any], receipt: str) -> list[str]:
    """Of an object that is stored: what the candidate would have said."""
    lines = [f"would be denied: {row.get('path') or row.get('guard')}: {row.get('message', '')}" for row in _violations(problem)]
    return [*lines[:SHOWN], f"would be denied {_by(problem, receipt)}"] if lines else []


def _by(problem: Mapping[str, Any], receipt: str) -> str:
    return f"by {problem['pack']}, receipt {receipt}" if "pack" in problem else f"receipt {receipt}"
