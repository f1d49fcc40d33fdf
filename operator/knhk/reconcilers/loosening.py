"""Whether what a spec promises less than what is live may count: merged where it must be, and approved by whom the pack's stages ask."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from knhk.api import to_rollout
from knhk.decide.approvals import counted, missing
from knhk.decide.loosening import APPROVALS, CLEAR, DURABILITY, LEVELS, PRIVACY, SEALED, Asked, Loosened, asked_by, asking, digest_of
from knhk.model.resource import Resource
from knhk.model.rollout import RolloutSpec, Stage
from knhk.model.trust import Authors
from knhk.reconcilers.approvals import approvals_of, recorded
from knhk.reconcilers.context import Journal, Ports
from knhk.reconcilers.provenance import authors_of_spec

UNAPPROVED = "Unapproved"
KIND = "Loosened"
MAX_APPROVERS = 64
MAX_PROMISED = 128


def rollout_of(pack: Resource, guards: Sequence[str] = ()) -> RolloutSpec:
    """How a pack is rolled out: as its spec says, and asking for no fewer people than what was live promised (status `promises`)."""
    return asking(to_rollout(pack, guards), _promised(pack))


def _promised(pack: Resource) -> dict[str, Asked]:
    rows = pack.status.get("promises", {}).get("approvals", ())
    return {f"{pack.namespace}/{row['point']}": Asked(row["count"], row["notAuthor"], frozenset(row.get("approvers", ()))) for row in rows}


def pack_promises(pack: Resource) -> tuple[dict[str, Any], dict[str, Any]]:
    """What the live pack promises, and what its spec says, by fields of decide.loosening."""
    live, spec = pack.status["live"], asked_by(to_rollout(pack))
    return (
        {DURABILITY: live.get("durability", LEVELS[0]), APPROVALS: _promised(pack)},
        {DURABILITY: pack.spec["receipts"]["durability"], APPROVALS: spec},
    )


def promising(pack: Resource, *, lowered: bool = False) -> dict[str, Any]:
    """Member `promises` of the status of a pack that is live by its present spec; none where nobody is asked. It never promises less than
    before, unless that was let; of points that are no targets any more it promises what it did, in case that they come again."""
    spec = to_rollout(pack)
    said, before = asked_by(spec if lowered else asking(spec, _promised(pack))), _promised(pack)
    found = {point: asked for point, asked in {**before, **said}.items() if asked.count}
    kept = sorted(found, key=lambda point: (point not in said, point))[:MAX_PROMISED]
    rows = [_promise(point, found[point]) for point in sorted(kept)]
    return {"promises": {"approvals": rows}} if rows else {}


def _promise(point: str, asked: Asked) -> dict[str, Any]:
    named = {"approvers": sorted(asked.approvers)} if asked.approvers else {}
    return {"point": point.partition("/")[2], "count": asked.count, "notAuthor": asked.not_author, **named}


def promises_of(spec: Mapping[str, Any]) -> dict[str, Any]:
    """What an EnforcementPoint promises, by fields of decide.loosening."""
    kept = {name: spec[name] for name in ("failure", "maxUnwitnessedSeconds")}
    return kept | {PRIVACY: SEALED if "privacy" in spec else CLEAR}


@dataclass(frozen=True)
class Loosening:
    """What is to be less, of one object, and whom it waits for: stages of the pack that is there (None: no pack is)."""

    of: Resource
    rows: tuple[Loosened, ...]
    pack: Resource | None
    stages: tuple[Stage, ...]

    @property
    def digest(self) -> str:
        return digest_of(f"{self.of.kind}/{self.of.namespace}/{self.of.name}", self.of.uid, self.of.generation, self.rows)

    def status(self) -> dict[str, Any]:
        """Member `loosening` of a status, while it waits: what people approve."""
        return {"digest": self.digest, "changes": [str(row) for row in self.rows]}

    def lacking(self, ports: Ports) -> str:
        """Who must approve it first, for people; empty when nobody must, or all have."""
        if self.pack is None:
            return ""
        authors, given = self._authors(ports), approvals_of(ports, self.pack, self.digest)
        lacking = next(filter(None, (missing(stage, authors, given) for stage in self.stages)), "")
        told = "; ".join(map(str, self.rows))
        return f"{told}: {lacking}; the revision to approve is {self.digest}; what was stays until then" if lacking else ""

    def evidence(self, ports: Ports, journal: Journal) -> dict[str, Any]:
        """For the event. The log has the words of those who allowed it first; raises Waiting while it cannot take them."""
        found: dict[str, Any] = {"loosened": [row.document() for row in self.rows]}
        asked = [stage for stage in self.stages if stage.approvals is not None]
        if self.pack is not None and asked:
            given = approvals_of(ports, self.pack, self.digest)
            for approval in recorded(ports, self.pack, self.digest):
                journal.deliver(approval)
            authors = self._authors(ports)
            names = sorted({one.approver for stage in asked for one in counted(stage, authors, given)})
            found["approvedBy"] = names[:MAX_APPROVERS]
        return found if ports.reviews else found | {"unreviewed": True}

    def _authors(self, ports: Ports) -> Authors:
        return authors_of_spec(ports.store, ports.trusts, self.of)


def stages_of(pack: Resource | None, point: str = "") -> tuple[Stage, ...]:
    """The stages of a pack; with a point (a name), the one that has it, or all where none does."""
    if pack is None:
        return ()
    found = rollout_of(pack).stages
    own: Iterable[Stage] = [stage for stage in found if f"{pack.namespace}/{point}" in stage.points]
    return tuple(own) or found
