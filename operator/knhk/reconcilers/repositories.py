"""PolicyRepository: what its branch carries is what the store holds, commit by commit; what was rolled back is denied and reverted.

The network is reached beside the loop (pulling, reverting, checking). What a commit brings is written into the status first, with the
digest of each resource, and applied second: whoever asks where a resource comes from (provenance.py) finds the answer before the resource
changes, and a crash in between is met by the same plan again.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from knhk.decide.applying import ORDER, Plan, Present, Wanted, plan
from knhk.lockchain import PolicyEvent
from knhk.model.canonical import sha256_hex
from knhk.model.commits import globbed
from knhk.model.faults import Fault, NotFound, Refused, Stalled, Waiting
from knhk.model.phases import Phase
from knhk.model.resource import Key, Resource
from knhk.model.times import rfc3339
from knhk.reconcilers.checking import Checker
from knhk.reconcilers.context import Journal, Ports, fault_rows, say, write_status
from knhk.reconcilers.provenance import SYSTEM, behind, believed, spec_digest
from knhk.reconcilers.pulling import Carried, Git, Pulled, Puller
from knhk.reconcilers.reverting import Reverter

OWNER = "knhk.dev/repository"  # label: NAMESPACE.NAME of the PolicyRepository that applied an object
COMMIT = "knhk.dev/commit"
APPLIED = "knhk.dev/applied"  # SHA-256 of the spec that was applied: who finds another one knows that a person changed it
ABOUT = {
    "author": "knhk.dev/commit-author",
    "signer": "knhk.dev/commit-signer",
    "pullRequest": "knhk.dev/pull-request",
    "pullRequestAuthor": "knhk.dev/pull-request-author",
}
APPROVERS = "knhk.dev/approvers"
REQUESTED = "knhk.dev/requestedAt"
LOOK_S = 0.1
EXPLAINED_WITHIN_S = 3.0  # a forge tells of a push before it says which pull request it was
MAX_DENIED = 32
DENIED_AT_ONCE = 8
MAX_CONFLICTS = 512
MAX_NOTED = 1024  # objects of a status: twice what a commit may carry, for what leaves

_log = logging.getLogger("knhk.repositories")


@dataclass
class _Work:
    """A pull that runs, for a generation and a request."""

    future: Future[Pulled]
    generation: int
    asked: str


@dataclass
class _Seen:
    """The last look (None: it failed): until when it holds, and since when its head is known."""

    generation: int
    pulled: Pulled | None
    head_since_s: float
    next_s: float


@dataclass(frozen=True)
class NoGit:
    """A control plane that was given no Git says so."""

    ports: Ports

    def converge(self, repository: Resource) -> float | None:
        """Nothing is pulled."""
        must = "this control plane must be given Git to work on a PolicyRepository"
        write_status(self.ports, repository, _kept(repository), False, "NoGit", must)
        return None


@dataclass
class RepositoryReconciler:
    ports: Ports
    journal: Journal
    git: Git
    _work: dict[Key, _Work] = field(default_factory=dict)
    _seen: dict[Key, _Seen] = field(default_factory=dict)
    _kept: frozenset[str] | None = None

    def __post_init__(self) -> None:
        self._puller = Puller(self.git)
        self._reverter = Reverter(self.git)
        self._checker = Checker(self.git)

    def converge(self, repository: Resource) -> float | None:
        """One look. Gives seconds until the next."""
        self.journal.deliver(repository)
        self._collect()
        if repository.spec["suspend"]:
            self._work.pop(repository.key, None)
            self._write(repository, _kept(repository), None, "Suspended", "nothing is pulled or applied; what is applied stays")
            return None
        if self._deny(repository):
            return 0.0
        repository, reverts_s = self._revert(repository)
        again_s = self._pull(repository)
        return again_s if reverts_s is None else min(again_s, reverts_s)

    def gone(self, repository: Resource) -> None:
        """Forgets a deleted one, and its copy unless another follows the same address."""
        self._work.pop(repository.key, None)
        self._seen.pop(repository.key, None)
        self._collect()

    def _collect(self) -> None:
        """Has copies removed that nobody follows any more."""
        urls = frozenset(each.spec["url"] for each in self.ports.store.list("PolicyRepository").resources)
        if urls != self._kept:
            self._kept = urls
            self.git.lane("").submit(self.git.mirrors.keep, urls)

    # ---- pulling -------------------------------------------------------------------------------

    def _pull(self, repository: Resource) -> float:
        work, seen, now_s = self._work.get(repository.key), self._seen.get(repository.key), self._now_s()
        asked = repository.annotations.get(REQUESTED, "")[:64]
        wanted = asked not in ("", repository.status.get("lastHandledRequestedAt", ""))
        if work is None:
            if seen is not None and seen.generation == repository.generation and now_s < seen.next_s and not wanted:
                return self._settle(repository, seen, asked)
            work = _Work(self.git.lane(repository.spec["url"]).submit(self._puller.pull, repository), repository.generation, asked)
            self._work[repository.key] = work
            return LOOK_S
        if not work.future.done():
            return LOOK_S
        del self._work[repository.key]
        again_s = self._pulled(repository, work, seen)
        return LOOK_S if asked != work.asked else again_s

    def _pulled(self, repository: Resource, work: _Work, before: _Seen | None) -> float:
        """What came of a pull. What failed is tried again when its time has come, or when somebody asks."""
        status, now_s = _handled(repository, work.asked), self._now_s()
        wait_s = float(repository.spec["intervalSeconds"])
        try:
            pulled = work.future.result()
        except Waiting as waiting:
            wait_s = waiting.retry_after_s
            self._write(repository, status, None, waiting.reason, str(waiting))
        except Stalled as stalled:
            self._write(repository, status, False, stalled.reason, str(stalled))
        except Refused as refused:
            rows, message = fault_rows(refused)
            self._write(repository, {**status, "faults": rows}, False, "Refused", message)
        else:
            same = before is not None and before.pulled is not None and before.pulled.head.id == pulled.head.id
            since_s = before.head_since_s if before is not None and same else now_s
            seen = _Seen(work.generation, pulled, since_s, now_s + wait_s)
            if not self._is_explained(repository, seen):
                seen.next_s = now_s + EXPLAINED_WITHIN_S / 4
            self._seen[repository.key] = seen
            self._checker.look(repository)
            return self._settle(repository, seen, work.asked)
        self._seen[repository.key] = _Seen(work.generation, None, now_s, now_s + wait_s)
        return wait_s

    def _is_explained(self, repository: Resource, seen: _Seen) -> bool:
        """Whether each commit is told with its pull request, or had time to be."""
        if repository.spec["forge"]["kind"] == "None" or self._now_s() - seen.head_since_s > EXPLAINED_WITHIN_S:
            return True
        known = {row["commit"] for row in repository.status.get("commits", ())}
        carried = {} if seen.pulled is None else seen.pulled.carried
        return all(each.source.pull_request or each.source.commit in known for each in carried.values())

    # ---- applying ------------------------------------------------------------------------------

    def _settle(self, repository: Resource, seen: _Seen, asked: str) -> float:
        """Brings the store to what the last look found."""
        pulled, left_s = seen.pulled, max(LOOK_S, seen.next_s - self._now_s())
        status = _handled(repository, asked)
        if pulled is None:
            return left_s
        if pulled.unsigned:
            self._refuse_unsigned(repository, status, pulled)
            return left_s
        status["denied"] = [row for row in status.get("denied", ()) if not _is_unsigned(row)]
        if pulled.faults:
            rows, message = fault_rows(Refused(pulled.faults))
            self._write(repository, {**status, "faults": rows}, False, "Refused", f"{pulled.head.id[:12]} is not applied: {message}")
            return left_s
        if not self._is_explained(repository, seen):
            return left_s
        made = self._plan(repository, pulled)
        status = {**status, **_intent(repository, pulled, made)}
        status.pop("faults", None)
        if made.apply or made.prune:
            leaving = _rows(repository, made.prune)  # noted until they are gone, or nobody could tell after a crash that they must go
            noted = [*status["applied"], *leaving][:MAX_NOTED]
            repository = self._announce(repository, {**status, "applied": noted}, pulled, made)
            faults = self._bring(repository, pulled, made)
            if faults:
                rows, message = fault_rows(Refused(faults))
                self._write(repository, {**_kept(repository), "faults": rows}, False, "NotApplied", message)
                return left_s
            status = {**_kept(repository), "applied": status["applied"]}
        self._finish(repository, status, pulled, made)
        return left_s

    def _plan(self, repository: Resource, pulled: Pulled) -> Plan:
        wanted = {key: Wanted(spec_digest(each.resource), each.source.commit) for key, each in pulled.carried.items()}
        present = {resource.key: _present(resource) for kind in ORDER for resource in self._owned(repository, kind)}
        for key in wanted.keys() - present.keys():
            with suppress(NotFound):
                present[key] = _present(self.ports.store.get(key))
        denied = {row["commit"] for row in repository.status.get("denied", ()) if not _is_unsigned(row)}
        return plan(owner_of(repository), wanted, present, denied, partial(self._stays, repository, pulled))

    def _stays(self, repository: Resource, pulled: Pulled, key: Key) -> str:
        """Why what the repository carries no more is not pruned, for people: where only merged commits count, a merged commit of where it
        came from must have taken away its very file. Whoever writes a PolicyRepository takes nothing away with its address, branch or
        paths, nor by a label. Empty when it may go."""
        if not self.ports.namespaces.requires_merged_commit(key.namespace):
            return ""
        row, head = next(iter(_rows(repository, (key,))), None), pulled.source
        source = None if row is None else behind(repository, row["commit"])
        if row is None or source is None or (source.url, source.branch) != (head.url, head.branch):
            why = "its commit was not noted as one of this address and branch"
        elif not any(globbed(pattern).fullmatch(row["path"]) for pattern in repository.spec["paths"]):
            why = f"spec.paths name {row['path']} no more"
        else:
            trust, nobody = believed(self.ports.trusts)
            why = nobody or trust.doubt(head)
        return f"namespace {key.namespace} lets go only what a merged commit took away: {why}" if why else ""

    def _owned(self, repository: Resource, kind: str) -> tuple[Resource, ...]:
        namespace = None if repository.namespace == SYSTEM else repository.namespace
        return self.ports.store.list(kind, namespace, {OWNER: owner_of(repository)}).resources

    def _announce(self, repository: Resource, status: Mapping[str, Any], pulled: Pulled, made: Plan) -> Resource:
        """The commit point: status and policy event, before anything of it is in the store."""
        if repository.status.get("commit") != pulled.head.id:
            mine = next((each.source for each in pulled.carried.values() if each.source.commit == pulled.head.id), pulled.source)
            evidence = {"source": mine.document(), "resources": len(pulled.carried), "applied": len(made.apply), "pruned": len(made.prune)}
            status = self.journal.pend(status, self._event(repository, "CommitApplied", pulled.head.id, "", evidence))
        status = {**status, **_head(repository, pulled), "lastPull": rfc3339(self.ports.clock.now_ns())}
        message = f"{pulled.head.id[:12]}: {len(made.apply)} resources are applied, {len(made.prune)} pruned"
        repository = self._write(repository, status, None, "Applying", message)
        self.journal.deliver(repository)
        return repository

    def _bring(self, repository: Resource, pulled: Pulled, made: Plan) -> list[Fault]:
        """Applies and prunes; the faults of those that the store refuses. What somebody else changed just now is met again."""
        faults: list[Fault] = []
        for key in made.apply:
            try:
                self._apply(repository, pulled.carried[key])
            except Refused as refused:
                faults += [Fault(f"{key} {fault.where}".strip(), fault.value, fault.must) for fault in refused.faults]
        for key in made.prune:
            try:
                found = self.ports.store.get(key)
                self.ports.store.delete(key, found.resource_version)
                self.journal.taken[found.uid] = pulled.source
                say(self.ports, repository.key, "Pruned", f"{key} left the repository")
            except NotFound:
                continue
        return faults

    def _apply(self, repository: Resource, each: Carried) -> None:
        resource = each.resource
        try:
            before = self.ports.store.get(resource.key)
        except NotFound:
            before = replace(resource, labels={}, annotations={}, resource_version="")
        document = each.source.document()
        annotations = {name: str(document[field])[:1024] for field, name in ABOUT.items() if field in document}
        if each.source.approvers:
            annotations[APPROVERS] = ",".join(each.source.approvers)
        old = {name: text for name, text in before.annotations.items() if name not in (*ABOUT.values(), APPROVERS)}
        self.ports.store.apply(
            replace(
                resource,
                status={},
                labels={**before.labels, **resource.labels, OWNER: owner_of(repository)},
                annotations={**old, **resource.annotations, COMMIT: each.source.commit, APPLIED: spec_digest(resource), **annotations},
                resource_version=before.resource_version,
            )
        )

    def _finish(self, repository: Resource, status: Mapping[str, Any], pulled: Pulled, made: Plan) -> None:
        head = pulled.head.id[:12]
        told = [f"{len(pulled.carried) - len(made.held) - len(made.conflicts)} resources of {head} are applied"]
        told += [f"{key} is left: {why}" for key, why in sorted(made.conflicts.items())][:4]
        told += [f"{key} is not applied: {commit[:12]} is denied" for key, commit in sorted(made.held.items())][:4]
        reason = "Conflicts" if made.conflicts else "CommitDenied" if made.held else "Applied"
        ready = not made.conflicts
        self._write(repository, {**status, **_head(repository, pulled)}, ready, reason, "; ".join(told))

    def _refuse_unsigned(self, repository: Resource, status: dict[str, Any], pulled: Pulled) -> None:
        now = rfc3339(self.ports.clock.now_ns())
        known = {row["commit"] for row in status.get("denied", ())}
        rows = [{"commit": commit, "reason": f"NotSigned: {why}"[:1024], "time": now} for commit, why in pulled.unsigned.items()]
        room = max(0, MAX_DENIED - len(known))  # what is told already, and what was rolled back, stays: each is told once
        new = [row for row in rows if row["commit"] not in known][: min(room, DENIED_AT_ONCE)]
        status["denied"] = [*new, *status.get("denied", ())]
        events = [self._event(repository, "CommitDenied", row["commit"], row["reason"], {}) for row in new]
        commit, why = next(iter(pulled.unsigned.items()))
        more = f" (and {len(rows) - 1} more)" if len(rows) > 1 else ""
        message = f"{pulled.head.id[:12]} is not applied: {commit[:12]}: {why}{more}"
        self._write(repository, self.journal.pend(status, *events) if events else status, False, "NotSigned", message)

    # ---- taking back ---------------------------------------------------------------------------

    def _deny(self, repository: Resource) -> bool:
        """Denies the commits whose packs were rolled back; true when the status was written. What no pack stands rolled back from any more
        makes room; beyond that the pack's own deny list holds alone."""
        denied = [row for row in repository.status.get("denied", ()) if not _is_unsigned(row)]
        known, standing = {row["commit"] for row in denied}, set()
        rows, events = [], []
        for pack in self._owned(repository, "PolicyPack"):
            revision = pack.status.get("revision", {})
            source = revision.get("source", {})
            if revision.get("phase") != Phase.ROLLED_BACK.value or source.get("repository") != _name(repository):
                continue
            standing.add(source["commit"])
            if source["commit"] in known:
                continue
            known.add(source["commit"])
            reason = f"RolledBack: {pack.namespace}/{pack.name}@{revision['version']}: {revision.get('reason', '')}"[:1000]
            rows.append({"commit": source["commit"], "reason": reason, "time": rfc3339(self.ports.clock.now_ns())})
            events.append(self._event(repository, "CommitDenied", source["commit"], reason, {"source": dict(source)}))
        room = MAX_DENIED - sum(row["commit"] in standing for row in denied)
        rows, events = rows[: min(room, DENIED_AT_ONCE)], events[: min(room, DENIED_AT_ONCE)]
        if not rows:
            return False
        kept = sorted(repository.status.get("denied", ()), key=lambda row: (row["commit"] not in standing, _is_unsigned(row)))
        status = {**_kept(repository), "denied": [*rows, *kept][:MAX_DENIED]}
        self._write(repository, self.journal.pend(status, *events), True, "CommitDenied", rows[0]["reason"])
        for row in rows:
            say(self.ports, repository.key, "CommitDenied", f"{row['commit'][:12]}: {row['reason']}", warning=True)
        return True

    def _revert(self, repository: Resource) -> tuple[Resource, float | None]:
        """Opens what takes denied commits back; the repository, and seconds until a look at what runs."""
        if repository.spec["forge"]["kind"] == "None":
            return repository, None
        waits: float | None = None
        rows = list(repository.status.get("denied", ()))
        for place, row in enumerate(rows):
            if _is_unsigned(row) or "revert" in row:
                continue
            told, wait_s = self._reverter.open(repository, row, self._now_s())
            if told:
                rows[place] = {**row, "revert": told[:1024]}
            elif wait_s is not None:
                waits = wait_s if waits is None else min(waits, wait_s)
        if rows == list(repository.status.get("denied", ())):
            return repository, waits
        found = self.ports.store.update_status(replace(repository, status={**repository.status, "denied": rows}))
        say(self.ports, repository.key, "RevertOpened", ", ".join(row["revert"] for row in rows if "revert" in row)[:1000])
        return found, waits

    # ---- shared --------------------------------------------------------------------------------

    def _event(self, repository: Resource, kind: str, commit: str, reason: str, evidence: Mapping[str, Any]) -> PolicyEvent:
        return PolicyEvent(
            kind=kind,
            subject=(f"commit/{_name(repository)}@{commit}", sha256_hex(commit.encode())),
            actor=self.ports.actor,
            time=rfc3339(self.ports.clock.now_ns()),
            reason=reason,
            evidence=evidence,
        )

    def _now_s(self) -> float:
        return self.ports.clock.monotonic_ns() / 1e9

    def _write(self, repository: Resource, status: Mapping[str, Any], ready: bool | None, reason: str, message: str) -> Resource:
        return write_status(self.ports, repository, status, ready, reason, message[:4000])


def rolled_back(resource: Resource) -> Key | None:
    """The PolicyRepository whose commit a pack was rolled back from, which must deny it."""
    revision = resource.status.get("revision", {}) if resource.kind == "PolicyPack" else {}
    source = revision.get("source")
    if source is None or revision["phase"] != Phase.ROLLED_BACK.value:
        return None
    namespace, _, name = source["repository"].partition("/")
    return Key("PolicyRepository", namespace, name)


def owner_of(repository: Resource) -> str:
    """The label value that names a PolicyRepository: at most 63 characters, which long names reach by a digest."""
    name = f"{repository.namespace}.{repository.name}"
    return name if len(name) <= 63 else f"{name[:46]}-{sha256_hex(name.encode())[:16]}"


def _name(repository: Resource) -> str:
    return f"{repository.namespace}/{repository.name}"


def _present(resource: Resource) -> Present:
    annotations = resource.annotations
    return Present(spec_digest(resource), resource.labels.get(OWNER, ""), annotations.get(COMMIT, ""), annotations.get(APPLIED, ""))


def _intent(repository: Resource, pulled: Pulled, made: Plan) -> dict[str, Any]:
    """What the status says of the resources: of those that are held or conflict, what was applied before."""
    before = {_key(row): row for row in repository.status.get("applied", ())}
    known: dict[str, Mapping[str, Any]] = {row["commit"]: row for row in repository.status.get("commits", ())}
    rows = []
    for key, each in sorted(pulled.carried.items()):
        if key not in made.held and key not in made.conflicts:
            rows.append(_row(key, each))
            known[each.source.commit] = each.source.document()
        elif key in before:
            rows.append(dict(before[key]))
    rows += _rows(repository, sorted(made.conflicts.keys() - pulled.carried.keys()))
    noted = (*rows, *_rows(repository, made.prune))
    commits = sorted({row["commit"] for row in noted} & known.keys())[:MAX_NOTED]
    conflicts = [{"object": str(key), "reason": why[:1024]} for key, why in sorted(made.conflicts.items())][:MAX_CONFLICTS]
    return {"applied": rows[:MAX_NOTED], "commits": [dict(known[commit]) for commit in commits], "conflicts": conflicts}


def _rows(repository: Resource, keys: Iterable[Key]) -> list[dict[str, Any]]:
    """What is noted of these objects."""
    noted = {_key(row): dict(row) for row in repository.status.get("applied", ())}
    return [noted[key] for key in keys if key in noted]


def _kept(repository: Resource) -> dict[str, Any]:
    return {name: value for name, value in repository.status.items() if name not in ("conditions", "observedGeneration")}


def _handled(repository: Resource, asked: str) -> dict[str, Any]:
    """The status, with the request that this look answers."""
    return _kept(repository) | ({"lastHandledRequestedAt": asked[:64]} if asked else {})


def _head(repository: Resource, pulled: Pulled) -> dict[str, Any]:
    revision = f"{repository.spec['branch']}@sha1:{pulled.head.id}"
    signed = {"signer": pulled.signature.signer} if pulled.signature.signer else {}
    return {"commit": pulled.head.id, "revision": revision, **signed}


def _key(row: Mapping[str, Any]) -> Key:
    return Key(row["kind"], row["namespace"], row["name"])


def _row(key: Key, each: Carried) -> dict[str, Any]:
    row = {"kind": key.kind, "namespace": key.namespace, "name": key.name}
    return {**row, "path": each.resource.path, "commit": each.source.commit, "digest": spec_digest(each.resource)}


def _is_unsigned(row: Mapping[str, Any]) -> bool:
    return str(row["reason"]).startswith("NotSigned")
