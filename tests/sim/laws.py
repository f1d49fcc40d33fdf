"""What must hold at every moment, and what must hold when all is quiet. Each law is one sentence in its docstring."""

from __future__ import annotations

import base64
import json
from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import wraps
from typing import Any

from house import Handed, House
from people import TOO_LATE
from simulated_pods import Pods, payload

from knhk.lockchain import NOTARISED, bundle_of
from knhk.model.canonical import sha256_hex
from knhk.model.phases import WORKING, Phase
from knhk.model.resource import Key, Resource
from knhk.model.times import from_rfc3339_ns
from knhk.model.waves import size
from knhk.reconcilers.deleting import SUBJECTS

SOON_NS = 3_600_000_000_000
ROLLING, HELD, ENDED = "rolling", "held", "ended"
_ROLLOUT = ("RolloutStarted", "StepAdvanced", "Promoted", "RolledBack", "Resumed")


class Broken(AssertionError):
    """A law does not hold; `law` is the name of its method."""

    law = ""


def law(check: Callable[..., None]) -> Callable[..., None]:
    """A method that is one law: what it finds bears its name."""

    @wraps(check)
    def held(*args: Any) -> None:
        try:
            check(*args)
        except Broken as broken:
            broken.law = broken.law or check.__name__.removeprefix("_")
            raise

    return held


@dataclass
class Course:
    """One object's rollouts as the log tells them."""

    state: str = ""
    signed: str = ""
    digest: str = ""
    arm: str = ""
    step: int = 0
    weight: int = 0
    generation: int = 0


@dataclass(frozen=True)
class Told:
    """One entry of the log about one digest of one pack."""

    index: int
    kind: str
    arm: str
    weight: int
    wave: int | None


@dataclass
class Laws:
    """Looks at what is new since it looked last. Raises Broken."""

    house: House
    pods: Pods
    outside: bool = False  # whether others bear witness
    acted: list[str] = field(default_factory=list)  # what those began to do who lead no longer
    superseded: set[Phase] = field(default_factory=set)  # phases of revisions whose place a newer one took
    _phases: dict[str, tuple[str, str]] = field(default_factory=dict)
    _entries: int = 0
    _handed: int = 0
    _courses: dict[str, Course] = field(default_factory=dict)
    _told: dict[tuple[str, str], list[Told]] = field(default_factory=dict)
    _promoted: dict[str, list[tuple[int, str]]] = field(default_factory=dict)
    _denied: set[tuple[str, str]] = field(default_factory=set)
    _aborted: set[tuple[str, str, int]] = field(default_factory=set)
    _newest: dict[str, tuple[int, str]] = field(default_factory=dict)
    _words: dict[tuple[str, str], list[tuple[int, str]]] = field(default_factory=dict)  # index and name of approvals, by pack and digest
    _witnessed: dict[int, int] = field(default_factory=dict)  # entry → that in which others bear witness to it
    _stood: dict[str, tuple[str, str]] = field(default_factory=dict)  # digests of stable and candidate in the last document of a point

    def check(self) -> None:
        """After every step of anything."""
        for entry in self.house.log.entries[self._entries :]:
            self._entry(self._entries, entry)
            self._entries += 1
        for handed in self.house.fleet.history[self._handed :]:
            self._document(handed)
            self._handed += 1
        for resource in self.house.store.fresh:
            if resource.kind == "PolicyPack":
                self._one_pack_at_a_point(resource)
                self._note_phase(resource)
        self.house.store.fresh.clear()
        self._agents()
        self._leads()

    @law
    def _leads(self) -> None:
        """Who leads no longer begins nothing."""
        _demand(not self.acted, "; ".join(self.acted[:3]))

    @law
    def _agents(self) -> None:
        """No agent gets two documents of one epoch, or one that names what the registry lacks."""
        for pod in self.pods.everyone():
            _demand(not pod.alarms, "; ".join(pod.alarms))

    # ---- the log ---------------------------------------------------------------------------------

    @law
    def _entry(self, index: int, entry: bytes) -> None:
        """The log holds only events whose status write committed, a move that was not made leaves no event; and those of deletions."""
        if _statement(entry)["predicate"]["kind"] == "Deleted":
            self._is_gone(index, _statement(entry))
            return
        _demand(entry in self.house.store.committed, f"entry {index} of the log belongs to no status that was ever written")
        statement = _statement(entry)
        said = statement["predicate"]
        if said["kind"] == NOTARISED:
            self._witness(index, entry, statement)
        if "pack" not in said:
            return
        name, digest = f"{said['pack']['namespace']}/{said['pack']['name']}", said["pack"]["digest"]
        if said["kind"] == "Approved":
            self._words.setdefault((name, digest), []).append((index, said["actor"]))
            return
        for uid in sorted(self.house.store.committed[entry]):
            where = f"{name} {uid}, entry {index}: {said['kind']} of {said['pack']['version']}"
            self._move(where, name, uid, digest, said)
            self._asked_for(where, uid, said)
            self._approved(where, name, uid, digest, said)
        told = Told(index, said["kind"], said.get("arm", ""), said.get("weight", 0), said["evidence"].get("wave"))
        self._told.setdefault((name, digest), []).append(told)
        if said["kind"] == "Promoted":
            self._promoted.setdefault(name, []).append((index, digest))
        if said["kind"] == "RolledBack":
            self._denied.add((name, digest))

    @law
    def _witness(self, index: int, entry: bytes, statement: Mapping[str, Any]) -> None:
        """Others bear witness to an entry that the log has before, at most once, and to none that says so of another."""
        about = statement["predicate"]["evidence"]["logIndex"]
        _demand(about < index and bool(bundle_of(self.house.log.entries[about], statement)), f"entry {index} bears witness to none")
        _demand(about not in self._witnessed, f"entries {self._witnessed.get(about)} and {index} bear witness to entry {about}")
        _demand(_statement(self.house.log.entries[about])["predicate"]["kind"] != NOTARISED, f"entry {index} bears witness to a witness")
        self._witnessed[about] = index

    @law
    def _is_gone(self, index: int, statement: Mapping[str, Any]) -> None:
        """An event of a deletion speaks of an object that is not there any more."""
        uid, name = statement["predicate"]["evidence"]["uid"], statement["subject"][0]["name"]
        there = [found.uid for kind in SUBJECTS for found in self.house.store.list(kind).resources]
        _demand(uid not in there, f"entry {index}: {name} {uid} is deleted, and is there")

    @law
    def _move(self, where: str, name: str, uid: str, digest: str, said: Mapping[str, Any]) -> None:
        """Every event follows from the one before it: nothing begins unsigned, no step is skipped, nothing happens or ends twice."""
        course = self._courses.setdefault(uid, Course())
        kind, generation = said["kind"], said["evidence"]["generation"]
        if kind in ("Compiled", "Built", "Signed"):
            course.signed = digest if kind == "Signed" else ""
            course.state = "" if kind == "Compiled" else course.state
        elif kind == "RolloutStarted":
            _demand(course.signed == digest, f"{where}: it was not signed just before")
            _demand(course.state not in (ROLLING, HELD), f"{where}: {course.digest} rolls already")
            self._not_denied(where, name, uid, digest, generation)
            _demand((said["arm"], said["weight"]) == ("Shadow", 0), f"{where}: it begins with {said['arm']} {said['weight']} %")
            course.signed = ""
            self._at(course, ROLLING, digest, said)
        elif kind in _ROLLOUT:
            _demand(course.digest == digest and course.state in (ROLLING, HELD), f"{where}: it does not roll ({course})")
            if kind in ("StepAdvanced", "Promoted"):
                self._next(where, uid, course, said)
            self._at(course, ENDED if kind in ("Promoted", "RolledBack") else ROLLING, digest, said)
        elif kind == "Stalled":
            course.state = HELD if course.state == ROLLING and course.digest == digest else course.state
        elif kind in ("Aborted", "Superseded"):
            before = course.state, course.signed, course.digest, course.generation
            _demand(before != (ENDED, "", digest, generation), f"{where}: it had ended")
            if kind == "Aborted":
                self._aborted.add((uid, digest, generation))
            course.state, course.digest, course.signed, course.generation = ENDED, digest, "", generation

    def _at(self, course: Course, state: str, digest: str, said: Mapping[str, Any]) -> None:
        course.state, course.digest, course.generation = state, digest, said["evidence"]["generation"]
        course.arm, course.step, course.weight = said.get("arm", ""), said.get("step") or 0, said.get("weight") or 0

    @law
    def _not_denied(self, where: str, name: str, uid: str, digest: str, generation: int) -> None:
        """A digest that was rolled back never begins again under that name, and one that was aborted not in the same generation."""
        _demand((name, digest) not in self._denied, f"{where}: it was rolled back before")
        _demand((uid, digest, generation) not in self._aborted, f"{where}: it was aborted in generation {generation}")

    @law
    def _next(self, where: str, uid: str, course: Course, said: Mapping[str, Any]) -> None:
        """Steps come one after the other, and promotion after the last one; edited steps enforce no more than the next one does."""
        steps = [row["weight"] for row in self._steps(uid, said["evidence"]["generation"])]
        if said["evidence"]["generation"] == course.generation:
            at = -1 if course.arm == "Shadow" else course.step
            wanted = steps[at + 1] if at + 1 < len(steps) else None
            edited = [wanted]
        else:
            above = [weight for weight in steps if weight > course.weight]
            edited = [weight for weight in steps if weight <= (min(above) if above else 100)] + ([] if above else [None])
        found = None if said["kind"] == "Promoted" else said["weight"]
        _demand(found in edited, f"{where}: after {course.arm} {course.weight} % came {found} %, must be one of {edited} (None: promotion)")

    @law
    def _approved(self, where: str, name: str, uid: str, digest: str, said: Mapping[str, Any]) -> None:
        """Nothing of a stage is enforced before as many people as it asks for have approved these very bytes, each by its own event that
        the log had first."""
        if said["kind"] != "Promoted" and (said["kind"], said.get("arm")) != ("StepAdvanced", "Canary"):
            return
        asked = self.house.store.specs[uid, said["evidence"]["generation"]]["rollout"].get("approvals") or ()
        if not asked:
            return
        named = said["evidence"].get("approvedBy", ())
        _demand(len(set(named)) >= asked[0]["count"], f"{where}: approved by {named}, must be {asked[0]['count']}")
        real = {actor for _, actor in self._words.get((name, digest), ())}
        _demand(set(named) <= real, f"{where}: approved by {named}, recorded are {sorted(real)}")

    @law
    def _asked_for(self, where: str, uid: str, said: Mapping[str, Any]) -> None:
        """Nothing goes forward while its spec is suspended, and nothing ends because of a word about another generation."""
        if said["kind"] in ("RolloutStarted", "StepAdvanced", "Promoted"):
            _demand(not self.house.store.specs[uid, said["evidence"]["generation"]]["suspend"], f"{where}: it is suspended")
        _demand(said["kind"] != "Aborted" or said["reason"] != TOO_LATE, f"{where}: another generation was meant")

    def _steps(self, uid: str, generation: int) -> list[Mapping[str, Any]]:
        rows: list[Mapping[str, Any]] = self.house.store.specs[uid, generation]["rollout"]["steps"]
        return rows

    # ---- documents -------------------------------------------------------------------------------

    @law
    def _document(self, handed: Handed) -> None:
        """The epoch of a point's documents only grows, names one document, and is the index of an event that was in the log first."""
        document, digest = payload(handed.envelope), sha256_hex(handed.envelope)
        epoch, before = document["epoch"], self._newest.get(handed.point, (-1, ""))
        where = f"{handed.point}, epoch {epoch}"
        _demand(epoch < handed.length, f"{where}: the log held {handed.length} entries")
        _demand(epoch > before[0] or (epoch, digest) == before, f"{where}: came after epoch {before[0]}")
        self._newest[handed.point] = epoch, digest
        off = [name for name, variant in document["flags"].items() if variant == "off"]
        _demand(not off or document["mode"] != "Canary", f"{where}: enforces a canary, and {off} are off")
        self._stable(where, document, epoch)
        self._candidate(where, document, epoch)
        self._joined(where, handed.point, document, epoch)

    @law
    def _stable(self, where: str, document: Mapping[str, Any], epoch: int) -> None:
        """What is enforced on everybody is what its pack promoted last, as the log says up to the document's epoch."""
        if document["stable"] is None:
            return
        rows = self._promoted.get(_name(document["stable"]), [])
        at = bisect_right(rows, epoch, key=lambda row: row[0])
        found = rows[at - 1][1] if at else "nothing"
        _demand(found == document["stable"]["digest"], f"{where}: stable {document['stable']['version']}, promoted last: {found}")

    @law
    def _candidate(self, where: str, document: Mapping[str, Any], epoch: int) -> None:
        """No document enforces an arm or a weight past the step that the log ordered up to the document's epoch."""
        candidate = document["candidate"]
        if candidate is None:
            return
        rows = self._told.get((_name(candidate), candidate["digest"]), [])
        at = bisect_right(rows, epoch, key=lambda row: row.index)
        last = next((row for row in reversed(rows[:at]) if row.kind not in ("Compiled", "Built", "Signed")), None)
        what = f"{where}: candidate {candidate['version']}, {document['mode']} {document['weight']} ‰"
        _demand(last is not None, f"{what}: nothing ordered it")
        assert last is not None
        _demand(last.kind in ("RolloutStarted", "StepAdvanced", "Resumed", "Stalled"), f"{what}: last came {last.kind}")
        _demand(document["weight"] <= last.weight * 10, f"{what}: {last.kind} ordered {last.weight} %")
        _demand(document["mode"] != "Canary" or last.arm == "Canary", f"{what}: {last.kind} ordered {last.arm}")
        step = next(row for row in reversed(rows[:at]) if row.kind in ("RolloutStarted", "StepAdvanced", "Resumed"))
        waved = document["mode"] != "Canary" or step.wave is None or "wave" in document
        _demand(waved, f"{what}: in all pods, {step.kind} ordered a wave of {step.wave} %")

    @law
    def _joined(self, where: str, point: str, document: Mapping[str, Any], epoch: int) -> None:
        """A point that gets a live pack without having judged it gets it by the word of as many people as its pack asks for."""
        stood = self._stood.get(point, ("", ""))
        stable, candidate = ((document[arm] or {}).get("digest", "") for arm in ("stable", "candidate"))
        self._stood[point] = stable, candidate
        pack = self.house.store.find(pack_key(document["stable"]["name"])) if stable and stable not in stood else None
        live = (pack.status.get("live") or {}) if pack is not None else {}
        if pack is None or live.get("digest") != stable or point.partition("/")[2] not in live["points"]:
            return
        asked = self.house.store.specs[pack.uid, live["generation"]]["rollout"].get("approvals") or ({"count": 0},)
        real = {actor for index, actor in self._words.get((_name(document["stable"]), stable), ()) if index < epoch}
        _demand(len(real) >= asked[0]["count"], f"{where}: got {document['stable']['version']}, approved by {sorted(real)}")

    # ---- statuses --------------------------------------------------------------------------------

    @law
    def _one_pack_at_a_point(self, pack: Resource) -> None:
        """No two packs hold one point."""
        mine = held(pack)
        for other in self.house.store.list("PolicyPack", pack.namespace).resources:
            if other.name != pack.name and self.house.store.find(pack.key) == pack:
                _demand(not mine & held(other), f"{pack.key} and {other.key} both hold {sorted(mine & held(other))}")

    def _note_phase(self, pack: Resource) -> None:
        revision = pack.status.get("revision", {})
        phase, inputs = revision.get("phase", ""), revision.get("inputs", "")
        before, made_of = self._phases.get(pack.uid, ("", ""))
        if phase == Phase.PENDING.value and before in (*WORKING, Phase.STALLED) and made_of != inputs:
            self.superseded.add(Phase(before))
        self._phases[pack.uid] = phase, inputs

    # ---- when all is quiet -----------------------------------------------------------------------

    def at_rest(self) -> list[tuple[str, str]]:
        """Laws of rest that do not hold yet, by name, when faults have ceased and time has passed; empty when all is well."""
        laws = (self._receipts, self._witnesses, self._points, self._packs, self._nothing_left)
        return [(law.__name__.removeprefix("_"), text) for law in laws for text in law()]

    def _receipts(self) -> Iterator[str]:
        """Every event of a committed status has exactly one entry and one receipt, that of a deletion no more, and nothing is pending."""
        receipts: dict[int, list[Resource]] = {}
        for receipt in self.house.store.list("Receipt").resources:
            receipts.setdefault(receipt.spec["logIndex"], []).append(receipt)
        entries = self.house.log.entries
        for index, entry in enumerate(entries):
            found = receipts.pop(index, [])
            kind = _statement(entry)["predicate"]["kind"]
            if not found and kind == "Deleted":
                continue  # nothing but the log has it when its operator dies
            if len(found) != (0 if kind == NOTARISED else 1):
                yield f"entry {index}, {kind}: has {len(found)} receipts"
            if any(receipt.spec["bundle"].encode() != entry for receipt in found):
                yield f"entry {index}: its receipt holds other bytes"
        yield from (f"the receipt of entry {index} has no entry" for index in receipts)
        known = set(entries)
        for bundle in self.house.store.committed:
            if bundle not in known:
                said = _statement(bundle)
                yield f"{said['predicate']['kind']} of {said['subject'][0]['name']} was committed and is not in the log"
        for kind in ("PolicyPack", "EnforcementPoint", "DataBundle", "Approval", "Receipt"):
            yield from (f"{r.key} has pending events" for r in self.house.store.list(kind).resources if "pending" in r.status)

    def _witnesses(self) -> Iterator[str]:
        """Where there are others outside, the status of every Receipt says which entry has what they said, and that entry says so too."""
        for receipt in self.house.store.list("Receipt").resources if self.outside else ():
            index, status = receipt.spec["logIndex"], receipt.status
            if status.get("sigstoreIndex") != self._witnessed.get(index) or "sigstoreIndex" not in status:
                yield f"{receipt.key}: status says entry {status.get('sigstoreIndex')}, the log {self._witnessed.get(index)}"
                continue
            said = _statement(self.house.log.entries[status["sigstoreIndex"]])
            if bundle_of(self.house.log.entries[index], said).decode() != status["sigstore"]:
                yield f"{receipt.key}: its status has another bundle than the log"

    def _points(self) -> Iterator[str]:
        """What the status of a point says is what its document and every agent of it say."""
        for resource in self.house.store.list("EnforcementPoint").resources:
            point = f"{resource.namespace}/{resource.name}"
            if point not in self.house.fleet.documents:
                yield f"{point} has no document"
                continue
            document = payload(self.house.fleet.documents[point])
            said = {name: resource.status.get(name) for name in ("epoch", "mode", "weight", "stable", "candidate", "data")}
            true = {name: document[name] for name in ("epoch", "mode", "weight")}
            true |= {name: (document[name] or {}).get("digest") for name in ("stable", "candidate", "data")}
            if said != true:
                yield f"{point}: status says {said}, its document {true}"
            if not is_valid(self.house.signer.keyid("rollout"), self.house.fleet.documents[point], document, self.house.clock.now_ns()):
                yield f"{point}: its document is of a key that was replaced, or ends soon"
            if document["stable"] or document["candidate"]:
                flags = self._flags(document["candidate"] or document["stable"])
                if document["flags"] != flags:
                    yield f"{point}: its document says {document['flags']}, flags say {flags}"
            if _ready(resource) != "True":
                yield f"{point} is not ready: {resource.status.get('conditions')}"
            for pod in self.pods.pods.get(point, ()):
                if pod.epoch != document["epoch"]:
                    yield f"{pod.name} of {point} runs epoch {pod.epoch}, not {document['epoch']}"

    def _flags(self, pack: Mapping[str, Any]) -> dict[str, str]:
        found = self.house.store.list("FeatureFlag", pack["namespace"]).resources
        return {flag.name: flag.spec["defaultVariant"] for flag in found if flag.spec["pack"] == pack["name"]}

    def _packs(self) -> Iterator[str]:
        """What the status of a pack says runs is what the documents of its points say, and no document names another pack."""
        stable: dict[str, str] = {}
        rolling: dict[str, str] = {}
        for pack in self.house.store.list("PolicyPack").resources:
            live, revision = pack.status.get("live") or {}, pack.status.get("revision", {})
            stable |= {f"{pack.namespace}/{name}": live["digest"] for name in live.get("points", ())}
            if revision.get("phase") in ("Rolling", "Stalled") and "arm" in revision:
                rolling |= {f"{pack.namespace}/{name}": revision["digest"] for name in revision["points"]}
            if revision.get("phase") == "Live" and revision["digest"] != live.get("digest"):
                yield f"{pack.key} says Live, and its live digest is another"
            if pack.status.get("observedGeneration") != pack.generation:
                yield f"{pack.key}: generation {pack.generation} is not observed"
        for resource in self.house.store.list("EnforcementPoint").resources:
            point = f"{resource.namespace}/{resource.name}"
            envelope = self.house.fleet.documents.get(point)
            if envelope is None:
                yield f"{point} was told nothing yet"
                continue
            document = payload(envelope)
            for place, by in (("stable", stable), ("candidate", rolling)):
                found = (document[place] or {}).get("digest")
                if found != by.get(point):
                    yield f"{point}: {place} is {found}, packs say {by.get(point)}"

    def waves(self) -> Iterator[str]:
        """At most twice as many pods have a candidate as its wave says."""
        percents = {
            (f"{pack.namespace}/{name}", revision.get("digest")): revision["wave"]
            for pack in self.house.store.list("PolicyPack").resources
            if "wave" in (revision := pack.status.get("revision", {}))
            for name in revision["points"]
        }
        for point, pods in self.pods.pods.items():
            inside = [pod for pod in pods if pod.in_wave and pod.document is not None]
            candidates = {(pod.document or {})["candidate"]["digest"] for pod in inside}
            for percent in (percents[point, digest] for digest in candidates if (point, digest) in percents):
                share = size(percent, len(pods))
                if len(inside) > 2 * share:
                    yield f"{point}: {len(inside)} of {len(pods)} pods are in the wave, {percent} % are {share}"

    def _nothing_left(self) -> Iterator[str]:
        """Nothing runs for what was deleted."""
        points = {f"{r.namespace}/{r.name}" for r in self.house.store.list("EnforcementPoint").resources}
        if self.house.placement.running.keys() != points:
            yield f"these run: {sorted(self.house.placement.running)}, these are there: {sorted(points)}"


def held(pack: Resource) -> set[str]:
    """Points at which a pack is enforced or judged by its status."""
    live, revision = pack.status.get("live") or {}, pack.status.get("revision", {})
    rolls = revision.get("phase") in ("Rolling", "Stalled") and "arm" in revision
    return {*live.get("points", ()), *(revision["points"] if rolls else ())}


def is_valid(keyid: str, envelope: bytes, document: Mapping[str, Any], now_ns: int) -> bool:
    """Whether a document is signed by this key and does not end soon."""
    ends_ns = from_rfc3339_ns(document["notAfter"])
    return [row["keyid"] for row in json.loads(envelope)["signatures"]] == [keyid] and ends_ns - now_ns > SOON_NS


def _ready(resource: Resource) -> str:
    return next((str(c["status"]) for c in resource.status.get("conditions", ()) if c["type"] == "Ready"), "")


def _name(pack: Mapping[str, Any]) -> str:
    return f"{pack['namespace']}/{pack['name']}"


def broken(law: str, text: str) -> Broken:
    """A law of this name, which is none of the methods here, does not hold."""
    error = Broken(text)
    error.law = law
    return error


def _demand(holds: bool, otherwise: str) -> None:
    if not holds:
        raise Broken(otherwise)


_STATEMENTS: dict[bytes, dict[str, Any]] = {}


def _statement(bundle: bytes) -> dict[str, Any]:
    found = _STATEMENTS.get(bundle)
    if found is None:
        found = _STATEMENTS[bundle] = json.loads(base64.b64decode(json.loads(bundle)["dsseEnvelope"]["payload"]))
        if len(_STATEMENTS) > 4096:
            _STATEMENTS.clear()
            _STATEMENTS[bundle] = found
    return found


def pack_key(name: str) -> Key:
    return Key("PolicyPack", "erp", name)
