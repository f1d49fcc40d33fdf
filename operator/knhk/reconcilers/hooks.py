"""HookRegistry: its templates lowered and indexed, and who uses them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from knhk.api import hook_sources
from knhk.lockchain import PolicyEvent
from knhk.model.arrows import PackSources
from knhk.model.canonical import canonical, sha256_hex
from knhk.model.faults import Fault, Refused
from knhk.model.resource import Resource
from knhk.model.times import rfc3339
from knhk.reconcilers.context import Journal, Ports, fault_rows, remembered, say, write_status
from knhk.reconcilers.counting import is_resting
from knhk.reconcilers.lowering import plan_of
from knhk.reconcilers.plans import Plans, digests_of, facts_of

LOOK_AGAIN_S = 2.0
CLASSES = ("R1", "W1", "C1")  # the fastest first
MAX_TERMS, MAX_UNUSED, MAX_PACKS, MAX_BROKEN = 64, 256, 64, 128
_OF_THE_LANGUAGE = ("http://www.w3.org/", "https://knhk.dev/ns#", "urn:")
_TOLD = ("digest", "index", "counts")  # what follows from the spec alone


@dataclass(frozen=True)
class HookReconciler:
    ports: Ports
    journal: Journal
    plans: Plans

    def converge(self, resource: Resource) -> float | None:
        """Indexes this generation once; tells who uses the hooks. Gives seconds until the next look."""
        self.journal.deliver(resource)
        if resource.spec["suspend"]:
            return None
        told = {name: resource.status[name] for name in _TOLD if name in resource.status}
        if resource.status.get("observedGeneration") != resource.generation or is_resting(resource):
            try:
                told = index_of(resource)
            except Refused as refused:
                rows, message = fault_rows(refused)
                write_status(self.ports, resource, {"faults": rows}, False, "Refused", message)
                return None
        elif "digest" not in told:
            return None  # refused
        self._tell(resource, told)
        return LOOK_AGAIN_S

    def _tell(self, resource: Resource, told: Mapping[str, Any]) -> None:
        ports = self.ports
        packs = [pack for pack in ports.store.list("PolicyPack", resource.namespace).resources if digests_of(pack)]
        users = {row["name"]: _users(f"{resource.name}/{row['name']}", packs) for row in told["index"]}
        status: dict[str, Any] = {
            **{k: v for k, v in resource.status.items() if k == "pending"},
            **told,
            "index": [_with_users(row, users[row["name"]]) for row in told["index"]],
            "coverage": self._coverage(users, packs),
        }
        broken = self._broken(resource)
        if broken:
            status["broken"] = broken[:MAX_BROKEN]
        counts = told["counts"]
        message = f"{counts['hooks']} hooks, {counts['guards']} guards, {status['coverage']['used']} used"
        is_new = told["digest"] != resource.status.get("digest")
        if is_new:
            now = rfc3339(ports.clock.now_ns())
            status["history"] = remembered(resource.status, told["digest"], "Indexed", now, message)
            subject = (f"hooks/{resource.namespace}/{resource.name}", told["digest"].removeprefix("sha256:"))
            evidence = {"counts": dict(counts), "hooks": sorted(users)[:MAX_PACKS], "generation": resource.generation}
            status = self.journal.pend(status, PolicyEvent("HooksIndexed", subject, ports.actor, now, evidence=evidence))
        resource = write_status(ports, resource, status, True, "Indexed", message)
        if is_new:
            say(ports, resource.key, "HooksIndexed", message)
            self.journal.deliver(resource)

    def _coverage(self, users: Mapping[str, Sequence[str]], packs: Sequence[Resource]) -> dict[str, Any]:
        rows = []
        for pack in packs:
            for plan in self.plans.of_pack(pack)[-1:]:
                if bare := sum("/" not in source for source in plan.written.values()):
                    rows.append({"name": pack.name, "guards": len(plan.written), "uncovered": bare})
        return {
            "used": sum(bool(names) for names in users.values()),
            "unused": [name for name, names in sorted(users.items()) if not names][:MAX_UNUSED],
            "packs": len(packs),
            "uncovered": rows[:MAX_PACKS],
        }

    def _broken(self, resource: Resource) -> list[dict[str, Any]]:
        """By the versions of schemas that tell so; a version tells of the index that it saw last."""
        found = []
        for schema in self.ports.store.list("SchemaVersion", resource.namespace).resources:
            broken = {row["term"] for row in schema.status.get("difference", {}).get("changes", ()) if row.get("breaks")}
            for row in resource.status.get("index", ()):
                if terms := sorted(broken & set(row.get("terms", ()))):
                    found.append({"hook": row["name"], "schema": schema.name, "terms": terms[:16]})
        return found


def index_of(resource: Resource) -> dict[str, Any]:
    """Digest, index and counts of the hooks, each lowered by itself. Raises Refused with all faults."""
    faults: list[Fault] = []
    rows, classes = [], []
    for i, (hook, source) in enumerate(zip(resource.spec["hooks"], hook_sources(resource), strict=True)):
        try:
            plan = plan_of(PackSources(resource.namespace, resource.name, "0.0.0", (source,), {"any": None})).document
        except Refused as refused:
            faults += refused.faults
            continue
        guards = [guard for guard in plan["guards"] if guard["kind"] != "payload"]
        slow = [guard for guard in guards if CLASSES.index(guard["class"]) > CLASSES.index(hook["class"])]
        where = f"{resource.path}:{resource.lines.get(f'spec.hooks[{i}].class', 1)}" if resource.path else f"{resource.key}"
        faults += [
            Fault(f"{where} spec.hooks[{i}].class", f"{g['id']} is {g['class']}", f"must be {hook['class']}, or say so: {g['why']}")
            for g in slow
        ]
        if not guards:
            faults.append(Fault(f"{where} spec.hooks[{i}].inline", "no guard", "must make at least one guard"))
            continue
        classes += [guard["class"] for guard in guards]
        terms = {iri for iri in facts_of(plan).iris if not iri.startswith(_OF_THE_LANGUAGE)} | set(hook["terms"])
        slowest = max((guard["class"] for guard in guards), key=CLASSES.index)
        rows.append({"name": hook["name"], "class": slowest, "guards": len(guards), "terms": sorted(terms)[:MAX_TERMS]})
    if faults:
        raise Refused(faults)
    counts = {"hooks": len(rows), "guards": len(classes), **{name: classes.count(name) for name in CLASSES}}
    return {"digest": _digest(resource, rows), "index": rows, "counts": counts}


def _digest(resource: Resource, index: Sequence[Mapping[str, Any]]) -> str:
    return f"sha256:{sha256_hex(canonical({'hooks': list(resource.spec['hooks']), 'index': [_with_users(row, ()) for row in index]}))}"


def _users(hook: str, packs: Sequence[Resource]) -> list[str]:
    parts = ("live", "revision")
    return sorted(pack.name for pack in packs if any(hook in (pack.status.get(part) or {}).get("hooks", ()) for part in parts))


def _with_users(row: Mapping[str, Any], users: Sequence[str]) -> dict[str, Any]:
    return {k: v for k, v in row.items() if k != "packs"} | ({"packs": list(users)[:MAX_PACKS]} if users else {})


def is_indexed(resource: Resource) -> bool:
    """Whether the index is of the hooks that the registry says now, so that packs may take them."""
    return resource.status.get("digest") == _digest(resource, resource.status.get("index", ()))
