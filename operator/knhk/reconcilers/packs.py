"""PolicyPack: from a spec to a revision that is live everywhere, or back. Gathers facts, asks `decide`, does the one action."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
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
    orders,
    refitted,
    weight_of,
)
from knhk.lockchain import PolicyEvent
from knhk.model.arrows import SignedPack
from knhk.model.canonical import canonical, sha256_hex
from knhk.model.faults import Corrupt, KnhkError, NotFound, Refused, Waiting
from knhk.model.oci import PACK_PLAN
from knhk.model.phases import DEADLINES_S, WORKING, Arm, Event, Phase, Rolling, move
from knhk.model.resource import Key, Resource
from knhk.model.rollout import Finding, PairStats, RolloutSpec, Verdict, pair_stats
from knhk.ports.fleet import Statistics
from knhk.reconcilers.building import build
from knhk.reconcilers.context import NO_DIGEST, Journal, Ports, fault_rows, from_rfc3339_ns, rfc3339, rfc3339_ns, say, write_status
from knhk.reconcilers.documents import order_of, pack_reference, published
from knhk.reconcilers.points import PointReconciler, assignment_of, owner_of, rolls
from knhk_runtime.layout import children, parse_object

ABORT = "knhk.dev/abort"
JUDGE_EVERY_S = 0.1
WAIT_FOR_DATA_S = 0.5
LOOK_AT_REST_S = 1.0
MAX_HISTORY, MAX_DENIED = 16, 32
BUILDING = (Phase.PENDING, Phase.COMPILED, Phase.BUILT)
BUILD_WITHIN_S = sum(DEADLINES_S[phase] or 0.0 for phase in BUILDING)
_STEP = ("arm", "step", "weight", "deadline")  # members of a revision that rolls

Revision = dict[str, Any]


def guard_ids(ports: Ports, digest: str | None) -> tuple[str, ...]:
    """Ids of the guards of a published pack, out of its plan; none for no pack."""
    if digest is None:
        return ()
    index = parse_object(ports.registry.read(digest), digest)
    manifest = parse_object(ports.registry.read(next(iter(children(index, digest))).digest), digest)
    plan = next(layer for layer in children(manifest, digest) if layer.media_type == PACK_PLAN)
    document = parse_object(ports.registry.read(plan.digest), plan.digest)
    return tuple(guard["id"] for guard in document["guards"])


@dataclass(frozen=True)
class _Build:
    future: Future[SignedPack]
    until_s: float


@dataclass(frozen=True)
class _Seen:
    """Facts, and what keeps a revision from going forward though it may always go back; empty when nothing does."""

    facts: Facts
    unread: str = ""


@dataclass
class PackReconciler:
    """`executor` runs builds, so that a long one never delays a rollback.

    Every move is one write of the status together with its policy event; log and documents follow from that status, now or after
    a crash."""

    ports: Ports
    journal: Journal
    points: PointReconciler
    executor: Executor
    _builds: dict[tuple[Key, str], _Build] = field(default_factory=dict)
    _guards: dict[str, tuple[str, ...]] = field(default_factory=dict)

    def converge(self, pack: Resource) -> float | None:
        """One step of the present revision. Gives seconds until the next look, None when only a change can matter."""
        self.journal.deliver(pack)
        revision = pack.status.get("revision")
        if revision is None or revision["generation"] != pack.generation:
            return self._adopt(pack) if revision is not None and _goes_on(pack, revision) else self._begin(pack)
        phase = Phase(revision["phase"])
        if ABORT in pack.annotations and (phase not in (*WORKING, Phase.STALLED) or not abort_asked(pack)):
            return self._answered(pack)
        if phase in BUILDING:
            return self._build(pack)
        return self._judge(pack, phase)

    def gone(self, pack: Resource) -> None:
        """Forgets a deleted pack. Its points take back what they had without it, by themselves."""
        self._forget_builds(pack)

    # ---- from spec to signed pack --------------------------------------------------------------

    def _adopt(self, pack: Resource) -> float:
        """The spec changed in nothing that the revision is made of (a deadline, suspend …): it goes on, with a whole deadline."""
        now = rfc3339_ns(self.ports.clock.now_ns())
        revision = {**pack.status["revision"], "generation": pack.generation, "phaseSince": now}
        revision |= _refitted(pack, revision) if "arm" in revision else {}
        revision.pop("deadline", None)
        ready = {Phase.LIVE: True, Phase.STALLED: False}.get(Phase(revision["phase"]))
        self._write(pack, {**pack.status, "revision": revision}, ready, revision["phase"], "goes on with the changed spec")
        return 0.0

    def _begin(self, pack: Resource) -> float:
        """A new generation of the spec: what rolled is superseded, points go back to what is live, work begins."""
        status, old = dict(pack.status), pack.status.get("revision")
        events = []
        if old and Phase(old["phase"]) in (*WORKING, Phase.STALLED):
            reason = f"superseded by {pack.spec['version']}"
            status = _remember(status, old, Phase.RETIRED, reason, rfc3339(self.ports.clock.now_ns()))
            if "digest" in old:
                events = [self._event(pack, old, Event.SUPERSEDED, reason=reason)]
        status["revision"] = {
            "version": pack.spec["version"],
            "generation": pack.generation,
            "phase": Phase.PENDING.value,
            "phaseSince": rfc3339_ns(self.ports.clock.now_ns()),
            "inputs": inputs_of(pack),
            "points": [row["point"] for row in pack.spec["targets"]],
        }
        for row in pack.spec["dataBundles"][:1]:
            status["revision"]["data"] = row["name"]
        status.pop("faults", None)
        self._forget_builds(pack)
        pack = self._write(pack, self.journal.pend(status, *events), None, "Pending", f"{pack.spec['version']} is to be compiled")
        if old and rolls(old):
            self._bring(pack, old["points"])
        return 0.0

    def _build(self, pack: Resource) -> float | None:
        if reason := abort_asked(pack):
            self._forget_builds(pack)
            self._end(pack, Event.ABORTED, "AbortRequested", reason)
            return 0.0
        key = (pack.key, pack.status["revision"]["inputs"])
        running = self._builds.get(key)
        now_s = self.ports.clock.monotonic_ns() / 1e9
        if running is None:
            running = self._builds[key] = _Build(self.executor.submit(self._made, pack), now_s + BUILD_WITHIN_S)
        if not running.future.done():
            if now_s < running.until_s:
                return JUDGE_EVERY_S / 2
            self._forget_builds(pack)
            return self._stalled(pack, "DeadlineExceeded", f"the build took longer than {BUILD_WITHIN_S:g} s")
        del self._builds[key]
        return self._finished(pack, running.future)

    def _finished(self, pack: Resource, future: Future[SignedPack]) -> float | None:
        try:
            signed = future.result()
        except Refused as refused:
            return self._refused(pack, refused)
        except Waiting as waiting:
            self._write(pack, pack.status, None, waiting.reason, str(waiting))
            return waiting.retry_after_s
        except OSError as error:
            self._write(pack, pack.status, None, "BuildFailed", f"{error}; it is tried again")
            return LOOK_AT_REST_S
        except KnhkError as error:
            return self._stalled(pack, getattr(error, "reason", type(error).__name__), str(error))
        return self._built(pack, signed)

    def _forget_builds(self, pack: Resource) -> None:
        """A build that runs already ends by itself; what it publishes is signed and unused."""
        for key in [key for key in self._builds if key[0] == pack.key]:
            self._builds.pop(key).future.cancel()

    def _made(self, pack: Resource) -> SignedPack:
        steps = build(to_sources(pack), self.ports.compiler, self.ports.registry, self.ports.signer)
        while True:
            try:
                next(steps)
            except StopIteration as stop:
                signed: SignedPack = stop.value
                return signed

    def _built(self, pack: Resource, signed: SignedPack) -> float:
        """The three events of a finished build and phase Signed, in one write."""
        image = signed.image
        revision = dict(pack.status["revision"])
        revision |= {"digest": image.digest, "planDigest": image.plan_digest, "guards": len(self._guard_ids(image.digest))}
        evidence: dict[Event, dict[str, Any]] = {
            Event.COMPILED: {"plan": image.plan_digest, "guards": revision["guards"]},
            Event.BUILT: {"image": image.digest},
            Event.SIGNED: {"keyid": signed.keyid},
        }
        events = []
        for event, facts in evidence.items():
            events.append(self._event(pack, revision, event, evidence=facts))
            revision = self._moved(revision, event)
        status = self.journal.pend({**pack.status, "revision": revision}, *events)
        self._write(pack, status, None, "Signed", f"{image.version} is signed, {image.digest[:19]}…")
        return 0.0

    def _refused(self, pack: Resource, refused: Refused) -> float:
        rows, message = fault_rows(refused)
        return self._rest(pack, Event.REFUSED, "Refused", message, {**pack.status, "faults": rows})

    def _stalled(self, pack: Resource, reason: str, message: str) -> float:
        return self._rest(pack, Event.STALLED, reason, message, pack.status)

    def _rest(
        self,
        pack: Resource,
        event: Event,
        reason: str,
        message: str,
        status: Mapping[str, Any],
        evidence: Mapping[str, Any] | None = None,
    ) -> float:
        """Phase Stalled: a person must act. A rollout stays where it is."""
        revision = self._moved(dict(pack.status["revision"]), event) | {"reason": message[:1024]}
        revision.pop("deadline", None)
        made = self._event(pack, revision, event, reason=message[:1000], evidence=evidence)
        pack = self._write(pack, self.journal.pend({**status, "revision": revision}, made), False, reason, message)
        say(self.ports, pack.key, reason, message, warning=True)
        return 0.0

    # ---- rolling out ---------------------------------------------------------------------------

    def _judge(self, pack: Resource, phase: Phase) -> float | None:
        seen = self._look(pack, phase)
        action = decide(seen.facts)
        waits = self._waits_for(pack, seen, action)
        until = deadline_ns(seen.facts)
        if waits and not isinstance(action, Start) and until is not None and seen.facts.now_ns >= until:
            action, waits = Abort("NoData", waits), ""
        if waits:
            self._write(pack, pack.status, None, "Waiting", waits)
            return WAIT_FOR_DATA_S
        if isinstance(action, Wait):
            return self._wait(pack, seen.facts, action)
        self._act(pack, seen.facts, action)
        return JUDGE_EVERY_S if isinstance(action, Publish) else 0.0

    def _waits_for(self, pack: Resource, seen: _Seen, action: Action) -> str:
        """Why a step forward cannot be made yet; empty when it can."""
        if isinstance(action, Start):
            return self._blocked(pack) or seen.unread
        return seen.unread if isinstance(action, Advance | Promote | Resume) else ""

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
            owner = owner_of(self.ports, point)
            if owner is not None and owner.name != pack.name:
                return f"EnforcementPoint {pack.namespace}/{row['point']} must be free: PolicyPack {owner.name} has it"
        return ""

    def _point(self, pack: Resource, name: str) -> Resource | None:
        try:
            return self.ports.store.get(Key("EnforcementPoint", pack.namespace, name))
        except NotFound:
            return None

    def _is_mine(self, pack: Resource, name: str) -> bool:
        """Whether the point is there and no other pack has it."""
        point = self._point(pack, name)
        owner = None if point is None else owner_of(self.ports, point)
        return point is not None and (owner is None or owner.name == pack.name)

    def _look(self, pack: Resource, phase: Phase) -> _Seen:
        """Gathers the facts. A point that is gone, or that another pack has, is as it should be and tells nothing."""
        revision = pack.status["revision"]
        live = (pack.status.get("live") or {}).get("digest")
        digest = revision.get("digest", "")
        rolling = Rolling(revision["stage"], Arm(revision["arm"]), revision["step"]) if "arm" in revision else None
        facts = Facts(
            phase=phase,
            digest=digest,
            spec=self._spec(pack, live, digest),
            now_ns=self.ports.clock.now_ns(),
            entered_ns=from_rfc3339_ns(revision["phaseSince"]),
            rolling=rolling,
            pairs_at_start=revision.get("pairsAtStart", 0),
            deny_list=_denied(pack.status, pack.generation),
            abort=abort_asked(pack),
        )
        documents = {order.point: order for order in orders(facts)}
        stats, unread = dict[str, PairStats](), ""
        for name in (row["point"] for row in pack.spec["targets"] if self._is_mine(pack, row["point"])):
            point = f"{pack.namespace}/{name}"
            document = published(self.ports, point)
            order = order_of(document, point, digest)
            documents.pop(point, None)
            if order is not None:
                documents[point] = order
            try:
                told = self.ports.fleet.statistics(point) if rolling is not None or phase is Phase.SIGNED else None
                if told is not None:
                    stats[point] = pair_stats(told.document, live, digest)
                unread = _behind(point, rolling is not None, document, told) or unread
            except (Corrupt, Refused) as error:
                unread = f"the statistics of EnforcementPoint {point} must be readable: {error}"
        return _Seen(replace(facts, stats=stats, published=documents), unread)

    def _guard_ids(self, digest: str | None) -> tuple[str, ...]:
        """`guard_ids`, remembered: what a digest names never changes."""
        if digest and digest not in self._guards:
            self._guards[digest] = guard_ids(self.ports, digest)
        return self._guards[digest] if digest else ()

    def _spec(self, pack: Resource, live: str | None, digest: str) -> RolloutSpec:
        return to_rollout(pack, (*self._guard_ids(live), *self._guard_ids(digest)))

    def _wait(self, pack: Resource, facts: Facts, action: Wait) -> float | None:
        if facts.rolling is not None and facts.phase in (Phase.ROLLING, Phase.STALLED):
            revision = dict(pack.status["revision"])
            revision["pairs"] = sum(s.pairs for s in facts.stats.values())
            until = deadline_ns(facts)
            if until is not None:
                revision["deadline"] = rfc3339(until)
            ready = None if facts.phase is Phase.ROLLING else False
            reason = action.reason.capitalize() if facts.phase is Phase.ROLLING else "NoData"
            self._write(pack, {**pack.status, "revision": revision}, ready, reason, self._progress(revision, facts))
            return JUDGE_EVERY_S
        if facts.phase is Phase.SIGNED:
            self._write(pack, pack.status, None, action.reason.capitalize(), f"{pack.spec['version']} is signed and {action.reason}")
        return LOOK_AT_REST_S if facts.phase in (*WORKING, Phase.STALLED) else None

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
                self._start(pack, facts, rolling)
            case Advance(rolling, verdict):
                self._roll(pack, facts, Event.STEP_ADVANCED, rolling, verdict)
            case Resume(rolling):
                self._roll(pack, facts, Event.RESUMED, rolling, None)
            case Promote(verdict):
                self._promote(pack, facts, verdict)
            case RollBack(finding):
                self._end(pack, Event.ROLLED_BACK, "RolledBack", str(finding), finding)
            case Abort(reason, message, _):
                self._end(pack, Event.ABORTED, reason, message)
            case Stall(reason, message):
                self._rest(pack, Event.STALLED, reason, message, pack.status, _evidence(facts.stats, None))
            case Publish():
                self._bring(pack)
            case Supersede() | Wait():
                raise AssertionError(f"{action}: a newer generation supersedes in _begin")

    def _start(self, pack: Resource, facts: Facts, rolling: Rolling) -> None:
        """The first step; or none, when these very bytes are live already (a spec went back, or only its targets changed)."""
        revision, live = pack.status["revision"], pack.status.get("live")
        if live is None or live["digest"] != revision["digest"]:
            self._roll(pack, facts, Event.ROLLOUT_STARTED, rolling, None)
            return
        again = {k: v for k, v in live.items() if k != "data"} | {k: v for k, v in revision.items() if k not in ("phase", "phaseSince")}
        message = f"{revision['version']} is live"
        pack = self._write(pack, {**pack.status, "live": again, "revision": again}, True, "Live", message)
        self._bring(pack, live["points"])

    def _roll(self, pack: Resource, facts: Facts, event: Event, rolling: Rolling, verdict: Verdict | None) -> None:
        stage = facts.spec.stages[rolling.stage]
        pairs = sum(s.pairs for s in facts.stats.values())
        revision = self._moved(dict(pack.status["revision"]), event)
        revision |= {"stage": rolling.stage, "arm": rolling.arm.value, "step": rolling.step}
        revision |= {"weight": weight_of(facts.spec, rolling), "pairs": pairs}
        if event is not Event.RESUMED:
            revision["pairsAtStart"] = pairs
        revision.pop("reason", None)
        after = replace(facts, phase=Phase.ROLLING, rolling=rolling, entered_ns=from_rfc3339_ns(revision["phaseSince"]))
        until = deadline_ns(after)
        if until is not None:
            revision["deadline"] = rfc3339(until)
        made = self._event(pack, revision, event, stage=stage.name, evidence=_evidence(facts.stats, verdict))
        progress = self._progress(revision, after)
        pack = self._write(pack, self.journal.pend({**pack.status, "revision": revision}, made), None, "Rolling", progress)
        self._bring(pack)
        say(self.ports, pack.key, event.value, progress)

    def _promote(self, pack: Resource, facts: Facts, verdict: Verdict) -> None:
        revision = self._moved(dict(pack.status["revision"]), Event.PROMOTED)
        made = self._event(pack, revision, Event.PROMOTED, evidence=_evidence(facts.stats, verdict))
        for name in ("stage", *_STEP):
            revision.pop(name, None)
        status, live = dict(pack.status), pack.status.get("live")
        if live:
            status = _remember(status, live, Phase.RETIRED, f"{revision['version']} was promoted", rfc3339(facts.now_ns))
        status |= {"live": revision, "revision": revision}
        message = f"{revision['version']} is live"
        pack = self._write(pack, self.journal.pend(status, made), True, "Live", message)
        self._bring(pack, live["points"] if live else ())
        say(self.ports, pack.key, "Promoted", message)

    def _end(self, pack: Resource, event: Event, reason: str, message: str, finding: Finding | None = None) -> None:
        """Rollback or abort: previous packs everywhere, the digest denied. The judge's time is in the evidence."""
        now_ns = self.ports.clock.now_ns()
        revision = self._moved(dict(pack.status["revision"]), event)
        revision |= {"reason": message[:1024], "judged": rfc3339_ns(now_ns)}
        evidence: dict[str, Any] = {"judgedNs": str(now_ns)}
        if finding is not None:
            evidence["finding"] = finding.document()
            revision["findings"] = [finding.document()]
        made = self._event(pack, revision, event, reason=message[:1000], evidence=evidence)
        for name in _STEP:
            revision.pop(name, None)
        status = {**pack.status, "revision": revision}
        if "digest" in revision:
            status["denyList"] = _deny(pack, revision["digest"], event, message)
        status = _remember(status, revision, Phase(revision["phase"]), message, rfc3339(now_ns))
        pack = self._write(pack, self.journal.pend(status, made), False, reason, message)
        self._bring(pack)
        say(self.ports, pack.key, event.value, message, warning=True)

    def _answered(self, pack: Resource) -> float:
        """Takes a request to abort away that is met, or that speaks of another generation, so that it never meets the next one."""
        left = {k: v for k, v in pack.annotations.items() if k != ABORT}
        self.ports.store.update(replace(pack, annotations=left))
        return 0.0

    # ---- shared --------------------------------------------------------------------------------

    def _bring(self, pack: Resource, before: Iterable[str] = ()) -> None:
        """Publishes what the points of the revision, and those named in `before`, must run now, ordered by the pack's last event. One
        point that fails does not keep the others waiting; the first error is raised at the end."""
        ordered = self.journal.deliver(pack)[-1:]
        errors: list[Exception] = []
        for name in sorted({*pack.status["revision"]["points"], *before}):
            point = self._point(pack, name)
            if point is None:
                continue
            try:
                wanted = assignment_of(self.ports, point, owner_of(self.ports, point))
                self.points.bring(point, wanted, "Published", ordered[0] if ordered else None)
            except (KnhkError, OSError) as error:
                errors.append(error)
        if errors:
            raise errors[0]

    def _moved(self, revision: Revision, event: Event) -> Revision:
        phase = move(Phase(revision["phase"]), event)
        return {**revision, "phase": phase.value, "phaseSince": rfc3339_ns(self.ports.clock.now_ns())}

    def _event(
        self,
        pack: Resource,
        revision: Mapping[str, Any],
        event: Event,
        stage: str = "",
        reason: str = "",
        evidence: Mapping[str, Any] | None = None,
    ) -> PolicyEvent:
        digest = revision.get("digest", f"sha256:{NO_DIGEST}")
        return PolicyEvent(
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
            evidence={**(evidence or {}), "generation": pack.generation},
        )

    def _write(self, pack: Resource, status: Mapping[str, Any], ready: bool | None, reason: str, message: str) -> Resource:
        return write_status(self.ports, pack, status, ready, reason, message)


def inputs_of(pack: Resource) -> str:
    """SHA-256 over what a revision is made of; the rest of the spec says only how it is rolled out."""
    return sha256_hex(canonical({name: pack.spec[name] for name in ("version", "sources", "routes", "targets", "dataBundles")}))


def _goes_on(pack: Resource, revision: Mapping[str, Any]) -> bool:
    """Whether a changed spec leaves the revision as it is. What ended, or was refused, begins anew."""
    resting = rolls(revision) or Phase(revision["phase"]) in (*WORKING, Phase.LIVE)
    return resting and revision["inputs"] == inputs_of(pack)


def _refitted(pack: Resource, revision: Revision) -> Revision:
    """Members of a rollout whose steps may have been edited. What is enforced never grows by that; a new weight counts its own pairs."""
    spec, before = to_rollout(pack), revision["weight"]
    rolling = refitted(spec, Rolling(revision["stage"], Arm(revision["arm"]), revision["step"]), before)
    weight = weight_of(spec, rolling)
    start = revision["pairsAtStart"] if weight == before else revision["pairs"]
    return {"arm": rolling.arm.value, "step": rolling.step, "weight": weight, "pairsAtStart": start}


def abort_asked(pack: Resource) -> str:
    """The reason of a request to abort the present generation ("GENERATION REASON", or a reason alone); empty when there is none."""
    asked = pack.annotations.get(ABORT, "").strip()
    generation, _, reason = asked.partition(" ")
    if not (generation.isascii() and generation.isdecimal()):
        return asked
    return (reason or "asked for by a person") if int(generation) == pack.generation else ""


def _deny(pack: Resource, digest: str, event: Event, message: str) -> list[dict[str, Any]]:
    """The deny list with this digest. What was rolled back once stays so, whatever ends it later."""
    rows = pack.status.get("denyList", [])
    if any(row["digest"] == digest and _is_final(row) for row in rows):
        return list(rows)
    entry = {"digest": digest, "generation": pack.generation, "reason": f"{event.value}: {message}"[:1024]}
    kept = sorted((row for row in rows if row["digest"] != digest), key=lambda row: not _is_final(row))  # aborts make room first
    return [entry, *kept][:MAX_DENIED]


def _is_final(row: Mapping[str, Any]) -> bool:
    return str(row["reason"]).startswith(Event.ROLLED_BACK.value)


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


def _behind(point: str, rolling: bool, document: Mapping[str, Any] | None, told: Statistics | None) -> str:
    """Why the counts of a point say nothing of the present step yet; empty when they do. Steps forward wait for it, rollbacks do not."""
    if told is None:
        return f"EnforcementPoint {point} must run: its agent has told nothing yet" if rolling else ""
    if told.document.get("counted") is False:
        return f"EnforcementPoint {point} counts again after a restart"
    if rolling and document is not None and told.document.get("epoch") != document["epoch"]:
        return f"EnforcementPoint {point} must run epoch {document['epoch']}, it runs {told.document.get('epoch')}"
    return ""


def _denied(status: Mapping[str, Any], generation: int) -> frozenset[str]:
    """Digests not to be tried: rolled back ever, or aborted in this generation of the spec."""
    rows = status.get("denyList", [])
    return frozenset(r["digest"] for r in rows if _is_final(r) or r["generation"] == generation)


def _remember(status: Mapping[str, Any], revision: Mapping[str, Any], outcome: Phase, reason: str, time: str) -> dict[str, Any]:
    row = {"version": revision["version"], "outcome": outcome.value, "time": time, "reason": reason[:1024]}
    if "digest" in revision:
        row["digest"] = revision["digest"]
    return {**status, "history": [row, *status.get("history", [])][:MAX_HISTORY]}
