"""The log itself: commit entries to the WAL, integrate them into tiles, sign a checkpoint; recovery takes the same path.

The one commit point of an append is the fdatasync of its WAL frames; that of a tree is the write of its checkpoint (publication.py)."""

from __future__ import annotations

import fcntl
import json
import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from knhk.model.faults import Corrupt, Stalled
from knhk_hot.drain import hash_rows
from knhk_runtime.record import entry_key
from knhk_runtime.sequencer.edge import Edge
from knhk_runtime.sequencer.files import TEMPORARY, Files
from knhk_runtime.sequencer.owners import Given, Owners
from knhk_runtime.sequencer.publication import FilesPublication, Publication
from knhk_runtime.sequencer.wal import Wal, payload, terms
from knhk_runtime.sequencer.wire import SOURCE_BYTES, Append, item
from knhk_runtime.tlog.notes import format_checkpoint, format_proof, format_vkey, signature_line
from knhk_runtime.tlog.tree import (
    TILE,
    Tiles,
    consistency_proof,
    inclusion_proof,
    parse_bundle_of_entries,
    parse_tile_path,
    range_root,
    tile_path,
)
from knhk_verify.errors import Bad
from knhk_verify.leaf import LEAF_SIZE
from knhk_verify.note import Checkpoint, Verifier, open_checkpoint, open_note
from knhk_verify.signed import parse_json
from knhk_verify.tree import HASH, leaf_hash

RESCUED_AT_ONCE = 512  # entries of one frame of a WAL that takes over another's
MAX_TAIL = 1 << 20  # entries acknowledged and not yet integrated
KEPT_CHECKPOINTS = 1024


@dataclass(frozen=True)
class Taken:
    """Why nothing of an append counts: the entries with these numbers, and what is wrong with the first of them."""

    items: tuple[int, ...]
    what: str


@dataclass(frozen=True)
class LogKey:
    """The checkpoint key: verifier key, and bytes → 64-byte signature; raises OSError when it cannot sign now. `former`: the one that it
    takes the place of; both sign as long as `counts` says of that one. `older`: what older checkpoints may be signed by, beside these."""

    verifier: Verifier
    sign: Callable[[bytes], bytes]
    former: LogKey | None = None
    counts: Callable[[], bool] = lambda: True
    older: tuple[Verifier, ...] = ()

    def known(self) -> tuple[LogKey, ...]:
        """This one, and the former."""
        return (self,) if self.former is None else (self, self.former)

    def verifiers(self) -> tuple[Verifier, ...]:
        """By which a checkpoint is this log's own, the newest first."""
        return tuple(dict.fromkeys((*(key.verifier for key in self.known()), *self.older)))

    def signers(self) -> tuple[LogKey, ...]:
        """Those that sign now."""
        return (self, *(key for key in self.known()[1:] if key.counts()))


def lock(folder: Path) -> int:
    """Descriptor of the exclusive lock on a log; raises BlockingIOError when another sequencer holds it."""
    folder.mkdir(parents=True, exist_ok=True)
    fd = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
        raise
    return fd


def _request(entry: bytes) -> bytes:
    """What no repetition of a leaf changes: region, pack, time and receipt id (formats/leaf.md); of a policy event all."""
    return entry[6:8] + entry[72:116] if len(entry) == LEAF_SIZE else entry


def _are_leaves(entries: Sequence[bytes]) -> bool:
    return set(map(len, entries)) == {LEAF_SIZE}


def _bundle(entries: Sequence[bytes]) -> bytes:
    if _are_leaves(entries):
        size = LEAF_SIZE.to_bytes(2, "big")
        return size + size.join(entries)
    return b"".join([len(entry).to_bytes(2, "big") + entry for entry in entries])


def _leaf_hashes(entries: Sequence[bytes]) -> bytes:
    if _are_leaves(entries):
        return hash_rows(0, b"".join(entries), LEAF_SIZE)
    return b"".join([leaf_hash(entry) for entry in entries])


class Log:
    """A log folder that is held by `lock`; `public` is where tiles and checkpoint go (None: there too). `commit` and `integrate` may run in
    one thread each at the same time; the rest may be called from any thread. `witnessed`: what is signed is published by
    `publish` alone. Opening recovers; raises Corrupt with file and offset when
    stored bytes do not fit, and OSError and Deposed as `public` does."""

    def __init__(
        self,
        folder: Path,
        key: LogKey,
        files: Files,
        regions: Sequence[str] = (),
        public: Publication | None = None,
        witnessed: bool = False,
    ) -> None:
        self.folder, self._key, self._files, self._regions = folder, key, files, tuple(regions) or ("local",)
        self._public: Publication = FilesPublication(files, folder) if public is None else public
        term = self._public.term
        self._wal = Wal(files, folder / "wal" if term is None else folder / "wal" / f"{term:016x}")
        self._owners = Owners(files, folder / "owners")
        self._moving = threading.Lock()  # held while entries change from the tail to the tree
        self._bundle_read: tuple[int, list[bytes]] = (-1, [])
        self._index = dict[bytes, int]()
        self._edge = Edge()
        self._last = list[bytes]()  # entries of the last, not yet full bundle
        self._tail = list[bytes]()  # durable in the WAL, not yet integrated
        self._notes = OrderedDict[int, str]()  # size → signed checkpoint that is published
        self._witnessed, self.signed = witnessed, ""  # the newest checkpoint that is signed, published or not
        self._partials = dict[str, list[str]]()  # path of a tile that is not full → its partial ones that are published
        self.cut: tuple[tuple[str, int], ...] = ()
        self.moved = 0  # entries acknowledged in an earlier term that now have another index
        try:
            self._open(tuple(regions))
        except Bad as error:
            self._public.writable()  # else another has written meanwhile, and what we read does not belong together
            raise Corrupt(str(folder / error.where), error.what) from error

    @property
    def integrated(self) -> int:
        """Entries that the newest signed checkpoint covers."""
        return self._edge.size

    @property
    def published(self) -> int:
        """Entries that the newest published checkpoint covers."""
        return next(reversed(self._notes))

    @property
    def durable(self) -> int:
        """Entries that have been acknowledged or may be."""
        return len(self._index)

    # ---- recovery ------------------------------------------------------------------------------

    def _open(self, regions: tuple[str, ...]) -> None:
        for name in ("wal", "owners"):
            self._files.mkdir(self.folder / name)
            self._sweep(self.folder / name)
        self._files.sync_dir(self.folder)
        self._remove_temporary(self.folder)
        self._public.begin()
        note, signed = self._read("checkpoint"), self._read("signed")
        if note is None:
            self._refuse_remains()
            self._publish(self._edge, "checkpoint")
            self._meta()
        else:
            if self._read("meta.json") is None:
                self._meta()
            new, more = self._check_meta(), self._more_regions(regions)
            self._reopen(note, signed)
            if new:
                self._told_key()
            elif more:
                self._meta()
        self._collect()
        if self._public.term is None:
            self._recover_wal()
        else:
            self._recover_terms(self._public.term)

    def _reopen(self, note: bytes, signed: bytes | None) -> None:
        """What was signed is never signed otherwise: the tree goes on from the larger of what is signed and what is published."""
        published, newest = self._opened(note), note
        if signed is not None and self._opened(signed, "signed").size > published.size:
            newest = signed
        self._replay(self._opened(newest))
        self.signed = newest.decode()
        self._notes[published.size] = note.decode()
        if newest is signed and not self._witnessed:
            self.publish(self.signed)

    def _opened(self, note: bytes, where: str = "checkpoint") -> Checkpoint:
        """A checkpoint of ours: by the key, else by one before."""
        ours = self._key.verifiers()
        signed = open_note(note, ours, where)[1]
        return open_checkpoint(note, next((verifier for verifier in ours if verifier in signed), ours[0]), where)

    def _recover_wal(self) -> None:
        recovered = self._wal.recover(self.integrated)
        self.cut = (*recovered.cut, *self._owners.recover())
        self._tail = recovered.entries
        self._learn(recovered.keys, self.integrated, "wal")
        for term, path in terms(self._files, self.folder / "wal"):
            if term and not self._index.keys() >= set(Wal(self._files, path).recover_all()[1].keys):
                raise Bad(f"wal/{path.name}", "has entries that were acknowledged and that the log lacks: start with --store, as before")
        self._wal.begin(self.durable)

    def _recover_terms(self, term: int) -> None:
        """Each writer has a WAL of its own: what earlier ones on this machine acknowledged is appended anew if it is not in the tree, and
        gets its old indexes unless another machine wrote meanwhile. Their WALs go only after ours is durable."""
        files, folder = self._files, self.folder / "wal"
        keys, entries, cut = list[bytes](), list[bytes](), list[tuple[str, int]]()
        earlier = terms(files, folder)
        if earlier and earlier[-1][0] >= term:
            what = f"is of no earlier epoch than {term}: the lease was lost, or an older one brought back"
            raise Bad(f"wal/{earlier[-1][1].name}", what)
        for _, path in earlier:
            first, found = Wal(files, path).recover_all()
            cut += found.cut
            for at, (key, entry) in enumerate(zip(found.keys, found.entries, strict=True), first):
                if (index := self._index.setdefault(key, self.durable)) == self.integrated + len(entries):
                    keys.append(key)
                    entries.append(entry)
                self.moved += index != at
        self.cut = (*cut, *self._owners.recover())
        self._files.mkdir(folder / f"{term:016x}")
        self._files.sync_dir(folder)
        self._wal.begin(self.integrated)
        for at in range(0, len(entries), RESCUED_AT_ONCE):
            part = slice(at, at + RESCUED_AT_ONCE)
            items = b"".join(item(key, entry) for key, entry in zip(keys[part], entries[part], strict=True))
            self._wal.append(self.integrated + at, [payload(self.integrated + at, len(entries[part]), items)])
        self._tail = entries
        for _, path in earlier:
            Wal(files, path).remove()

    def _read(self, path: str) -> bytes | None:
        try:
            return self._public.read(path)
        except FileNotFoundError:
            return None

    def _collect(self) -> None:
        """Remove the partial tiles that full ones under the checkpoint have replaced, whenever that was."""
        gone = list[str]()
        for path in self._public.partials():
            level, n, _ = parse_tile_path(path)
            if (n + 1) * TILE <= self.integrated >> 8 * (level or 0):
                gone.append(path)
            else:
                self._partials.setdefault(path.partition(".p/")[0], []).append(path)
        self._public.remove(gone)

    def _sweep(self, folder: Path) -> None:
        """Remove from a folder and those below what a kill left half-written under a temporary name."""
        self._remove_temporary(folder)
        for name in self._files.names(folder):
            self._sweep(folder / name)

    def _remove_temporary(self, folder: Path) -> None:
        for name in self._files.names(folder):
            if name.endswith(TEMPORARY):
                self._files.unlink(folder / name)

    def _refuse_remains(self) -> None:
        remains = [self._public.remains(), *(name for name in ("wal", "owners") if self._files.names(self.folder / name))]
        if found := next(filter(None, remains), ""):
            raise Bad("checkpoint", f"is missing, but {found} is there: restore the checkpoint, or use an empty folder")

    def _meta(self) -> None:
        verifier = self._key.verifier
        meta = {"origin": verifier.name, "vkey": format_vkey(verifier), "regions": list(self._regions)}
        self._public.meta(json.dumps(meta).encode() + b"\n")

    def _told_key(self) -> None:
        """By a checkpoint that it signs, then by meta.json."""
        self._publish(self._edge, "signed" if self._witnessed else "checkpoint")
        self._meta()

    def turn(self, key: LogKey) -> None:
        """Signs with this key from now on, as after a start with it. The caller is the one of `integrate`. Raises OSError: then it may be
        called again; Bad for a key that does not know the one before."""
        before, self._key = self._key, key
        try:
            if self._check_meta():
                self._told_key()
        except Bad:
            self._key = before
            raise

    def _check_meta(self) -> bool:
        """Whether it names a key from before, so that the new one is to be told."""
        meta = parse_json(self._read("meta.json") or b"", "meta.json")
        told = meta.get("vkey") if isinstance(meta, dict) else None
        if told not in [format_vkey(verifier) for verifier in self._key.verifiers()]:
            raise Bad("meta.json vkey", f"is not {format_vkey(self._key.verifier)}: the key or the origin is that of another log")
        return bool(told != format_vkey(self._key.verifier))

    def _more_regions(self, regions: tuple[str, ...]) -> bool:
        """Whether some are named beyond those that meta.json tells, which stay: leaves have their numbers. Raises Stalled."""
        told = tuple(parse_json(self._read("meta.json") or b"", "meta.json").get("regions", ()))
        if not regions:
            self._regions = told or self._regions
            return False
        if regions[: len(told)] != told:
            must = f"must begin with {','.join(told)}, which leaves of {self.folder} count by: others come after these"
            raise Stalled("Regions", f"--region {','.join(regions)}: {must}")
        return regions != told

    def _replay(self, checkpoint: Checkpoint) -> None:
        """Take the tree of `checkpoint` in from its entries, and compare every tile on the way."""
        numbers = range((checkpoint.size + TILE - 1) // TILE)
        paths = [tile_path(None, n, min(TILE, checkpoint.size - n * TILE)) for n in numbers]
        for n, path, data in zip(numbers, paths, self._all_stored(paths), strict=True):
            width = min(TILE, checkpoint.size - n * TILE)
            entries = [entry for _, entry in parse_bundle_of_entries(data, path)]
            if len(entries) != width:
                raise Bad(path, f"has {len(entries)} entries: must be {width}")
            self._learn([entry_key(entry) for entry in entries], n * TILE, path)
            for level, at, hashes, tile in self._edge.extend(_leaf_hashes(entries)):
                if hashes == TILE:
                    self._compare(level, at, tile)
            self._last = entries if width < TILE else []
        for level, rest in enumerate(self._edge.rests):
            if rest:
                self._compare(level, self._edge.full[level], rest)
        if self._edge.root() != checkpoint.root:
            raise Bad("checkpoint", "its root is not that of the entries and tiles")

    def _stored(self, path: str) -> bytes:
        return next(self._all_stored([path]))

    def _all_stored(self, paths: Sequence[str]) -> Iterator[bytes]:
        found = self._public.read_many(paths)
        for path in paths:
            try:
                yield next(found)
            except FileNotFoundError as error:
                raise Bad(path, "is missing; the checkpoint needs it") from error

    def _compare(self, level: int, n: int, tile: bytes) -> None:
        path = tile_path(level, n, len(tile) // HASH)
        stored = self._stored(path)
        if stored != tile:
            differs = next((i for i in range(0, len(tile), HASH) if stored[i : i + HASH] != tile[i : i + HASH]), len(tile))
            below = n * TILE + differs // HASH
            source = f"entry {below} gives" if level == 0 else f"{tile_path(level - 1, below)} gives"
            raise Bad(f"{path} offset {differs}", f"hash {differs // HASH} is not what {source}")

    def _learn(self, keys: Sequence[bytes], first: int, where: str) -> None:
        known = len(self._index)
        self._index.update(zip(keys, range(first, first + len(keys)), strict=True))
        if len(self._index) != known + len(keys):
            raise Bad(where, f"an entry from index {first} on repeats the key of another")

    # ---- appending -----------------------------------------------------------------------------

    def commit(self, appends: Sequence[Append]) -> list[list[int] | Taken]:
        """Indexes for each append, after one fdatasync for all; a known key gets its first index. Taken for an append that has a source of
        another client's, or a leaf that is none of the one that its key has; it changes nothing. Claims are appends without entries. Raises
        OSError: then none counts. One caller at a time."""
        if len(self._tail) > MAX_TAIL:
            raise OSError(f"{len(self._tail)} entries wait to be integrated: the tiles cannot be written")
        self._public.writable()
        begin = following = self.durable
        fresh, given = dict[bytes, int](), dict[bytes, tuple[bytes, bool]]()
        entries, payloads, answers = list[bytes](), list[bytes](), list[list[int] | Taken]()
        for append in appends:
            first, new = following, self._numbered(append, fresh, following)
            refused = self._of_others(append, given) or (None if new is not None else self._others_leaf(append, fresh, entries, begin))
            if refused is not None:
                answers.append(refused)
                continue
            if append.client:
                given |= self._owners.gives(append.client, append.sources, append.claims, given)
            if new is not None:
                fresh.update(new)
                entries += append.entries
                payloads += [payload(first, len(new), append.items)] if new else []
                answers.append(list(new.values()))
                following += len(new)
                continue
            answer, items = list[int](), list[bytes]()
            for key, entry in zip(append.keys, append.entries, strict=True):
                index = self._index.get(key, fresh.get(key, following))
                if index == following:
                    fresh[key] = index
                    entries.append(entry)
                    items.append(item(key, entry))
                    following += 1
                answer.append(index)
            if items:
                payloads.append(payload(first, len(items), b"".join(items)))
            answers.append(answer)
        self._owners.keep(given)
        if payloads:
            self._wal.append(begin, payloads)
        self._still_ours()
        if payloads:
            self._tail += entries
            self._index.update(fresh)
        return answers

    def _still_ours(self) -> None:
        """After a write of the WAL, for it may have taken longer than the lease: raises OSError, and what was written does not count."""
        try:
            self._public.writable()
        except OSError:
            self._wal.close()
            raise

    def _numbered(self, append: Append, fresh: Mapping[bytes, int], first: int) -> dict[bytes, int] | None:
        """Its keys with the indexes from `first` on; None when one is known or there twice."""
        keys = append.keys
        if not self._index.keys().isdisjoint(keys) or (fresh and not fresh.keys().isdisjoint(keys)):
            return None
        new = dict(zip(keys, range(first, first + len(keys)), strict=True))
        return new if len(new) == len(keys) else None

    def _of_others(self, append: Append, given: Given) -> Taken | None:
        if not append.client:
            return None
        used = append.sources
        taken = self._owners.taken(append.client, used | append.claims, given) | self._owners.crowded(append.client, used, given)
        if not taken:
            return None
        leaves = zip(append.keys, append.entries, strict=True)
        items = tuple(number for number, (key, entry) in enumerate(leaves) if len(entry) == LEAF_SIZE and key[:SOURCE_BYTES] in taken)
        source = append.keys[items[0]][:SOURCE_BYTES] if items else min(taken)
        return Taken(items, f"source {source.hex()}: belongs to another client, or is one too many")

    def _others_leaf(self, append: Append, fresh: Mapping[bytes, int], entries: Sequence[bytes], begin: int) -> Taken | None:
        """A repeated leaf may have other salts, and of an arm that was set aside another judgement; its request is the same. In one append
        the first leaf of a key is the one to repeat."""
        wrong, own = list[int](), dict[bytes, bytes]()
        for number, (key, entry) in enumerate(zip(append.keys, append.entries, strict=True)):
            index = self._index.get(key, fresh.get(key))
            if index is None:
                known = own.setdefault(key, entry)
            else:
                known = entries[index - begin] if index >= begin else self._entry(index)
            if _request(entry) != _request(known):
                wrong.append(number)
        if not wrong:
            return None
        key = append.keys[wrong[0]]
        index = self._index.get(key, fresh.get(key))
        whose = "of the same body" if index is None else f"of index {index}"
        return Taken(tuple(wrong), f"key {key.hex()}: is that of another leaf, {whose}")

    def _entry(self, index: int) -> bytes:
        """A durable entry. Raises OSError when it cannot be read."""
        with self._moving:
            size = self._edge.size
            if index >= size:
                return self._tail[index - size]
            if index >= size // TILE * TILE:
                return self._last[index % TILE]
        number, entries = self._bundle_read
        if number != index // TILE:
            path = tile_path(None, index // TILE, TILE)
            try:
                entries = [entry for _, entry in parse_bundle_of_entries(self._stored(path), path)]
            except Bad as error:
                raise OSError(f"{error.where}: {error.what}") from error
            self._bundle_read = index // TILE, entries
        return entries[index % TILE]

    # ---- integrating ---------------------------------------------------------------------------

    def integrate(self) -> bool:
        """Cover all durable entries by tiles and a checkpoint; False when there is nothing new. Raises OSError: then the
        tree has not changed or is published whole, and it may be called again. One caller at a time."""
        entries = self._tail[:]
        if not entries:
            return False
        edge = self._edge.copy()
        first, held = edge.size // TILE, self._last + entries
        chunks = [held[i : i + TILE] for i in range(0, len(held), TILE)]
        tiles = [(tile_path(None, first + i, len(chunk)), _bundle(chunk)) for i, chunk in enumerate(chunks)]
        changed = edge.extend(_leaf_hashes(entries))
        tiles += [(tile_path(level, n, width), data) for level, n, width, data in changed]
        for path, _ in tiles:
            if ".p/" in path:
                self._partials.setdefault(path.partition(".p/")[0], []).append(path)
        self._public.tiles(tiles)
        self._publish(edge, "signed" if self._witnessed else "checkpoint")
        with self._moving:
            self._edge, self._last = edge, chunks[-1] if len(chunks[-1]) < TILE else []
            del self._tail[: len(entries)]
        self._tidy([path for path, _ in tiles if ".p/" not in path])
        return True

    def _publish(self, edge: Edge, name: str) -> None:
        """Signs the checkpoint of a tree, once it can be read by whoever goes on with this log."""
        checkpoint = Checkpoint(self._key.verifier.name, edge.size, edge.root())
        text = format_checkpoint(checkpoint)
        note = f"{text}\n{''.join(signature_line(text, key.verifier, key.sign) for key in self._key.signers())}"
        self._public.checkpoint(note.encode(), name)
        self.signed = note
        if name == "checkpoint":
            self._remember(edge.size, note)

    def publish(self, note: str) -> None:
        """Publishes a checkpoint that this log signed, with the lines of its witnesses; an older one than is published is left. Raises
        OSError: then it may be published. The caller is the one of `integrate`."""
        size = self._opened(note.encode()).size
        if size > self.published:
            self._public.checkpoint(note.encode())
            self._remember(size, note)

    def _remember(self, size: int, note: str) -> None:
        self._notes[size] = note
        while len(self._notes) > KEPT_CHECKPOINTS:
            self._notes.popitem(last=False)

    def _tidy(self, full: Sequence[str]) -> None:
        """Remove partial tiles that full ones replace, and WAL segments that the tiles replace."""
        self._public.remove([partial for path in full for partial in self._partials.pop(path, [])])
        self._wal.forget(self.integrated)

    # ---- reading -------------------------------------------------------------------------------

    def index_of(self, key: bytes) -> int | None:
        """Index of the entry with this idempotency key, durable though perhaps not yet integrated."""
        return self._index.get(key)

    def checkpoint(self) -> str:
        """The newest signed checkpoint."""
        return self._notes[next(reversed(self._notes))]

    def proof(self, index: int, size: int | None = None) -> str | None:
        """tlog-proof text of an entry under the checkpoint of `size` (None: the newest); None when there is none or it does
        not cover the entry."""
        edge = self._edge
        wanted = self.published if size is None else size
        note = self._notes.get(wanted)
        if note is None or not 0 <= index < wanted:
            return None
        tiles = Tiles(self.tile, edge.size)
        return format_proof(index, inclusion_proof(tiles, index, wanted), note)

    def consistency(self, old: int, new: int) -> list[bytes]:
        """Proof that the tree of `old` entries is the beginning of that of `new`, none above what is signed."""
        return consistency_proof(Tiles(self.tile, self._edge.size), old, new)

    def root(self, size: int) -> bytes | None:
        """Root hash of the first `size` entries; None when not so many are signed."""
        signed = self._edge.size
        return range_root(Tiles(self.tile, signed), 0, size) if 0 < size <= signed else None

    def tile(self, path: str) -> bytes:
        """Bytes of a tile; raises FileNotFoundError. A partial one that was tidied away meanwhile is the beginning of the full one."""
        full, _, width = path.partition(".p/")
        try:
            return self._public.read(path)
        except FileNotFoundError:
            if not width or "/entries/" in path:
                raise
            return self._public.read(full)[: int(width) * HASH]

    def close(self) -> None:
        """Give the descriptors back."""
        self._wal.close()
        self._owners.close()
