"""Erasing in a home that is up: what `knhk receipt erase` and its like work on."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

from knhk.adapters.log_sequencer import SequencerLog
from knhk.adapters.store_sqlite import SqliteStore
from knhk.adapters.system import SystemClock, SystemRandom
from knhk.lockchain.events import PolicyEvent, statement
from knhk.model.delta import Row
from knhk.reconcilers.erasing import Beside, Eraser, Surroundings
from knhk.reconcilers.points import privacy_of
from knhk.wiring import replays
from knhk.wiring.archive import Options, archive, opened_folder
from knhk.wiring.home import Home, local_user
from knhk.wiring.privacy import KeyPlace, opened
from knhk.wiring.signing import signer_in
from knhk_runtime.subjects import Privacy, parse_privacy
from knhk_runtime.tlog.served import Served
from knhk_verify.signed import verify_keys


@contextmanager
def erasing(home: Home, archive_at: str | None, place: KeyPlace | None = None) -> Iterator[Eraser]:
    """Erases in a home that is up. `archive_at`: address of an archive of its Δ log; `place`: of the keys of a namespace, in place of the
    home's own. Raises as `opened`."""
    if archive_at:
        replays.archive_of(archive_at, opened_folder(home.log).origin)  # or nothing would be erased there, and nothing told
    keys = opened(place or home)
    signer, clock = signer_in(home.keys), SystemClock()
    delta = archive(Options(home.log, archive_at, home.log / "archive"), clock) if archive_at else None
    log, privacy = SequencerLog(home.sequencer_socket), _privacy(home, clock, place)

    def served() -> Served:
        return opened_folder(home.log).served

    def rows() -> Iterator[Row]:
        if archive_at:
            segments = replays.kept(archive_at)
            for name in segments.names():
                yield from segments.rows(name)

    def events() -> Iterator[tuple[int, PolicyEvent]]:
        yield from replays.events(served(), verify_keys(signer.keys_json(), signer.root_public(), where="keys.json"))

    def sign(event: PolicyEvent) -> bytes:
        return signer.bundle("rollout", statement(event))

    try:
        yield Eraser(
            Surroundings(
                keys=keys,
                recorded=Beside(
                    observations=home.log / "observations",
                    archive=delta,
                    log=served,
                    closed=partial(closed, home),
                    clock=clock,
                    rows=rows,
                    privacy=privacy,
                    tags_key=lambda: keys.tags_key,
                ),
                events=events,
                sign=sign,
                append=log.append_event,
                clock=clock,
                chance=SystemRandom(),
                actor=local_user(),
                privacy=privacy,
            )
        )
    finally:
        keys.close()


def _privacy(home: Home, clock: SystemClock, place: KeyPlace | None) -> dict[str, Privacy]:
    """What the points of a home, of those in the namespace of the keys, say of privacy, by NAMESPACE/NAME."""
    store = SqliteStore(home.store, clock, SystemRandom())
    try:
        points = store.list("EnforcementPoint").resources
        found = {f"{p.namespace}/{p.name}": parse_privacy(privacy_of(p.spec["privacy"])) for p in points if "privacy" in p.spec}
    finally:
        store.close()
    return {point: said for point, said in found.items() if said is not None and (place is None or point.startswith(f"{place.namespace}/"))}


@contextmanager
def closed(home: Home, source: str) -> Iterator[bool]:
    """Whether no agent runs that appends to this outbox; none starts meanwhile."""
    namespace, _, name = source.partition(".")
    path = home.point(namespace, name) / "state" / "lock"
    if not path.exists():
        yield True
        return
    handle = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        yield False
        return
    else:
        yield True
    finally:
        os.close(handle)
