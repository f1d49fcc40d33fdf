"""Sources → GuardPlan, so that the plan depends on what was written and never on where it lay.

The compiler sees each source under its own name with lines from 1; faults are told in the places that the author knows.
"""

from __future__ import annotations

from dataclasses import replace

from knhk.model.arrows import GuardPlan, PackSources, Source
from knhk.model.faults import Refused
from knhk_gen.lower import lower


def plan_of(pack: PackSources) -> GuardPlan:
    """The plan of a pack: same texts, same plan, whatever file, folder or cluster they came from. Raises Refused with all faults."""
    try:
        return lower(portable(pack))
    except Refused as refused:
        raise Refused(replace(fault, where=place(pack, fault.where)) for fault in refused.faults) from refused


def portable(pack: PackSources) -> PackSources:
    """The pack with each source named by itself, in order of name."""
    sources = sorted((replace(s, path=s.name, first_line=1) for s in pack.sources), key=lambda s: s.name)
    return replace(pack, sources=tuple(sources), routes=dict(sorted(pack.routes.items())))


def place(pack: PackSources, where: str) -> str:
    """`NAME:LINE…` of a portable source as `PATH:LINE…` of the file that the author wrote; other places unchanged."""
    name, colon, rest = where.partition(":")
    source = next((s for s in pack.sources if s.name == name), None)
    if source is None:
        return where
    return f"{source.path}{colon}{_line(source, rest)}"


def _line(source: Source, rest: str) -> str:
    digits = rest[: len(rest) - len(rest.lstrip("0123456789"))]
    return f"{int(digits) + source.first_line - 1}{rest[len(digits) :]}" if digits else rest
