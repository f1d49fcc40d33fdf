"""What is asked of our own kinds: the parser's words first, and lowering within bounds."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from knhk.adapters.lowering_process import BoundedLowering
from knhk.api import from_document
from knhk.api.review import Review, allowed, denied
from knhk.model.faults import Fault, Refused

LOWERED = frozenset({"PolicyPack", "DataBundle"})


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
