"""Logs in folders and object stores for commands: by which key they are judged, who may mend them, what a mirror follows."""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from knhk.adapters.log_reading import of_store
from knhk.model.faults import NotFound, Stalled
from knhk.wiring import evidence
from knhk.wiring.home import Home
from knhk.wiring.log_opening import no_log
from knhk_runtime.objects.folder import FolderStore
from knhk_runtime.objects.port import ObjectStore
from knhk_runtime.sequencer.core import lock
from knhk_runtime.sequencer.lease import KEY, Lease
from knhk_runtime.tlog.log_keys import MAX_ORIGIN, keys_of
from knhk_runtime.tlog.served import Fetch
from knhk_verify.errors import demand
from knhk_verify.note import Verifier, parse_vkey
from knhk_verify.signed import TIME, member, parse_json, verify_keys


def own_verifier(store: ObjectStore) -> Verifier:
    """The key that the log itself names: it shows damage, but no forger. Raises NotFound, Bad, Stalled (no log is there)."""
    try:
        meta = store.get("meta.json").data
    except NotFound:
        if of_store(store)("checkpoint") is None:
            raise no_log(store.name) from None
        raise
    return parse_vkey(member(parse_json(meta, "meta.json"), "vkey", str, "meta.json"))


def verifiers_for(
    fetch: Fetch, place: str, home: Home, vkey: str | None, root: str | None, keys: Path | None
) -> tuple[list[Verifier], list[Verifier]]:
    """Keys to follow the log at `place` by, as `keys_of` gives them: `vkey`, or those of role log and the log's name in keys.json of the
    pinned root, the one at hand or that beside the log, whichever is newer. Raises Stalled, NotFound, Bad."""
    if vkey is not None:
        return [parse_vkey(vkey)], []
    note = fetch("checkpoint")
    if note is None:
        raise NotFound(f"{place}: has no checkpoint: must be a log folder, an object store, or the URL of a log")
    name = note.split(b"\n", 1)[0][:MAX_ORIGIN].decode("utf-8", "replace")
    trusted = evidence.trust(home, root, keys, None, None)
    known = verify_keys(trusted.keys_json, trusted.root_public)
    if (beside := fetch("keys.json")) is not None:
        known = max(known, verify_keys(beside, trusted.root_public, where=f"{place}/keys.json"), key=lambda each: each.serial)
    demand(trusted.now < known.expires, "keys.json expires", f"expired at {known.expires:{TIME}}: a newer one must be at hand")
    now, over = keys_of(known, name, trusted.now)
    demand(bool(now), "keys.json roles.log", f"names no key of the log {name!r}: give --vkey, or the keys.json of its own home")
    return now, over


def demand_mirror(store: ObjectStore) -> None:
    """Raises Stalled for a store that holds something else than a mirror, or one that was begun."""
    try:
        store.get("checkpoint")
    except NotFound:
        other = next((row.key for row in store.list() if not row.key.startswith("tile/") and row.key != "meta.json"), None)
        if other is not None:
            must = "must be a mirror, or a new or empty folder or prefix"
            raise Stalled("NoMirror", f"{store.name}: holds {other}, and no checkpoint: {must}") from None


@contextmanager
def alone(store: ObjectStore, place: str) -> Iterator[None]:
    """While nobody else can write the log. Raises Stalled when its sequencer runs."""
    must = "its sequencer runs: stop it first"
    folder = Path(place)
    if isinstance(store, FolderStore) and (folder / "lock").exists():
        try:
            lock(folder)  # until this process ends
        except BlockingIOError:
            raise Stalled("Locked", f"{place}: {must}") from None
    try:
        store.get(KEY)
    except NotFound:
        yield
        return
    lease = Lease(store, f"fsck-{secrets.token_hex(4)}", secrets.token_hex(8), time.monotonic, 600.0)
    if lease.take() > 0:
        raise Stalled("Leased", f"{place}: {must}, or give it the time of its lease")
    try:
        yield
    finally:
        lease.give_back()


def swept(store: ObjectStore) -> list[str]:
    """Files half-written that were in a folder, and are removed; while nobody else writes."""
    gone = store.leftovers() if isinstance(store, FolderStore) else []
    for path in gone:
        path.unlink(missing_ok=True)
    return [str(path) for path in gone]
