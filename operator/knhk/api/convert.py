"""Resources → what the compiler, the judge and the rollout read."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from decimal import Decimal
from typing import Any

from knhk.model.arrows import PackSources, Source
from knhk.model.resource import Resource
from knhk.model.rollout import Analysis, OnNoData, RolloutSpec, Stage, Step

# Where a file spelled the inline texts, so that the control plane can name its lines: {"path", "lines": [n…]}.
ORIGIN = "knhk.dev/origin"
_MEDIA = {
    "shapes": "text/turtle",
    "ask": "application/sparql-query",
    "abac": "text/turtle",
    "mapping": "application/yaml",
    "construct": "application/sparql-query",
}
PRODUCTION = "production"


def with_origin(resource: Resource) -> Resource:
    """The resource with an annotation that remembers file and lines of its inline texts; others unchanged."""
    if resource.kind != "PolicyPack" or not resource.lines:
        return resource
    lines = [resource.lines.get(f"spec.sources[{i}].inline", 1) for i in range(len(resource.spec["sources"]))]
    origin = json.dumps({"path": resource.path[:1024], "lines": lines}, separators=(",", ":"))
    return replace(resource, annotations={**resource.annotations, ORIGIN: origin})


def to_sources(pack: Resource, path: str | None = None) -> PackSources:
    """What the compiler reads of a PolicyPack. Faults of it will name `path` (by default the file that the
    resource came from, else its field) and lines of that file."""
    known, lines = _origin(pack)
    sources = []
    for i, row in enumerate(pack.spec["sources"]):
        where = path or known or f"{pack.key} spec.sources[{i}].inline"
        sources.append(_source(row, where, lines[i] if i < len(lines) else 1))
    routes: dict[str, str | None] = {row["name"]: row.get("mapping") for row in pack.spec["routes"]}
    return PackSources(pack.namespace, pack.name, pack.spec["version"], tuple(sources), routes)


def _source(row: Mapping[str, Any], path: str, first_line: int) -> Source:
    return Source(
        name=row["name"],
        kind=row["kind"],
        text=row["inline"],
        path=path,
        media=row.get("media", _MEDIA[row["kind"]]),
        target=row.get("target"),
        message=row.get("message", ""),
        severity=row.get("severity", "Violation"),
        first_line=first_line,
    )


def _origin(pack: Resource) -> tuple[str, list[int]]:
    if pack.lines:
        count = len(pack.spec["sources"])
        return pack.path, [pack.lines.get(f"spec.sources[{i}].inline", 1) for i in range(count)]
    try:
        noted = json.loads(pack.annotations.get(ORIGIN, "{}"))
        path, lines = str(noted.get("path", "")), noted.get("lines", [])
        return path, [int(n) for n in lines if isinstance(n, int) and 0 < n < 1 << 31]
    except (ValueError, AttributeError, TypeError):
        return "", []  # somebody else's annotation: name the field instead


def to_rollout(pack: Resource, guards: Sequence[str] = ()) -> RolloutSpec:
    """How a PolicyPack wants to be rolled out. `guards`: ids of all guards of the old and the new version."""
    rollout = pack.spec["rollout"]
    steps = tuple(Step(row["weight"], row["minPairs"]) for row in rollout["steps"])
    points = tuple(f"{pack.namespace}/{row['point']}" for row in pack.spec["targets"])
    stage = Stage(PRODUCTION, points, rollout["shadow"]["minPairs"], steps, rollout["deadlineSeconds"])
    return RolloutSpec(
        stages=(stage,),
        analysis=to_analysis(rollout["analysis"], guards),
        on_no_data=OnNoData(rollout["onNoData"]),
        suspend=pack.spec["suspend"],
    )


def to_analysis(analysis: Mapping[str, Any], guards: Sequence[str] = ()) -> Analysis:
    """spec.rollout.analysis as the judge reads it."""
    tolerances = analysis["tolerances"]
    return Analysis(
        max_new_denials=Decimal(tolerances["maxNewDenials"]),
        max_new_admits=Decimal(tolerances["maxNewAdmits"]),
        max_parked=Decimal(tolerances["maxParked"]),
        max_r1_drop=Decimal(tolerances["maxR1Drop"]),
        max_latency_ratio=Decimal(tolerances["maxLatencyRatio"]),
        latency_floor_us=tolerances["latencyFloorMicroseconds"],
        effect=Decimal(analysis["effect"]),
        alpha=Decimal(analysis["alpha"]),
        beta=Decimal(analysis["beta"]),
        intended=tuple(analysis["intended"]),
        max_errors=analysis["maxErrors"],
        guards=tuple(sorted(set(guards))),
    )
