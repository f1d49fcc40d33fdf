"""Resources → what the compiler, the judge and the rollout read."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from decimal import Decimal
from typing import Any

from knhk.model.arrows import PackSources, Source
from knhk.model.flags import Flag, Rule
from knhk.model.resource import Resource
from knhk.model.rollout import PRODUCTION, STAGES, Analysis, Approvals, OnNoData, RolloutSpec, Stage, Step
from knhk.model.waves import EVERYBODY

# Where a file spelled the inline texts, so that the control plane can name its lines: {"path", "lines": [n…]}.
ORIGIN = "knhk.dev/origin"
_MEDIA = {
    "shapes": "text/turtle",
    "ask": "application/sparql-query",
    "abac": "text/turtle",
    "mapping": "application/yaml",
    "construct": "application/sparql-query",
}


def with_origin(resource: Resource) -> Resource:
    """The resource with an annotation that remembers file and lines of its inline texts; others unchanged."""
    if resource.kind != "PolicyPack" or not resource.lines:
        return resource
    lines = [resource.lines.get(f"spec.sources[{i}].inline", 1) for i in range(len(resource.spec["sources"]))]
    origin = json.dumps({"path": resource.path[:1024], "lines": lines}, separators=(",", ":"))
    return replace(resource, annotations={**resource.annotations, ORIGIN: origin})


def with_hooks(pack: Resource, registries: Mapping[str, Resource]) -> tuple[Resource, tuple[str, ...]]:
    """The pack with the hooks that it selects as further sources, named REGISTRY/HOOK; and their names. A registry that is not there
    gives none."""
    rows, names = list(pack.spec["sources"]), []
    for selector in pack.spec.get("hooks", ()):
        registry = registries.get(selector["registry"])
        for hook in registry.spec["hooks"] if registry is not None else ():
            if is_selected(hook, selector):
                name = f"{selector['registry']}/{hook['name']}"
                names.append(name)
                kept = ("kind", "inline", "target", "message", "severity")
                rows.append({"name": name} | {key: hook[key] for key in kept if key in hook})
    return replace(pack, spec={**pack.spec, "sources": rows}), tuple(names)


def is_selected(hook: Mapping[str, Any], selector: Mapping[str, Any]) -> bool:
    """Whether a hook meets every list of a selector that is not empty."""
    asked = (("names", "name"), ("domains", "domain"), ("owners", "owner"), ("classes", "class"))
    return all(not selector[many] or hook[one] in selector[many] for many, one in asked)


def hook_sources(registry: Resource) -> tuple[Source, ...]:
    """Each hook of a HookRegistry as a source; faults name its field."""
    where = f"{registry.key} spec.hooks[{{}}].inline"
    return tuple(
        _source({**hook, "name": f"{registry.name}/{hook['name']}"}, registry.path or where.format(i), _hook_line(registry, i))
        for i, hook in enumerate(registry.spec["hooks"])
    )


def _hook_line(registry: Resource, i: int) -> int:
    return registry.lines.get(f"spec.hooks[{i}].inline", 1)


def to_sources(pack: Resource, path: str | None = None) -> PackSources:
    """What the compiler reads of a PolicyPack. Faults of it will name `path` (by default the file that the
    resource came from, else its field) and lines of that file."""
    known, lines = _origin(pack)
    sources = []
    for i, row in enumerate(pack.spec["sources"]):
        own = "/" not in row["name"]  # else a hook's, of another file
        where = (path or known or f"{pack.key} spec.sources[{i}].inline") if own else f"hook {row['name']}"
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
    steps = tuple(Step(row["weight"], row["minPairs"], row.get("wave", EVERYBODY)) for row in rollout["steps"])
    asked = {row["stage"]: to_approvals(row) for row in rollout.get("approvals", ())}
    stages = tuple(
        Stage(name, points, rollout["shadow"]["minPairs"], steps, rollout["deadlineSeconds"], asked.get(name))
        for name, points in points_of_stages(pack)
    )
    return RolloutSpec(
        stages=stages,
        analysis=to_analysis(rollout["analysis"], guards),
        on_no_data=OnNoData(rollout["onNoData"]),
        suspend=pack.spec["suspend"],
    )


def points_of_stages(pack: Resource) -> tuple[tuple[str, tuple[str, ...]], ...]:
    """The stages that have points, in their order, and these points (NAMESPACE/NAME)."""
    targets = pack.spec["targets"]
    found = ((name, [row["point"] for row in targets if row.get("stage", PRODUCTION) == name]) for name in STAGES)
    return tuple((name, tuple(f"{pack.namespace}/{point}" for point in points)) for name, points in found if points)


def said(resource: Resource) -> dict[str, Any]:
    """What a resource says, for digests that outlast an upgrade: an API server shows fields that came later, with their default, in
    objects that nobody changed. Where they say no more than that they are left out."""
    spec = dict(resource.spec)
    if resource.kind != "PolicyPack":
        return spec
    if "targets" in spec:
        spec["targets"] = _without(spec["targets"], "stage", PRODUCTION)
    if "steps" in spec.get("rollout", {}):
        spec["rollout"] = {**spec["rollout"], "steps": _without(spec["rollout"]["steps"], "wave", EVERYBODY)}
    return spec


def _without(rows: Sequence[Mapping[str, Any]], name: str, default: object) -> list[dict[str, Any]]:
    return [{key: value for key, value in row.items() if (key, value) != (name, default)} for row in rows]


def to_approvals(row: Mapping[str, Any]) -> Approvals:
    """A row of spec.rollout.approvals."""
    return Approvals(row["count"], frozenset(row["approvers"]), row["notAuthor"], row["deadlineSeconds"])


def to_flag(resource: Resource) -> Flag:
    """A FeatureFlag as it is evaluated; while it is suspended each point keeps the variant that its status tells."""
    spec = resource.spec
    rules = tuple(Rule(row["var"], row["op"], tuple(row["values"]), row["variant"]) for row in spec["targeting"])
    pinned = {row["name"]: row.get("variant", "") for row in resource.status.get("points", ())} if spec["suspend"] else None
    return Flag(resource.name, spec["state"] == "ENABLED", spec["variants"], spec["defaultVariant"], rules, pinned)


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
