"""What is asked: our own kinds, the parser's words first and lowering within bounds; and pods, which get their guard."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from knhk.adapters.lowering_process import BoundedLowering
from knhk.api import from_document
from knhk.api.review import FORBIDDEN, Review, allowed, denied
from knhk.decide.injection import guard_faults, injected, is_gateway, patch_of, pod_faults, point_faults, point_of, taken_faults
from knhk.model.faults import Fault, Refused
from knhk.model.resource import Resource
from knhk_templates.kubernetes.guard import Guard, Surroundings, guard_of

LOWERED = frozenset({"PolicyPack", "DataBundle", "SchemaVersion", "HookRegistry"})


class Kinds:
    """Judges of custom resources. What an API server would say in its own words is said in ours when `parsed` is asked before it looks at
    the schema (as a mutating webhook that changes nothing)."""

    def __init__(self, lowering: BoundedLowering) -> None:
        self._lowering = lowering

    async def parsed(self, review: Review) -> Mapping[str, Any]:
        """All faults of the parser."""
        faults = await asyncio.to_thread(parser_faults, review.spelled())
        return denied(review, faults) if faults else allowed(review)

    async def lowered(self, review: Review) -> Mapping[str, Any]:
        """All faults of the parser, else all of lowering. What cannot be lowered in time is let through with a warning: the operator
        judges it again before anything is built."""
        document = review.spelled()
        faults = await asyncio.to_thread(parser_faults, document)
        if faults or review.kind not in LOWERED:
            return denied(review, faults) if faults else allowed(review)
        found = await self._lowering.lowered(document)
        if found.unfinished:
            return allowed(review, (f"{review.kind} {review.name}: {found.unfinished}; the operator judges it",))
        return denied(review, found.faults) if found.faults else allowed(review)


def parser_faults(document: Mapping[str, Any]) -> tuple[Fault, ...]:
    """Faults of a resource as the API server spells it, without those that only stand for its own fields."""
    try:
        from_document(document)
    except Refused as refused:
        return refused.faults
    return ()


Points = Callable[[str], Sequence[Resource]]


class Pods:
    """Judges of pods in enforced namespaces. `points`: namespace → its EnforcementPoints, as they are now; may block, and raise as
    KubeClient.call: then there is no answer, and no pod."""

    def __init__(self, points: Points, around: Surroundings) -> None:
        self._points, self._around = points, around

    async def injected(self, review: Review) -> Mapping[str, Any]:
        """The pod with its guard, or every reason why it cannot have one. A gateway's pod is its guard already."""
        pod = review.document
        if is_gateway(pod):
            return allowed(review)
        try:
            guard = await self._guard(review)
        except Refused as refused:
            return denied(review, refused.faults, FORBIDDEN)
        return allowed(review, patch=patch_of(pod, injected(pod, guard)))

    async def validated(self, review: Review) -> Mapping[str, Any]:
        """Whether the pod, as it would be stored, has its guard whole and nothing that leads past it."""
        try:
            faults = guard_faults(review.document, await self._guard(review))
        except Refused as refused:
            faults = refused.faults
        return denied(review, faults, FORBIDDEN) if faults else allowed(review)

    async def _guard(self, review: Review) -> Guard:
        """Raises Refused with every fault of the pod and its point."""
        pod = review.document
        point = point_of(pod, await asyncio.to_thread(self._points, review.namespace))
        if wrong := point_faults(point):
            raise Refused(Fault(f"EnforcementPoint {point.name} {fault.where}", fault.value, fault.must) for fault in wrong)
        own = is_gateway(pod)
        guard = guard_of(point.name, point.spec, self._around, native=not own)
        faults = () if own else (*pod_faults(pod, point, guard), *taken_faults(pod, guard))
        if faults:
            raise Refused(faults)
        return guard
