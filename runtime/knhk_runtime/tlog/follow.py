"""A follower: mirrors a log by its paths into an object store, and takes nothing that does not extend what it has.

Every entry is read, and the root that they give with those at hand must be the one that the new checkpoint's signature vouches for: this
is the consistency proof, made from the bytes. A checkpoint that the log's key signed and that does not extend ours is a fork; both are
kept."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from knhk.model.faults import NotFound
from knhk.model.progress import Far, unheard
from knhk_runtime.objects.port import ObjectStore
from knhk_runtime.sequencer.edge import Edge
from knhk_runtime.sequencer.publication import CHECKPOINT, META, TILES
from knhk_runtime.tlog.notes import format_vkey
from knhk_runtime.tlog.served import Fetch, Served
from knhk_runtime.tlog.tree import TILE, parse_bundle_of_entries, tile_path
from knhk_verify.errors import Bad
from knhk_verify.note import Checkpoint, Verifier, open_checkpoint, open_note
from knhk_verify.tree import leaf_hash

BUNDLES_AT_ONCE, BYTES_AT_ONCE = 256, 32 << 20  # whatever a server makes up, memory is bound
KEPT = "evidence"


@dataclass(frozen=True)
class Followed:
    """`relation`: "equal", "ahead" (the source was, and is mirrored now), "behind" (it has less than we) or "fork". `kept`: where both
    checkpoints of a fork are."""

    relation: str
    size: int
    before: int
    kept: tuple[str, ...] = ()


def follow(
    name: str,
    fetch: Fetch,
    mirror: ObjectStore,
    verifier: Verifier,
    others: Sequence[Verifier] = (),
    over: Sequence[Verifier] = (),
    far: Far = unheard,
) -> Followed:
    """One look at the log `name`, whose key is `verifier`; `others`: keys that count beside it, while one follows the other; `over`: those
    that it signed with before, by which the mirror's own checkpoint counts, and nothing new. Raises Bad for what does not verify: then
    nothing of it is under the mirror's checkpoint; NotFound for a source without one. One follower at a time writes a mirror."""
    note = fetch("checkpoint")
    if note is None:
        raise NotFound(f"{name}: has no checkpoint")
    known = [verifier, *others]
    verifier = signer(note, known)
    theirs = open_checkpoint(note, verifier)
    ours, our_note, etag = _ours(mirror, [*known, *over])
    if theirs.size <= ours.size:
        if _served(mirror, ours).root(theirs.size) != theirs.root:
            return _fork(mirror, theirs, note, ours, our_note)
        if theirs.size == ours.size and etag is not None and not open_note(our_note, [verifier])[1]:  # its key turned since
            _meta(fetch, mirror, verifier)
            mirror.swap("checkpoint", note, etag, CHECKPOINT)
        return Followed("equal" if theirs.size == ours.size else "behind", ours.size, ours.size)
    source = Served(name, fetch, theirs.size)
    try:
        edge = _extended(source, mirror, ours, far)
        if edge.root() != theirs.root:
            raise Bad(name, "its entries do not give the root of its checkpoint together with ours")
    except Bad:
        if ours.size and source.root(theirs.size) == theirs.root and source.root(ours.size) != ours.root:
            return _fork(mirror, theirs, note, ours, our_note)
        raise
    _meta(fetch, mirror, verifier)
    if etag is None:
        mirror.create("checkpoint", note, CHECKPOINT)
    else:
        mirror.swap("checkpoint", note, etag, CHECKPOINT)
    _collect(mirror, ours.size, theirs.size)
    return Followed("ahead", theirs.size, ours.size)


def _ours(mirror: ObjectStore, known: Sequence[Verifier]) -> tuple[Checkpoint, bytes, str | None]:
    try:
        found = mirror.get("checkpoint")
    except NotFound:
        return Checkpoint(known[0].name, 0, Edge().root()), b"", None
    return open_checkpoint(found.data, signer(found.data, known)), found.data, found.etag


def signer(note: str | bytes, known: Sequence[Verifier]) -> Verifier:
    """The first of these keys that signed a checkpoint; when none did, the first of all, which says what is missing. Raises Bad."""
    signed = open_note(note, known)[1]
    return next((key for key in known if key in signed), known[0])


def _served(mirror: ObjectStore, ours: Checkpoint) -> Served:
    def fetch(path: str) -> bytes | None:
        try:
            return mirror.get(path).data
        except NotFound:
            return None

    return Served(mirror.name, fetch, ours.size)


def _edge(mirror: ObjectStore, size: int) -> Edge:
    """The right edge of what the mirror holds."""
    full, rests = list[int](), list[bytes]()
    level = 0
    while not full or size >> 8 * level:
        number, width = divmod(size >> 8 * level, TILE)
        full.append(number)
        rests.append(mirror.get(tile_path(level, number, width)).data if width else b"")
        level += 1
    return Edge(full, rests)


def _extended(source: Served, mirror: ObjectStore, ours: Checkpoint, far: Far) -> Edge:
    """Writes what the source has beyond ours; the edge of the whole."""
    edge, size = _edge(mirror, ours.size), ours.size
    if edge.root() != ours.root:
        raise Bad(mirror.name, "the mirror's own tiles do not give the root of its checkpoint: see `knhk log fsck`")
    held, items, hashes, waiting = edge.rests[0], list[tuple[str, bytes]](), bytearray(), 0
    end = -(-source.size // TILE)
    for n in range(size // TILE, end):
        far("entries", n * TILE, source.size)
        path, data = source.bundle(n)
        items.append((path, data))
        entries = [entry for _, entry in parse_bundle_of_entries(data, f"{source.name}/{path}")]
        ours_of_it = b"".join(map(leaf_hash, entries[: max(0, size - n * TILE)]))
        if ours_of_it and ours_of_it != held:
            raise Bad(f"{source.name}/{path}", "begins with other entries than we have of it")
        hashes += b"".join(map(leaf_hash, entries[max(0, size - n * TILE) :]))
        waiting += len(data)
        if len(items) == BUNDLES_AT_ONCE or waiting >= BYTES_AT_ONCE or n == end - 1:
            items += [(tile_path(level, at, width), tile) for level, at, width, tile in edge.extend(bytes(hashes))]
            mirror.put_all(items, TILES)
            items, hashes, waiting = [], bytearray(), 0
    return edge


def _meta(fetch: Fetch, mirror: ObjectStore, verifier: Verifier) -> None:
    """As the source has it, or what we know of it; its key is the one that we verified by."""
    own = json.dumps({"origin": verifier.name, "vkey": format_vkey(verifier)}).encode() + b"\n"
    data = fetch("meta.json")
    try:
        same = data is not None and json.loads(data)["vkey"] == format_vkey(verifier)
    except (ValueError, TypeError, KeyError):
        same = False
    mirror.put("meta.json", data if data is not None and same else own, META)


def _collect(mirror: ObjectStore, before: int, size: int) -> None:
    """Partial tiles of the checkpoint before that full ones have replaced."""

    def replaced() -> Iterator[str]:
        for level in (None, *range((before.bit_length() + 7) // 8)):
            n, width = divmod(before >> 8 * (level or 0), TILE)
            if width and (n + 1) * TILE <= size >> 8 * (level or 0):
                yield tile_path(level, n, width)

    mirror.delete(list(replaced()))


def _fork(mirror: ObjectStore, theirs: Checkpoint, note: bytes, ours: Checkpoint, our_note: bytes) -> Followed:
    kept = tuple(f"{KEPT}/{each.size}-{each.root.hex()[:16]}.checkpoint" for each in (ours, theirs))
    mirror.put_all(list(zip(kept, (our_note, note), strict=True)), CHECKPOINT)
    return Followed("fork", ours.size, ours.size, kept)
