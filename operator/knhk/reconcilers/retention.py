"""Images that no revision needs any more leave the registry: what a pack's status names stays, its history (the last 16) included, and
what a rollout document names. Packs that are gone keep theirs: replay of what they decided needs them."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from concurrent.futures import Future
from dataclasses import dataclass

from knhk.model.faults import KnhkError
from knhk.model.phases import Phase
from knhk.model.resource import Resource
from knhk.reconcilers.context import Ports
from knhk.reconcilers.documents import published

SWEEP_EVERY_S = 1800.0
_BUILDING = (Phase.PENDING, Phase.COMPILED, Phase.BUILT)
_log = logging.getLogger("knhk.retention")


@dataclass
class Retention:
    """Has retired images taken away now and then; the work is the builder's."""

    ports: Ports
    _next_s: float | None = None
    _running: Future[tuple[str, ...]] | None = None

    @property
    def running(self) -> Future[tuple[str, ...]] | None:
        """The sweep under way. What it must leave was told when it began: it does not know of what was ordered since."""
        return self._running

    def turn(self, now_s: float) -> None:
        """Begins a sweep when it is time; never waits for one."""
        if self._running is not None:
            if not self._running.done():
                return
            sweep, self._running = self._running, None
            _tell(sweep)
        if self._next_s is None:
            self._next_s = now_s + SWEEP_EVERY_S
        if now_s >= self._next_s:
            self._next_s = now_s + SWEEP_EVERY_S
            self._running = self.ports.builder.retire(self.needed())

    def needed(self) -> Mapping[str, frozenset[str]]:
        """NAMESPACE/NAME of each pack → digests that must stay. A pack that is being built is left out: what is published of it may
        not be in its status yet."""
        out = frozenset(self._out())
        packs = self.ports.store.list("PolicyPack").resources
        return {f"{pack.namespace}/{pack.name}": out | frozenset(_of(pack)) for pack in packs if not _builds(pack)}

    def _out(self) -> Iterator[str]:
        for point in self.ports.store.list("EnforcementPoint").resources:
            document = published(self.ports, f"{point.namespace}/{point.name}") or {}
            yield from (document[arm]["digest"] for arm in ("stable", "candidate") if document.get(arm))


def _builds(pack: Resource) -> bool:
    revision = pack.status.get("revision")
    return revision is None or revision["generation"] != pack.generation or Phase(revision["phase"]) in _BUILDING


def _of(pack: Resource) -> Iterator[str]:
    status = pack.status
    rows = (status.get("revision"), status.get("live"), *status.get("history", ()))
    yield from (row["digest"] for row in rows if row and "digest" in row)


def _tell(sweep: Future[tuple[str, ...]]) -> None:
    try:
        gone = sweep.result()
    except (KnhkError, OSError) as error:
        _log.warning("retired images stay for now: %s", error)
        return
    if gone:
        _log.info("%d images and manifests are retired: %s", len(gone), ", ".join(digest[:19] for digest in gone[:8]))
