"""PolicyPack: from a spec to a revision that is live everywhere, or back. Gathers facts, asks `decide`, does the one action."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from typing import Any

from knhk.api import to_sources
from knhk.decide.approvals import counted as given
from knhk.decide.keeping import DELETED
from knhk.decide.loosening import loosened
from knhk.decide.rollout import (
    Abort,
    Action,
    Advance,
    Draw,
    Facts,
    Promote,
    Publish,
    Resume,
    RollBack,
    Stall,
    Start,
    Wait,
    begun,
    deadline_ns,
    decide,
    judged_pairs,
    short_of,
    wave_of,
    weight_of,
)
from knhk.lockchain import PolicyEvent
from knhk.model.arrows import SignedPack
from knhk.model.faults import KnhkError, Refused, Waiting
from knhk.model.phases import DEADLINES_S, WORKING, Arm, Event, Phase, Rolling, move
from knhk.model.resource import Key, Resource
from knhk.model.rollout import Finding, Outcome, Verdict
from knhk.model.times import from_rfc3339_ns, rfc3339, rfc3339_ns
from knhk.model.waves import EVERYBODY
from knhk.packaging.builds import PackOrder
from knhk.ports.builder import Build
from knhk.reconcilers.approvals import recorded
from knhk.reconcilers.context import (
    NO_DIGEST,
    REQUESTED,
    Journal,
    Ports,
    fault_rows,
    say,
    write_status,
)
from knhk.reconcilers.counting import not_merged
from knhk.reconcilers.deleting import promised_before
from knhk.reconcilers.documents import pack_reference
from knhk.reconcilers.loosening import KIND as LOOSENED
from knhk.reconcilers.loosening import UNAPPROVED, Loosening, pack_promises, promising, stages_of
from knhk.reconcilers.observing import Observer, Seen, point_of
from knhk.reconcilers.plans import Plans
from knhk.reconcilers.points import PointReconciler, assignment_of, enforced_still, owner_of, rolls, untold
from knhk.reconcilers.provenance import source_of, unmerged
from knhk.reconcilers.retention import Retention
from knhk.reconcilers.revisions import (
    ABORT,
    RING,
    Revision,
    abort_asked,
    as_durable,
    counted,
    denied_before,
    deny,
    durability_of,
    edited_steps,
    goes_on,
    inputs_of,
    level_of,
    made_for,
    remember,
    staged,
    waving,
)

JUDGE_EVERY_S = 0.1
WAIT_FOR_DATA_S = 0.5
LOOK_AT_REST_S = 1.0
LOOK_AT_BUILDS_S = 0.5  # for their steps; their ends tell themselves
TELLS_STEPS_AFTER_S = 2.0
UNSEEN_S = 10.0  # so long a new pack may have no status yet: its definition says for it that it is waited for
BUILDING = (Phase.PENDING, Phase.COMPILED, Phase.BUILT)
BUILD_WITHIN_S = sum(DEADLINES_S[phase] or 0.0 for phase in BUILDING)
VERDICTS: Mapping[type, str] = {Advance: Outcome.PASS.value, Promote: Outcome.PASS.value, RollBack: Outcome.FAIL.value}
MAX_APPROVERS = 64
_WAVE = ("wave", "waves")
_STEP = ("arm", "step", "weight", *_WAVE, "deadline", "held")  # members of a revision that rolls


@dataclass
class _Build:
    """`until_s`: when it must be done, from when work on it began: other builds before it are not its fault."""

    future: Build[SignedPack]
    members: Mapping[str, Any]  # of the revision: what it is built with
    until_s: float | None = None
    told: str = ""
    sweep: Future[tuple[str, ...]] | None = None  # of retired images, under way when it was ordered


def _outcome(future: Build[SignedPack]) -> str:
    error = future.exception()
    return "signed" if error is None else getattr(error, "reason", type(error).__name__)


@dataclass
class PackReconciler:
    """Builds go on beside, so that a long one never delays a rollback.

    Every move is one write of the status together with its policy event; log and documents follow from that status, now or after
    a crash."""

    ports: Ports
    journal: Journal
    points: PointReconciler
    plans: Plans
    retention: Retention
    ended: deque[Key] = field(default_factory=deque)  # packs whose build came to its end, for whoever calls `converge`
    _builds: dict[tuple[Key, str], _Build] = field(default_factory=dict)
    observer: Observer = field(init=False)

    def __post_init__(self) -> None:
        self.observer = Observer(self.ports, self.plans)

    def converge(self, pack: Resource) -> float | None:
        """One step of the present revision. Gives seconds until the next look, None when only a change can matter."""
        self.journal.deliver(pack)
        revision = pack.status.get("revision")
        if revision is None:
            return self._meet(pack)
        if revision["generation"] != pack.generation:
            return self._adopt(pack) if goes_on(pack, revision) else self._begin(pack, pack.status)
        phase = Phase(revision["phase"])
        if phase is Phase.STALLED and "arm" not in revision and _asks(pack):
            return self._begin(pack, pack.status)
        if ABORT in pack.annotations and (phase not in (*WORKING, Phase.STALLED) or not abort_asked(pack)):
            return self._answered(pack)
        if phase in BUILDING:
            return self._build(pack)
        if phase is Phase.LIVE and (again_s := self._level(pack)) is not None:
            return again_s
        return self._judge(pack, phase)

    @property
    def building(self) -> bool:
        """Whether builds are under way."""
        return bool(self._builds)

    def gone(self, pack: Resource) -> None:
        """Forgets a deleted pack. Its points take back what they had without it, by themselves."""
        self._forget_builds(pack)

    # ---- from spec to signed pack --------------------------------------------------------------

    def _adopt(self, pack: Resource) -> float:
        """The spec changed in nothing that the revision is made of (a deadline, suspend …): it goes on, with a whole deadline."""
        now = rfc3339_ns(self.ports.clock.now_ns())
        revision = as_durable(pack, pack.status["revision"]) | {"generation": pack.generation, "phaseSince": now}
        if "arm" in revision:
            revision = {k: v for k, v in revision.items() if k not in _WAVE} | edited_steps(pack, revision)
        revision.pop("deadline", None)
        ready = {Phase.LIVE: True, Phase.STALLED: False}.get(Phase(revision["phase"]))
        live = {"live": as_durable(pack, pack.status["live"])} if Phase(revision["phase"]) is Phase.LIVE else {}
        self._write(pack, {**pack.status, "revision": revision, **live}, ready, revision["phase"], "goes on with the changed spec")
        return 0.0

    def _meet(self, pack: Resource) -> float | None:
        """A new object; under its name there may have been one before, whose rollbacks hold, and what it promised."""
        if self.journal.owes(pack.key):
            self._write(pack, pack.status, None, "Waiting", "the receipts of the pack that had this name must be written first")
            return JUDGE_EVERY_S
        rows = denied_before(self.journal.kept(Event.ROLLED_BACK.value, pack.namespace, pack.name))
        promises = promised_before(self.journal.kept(DELETED, pack.namespace, pack.name))
        live = enforced_still(self.ports, pack)
        if not (rows or promises or live) and self._is_unseen(pack):
            return self.converge(replace(pack, status={**pack.status, "revision": self._revision(pack, None)}))
        left = {name: found for name, found in (("denyList", rows), ("promises", promises)) if found}
        if live is not None:
            left["live"] = live | {"phase": Phase.LIVE.value, "phaseSince": rfc3339_ns(self.ports.clock.now_ns())}
        return self._begin(pack, {**pack.status, **left})

    def _is_unseen(self, pack: Resource) -> bool:
        """Whether nothing was written of a pack yet, for a little while: what comes out of it is written with all that was before."""
        age_ns = self.ports.clock.now_ns() - from_rfc3339_ns(pack.created)
        return not pack.status and 0 <= age_ns < UNSEEN_S * 1e9

    def _begin(self, pack: Resource, before: Mapping[str, Any]) -> float:
        """A new generation of the spec: what rolled is superseded, points go back to what is live, work begins."""
        status, old = dict(before), before.get("revision")
        events = []
        if old and Phase(old["phase"]) in (*WORKING, Phase.STALLED):
            reason = f"superseded by {pack.spec['version']}"
            status = remember(status, old, Phase.RETIRED, reason, rfc3339(self.ports.clock.now_ns()))
            if "digest" in old:
                events = [self._event(pack, old, Event.SUPERSEDED, reason=reason)]
        status["revision"] = self._revision(replace(pack, status=status), before.get("live"))
        for name in ("faults", "loosening"):
            status.pop(name, None)
        if old:
            self._forget_builds(pack)
        pack = self._write(pack, self.journal.pend(status, *events), None, "Pending", f"{pack.spec['version']} is to be compiled")
        if old and rolls(old):
            self._bring(pack, old["points"])
        return 0.0

    def _revision(self, pack: Resource, live: Mapping[str, Any] | None) -> Revision:
        """The revision that a spec begins, over what is live."""
        revision = {
            "version": pack.spec["version"],
            "generation": pack.generation,
            "phase": Phase.PENDING.value,
            "phaseSince": rfc3339_ns(self.ports.clock.now_ns()),
            "inputs": inputs_of(pack),
            **durability_of(pack, live or pack.status.get("promises")),
            "points": [row["point"] for row in pack.spec["targets"]],
            **staged(pack),
        }
        for row in pack.spec["dataBundles"][:1]:
            revision["data"] = row["name"]
        if source := source_of(self.ports.store, self.ports.trusts, pack):
            revision["source"] = source.document()
        return revision

    def _build(self, pack: Resource) -> float | None:
        if reason := abort_asked(pack):
            self._forget_builds(pack)
            self._end(pack, Event.ABORTED, "AbortRequested", reason)
            return 0.0
        key = (pack.key, pack.status["revision"]["inputs"])
        running = self._builds.get(key)
        now_s = self.ports.clock.monotonic_ns() / 1e9
        if running is None:
            self._forget_builds(pack)  # of a spec before this one
            schemas, waits = self.observer.schemas(pack)
            if waits:
                return self._waits(pack, "SchemaNotAccepted", waits)
            whole, hooks, waits = self.observer.hooked(pack)
            if waits:
                return self._waits(pack, "HooksNotIndexed", waits)
            bundles, waits = self.observer.bundles(pack)
            if waits:
                return self._waits(pack, "Waiting", waits)
            members = {"schemas": list(schemas), "hooks": list(hooks)}
            order = PackOrder(to_sources(whole), next(iter(bundles), None), urgent="live" in pack.status)
            build = self.ports.builder.pack(order)
            named = {name: found for name, found in members.items() if found}
            running = self._builds[key] = _Build(build, named, sweep=self.retention.running)
            build.add_done_callback(lambda _: self.ended.append(pack.key))
        if running.until_s is None and running.future.running():
            running.until_s = now_s + BUILD_WITHIN_S
        if not running.future.done():
            if running.until_s is None or now_s < running.until_s:
                self._tell_step(pack, running, now_s)
                return LOOK_AT_BUILDS_S
            self._forget_builds(pack)
            return self._stalled(pack, "DeadlineExceeded", f"the build took longer than {BUILD_WITHIN_S:g} s")
        if running.sweep is not None and not running.sweep.done():
            return JUDGE_EVERY_S
        del self._builds[key]
        if running.sweep is not None:
            return 0.0  # which did not know of it, and may have taken away what was found: it is asked for again
        begun_s = now_s if running.until_s is None else running.until_s - BUILD_WITHIN_S
        self.ports.telemetry.built(_outcome(running.future), now_s - begun_s)
        return self._finished(pack, running)

    def _waits(self, pack: Resource, reason: str, message: str) -> float:
        self._write(pack, pack.status, None, reason, message)
        return WAIT_FOR_DATA_S

    def _tell_step(self, pack: Resource, running: _Build, now_s: float) -> None:
        """A build that takes its time says how far it is."""
        begun = running.until_s is not None and now_s >= running.until_s - BUILD_WITHIN_S + TELLS_STEPS_AFTER_S
        if begun and running.future.step != running.told:
            running.told = running.future.step
            self._write(pack, pack.status, None, "Building", running.told)

    def _finished(self, pack: Resource, running: _Build) -> float | None:
        try:
            signed = running.future.result()
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
        return self._built(pack, signed, running.members)

    def _forget_builds(self, pack: Resource) -> None:
        """A build that runs already ends by itself; what it publishes is signed and unused."""
        for key in [key for key in list(self._builds) if key[0] == pack.key]:
            self._builds.pop(key).future.cancel()

    def _built(self, pack: Resource, signed: SignedPack, members: Mapping[str, Any]) -> float:
        """The three events of a finished build and phase Signed, in one write."""
        image = signed.image
        revision = dict(pack.status["revision"])
        revision |= {
            "digest": image.digest,
            "planDigest": image.plan_digest,
            "guards": len(self.observer.guard_ids(image.digest)),
            **members,
        }
        evidence: dict[Event, dict[str, Any]] = {
            Event.COMPILED: {"plan": image.plan_digest, "guards": revision["guards"]},
            Event.BUILT: {"image": image.digest, "proof": {name: signed.proof[name] for name in ("cases", "seed", "digest")}, **members},
            Event.SIGNED: {"keyid": signed.keyid, **made_for(revision)},
        }
        events = []
        for event, facts in evidence.items():
            events.append(self._event(pack, revision, event, evidence=facts))
            revision = self._moved(revision, event)
        status = self.journal.pend({**pack.status, "revision": revision}, *events)
        reason, message = "Signed", f"{image.version} is proven on {signed.proof['cases']} cases and signed, {image.digest[:19]}…"
        if waits := self.observer.blocked(pack):
            reason, message = "Waiting", waits  # what the next look would write
        self._write(pack, status, None, reason, message)
        return 0.0

    def _refused(self, pack: Resource, refused: Refused) -> float:
        rows, message = fault_rows(refused)
        return self._rest(pack, Event.REFUSED, refused.reason, message, {**pack.status, "faults": rows})

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
        seen = self.observer.look(pack, phase)
        if "held" in pack.status["revision"] and not seen.facts.held:
            return self._released(pack, seen.facts)
        action = decide(seen.facts)
        until = deadline_ns(seen.facts)
        if why := self._unmerged(pack, action):
            if isinstance(action, Start) or until is None or seen.facts.now_ns < until:
                self._write(pack, pack.status, None, "NotMerged", why)
                return WAIT_FOR_DATA_S
            action = Abort("NotMerged", why)
        waits = self._waits_for(pack, seen, action)
        if waits and not isinstance(action, Start) and until is not None and seen.facts.now_ns >= until:
            action, waits = Abort("NoData", waits), ""
        if waits:
            self._write(pack, pack.status, None, "Waiting", waits)
            return WAIT_FOR_DATA_S
        if isinstance(action, Wait):
            return self._wait(pack, seen.facts, action)
        if (verdict := VERDICTS.get(type(action))) is not None:
            self.ports.telemetry.judged(verdict)
        self._act(pack, seen.facts, action)
        return JUDGE_EVERY_S if isinstance(action, Publish) else 0.0

    def _released(self, pack: Resource, facts: Facts) -> float:
        """Flags let the canary be enforced again: its step begins anew, for nothing was learnt of it meanwhile."""
        revision = {k: v for k, v in pack.status["revision"].items() if k not in ("held", "deadline")}
        revision["phaseSince"] = rfc3339_ns(facts.now_ns)
        if "pairsAtStart" in revision:
            revision["pairsAtStart"] = judged_pairs(facts)
        ready = {Phase.LIVE: True, Phase.ROLLING: None, Phase.SIGNED: None}.get(facts.phase, False)
        self._write(pack, {**pack.status, "revision": revision}, ready, revision["phase"], "goes on: no flag holds it any more")
        return 0.0

    def _waits_for(self, pack: Resource, seen: Seen, action: Action) -> str:
        """Why a step forward cannot be made yet; empty when it can."""
        if isinstance(action, Start):
            return self.observer.blocked(pack) or seen.unread
        return seen.unread if isinstance(action, Advance | Promote | Resume) else ""

    def _unmerged(self, pack: Resource, action: Action) -> str:
        """Why a pack may not be enforced, or further than it is, where only merged commits may; empty when it may. It is judged in shadow
        as any other. Asked of the spec as it is now: what is changed by hand after its merge is not what was merged."""
        forward = isinstance(action, Promote) or (isinstance(action, Advance) and action.rolling.arm is Arm.CANARY)
        forward = forward or (isinstance(action, Advance) and action.rolling.stage > pack.status["revision"]["stage"])
        forward = forward or (isinstance(action, Start) and _is_live(pack))
        if not forward or not self.ports.namespaces.requires_merged_commit(pack.namespace):
            return ""
        if why := unmerged(self.ports.store, self.ports.trusts, pack):
            return f"{pack.spec['version']} is not merged: {why}; namespace {pack.namespace} enforces only what a merged commit says"
        return ""

    def _wait(self, pack: Resource, facts: Facts, action: Wait) -> float | None:
        if facts.rolling is not None and facts.phase in (Phase.ROLLING, Phase.STALLED):
            revision = dict(pack.status["revision"])
            revision["pairs"] = judged_pairs(facts)
            until = action.until_ns if action.message else deadline_ns(facts)
            revision.pop("deadline", None)
            if until is not None:
                revision["deadline"] = rfc3339(until)
            if action.reason == "held":
                revision["held"] = action.message[:1024]
            ready = None if facts.phase is Phase.ROLLING else False
            reason = action.reason.capitalize() if facts.phase is Phase.ROLLING else "NoData"
            message = action.message or "; ".join((self._progress(revision, facts), *short_of(facts)))
            self._write(pack, {**pack.status, "revision": revision}, ready, reason, message)
            return JUDGE_EVERY_S
        if facts.phase is Phase.SIGNED:
            message = action.message or f"{pack.spec['version']} is signed and {action.reason}"
            self._write(pack, pack.status, None, action.reason.capitalize(), message)
        return LOOK_AT_REST_S if facts.phase in (*WORKING, Phase.STALLED) else None

    def _progress(self, revision: Mapping[str, Any], facts: Facts) -> str:
        seen = max(0, revision.get("pairs", 0) - revision.get("pairsAtStart", 0))
        assert facts.rolling is not None
        stage = facts.spec.stages[facts.rolling.stage]
        if facts.rolling.arm is Arm.SHADOW:
            return f"{stage.name}: shadow, {seen} of {stage.shadow_min_pairs} pairs judged"
        step = stage.steps[facts.rolling.step]
        wave = "" if step.wave == EVERYBODY else f" in a wave of {step.wave} % of pods"
        return f"{stage.name}: canary {step.weight} %{wave}, {seen} of {step.min_pairs} pairs judged"

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
                self._rest(pack, Event.STALLED, reason, message, pack.status, counted(facts.stats, None))
            case Draw(waves):
                revision = {k: v for k, v in pack.status["revision"].items() if k not in _WAVE}
                revision |= self._waves(facts, facts.rolling or Rolling(), waves)
                ready, reason = (None, "Rolling") if facts.phase is Phase.ROLLING else (False, "NoData")
                message = self._progress(revision, facts)
                self._bring(self._write(pack, {**pack.status, "revision": revision}, ready, reason, message))
            case Publish():
                self._bring(pack)
            case Wait():
                raise AssertionError("what only waits is not acted on")

    def _start(self, pack: Resource, facts: Facts, rolling: Rolling) -> None:
        """The first step; or none, when these very bytes are live already (a spec went back, or only its targets changed)."""
        revision, live = pack.status["revision"], pack.status.get("live")
        if live is None or not _is_live(pack):
            self._roll(pack, facts, Event.ROLLOUT_STARTED, rolling, None)
            return
        kept = {k: v for k, v in live.items() if k not in ("data", "source", "durability")}
        approvals = self._approvals(pack, facts, rolling) if facts.joining else {}
        again = kept | {k: v for k, v in revision.items() if k not in ("phase", "phaseSince")} | approvals
        message = f"{revision['version']} is live"
        status = {**pack.status, "live": again, "revision": again, **promising(pack)}
        pack = self._write(pack, status, True, "Live", message)
        self._bring(pack, live["points"])

    def _roll(self, pack: Resource, facts: Facts, event: Event, rolling: Rolling, verdict: Verdict | None) -> None:
        stage = facts.spec.stages[rolling.stage]
        pairs = judged_pairs(replace(facts, rolling=rolling))
        revision = self._moved(dict(pack.status["revision"]), event)
        revision |= {"stage": rolling.stage, "arm": rolling.arm.value, "step": rolling.step}
        approvals = self._approvals(pack, facts, rolling) if rolling.arm is Arm.CANARY else {}
        waves = self._waves(facts, rolling, begun(facts, rolling))
        revision = {k: v for k, v in revision.items() if k not in _WAVE} | waves
        revision |= {"weight": weight_of(facts.spec, rolling), "pairs": pairs, **approvals}
        if event is not Event.RESUMED:
            revision["pairsAtStart"] = pairs
        revision.pop("reason", None)
        after = replace(facts, phase=Phase.ROLLING, rolling=rolling, entered_ns=from_rfc3339_ns(revision["phaseSince"]))
        until = deadline_ns(after)
        if until is not None:
            revision["deadline"] = rfc3339(until)
        evidence = counted(facts.stats, verdict) | approvals | {name: waves[name] for name in ("wave",) if name in waves}
        made = self._event(pack, revision, event, stage=stage.name, evidence=evidence)
        progress = self._progress(revision, after)
        pack = self._write(pack, self.journal.pend({**pack.status, "revision": revision}, made), None, "Rolling", progress)
        self._bring(pack)
        say(self.ports, pack.key, event.value, progress)

    @staticmethod
    def _waves(facts: Facts, rolling: Rolling, waves: Mapping[str, int]) -> Revision:
        """Members of the revision that say in which pods of each point it is."""
        return waving(wave_of(facts.spec, rolling), {point.partition("/")[2]: below for point, below in waves.items()})

    def _promote(self, pack: Resource, facts: Facts, verdict: Verdict) -> None:
        revision = self._moved(dict(pack.status["revision"]), Event.PROMOTED)
        approvals = self._approvals(pack, facts, facts.rolling or Rolling())
        revision |= approvals
        made = self._event(pack, revision, Event.PROMOTED, evidence=counted(facts.stats, verdict) | approvals)
        for name in ("stage", *_STEP):
            revision.pop(name, None)
        status, live = dict(pack.status), pack.status.get("live")
        if live:
            status = remember(status, live, Phase.RETIRED, f"{revision['version']} was promoted", rfc3339(facts.now_ns))
        status |= {"live": revision, "revision": revision, **promising(pack)}
        message = f"{revision['version']} is live"
        pack = self._write(pack, self.journal.pend(status, made), True, "Live", message)
        self._bring(pack, live["points"] if live else ())
        say(self.ports, pack.key, "Promoted", message)

    def _approvals(self, pack: Resource, facts: Facts, rolling: Rolling) -> dict[str, Any]:
        """Who let the stage be enforced; in an embedded home that is marked as reviewed by nobody. The log has their words before the step
        that they allow. Raises Waiting while it cannot take them."""
        found = given(facts.spec.stages[rolling.stage], facts.authors, facts.approved)
        for approval in recorded(self.ports, pack, facts.digest) if found else ():
            self.journal.deliver(approval)
        named: dict[str, Any] = {"approvedBy": [one.approver for one in found][:MAX_APPROVERS]} if found else {}
        return named if self.ports.reviews else named | {"unreviewed": True}

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
            status["denyList"] = deny(pack, revision["digest"], event, message)
        status = remember(status, revision, Phase(revision["phase"]), message, rfc3339(now_ns))
        pack = self._write(pack, self.journal.pend(status, made), False, reason, message)
        self._bring(pack)
        if event is Event.ROLLED_BACK:
            self.ports.telemetry.rolled_back((self.ports.clock.now_ns() - now_ns) / 1e9)
        say(self.ports, pack.key, event.value, message, warning=True)

    def _answered(self, pack: Resource) -> float:
        """Takes a request to abort away that is met, or that speaks of another generation, so that it never meets the next one."""
        left = {k: v for k, v in pack.annotations.items() if k != ABORT}
        self.ports.store.update(replace(pack, annotations=left))
        return 0.0

    # ---- what is live promises less --------------------------------------------------------------

    def _level(self, pack: Resource) -> float | None:
        """Brings what is live to the durability of its spec: upwards at once; downwards with an event of its own, merged and approved where
        that is asked for. None when that is done."""
        live, said = pack.status["live"], pack.spec["receipts"]["durability"]
        rows = loosened(*pack_promises(pack))
        if not rows:
            return self._raised(pack, said)
        loosening = Loosening(pack, rows, pack, stages_of(pack))
        unmerged, lacking = not_merged(self.ports, pack), loosening.lacking(self.ports)
        if unmerged or lacking:
            status, reason = {**pack.status, "loosening": loosening.status()}, "NotMerged" if unmerged else UNAPPROVED
            pack = self._write(pack, status, None, reason, unmerged or lacking)
            again_s = self._judge(pack, Phase.LIVE)
            return WAIT_FOR_DATA_S if again_s is None else again_s
        made = self._event(pack, live, LOOSENED, evidence=loosening.evidence(self.ports, self.journal))
        self._lie(pack, said, self.journal.pend(pack.status, made), lowered=True)
        say(self.ports, pack.key, LOOSENED, "; ".join(map(str, rows)))
        return 0.0

    def _raised(self, pack: Resource, said: str) -> float | None:
        promises = {name: pack.status[name] for name in ("promises",) if name in pack.status}
        if level_of(pack.status["live"]) == said and "loosening" not in pack.status and promises == promising(pack):
            return None
        self._lie(pack, said, pack.status)
        return 0.0

    def _lie(self, pack: Resource, level: str, status: Mapping[str, Any], *, lowered: bool = False) -> None:
        """What is live has this level from now on, and waits for whom its spec says; for fewer only if that is let."""
        member = {} if level == RING else {"durability": level}
        parts = {name: {k: v for k, v in status[name].items() if k != "durability"} | member for name in ("live", "revision")}
        kept = {k: v for k, v in status.items() if k not in ("loosening", "promises")} | parts | promising(pack, lowered=lowered)
        self._bring(self._write(pack, kept, True, "Live", f"{parts['live']['version']} is live"))

    # ---- shared --------------------------------------------------------------------------------

    def _bring(self, pack: Resource, before: Iterable[str] = ()) -> None:
        """Publishes what the points of the revision, and those named in `before`, must run now, ordered by the pack's last event. One
        point that fails does not keep the others waiting; the first error is raised at the end."""
        ordered = self.journal.deliver(pack)[-1:]
        errors: list[Exception] = []
        for name in sorted({*pack.status["revision"]["points"], *before}):
            point = point_of(self.ports, pack.namespace, name)
            if point is None or untold(self.ports, point) is not None:
                continue
            try:
                owner = owner_of(self.ports, point)  # it may be another pack, whose document never comes before its events
                told = (*ordered, *(self.journal.deliver(owner)[-1:] if owner is not None else ()))
                newest = max(told, key=lambda order: order.index, default=None)
                self.points.bring(point, assignment_of(self.ports, point, owner), "Published", newest)
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
        event: Event | str,
        stage: str = "",
        reason: str = "",
        evidence: Mapping[str, Any] | None = None,
    ) -> PolicyEvent:
        digest = revision.get("digest", f"sha256:{NO_DIGEST}")
        return PolicyEvent(
            kind=str(event),
            subject=(f"pack/{pack.namespace}/{pack.name}@{revision['version']}", digest.removeprefix("sha256:")),
            actor=self.ports.actor,
            time=rfc3339(self.ports.clock.now_ns()),
            pack=pack_reference(pack.namespace, pack.name, revision["version"], digest),
            stage=stage,
            arm=revision.get("arm", ""),
            step=revision.get("step"),
            weight=revision.get("weight"),
            reason=reason,
            evidence={**(evidence or {}), "generation": pack.generation, **_source(revision)},
        )

    def _write(self, pack: Resource, status: Mapping[str, Any], ready: bool | None, reason: str, message: str) -> Resource:
        return write_status(self.ports, pack, status, ready, reason, message)


def is_apart(pack: Resource) -> bool:
    """Whether its next step touches nothing but the pack itself: it is new, or is being built."""
    revision = pack.status.get("revision")
    return ABORT not in pack.annotations and (revision is None or Phase(revision["phase"]) in BUILDING)


def _is_live(pack: Resource) -> bool:
    """Whether the revision is made of the bytes that are live: it needs no rollout."""
    return "live" in pack.status and pack.status["live"]["digest"] == pack.status["revision"].get("digest")


def _source(revision: Mapping[str, Any]) -> dict[str, Any]:
    """The commit that brought the revision, for its events; nothing for what was applied by hand."""
    return {"source": revision["source"]} if "source" in revision else {}


def _asks(pack: Resource) -> bool:
    """Whether a person asked to try again what has stalled."""
    return pack.annotations.get(REQUESTED, "")[:64] not in ("", pack.status.get("lastHandledRequestedAt"))
