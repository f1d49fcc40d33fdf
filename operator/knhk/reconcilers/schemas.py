"""SchemaVersion: read, compared with the versions before, accepted or not; and what a change of it touches."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from knhk.api.conditions import ready_of
from knhk.lockchain import PolicyEvent
from knhk.model.faults import Fault, NotFound, Refused
from knhk.model.resource import Key, Resource
from knhk.model.times import rfc3339
from knhk.reconcilers.context import Journal, Ports, fault_rows, remembered, say, write_status
from knhk.reconcilers.counting import not_counted
from knhk.reconcilers.plans import Plans
from knhk_gen.schema import Schema, read
from knhk_gen.schema_diff import Effect, SchemaChange, compare

LOOK_AGAIN_S = 2.0
WAIT_FOR_PREVIOUS_S = 1.0
MAX_CHANGES, MAX_AFFECTED, MAX_CHAIN = 64, 256, 64
BACKWARD, FORWARD = "BACKWARD", "FORWARD"
DIRECTIONS: Mapping[str, tuple[str, ...]] = {"NONE": (), BACKWARD: (BACKWARD,), FORWARD: (FORWARD,), "FULL": (BACKWARD, FORWARD)}
_COUNTED: Mapping[str, Effect] = {
    "added": Effect.ADDS,
    "removed": Effect.REMOVES,
    "widened": Effect.WIDENS,
    "narrowed": Effect.NARROWS,
    "unknown": Effect.UNKNOWN,
}


@dataclass(frozen=True)
class Compared:
    """Differences to one version before."""

    against: str
    digest: str
    changes: tuple[SchemaChange, ...]


@dataclass(frozen=True)
class SchemaReconciler:
    ports: Ports
    journal: Journal
    plans: Plans

    def converge(self, resource: Resource) -> float | None:
        """Judges this version once for what it says and what it follows; tells what it touches. Gives seconds until the next look."""
        self.journal.deliver(resource)
        if resource.spec["suspend"]:
            return None
        try:
            before, waits = self._before(resource)
            if waits:
                write_status(self.ports, resource, _kept(resource), None, "Waiting", waits)
                return WAIT_FOR_PREVIOUS_S
            if not _is_judged(resource, before):
                return self._judge(resource, before)
        except Refused as refused:
            rows, message = fault_rows(refused)
            write_status(self.ports, resource, {"faults": rows, "accepted": False}, False, "Refused", message)
            return None
        self._touch(resource)
        return LOOK_AGAIN_S

    def _before(self, resource: Resource) -> tuple[tuple[Resource, ...], str]:
        """The versions before, the last first, and why they cannot be compared with yet. Raises Refused for a line that has no start."""
        found: list[Resource] = []
        current = resource
        while "previous" in current.spec:
            name = current.spec["previous"]["name"]
            if name in {resource.name, *(r.name for r in found)} or len(found) == MAX_CHAIN:
                must = f"must lead to a first version within {MAX_CHAIN}, and not in a circle"
                raise Refused([Fault(f"{current.key} spec.previous", name, must)])
            try:
                current = self.ports.store.get(Key("SchemaVersion", resource.namespace, name))
            except NotFound:
                return (), f"SchemaVersion {resource.namespace}/{name} must be there; apply it"
            if current.spec["ontology"] != resource.spec["ontology"]:
                must = f"must be a version of {resource.spec['ontology']}"
                raise Refused([Fault(f"{resource.key} spec.previous", f"{name} of {current.spec['ontology']}", must)])
            found.append(current)
        return tuple(found), next(filter(None, map(self._late, found)), "")

    def _late(self, before: Resource) -> str:
        """Why nothing is compared with a version yet; empty when it can be. What it says must be what was accepted."""
        name = f"SchemaVersion {before.namespace}/{before.name}"
        if not is_accepted(before):
            return f"{name} must be accepted first"
        why = not_counted(self.ports, before)
        return f"{name} must count first: {why}" if why else ""

    def _judge(self, resource: Resource, before: Sequence[Resource]) -> float:
        ports = self.ports
        schema = schema_of(resource)
        mode = resource.spec["compatibility"]
        compared = tuple(_compared(resource, schema, before, all_of=mode.endswith("_TRANSITIVE")))
        broken = [c for one in compared for c in one.changes if breaks(mode, c)]
        verdict = verdict_of(resource, before, broken)
        now = rfc3339(ports.clock.now_ns())
        digest = f"sha256:{schema.digest}"
        accepted = verdict != "Incompatible"
        message = _message(resource, verdict, broken)
        status: dict[str, Any] = {
            **{k: v for k, v in resource.status.items() if k == "pending"},
            "digest": digest,
            "accepted": accepted,
            "verdict": verdict,
            "terms": len(schema.terms),
            "history": remembered(resource.status, digest, verdict, now, message),
        }
        if compared:
            status["difference"] = _difference(resource, compared)
        event = _event(ports, resource, schema.digest, verdict, now, message, compared, broken)
        status = self.journal.pend(status, event)
        resource = write_status(ports, resource, status, accepted, "Accepted" if accepted else "Incompatible", message)
        say(ports, resource.key, event.kind, message, warning=not accepted)
        self.journal.deliver(resource)
        return 0.0

    def _touch(self, resource: Resource) -> None:
        """`affected`: what speaks of a term that broke something."""
        changes = resource.status.get("difference", {}).get("changes", ())
        terms = {row["term"] for row in changes if row.get("breaks")}
        hooks = [
            f"{registry.name}/{row['name']}"
            for registry in self.ports.store.list("HookRegistry", resource.namespace).resources
            for row in registry.status.get("index", ())
            if terms & set(row.get("terms", ()))
        ]
        packs = [pack.name for pack in self.ports.store.list("PolicyPack", resource.namespace).resources if self._speaks(pack, terms)]
        status = {k: v for k, v in _kept(resource).items() if k != "affected"}
        if hooks or packs:
            status["affected"] = {"hooks": sorted(hooks)[:MAX_AFFECTED], "packs": sorted(packs)[:MAX_AFFECTED]}
        ready = ready_of(resource.status)
        write_status(self.ports, resource, status, ready["status"] == "True", ready["reason"], ready["message"])

    def _speaks(self, pack: Resource, terms: Collection[str]) -> bool:
        return bool(terms) and any(not plan.iris.isdisjoint(terms) for plan in self.plans.of_pack(pack))


def schema_of(resource: Resource, renames: Mapping[str, str] | None = None) -> Schema:
    """What a SchemaVersion says, under new names when given. Raises Refused with all faults."""
    line = resource.lines.get("spec.source.inline", 1)
    return read(resource.spec["source"]["inline"], resource.path or f"{resource.key} spec.source.inline", renames, line)


def is_accepted(resource: Resource) -> bool:
    """Whether packs may be built with the version."""
    return bool(resource.status.get("accepted"))


def breaks(mode: str, change: SchemaChange) -> bool:
    """Whether a change breaks what the mode asks for."""
    wanted = DIRECTIONS[mode.removesuffix("_TRANSITIVE")]
    return (change.backward and BACKWARD in wanted) or (change.forward and FORWARD in wanted)


def verdict_of(resource: Resource, before: Sequence[Resource], broken: Sequence[SchemaChange]) -> str:
    """First, Unchecked, Compatible, Overridden or Incompatible."""
    if not before:
        return "First"
    if resource.spec["compatibility"] == "NONE":
        return "Unchecked"
    if not broken:
        return "Compatible"
    return "Overridden" if "override" in resource.spec else "Incompatible"


def composed(first: Mapping[str, str], then: Mapping[str, str]) -> dict[str, str]:
    """Renames of one version, and after them those of the next."""
    return {**then, **{old: then.get(new, new) for old, new in first.items()}}


def _compared(resource: Resource, schema: Schema, before: Sequence[Resource], *, all_of: bool) -> Iterator[Compared]:
    names = _renames(resource)
    for earlier in before if all_of else before[:1]:
        changes = compare(schema_of(earlier, names), schema)
        yield Compared(earlier.name, earlier.status["digest"], changes)
        names = composed(_renames(earlier), names)


def _renames(resource: Resource) -> dict[str, str]:
    return {row["from"]: row["to"] for row in resource.spec["renames"]}


def _is_judged(resource: Resource, before: Sequence[Resource]) -> bool:
    """Whether this generation was judged against what stands before it now."""
    ready = ready_of(resource.status)
    same = resource.status.get("difference", {}).get("previous") == (before[0].status["digest"] if before else None)
    return same and ready.get("observedGeneration") == resource.generation and "verdict" in resource.status and ready["status"] != "Unknown"


def _difference(resource: Resource, compared: Sequence[Compared]) -> dict[str, Any]:
    last = compared[0]
    rows = [(c, one.against) for one in compared for c in one.changes]
    rows.sort(key=lambda row: (not row[0].breaks, row[0]))
    counts = {name: sum(c.effect is effect for c in last.changes) for name, effect in _COUNTED.items()}
    return {
        "previous": last.digest,
        **counts,
        "renamed": len(_renames(resource)),
        "changes": [_row(change, against) for change, against in rows[:MAX_CHANGES]],
    }


def _row(change: SchemaChange, against: str) -> dict[str, str]:
    found = {"term": change.term[:512], "change": change.change[:512], "effect": change.effect.value, "against": against}
    return found | ({"breaks": change.breaks} if change.breaks else {})


def _message(resource: Resource, verdict: str, broken: Sequence[SchemaChange]) -> str:
    version, mode = resource.spec["version"], resource.spec["compatibility"]
    match verdict:
        case "First":
            return f"{version} is the first version"
        case "Unchecked":
            return f"{version} is accepted unchecked"
        case "Compatible":
            return f"{version} is {mode} compatible"
    first = f"{broken[0].term}: {broken[0].change}"
    if verdict == "Overridden":
        return f"{version} breaks {mode} and is accepted: {resource.spec['override']['reason']}"[:1000]
    return f"{version} must be {mode} compatible: {len(broken)} changes break it, first {first}"[:1000]


def _event(
    ports: Ports,
    resource: Resource,
    digest: str,
    verdict: str,
    now: str,
    message: str,
    compared: Sequence[Compared],
    broken: Sequence[SchemaChange],
) -> PolicyEvent:
    subject = (f"schema/{resource.namespace}/{resource.name}@{resource.spec['version']}", digest)
    evidence: dict[str, Any] = {
        "mode": resource.spec["compatibility"],
        "verdict": verdict,
        "generation": resource.generation,
        "against": {one.against: one.digest for one in compared},
        "broken": len(broken),
        "changes": [f"{c.term}: {c.change}"[:256] for c in broken[:16]],
    }
    kind = "SchemaRejected" if verdict == "Incompatible" else "SchemaAccepted"
    return PolicyEvent(kind, subject, ports.actor, now, reason=message, evidence=evidence)


def _kept(resource: Resource) -> dict[str, Any]:
    return {k: v for k, v in resource.status.items() if k not in ("conditions", "observedGeneration")}
