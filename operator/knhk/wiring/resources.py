"""The resources of an embedded home, for commands that need nothing else of it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from knhk.adapters.store_sqlite import SqliteStore
from knhk.adapters.system import SystemClock, SystemRandom
from knhk.model.faults import Stalled
from knhk.ports.store import Store
from knhk.wiring.home import Home


@contextmanager
def open_store(home: Home, *, must_exist: bool) -> Iterator[Store]:
    """The store of a home. Raises Stalled when there is none and it must exist."""
    if must_exist and not home.store.exists():
        raise Stalled("NoHome", f"{home.root}: must be a home; run: knhk --home {home.root} up")
    if not must_exist:
        home.prepare()
    store = SqliteStore(home.store, SystemClock(), SystemRandom())
    try:
        yield store
    finally:
        store.close()
