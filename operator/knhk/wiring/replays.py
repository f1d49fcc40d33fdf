"""Where what is decided again comes from: records (a log folder, an archive), the log, packs and data (a folder, a registry)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from knhk.adapters import log_reading
from knhk.lockchain.events import PolicyEvent, Said, parse_event
from knhk.model.faults import KnhkError, NotFound, Stalled, Waiting
from knhk.model.progress import Far, counted, unheard
from knhk.model.ranges import Marks
from knhk.reconcilers.auditing import Loaded
from knhk.reconcilers.delta import record_of
from knhk.reconcilers.evaluators import Evaluator, load
from knhk.wiring import packs
from knhk_runtime.objects.opening import open_store
from knhk_runtime.packstore import FetchedPack, PackStore
from knhk_runtime.pull import pull
from knhk_runtime.record import Record, entry_key, parse_record
from knhk_runtime.tlog.folder import log_records
from knhk_runtime.tlog.follow import signer
from knhk_runtime.tlog.log_keys import MAX_ORIGIN, keys_of
from knhk_runtime.tlog.served import Served
from knhk_runtime.tlog.tree import consistency_proof
from knhk_verify.errors import demand
from knhk_verify.leaf import LEAF_SIZE, Leaf, parse_leaf
from knhk_verify.note import open_checkpoint
from knhk_verify.signed import Keys, verify_event
from knhk_verify.tree import verify_consistency

if TYPE_CHECKING:
    from knhk.adapters.observations import Archive
    from knhk.reconcilers.ledger import Kept
    from knhk.wiring.log_opening import Opened
    from knhk_runtime.objects.port import ObjectStore


def is_archive(place: str) -> bool:
    """Whether records are an archive's segments; else a log folder's outboxes."""
    return log_reading.is_store(place) or (Path(place) / "_commits").is_dir()


@dataclass(frozen=True)
class Proven:
    """A log as it was with `served.size` entries, and the root of these, which the log's checkpoint vouches for. Only what the entries that
    are read give this root is proven: `served.entries_under(root)`."""

    served: Served
    root: bytes


def proven(log: Opened, keys: Keys, size: int | None = None) -> Proven:
    """The log with its first `size` entries (None: all) under its checkpoint, which a key signed that keys.json names for this log, or
    named while it was signed. Raises Bad."""
    now, over = keys_of(keys, origin := log.note.partition("\n")[0][:MAX_ORIGIN], datetime.now(UTC))
    where = f"{log.served.name}/checkpoint"
    known = [*now, *over]
    demand(bool(known), f"{where} line 1", f"is {origin!r}: keys.json has no key of role log for it")
    checkpoint = open_checkpoint(log.note, signer(log.note, known), where)
    served = log.served if size is None else log.served.before(size)
    root = served.root(served.size)
    whole = root if served.size == checkpoint.size else log.served.root(checkpoint.size)
    demand(whole == checkpoint.root, where, f"its root is {checkpoint.root.hex()}, the tiles give {whole.hex()}: one of them was altered")
    path = consistency_proof(log.served.read, served.size, checkpoint.size)
    verify_consistency(served.size, root, checkpoint.size, checkpoint.root, path)
    return Proven(served, root)


def _entries(log: Served, root: bytes | None) -> Iterator[bytes]:
    return log.entries() if root is None else log.entries_under(root)


def events(log: Served, keys: Keys, root: bytes | None = None, far: Far = unheard) -> Iterator[tuple[int, PolicyEvent]]:
    """(index, event) of the policy events of a log, each where it stands first, their signatures verified; at their end, where `root` is
    given, that nothing was left out or put elsewhere: all entries give it. Raises Bad and Refused."""
    said = Said()
    for index, entry in enumerate(counted(_entries(log, root), far, "entries", log.size)):
        if entry[:1] == b"{":
            statement, _ = verify_event(entry, keys, where := f"entry {index}")
            if said.is_new(statement, where):
                yield index, parse_event(statement)


@dataclass(frozen=True)
class Parts:
    """A verified pack and its data, to be loaded in any process."""

    so: bytes
    plan: Mapping[str, Any]
    plan_digest: str
    data: bytes | None

    def loaded(self) -> Loaded:
        """Raises Corrupt."""
        return Loaded(load(self.so, self.plan, self.data), self.plan_digest)


@dataclass
class Packs:
    """Packs and data by the digests in leaf and O, verified. `pull`: the registry to get from what the folder has not (`auth`, `tls`: as
    knhk_runtime.pull takes them); which images there are, the log's policy events say."""

    folder: Path
    keys: Keys
    pull: str | None = None
    auth: Path | None = None
    tls: Path | None = None
    log: Served | None = None
    say: Callable[[str], None] = lambda line: None
    _loaded: dict[tuple[bytes, bytes], Loaded] = field(default_factory=dict)

    @cached_property
    def _store(self) -> PackStore:
        return packs.store(self.folder)

    @cached_property
    def _known(self) -> tuple[str, ...]:
        """Digests of all packs and data bundles that the log speaks of."""
        if self.pull is None or self.log is None:
            return ()
        found = dict[str, None]()
        for _, event in events(self.log, self.keys):
            found |= dict.fromkeys([str(event.pack["digest"])] if event.pack else [])
            found |= dict.fromkeys(
                [f"sha256:{event.subject[1]}", str(event.evidence.get("image", ""))] if event.kind == "DataPublished" else []
            )
        return tuple(found)

    def evaluator(self, pack: bytes, bundle: bytes) -> Evaluator:
        """Raises KnhkError."""
        return self.loaded(pack, bundle).evaluator

    def loaded(self, pack: bytes, bundle: bytes) -> Loaded:
        """Raises KnhkError."""
        if (pack, bundle) not in self._loaded:
            self._loaded[pack, bundle] = self.parts(pack, bundle).loaded()
        return self._loaded[pack, bundle]

    def parts(self, pack: bytes, bundle: bytes) -> Parts:
        """Raises KnhkError."""
        fetched, data = self._pack(pack), self._bundle(bundle)
        self.say(f"pack {fetched.index_digest[:23]}…")
        return Parts(fetched.so, fetched.plan, fetched.plan_digest, data)

    def _pack(self, pack: bytes) -> FetchedPack:
        digest = self._store.find_pack(pack) if self.folder.is_dir() else None
        if digest is None and (named := [each for each in self._known if each.startswith(f"sha256:{pack.hex()}")]):
            self._get(named[0])
            digest = self._store.find_pack(pack)
        if digest is None:
            raise NotFound(f"pack missing: {self.folder} has no image that begins with {pack.hex()}")
        return self._store.fetch_pack(digest, packs.host_arch(), self.keys)

    def _bundle(self, bundle: bytes) -> bytes | None:
        if not any(bundle):
            return None
        image = self._store.find_bundle(bundle)
        for digest in self._known if image is None else ():
            try:
                self._get(digest)
            except Waiting:
                raise
            except KnhkError:
                continue  # retired since, or no data
            if (image := self._store.find_bundle(bundle)) is not None:
                break
        if image is None:
            raise NotFound(f"data bundle missing: {self.folder} has no file {bundle.hex()}")
        return self._store.fetch_bundle(image, self.keys)

    def _get(self, digest: str) -> None:
        pull(str(self.pull), digest, self.folder, auth=self.auth, tls=self.tls)


def recorded(log_dir: Path, log: Served, root: bytes | None = None, far: Far = unheard) -> Iterator[tuple[str, Leaf, Record | None]]:
    """(place, leaf, record) of what is kept beside a log folder and in the log; then, without a record, the leaves of which none is kept.
    Raises Bad, also where `root` is given and the entries do not give it."""
    entries = counted(_entries(log, root), far, "entries", log.size)
    logged = {entry_key(entry): entry for entry in entries if len(entry) == LEAF_SIZE and entry[0] == 1}
    count = len(logged)
    for where, payload in log_records(log_dir):
        record = parse_record(payload, where)
        for data in record.leaves:
            if logged.get(key := entry_key(data)) == data:
                far("leaves", count - len(logged), count)
                del logged[key]
                yield where, parse_leaf(data, where), record
    for entry in logged.values():
        yield "log", parse_leaf(entry), None


def archive_of(place: str, origin: str) -> ObjectStore:
    """The archive of the log with this origin. Raises Stalled where there is none, or another log's, and as ObjectStore does."""
    from knhk.reconcilers.ledger import contents_of

    store = open_store(place)
    if (newest := contents_of(store)).number < 0:
        raise Stalled("Archive", f"{place}: has no commit: must be the archive of a log")
    if newest.origin != origin:
        raise Stalled("Archive", f"{place}: is the archive of {newest.origin}: must be that of {origin}")
    return store


def kept(place: str) -> Kept:
    """The segments of an archive. Raises as ObjectStore does."""
    from knhk.adapters import delta_parquet
    from knhk.reconcilers.ledger import Kept

    return Kept(open_store(place), delta_parquet)


def asked(place: str) -> Archive:
    """An archive for questions: of a store each segment is held against its commit when it is read, files of a folder are read as they lie,
    those that are committed where there are commits. Raises as ObjectStore does."""
    from knhk.adapters.observations import Archive

    if not is_archive(place):
        return Archive(place)
    segments = kept(place)
    return Archive(place, segments.names(), segments.read if log_reading.is_store(place) else None)


def archived(place: str, log: Served, root: bytes | None = None, far: Far = unheard) -> Iterator[tuple[str, Leaf, Record | None]]:
    """The same of an archive, an entry of the log once, however often a record of it was kept. Raises Bad, and as ObjectStore does."""
    segments, told, count = kept(place), Marks(log.size), 0
    for name in segments.names():
        for row in segments.rows(name):
            if row.log_index is None or row.log_index >= log.size:  # archived since, or after the size that is asked for
                continue
            if log.entry(row.log_index) != row.leaf or not told.add(row.log_index):
                continue
            far("entries", count, log.size)
            count += 1
            yield f"{name}: {row.source}", parse_leaf(row.leaf, name), record_of(row)
    for index, entry in enumerate(counted(_entries(log, root), far, "entries without a record", log.size)):
        if len(entry) == LEAF_SIZE and entry[0] == 1 and not told.has(index):
            yield f"log entry {index}", parse_leaf(entry), None
