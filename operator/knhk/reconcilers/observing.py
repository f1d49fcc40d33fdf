"""What is known of a revision at one moment: gathered once, from the store, the documents that are out and what agents tell."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from knhk.api import is_selected, with_hooks
from knhk.api.conditions import ready_of
from knhk.decide.rollout import Facts, Instances, orders, short_of
from knhk.model.faults import Corrupt, KnhkError, NotFound, Refused
from knhk.model.phases import Arm, Phase, Rolling
from knhk.model.resource import Key, Resource
from knhk.model.rollout import PairStats, pair_stats
from knhk.model.times import from_rfc3339_ns
from knhk.model.trust import Authors
from knhk.ports.fleet import Statistics
from knhk.reconcilers.approvals import approvals_of
from knhk.reconcilers.bundles import is_published, refusal
from knhk.reconcilers.context import Ports
from knhk.reconcilers.documents import order_of, published, salt_of
from knhk.reconcilers.flags import switched_at
from knhk.reconcilers.hooks import is_indexed
from knhk.reconcilers.loosening import rollout_of
from knhk.reconcilers.plans import Plans
from knhk.reconcilers.points import owner_of, untold
from knhk.reconcilers.provenance import authors_of
from knhk.reconcilers.revisions import abort_asked, denied
from knhk.reconcilers.schemas import is_accepted


@dataclass(frozen=True)
class Seen:
    """Facts, and what keeps a revision from going forward though it may always go back; empty when nothing does."""

    facts: Facts
    unread: str = ""


@dataclass
class Observer:
    """Gathers facts; remembers only what never changes."""

    ports: Ports
    plans: Plans

    def bundles(self, pack: Resource) -> tuple[tuple[Resource, ...], str]:
        """The DataBundles that a pack reads, and why it cannot be proven with them yet: what they say now must be published. Empty when it
        can."""
        found: list[Resource] = []
        for row in pack.spec["dataBundles"]:
            name = f"DataBundle {pack.namespace}/{row['name']}"
            try:
                bundle = self.ports.store.get(Key("DataBundle", pack.namespace, row["name"]))
            except NotFound:
                return (), f"{name} must be there; apply it"
            refused = refusal(bundle)
            if refused or not is_published(bundle):
                return (), f"{name} must be mended: {refused}" if refused else f"{name} must be published first"
            found.append(bundle)
        return tuple(found), ""

    def schemas(self, pack: Resource) -> tuple[tuple[dict[str, str], ...], str]:
        """Name and digest of the SchemaVersions that a pack names, and why it cannot be built with them yet."""
        found = []
        for row in pack.spec.get("schemas", ()):
            name = f"SchemaVersion {pack.namespace}/{row['name']}"
            schema = self._get("SchemaVersion", pack.namespace, row["name"])
            if schema is None:
                return (), f"{name} must be there; apply it"
            if not is_accepted(schema):
                return (), f"{name} must be accepted first{_because(schema)}"
            found.append({"name": row["name"], "digest": schema.status["digest"]})
        return tuple(found), ""

    def hooked(self, pack: Resource) -> tuple[Resource, tuple[str, ...], str]:
        """The pack with the sources of its hooks, their names, and why it cannot be built with them yet."""
        registries = {}
        for selector in pack.spec.get("hooks", ()):
            name = f"HookRegistry {pack.namespace}/{selector['registry']}"
            registry = self._get("HookRegistry", pack.namespace, selector["registry"])
            if registry is None:
                return pack, (), f"{name} must be there; apply it"
            if not is_indexed(registry):
                return pack, (), f"{name} must be indexed first{_because(registry)}"
            if not any(is_selected(hook, selector) for hook in registry.spec["hooks"]):
                return pack, (), f"{name} must have a hook that the pack selects"
            registries[selector["registry"]] = registry
        whole, names = with_hooks(pack, registries)
        return whole, names, ""

    def _get(self, kind: str, namespace: str, name: str) -> Resource | None:
        try:
            return self.ports.store.get(Key(kind, namespace, name))
        except NotFound:
            return None

    def blocked(self, pack: Resource) -> str:
        """Why a signed pack cannot start yet; empty when it can."""
        for row in pack.spec["dataBundles"]:
            try:
                bundle = self.ports.store.get(Key("DataBundle", pack.namespace, row["name"]))
            except NotFound:
                return f"DataBundle {pack.namespace}/{row['name']} must be there; apply it"
            if "image" not in bundle.status:
                return f"DataBundle {pack.namespace}/{row['name']} must be published first"
        for row in pack.spec["targets"]:
            point = point_of(self.ports, pack.namespace, row["point"])
            if point is None:
                return f"EnforcementPoint {pack.namespace}/{row['point']} must be there; apply it"
            if (held := untold(self.ports, point)) is not None:
                return f"EnforcementPoint {pack.namespace}/{row['point']} must count first: {held.why}"
            owner = owner_of(self.ports, point)
            if owner is not None and owner.name != pack.name:
                return f"EnforcementPoint {pack.namespace}/{row['point']} must be free: PolicyPack {owner.name} has it"
        return ""

    def _mine(self, pack: Resource) -> list[Resource]:
        """Points that the spec targets, that are there, that are told anything and that no other pack has."""
        found = (point_of(self.ports, pack.namespace, row["point"]) for row in pack.spec["targets"])
        owned = ((point, owner_of(self.ports, point)) for point in found if point is not None and untold(self.ports, point) is None)
        return [point for point, owner in owned if owner is None or owner.name == pack.name]

    def look(self, pack: Resource, phase: Phase) -> Seen:
        """Gathers the facts. A point that is gone, or that another pack has, is as it should be and tells nothing."""
        revision = pack.status["revision"]
        live, enforced = (pack.status.get("live") or {}).get("digest"), (pack.status.get("live") or {}).get("points", ())
        digest = revision.get("digest", "")
        rolling = Rolling(revision["stage"], Arm(revision["arm"]), revision["step"]) if "arm" in revision else None
        mine = self._mine(pack)
        guards, unread = self._guards(pack)
        held = {f"{one.namespace}/{one.name}": switched_at(self.ports, one, pack.name).held for one in mine}
        spec = rollout_of(pack, guards)
        asks = any(stage.approvals is not None for stage in spec.stages)
        joining = _joining(pack) if digest and digest == live else ()
        present = {*joining, *(spec.stages[rolling.stage].points if rolling is not None else ())}
        facts = Facts(
            phase=phase,
            digest=digest,
            spec=spec,
            now_ns=self.ports.clock.now_ns(),
            entered_ns=from_rfc3339_ns(revision["phaseSince"]),
            rolling=rolling,
            pairs_at_start=revision.get("pairsAtStart", 0),
            deny_list=denied(pack.status, pack.generation),
            abort=abort_asked(pack),
            held={point: why for point, why in held.items() if why and point in present},
            authors=authors_of(self.ports.store, self.ports.trusts, pack) if asks else Authors(),
            approved=approvals_of(self.ports, pack, digest) if asks else (),
            waves={f"{pack.namespace}/{row['point']}": row["below"] for row in revision.get("waves", ())},
            joining=joining,
        )
        documents = {order.point: order for order in orders(facts)}
        stats, instances = dict[str, PairStats](), dict[str, Instances]()
        for point in held:
            document = published(self.ports, point)
            order = order_of(document, point, digest)
            wanted = documents.pop(point, None)
            if order is not None:
                same = wanted is not None and digest == live  # before and after are the same bytes
                documents[point] = replace(order, stable=wanted.stable) if same and wanted is not None else order
            try:
                told = self.ports.fleet.statistics(point) if rolling is not None or phase is Phase.SIGNED else None
                if told is not None:
                    stats[point] = pair_stats(told.document, live if point.partition("/")[2] in enforced else None, digest)
                    instances[point] = instances_at(point, digest, told)
                unread = behind(point, rolling is not None, document, told) or unread
            except (Corrupt, Refused) as error:
                unread = f"the statistics of EnforcementPoint {point} must be readable: {error}"
        facts = replace(facts, stats=stats, published=documents, instances=instances)
        return Seen(facts, unread or next(short_of(facts), ""))

    def guard_ids(self, digest: str | None) -> tuple[str, ...]:
        """Ids of the guards of a published pack; none for no pack."""
        return tuple(self.plans.of(digest).guards) if digest else ()

    def _guards(self, pack: Resource) -> tuple[tuple[str, ...], str]:
        """Ids of the guards of what is live and of what is worked on, and why they are not known. Then there are as many as the status
        says, of no names: the judge splits its error over them, so that it still takes back what is worse, and nothing that is not."""
        parts = [part for part in (pack.status.get("live"), pack.status["revision"]) if part and "digest" in part]
        try:
            return tuple(name for part in parts for name in self.guard_ids(part["digest"])), ""
        except (KnhkError, OSError) as error:
            nameless = tuple(f"{part['digest']} {i}" for part in parts for i in range(part.get("guards", 0)))
            return nameless, f"the images of {pack.key} must be readable: {error}"


def point_of(ports: Ports, namespace: str, name: str) -> Resource | None:
    """The EnforcementPoint, None when it is not there."""
    try:
        return ports.store.get(Key("EnforcementPoint", namespace, name))
    except NotFound:
        return None


def _joining(pack: Resource) -> tuple[str, ...]:
    """Points that the spec targets and that do not have what is live."""
    return tuple(f"{pack.namespace}/{row['point']}" for row in pack.spec["targets"] if row["point"] not in pack.status["live"]["points"])


def _because(resource: Resource) -> str:
    """Why an object is not ready; nothing while it is worked on."""
    ready = ready_of(resource.status)
    return f": {ready['message']}" if ready.get("status") == "False" else ""


def instances_at(point: str, digest: str, told: Statistics) -> Instances:
    """Who runs a point. While some of its pods were not heard of yet nobody is known; a process of this machine has the point's name."""
    found = told.document.get("instances")
    if not found:
        return Instances(salt_of(point, digest), (point,), int(told.document.get("inWave") is True))
    ids = tuple(found.get("ids", ())) if found.get("settled") else ()
    return Instances(salt_of(point, digest), ids, int(found.get("inWave") or 0))


def behind(point: str, rolling: bool, document: Mapping[str, Any] | None, told: Statistics | None) -> str:
    """Why the counts of a point say nothing of the present step yet; empty when they do. Steps forward wait for it, rollbacks do not."""
    if told is None:
        return f"EnforcementPoint {point} must run: its agent has told nothing yet" if rolling else ""
    if told.document.get("counted") is False:
        return f"EnforcementPoint {point} counts again after a restart"
    if rolling and document is not None and told.document.get("epoch") != document["epoch"]:
        return f"EnforcementPoint {point} must run epoch {document['epoch']}, it runs {told.document.get('epoch')}"
    return ""
