"""What was erased is erased again where a control plane is made anew: in the key store, beside the log, and in archives."""

from __future__ import annotations

import shutil
import sqlite3
import tempfile
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path

from knhk.adapters import delta_parquet
from knhk.adapters.log_indexes import LogIndexes
from knhk.adapters.system import SystemClock
from knhk.lockchain import PolicyEvent
from knhk.model.faults import KnhkError, NotFound, Stalled
from knhk.reconcilers.archiving import Archive
from knhk.reconcilers.erasing import Copies, Erased, Reapplied, erased_by, everywhere, is_of, reapply_keys, rewrite
from knhk.wiring import privacy
from knhk.wiring.archive import opened
from knhk.wiring.erasing import closed
from knhk.wiring.home import Home, private_folder
from knhk.wiring.log_opening import Opened
from knhk.wiring.replays import archive_of
from knhk_runtime import subject_keys
from knhk_runtime.durable import replace_file
from knhk_verify.errors import Bad

WOULD, REAPPLIED, UNREACHED = "would", "reapplied", "unreached"
Act = Callable[[], Reapplied]


@dataclass(frozen=True)
class Reached:
    """What became of one place that may hold what was erased. `why` it could not be reached."""

    place: str
    state: str
    did: Reapplied = field(default_factory=Reapplied)
    why: str = ""


@dataclass(frozen=True)
class Places:
    """Where to look. `subjects`: folder of the key store, or of one for each namespace, and `keys` of its key-encryption key; `home`, if it
    is one: its outboxes lie beside its log."""

    subjects: Path | None
    keys: Path
    archives: tuple[str, ...]
    home: Home | None = None

    @property
    def outboxes(self) -> Path | None:
        return None if self.home is None else self.home.log / "observations"


def reapplied(events: Sequence[PolicyEvent], places: Places, log: Opened, *, dry: bool) -> tuple[Reached, ...]:
    """Every place, one after another: that one cannot be reached holds up no other. `log`: what `events` are of, verified. What an event of
    a namespace says is done there, and in no other."""
    erased = erased_by(events)
    if not (erased.events or erased.holds or erased.queued):
        return ()
    stores = key_stores(places.subjects)
    told = {each: events if each == places.subjects else [event for event in events if is_of(event, each.name)] for each in stores}
    acts: list[tuple[str, Act]] = [
        (str(each), partial(_keys, each, places.keys, erased_by(mine), dry, len(stores) == 1)) for each, mine in told.items()
    ]
    if not stores:
        acts.append((str(places.subjects or "key store"), partial(_no_keys, erased)))
    if places.outboxes is not None:
        acts.append((str(places.outboxes), partial(_outboxes, places, erased, log, dry)))
    acts += [(each, partial(_archive, places, each, erased, log, dry)) for each in places.archives]
    return tuple(_tried(place, act, dry) for place, act in acts)


def _tried(place: str, act: Act, dry: bool) -> Reached:
    try:
        return Reached(place, WOULD if dry else REAPPLIED, act())
    except (KnhkError, Bad, OSError) as error:
        return Reached(place, UNREACHED, why=str(error))


def key_stores(folder: Path | None) -> list[Path]:
    """The folders of the key stores that lie there: this one, or one for each namespace below it, as a key service has them."""
    if folder is None or not folder.is_dir():
        return []
    below = (folder, *sorted(path for path in folder.iterdir() if path.is_dir()))
    found = [path for path in below if subject_keys.store_file(path).exists()]
    return found[:1] if folder in found else found


def _keys(folder: Path, by: Path, erased: Erased, dry: bool, alone: bool) -> Reapplied:
    keys = privacy.opened_in(folder, by)
    try:
        return Reapplied() if dry else reapply_keys(keys, erased, alone=alone)
    finally:
        keys.close()


def _no_keys(erased: Erased) -> Reapplied:
    must = "must be given by --subjects; where it is lost for good no sealed record can be opened, and nothing is to be done"
    raise NotFound(f"there is no key store, and the log names {len(erased.keys)} keys that were destroyed: {must}")


def _outboxes(places: Places, erased: Erased, log: Opened, dry: bool) -> Reapplied:
    if dry or places.home is None:
        return Reapplied()
    copies = Copies(places.outboxes, None, lambda: log.served, partial(closed, places.home), SystemClock())
    return Reapplied(records=sum(rewrite(copies, targets, _points(of))[0] for of, targets in sorted(erased.of.items())))


def _points(namespace: str) -> Callable[[str], bool]:
    return (lambda point: point.startswith(f"{namespace}/")) if namespace else everywhere


def _archive(places: Places, address: str, erased: Erased, log: Opened, dry: bool) -> Reapplied:
    source = opened(log.served.name, log.fetch)
    store = archive_of(address, source.origin)
    if dry:
        return Reapplied()
    with tempfile.TemporaryDirectory(prefix="knhk-reapply-") as made:
        indexes = LogIndexes(Path(made) / "indexes.db")
        archive = Archive(places.outboxes or Path(made), lambda: source, indexes, delta_parquet, store, SystemClock())
        return Reapplied(rows=sum(archive.erase(targets, _points(of)) for of, targets in sorted(erased.of.items()) if targets))


def demand_key_store(folder: Path) -> None:
    """Raises NotFound unless there is one."""
    if not subject_keys.store_file(folder).exists():
        raise NotFound(f"{subject_keys.store_file(folder)}: is not there: must be a key store")


def bring_key_store(source: Path, folder: Path) -> None:
    """A key store from a backup, with what its journal holds; one that is there already stays. Raises NotFound, and Stalled when that is
    another one (records that they sealed could not be opened by one of them), or what is given is none."""
    demand_key_store(source)
    if (own := subject_keys.wrapped_store_key(folder)) is not None:
        if own != subject_keys.wrapped_store_key(source):
            raise Stalled("KeyStore", f"{folder}: is another key store than {source}: one of them must be taken away")
        return
    private_folder(folder)
    with tempfile.TemporaryDirectory(prefix=".knhk-", dir=folder) as made:
        for path in sorted(source.glob(f"{subject_keys.FILE}*")):  # and its journal
            shutil.copy(path, made)
        whole = subject_keys.store_file(Path(made))
        try:
            with closing(sqlite3.connect(whole)) as db:
                db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        except sqlite3.DatabaseError as error:
            raise Stalled("KeyStore", f"{subject_keys.store_file(source)}: {error}: must be a key store") from error
        if subject_keys.wrapped_store_key(Path(made)) is None:
            raise Stalled("KeyStore", f"{subject_keys.store_file(source)}: has no key of its own: must be a key store")
        replace_file(subject_keys.store_file(folder), whole.read_bytes())


def told(found: Reached) -> dict[str, str | int]:
    """As commands say it."""
    numbers = {name: number for name, number in asdict(found.did).items() if name != "events"}
    return {"place": found.place, "state": found.state, "why": found.why, **numbers}
