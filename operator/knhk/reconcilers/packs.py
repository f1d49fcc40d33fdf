"""PolicyPack: from a spec to a revision that is live everywhere, or back. Gathers facts, asks `decide`, does the one action."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import Executor, Future
from dataclasses import dataclass, field, replace
from typing import Any

from knhk.api import to_rollout, to_sources
from knhk.decide.rollout import (
    Abort,
    Action,
    Advance,
    Facts,
    Promote,
    Publish,
    Resume,
    RollBack,
    Stall,
    Start,
    Supersede,
    Wait,
    deadline_ns,
    decide,
)
from knhk.lockchain import PolicyEvent
from knhk.model.arrows import SignedPack
from knhk.model.faults import KnhkError, NotFound, Refused, Waiting
from knhk.model.oci import PACK_PLAN
from knhk.model.phases import WORKING, Arm, Event, Phase, Rolling, move
from knhk.model.resource import Key, Resource
from knhk.model.rollout import Finding, PairStats, RolloutSpec, Verdict, pair_stats
from knhk.reconcilers.building import build
from knhk.reconcilers.context import NO_DIGEST, Journal, Ports, from_rfc3339_ns, rfc3339, rfc3339_ns, say, write_status
from knhk.reconcilers.documents import order_of, pack_reference, published
from knhk.reconcilers.points import PointReconciler, assignment_of, packs_of
from knhk_runtime.layout import children, parse_object

ABORT = "knhk.dev/abort"
JUDGE_EVERY_S = 0.1
WAIT_FOR_DATA_S = 0.5
MAX_HISTORY, MAX_DENIED = 16, 32

Revision = dict[str, Any]


def guard_ids(ports: Ports, digest: str | None) -> tuple[str, ...]:
    """Ids of the guards of a published pack, out of its plan; none for no pack."""
    if digest is None:
        return ()
    index = parse_object(ports.registry.read(digest), digest)
    manifest = parse_object(ports.registry.read(children(index, digest)[0].digest), digest)
    plan = next(layer for layer in children(manifest, digest) if layer.media_type == PACK_PLAN)
    document = parse_object(ports.registry.read(plan.digest), plan.digest)
    return tuple(guard["id"] for guard in document["guards"])


@dataclass
class PackReconciler:
    """`executor` runs builds, so that a long one never delays a rollback."""

    ports: Ports
    journal: Journal
    points: PointReconciler
    executor: Executor
    _builds: dict[tuple[Key, int], Future[SignedPack]] = field(default_factory=dict)

    def converge(self, pack: Resource) -> float | None:
        """One step of the present revision. Gives seconds until the next look, None when only a change can matter."""
        if pack.status.get("revision", {}).get("generation") != pack.generation:
            return self._begin(pack)
        phase = Phase(pack.status["revision"]["phase"])
        if phase in (Phase.PENDING, Phase.COMPILED, Phase.BUILT):
            return self._build(pack)
        return self._judge(pack, phase)

    # ---- from spec to signed pack --------------------------------------------------------------

    def _begin(self, pack: Resource) -> float:
        """A new generation of the spec: what rolled is superseded, points go back to what is live, work begins."""
        status = dict(pack.status)
        old = status.get("revision")
        if old and Phase(old["phase"]) in (*WORKING, Phase.STALLED):
            status = self._ended(status, Phase.RETIRED, f"superseded by {pack.spec['version']}")
            if "digest" in old:
                self._append(pack, old, Event.SUPERSEDED, reason=f"by version {pack.spec['version']}")
        now = self.ports.clock.now_ns()
        status["revision"] = {
            "version": pack.spec["version"],
            "generation": pack.generation,
            "phase": Phase.PENDING.value,
            "phaseSince": rfc3339_ns(now),
        }
        status.pop("faults", None)
        self._write(pack, status, None, "Pending", f"{pack.spec['version']} is to be compiled")
        return 0.0

    def _build(self, pack: Resource) -> float | None:
        key = (pack.key, pack.generation)
        future = self._builds.get(key)
        if future is None:
            self._builds = {k: f for k, f in self._builds.items() if k[0] != pack.key}
            self._builds[key] = self.executor.submit(self._made, pack)
            return JUDGE_EVERY_S / 2
        if not future.done():
            return JUDGE_EVERY_S / 2
        del self._builds[key]
        try:
            signed = future.result()
        except Refused as refused:
            return self._refused(pack, refused)
        except Waiting as waiting:
            self._write(pack, pack.status, None, waiting.reason, str(waiting))
            return waiting.retry_after_s
        except KnhkError as error:
            return self._stalled(pack, getattr(error, "reason", type(error).__name__), str(error))
        return self._built(pack, signed)

    def _made(self, pack: Resource) -> SignedPack:
        steps = build(to_sources(pack), self.ports.compiler, self.ports.registry, self.ports.signer)
        while True:
            try:
                next(steps)
            except StopIteration as stop:
                signed: SignedPack = stop.value
                return signed

    def _built(self, pack: Resource, signed: SignedPack) -> float:
        """The three events of a finished build, then phase Signed."""
        image = signed.image
        revision = dict(pack.status["revision"])
        revision |= {"digest": image.digest, "planDigest": image.plan_digest, "guards": len(guard_ids(self.ports, image.digest))}
        evidence = {
            Event.COMPILED: {"plan": image.plan_digest, "guards": revision["guards"]},
            Event.BUILT: {"image": image.digest},
            Event.SIGNED: {"keyid": signed.keyid},
        }
        for event, facts in evidence.items():
            self._append(pack, revision, event, evidence=facts)
            revision = self._moved(revision, event)
        self._write(pack, {**pack.status, "revision": revision}, None, "Signed", f"{image.version} is signed, {image.digest[:19]}…")
        return 0.0

    def _refused(self, pack: Resource, refused: Refused) -> None:
        faults = [{"where": f.where[:512], "value": f.value[:512], "must": f.must[:1024]} for f in refused.faults[:64]]
        revision = self._moved(dict(pack.status["revision"]), Event.REFUSED)
        message = f"{len(refused.faults)} faults; {faults[0]['where']}: {faults[0]['value']}: {faults[0]['must']}"
        self._append(pack, revision, Event.REFUSED, reason=message[:1000])
        self._write(pack, {**pack.status, "revision": revision, "faults": faults}, False, "Refused", message)

    def _stalled(self, pack: Resource, reason: str, message: str) -> None:
        revision = self._moved(dict(pack.status["revision"]), Event.STALLED)
        revision["reason"] = message[:1024]
        self._append(pack, revision, Event.STALLED, reason=message[:1000])
        self._write(pack, {**pack.status, "revision": revision}, False, reason, message)

    # ---- rolling out ---------------------------------------------------------------------------

    def _judge(self, pack: Resource, phase: Phase) -> float | None:
        blocked = self._blocked(pack) if phase is Phase.SIGNED else ""
        if blocked:
            self._write(pack, pack.status, None, "Waiting", blocked)
            return WAIT_FOR_DATA_S
        facts = self._facts(pack, phase)
        action = decide(facts)
        if isinstance(action, Wait):
            return self._waits(pack, facts, action)
        self._act(pack, facts, action)
        return 0.0

    def _blocked(self, pack: Resource) -> str:
        """Why a signed pack cannot start yet; empty when it can."""
        for row in pack.spec["dataBundles"]:
            try:
                bundle = self.ports.store.get(Key("DataBundle", pack.namespace, row["name"]))
            except NotFound:
                return f"DataBundle {pack.namespace}/{row['name']} must be there; apply it"
            if "image" not in bundle.status:
                return f"DataBundle {pack.namespace}/{row['name']} must be published first"
        for row in pack.spec["targets"]:
            point = self._point(pack, row["point"])
            if point is None:
                return f"EnforcementPoint {pack.namespace}/{row['point']} must be there; apply it"
            first = packs_of(self.ports, point)[0]
            if first.name != pack.name:
                return f"EnforcementPoint {pack.namespace}/{row['point']} must be free: PolicyPack {first.name} has it"
        return ""

    def _point(self, pack: Resource, name: str) -> Resource | None:
        try:
            return self.ports.store.get(Key("EnforcementPoint", pack.namespace, name))
        except NotFound:
            return None

    def _facts(self, pack: Resource, phase: Phase) -> Facts:
        revision = pack.status["revision"]
        live = (pack.status.get("live") or {}).get("digest")
        digest = revision.get("digest", "")
        rolling = None
        if "arm" in revision:
            rolling = Rolling(revision["stage"], Arm(revision["arm"]), revision["step"])
        orders, stats = {}, {}
        for name in (row["point"] for row in pack.spec["targets"]):
            point = f"{pack.namespace}/{name}"
            order = order_of(published(self.ports, point), point, digest)
            if order is not None:
                orders[point] = order
            if rolling is not None and (told := self.ports.fleet.statistics(point)) is not None:
                stats[point] = pair_stats(told.document, live, digest)
        return Facts(
            phase=phase,
            digest=digest,
            spec=self._spec(pack, live, digest),
            now_ns=self.ports.clock.now_ns(),
            entered_ns=from_rfc3339_ns(revision["phaseSince"]),
            rolling=rolling,
            pairs_at_start=revision.get("pairsAtStart", 0),
            stats=stats,
            published=orders,
            deny_list=_denied(pack.status, pack.generation),
            abort=pack.annotations.get(ABORT, ""),
        )

    def _spec(self, pack: Resource, live: str | None, digest: str) -> RolloutSpec:
        return to_rollout(pack, (*guard_ids(self.ports, live), *guard_ids(self.ports, digest or None)))

    def _waits(self, pack: Resource, facts: Facts, action: Wait) -> float | None:
        if facts.phase in (Phase.ROLLING, Phase.STALLED) and facts.rolling is not None:
            revision = dict(pack.status["revision"])
            revision["pairs"] = sum(s.pairs for s in facts.stats.values())
            ready = None if facts.phase is Phase.ROLLING else False
            self._write(pack, {**pack.status, "revision": revision}, ready, action.reason.capitalize(), self._progress(revision, facts))
        return JUDGE_EVERY_S if facts.phase in (*WORKING, Phase.STALLED) else None

    def _progress(self, revision: Mapping[str, Any], facts: Facts) -> str:
        seen = max(0, revision.get("pairs", 0) - revision.get("pairsAtStart", 0))
        assert facts.rolling is not None
        stage = facts.spec.stages[facts.rolling.stage]
        if facts.rolling.arm is Arm.SHADOW:
            return f"{stage.name}: shadow, {seen} of {stage.shadow_min_pairs} pairs judged"
        step = stage.steps[facts.rolling.step]
        return f"{stage.name}: canary {step.weight} %, {seen} of {step.min_pairs} pairs judged"

    def _act(self, pack: Resource, facts: Facts, action: Action) -> None:
        match action:
            case Start(rolling):
                self._roll(pack, facts, Event.ROLLOUT_STARTED, rolling, None)
            case Advance(rolling, verdict):
                self._roll(pack, facts, Event.STEP_ADVANCED, rolling, verdict)
            case Resume(rolling):
                self._roll(pack, facts, Event.RESUMED, rolling, None)
            case Promote(verdict):
                self._promote(pack, facts, verdict)
            case RollBack(finding):
                self._end(pack, facts, Event.ROLLED_BACK, "RolledBack", str(finding), finding)
            case Abort(reason, message, _):
                self._end(pack, facts, Event.ABORTED, reason, message, None)
            case Stall(reason, message):
                self._hold(pack, facts, reason, message)
            case Publish():
                self._bring(pack, None)
            case Supersede() | Wait():
                raise AssertionError(f"{action}: a newer generation supersedes in _begin")

    def _roll(self, pack: Resource, facts: Facts, event: Event, rolling: Rolling, verdict: Verdict | None) -> None:
        stage = facts.spec.stages[rolling.stage]
        weight = stage.steps[rolling.step].weight if rolling.arm is Arm.CANARY else 0
        pairs = sum(s.pairs for s in facts.stats.values())
        revision = self._moved(dict(pack.status["revision"]), event)
        revision |= {"stage": rolling.stage, "arm": rolling.arm.value, "step": rolling.step, "weight": weight}
        revision |= {"pairsAtStart": pairs, "pairs": pairs}
        after = replace(facts, phase=Phase.ROLLING, rolling=rolling, entered_ns=from_rfc3339_ns(revision["phaseSince"]))
        until = deadline_ns(after)
        if until is not None:
            revision["deadline"] = rfc3339(until)
        epoch = self._append(pack, revision, event, stage=stage.name, evidence=_evidence(facts.stats, verdict))
        pack = self._write(pack, {**pack.status, "revision": revision}, None, "Rolling", self._progress(revision, after))
        self._bring(pack, epoch)
        say(self.ports, pack.key, event.value, self._progress(revision, after))

    def _promote(self, pack: Resource, facts: Facts, verdict: Verdict) -> None:
        revision = self._moved(dict(pack.status["revision"]), Event.PROMOTED)
        for name in ("stage", "arm", "step", "weight", "deadline"):
            revision.pop(name, None)
        epoch = self._append(pack, revision, Event.PROMOTED, evidence=_evidence(facts.stats, verdict))
        status = dict(pack.status)
        if live := status.get("live"):
            status = _remember(status, live, Phase.RETIRED, f"{revision['version']} was promoted", rfc3339(facts.now_ns))
        status |= {"live": revision, "revision": revision}
        message = f"{revision['version']} is live"
        pack = self._write(pack, status, True, "Live", message)
        self._bring(pack, epoch)
        say(self.ports, pack.key, "Promoted", message)

    def _end(self, pack: Resource, facts: Facts, event: Event, reason: str, message: str, finding: Finding | None) -> None:
        """Rollback or abort: previous packs everywhere, the digest denied. The judge's time is in the evidence."""
        revision = self._moved(dict(pack.status["revision"]), event)
        revision["reason"] = message[:1024]
        evidence: dict[str, Any] = {"judgedNs": str(facts.now_ns)}
        if finding is not None:
            evidence["finding"] = finding.document()
            revision["findings"] = [finding.document()]
        revision["judged"] = rfc3339_ns(facts.now_ns)
        for name in ("arm", "step", "weight", "deadline"):
            revision.pop(name, None)
        epoch = self._append(pack, revision, event, reason=message[:1000], evidence=evidence)
        status = {**pack.status, "revision": revision}
        if digest := revision.get("digest"):
            entry = {"digest": digest, "generation": pack.generation, "reason": f"{event.value}: {message}"[:1024]}
            known = [row for row in pack.status.get("denyList", []) if row["digest"] != digest]
            status["denyList"] = [entry, *known][:MAX_DENIED]
        status = _remember(status, revision, Phase(revision["phase"]), message, rfc3339(facts.now_ns))
        pack = self._write(pack, status, False, reason, message)
        self._bring(pack, epoch)
        self._answered(pack)
        say(self.ports, pack.key, event.value, message, warning=True)

    def _answered(self, pack: Resource) -> None:
        """Takes the request to abort away, so that it does not meet the next version."""
        if ABORT in pack.annotations:
            left = {k: v for k, v in pack.annotations.items() if k != ABORT}
            self.ports.store.update(replace(pack, annotations=left))

    def _hold(self, pack: Resource, facts: Facts, reason: str, message: str) -> None:
        revision = self._moved(dict(pack.status["revision"]), Event.STALLED)
        revision["reason"] = message[:1024]
        self._append(pack, revision, Event.STALLED, reason=message[:1000], evidence=_evidence(facts.stats, None))
        self._write(pack, {**pack.status, "revision": revision}, False, reason, message)
        say(self.ports, pack.key, reason, message, warning=True)

    # ---- shared --------------------------------------------------------------------------------

    def _bring(self, pack: Resource, epoch: int | None) -> None:
        """Publishes what the points of the pack must run now."""
        for row in pack.spec["targets"]:
            point = self._point(pack, row["point"])
            if point is not None:
                self.points.bring(point, assignment_of(self.ports, point, pack), "Published", epoch)

    def _moved(self, revision: Revision, event: Event) -> Revision:
        phase = move(Phase(revision["phase"]), event)
        return {**revision, "phase": phase.value, "phaseSince": rfc3339_ns(self.ports.clock.now_ns())}

    def _ended(self, status: dict[str, Any], phase: Phase, reason: str) -> dict[str, Any]:
        return _remember(status, status["revision"], phase, reason, rfc3339(self.ports.clock.now_ns()))

    def _append(
        self,
        pack: Resource,
        revision: Mapping[str, Any],
        event: Event,
        stage: str = "",
        reason: str = "",
        evidence: Mapping[str, Any] | None = None,
    ) -> int:
        digest = revision.get("digest", f"sha256:{NO_DIGEST}")
        made = PolicyEvent(
            kind=event.value,
            subject=(f"pack/{pack.namespace}/{pack.name}@{revision['version']}", digest.removeprefix("sha256:")),
            actor=self.ports.actor,
            time=rfc3339(self.ports.clock.now_ns()),
            pack=pack_reference(pack.namespace, pack.name, revision["version"], digest),
            stage=stage,
            arm=revision.get("arm", ""),
            step=revision.get("step"),
            weight=revision.get("weight"),
            reason=reason,
            evidence=evidence or {},
        )
        return self.journal.append(made, pack.namespace)

    def _write(self, pack: Resource, status: Mapping[str, Any], ready: bool | None, reason: str, message: str) -> Resource:
        return write_status(self.ports, pack, status, ready, reason, message)


def _evidence(stats: Mapping[str, PairStats], verdict: Verdict | None) -> dict[str, Any]:
    found: dict[str, Any] = {
        "pairs": sum(s.pairs for s in stats.values()),
        "clusters": sum(s.clusters for s in stats.values()),
        "errors": sum(s.errors for s in stats.values()),
    }
    if verdict is not None:
        found["verdict"] = verdict.outcome.value
        found["findings"] = [finding.document() for finding in verdict.findings]
    return found


def _denied(status: Mapping[str, Any], generation: int) -> frozenset[str]:
    """Digests not to be tried: rolled back ever, or aborted in this generation of the spec."""
    rows = status.get("denyList", [])
    return frozenset(r["digest"] for r in rows if r["reason"].startswith(Event.ROLLED_BACK.value) or r["generation"] == generation)


def _remember(status: Mapping[str, Any], revision: Mapping[str, Any], outcome: Phase, reason: str, time: str) -> dict[str, Any]:
    row = {"version": revision["version"], "outcome": outcome.value, "time": time, "reason": reason[:1024]}
    if "digest" in revision:
        row["digest"] = revision["digest"]
    return {**status, "history": [row, *status.get("history", [])][:MAX_HISTORY]}
