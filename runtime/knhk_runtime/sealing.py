"""What the agent does to records before they reach the outbox: each is sealed for its subject (formats/envelope.md)."""

from __future__ import annotations

import hmac
import os
import struct
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from knhk.model.faults import Corrupt, KnhkError, NotFound, Waiting
from knhk_runtime.envelope import KEY_ID, NOBODY, NONCE, Plain, blinded, seal, tag_of, window_of, without_triples
from knhk_runtime.locked import LockedKeys
from knhk_runtime.outbox.records import Entries, payloads, time_of
from knhk_runtime.record import SEALED, Record, frame, parse_observation, parse_record
from knhk_runtime.ring.entries import Difference, Drained, RingArm, RingRecord
from knhk_runtime.subject_keys import KeyStore, SealingKeys, SubjectKey
from knhk_runtime.subjects import Privacy
from knhk_verify.errors import Bad

MAX_KEYS = 65_536  # kept in memory, at some 350 bytes
BOX = b"KNHKBOX1"
_HEAD = struct.Struct(">BBHQ16s")


Opener = Callable[[str], SealingKeys]
"""Of a point."""


class Sealing(NamedTuple):
    """What a point asks for: its name and its rules."""

    point: str
    privacy: Privacy


class CannotSeal(OSError):
    """Nothing may be written in clear: the batch stays where it is, and is tried again."""


@dataclass(frozen=True)
class _Blind:
    receipt: bytes
    cluster: int
    arms: Sequence[RingArm]


@dataclass(frozen=True)
class SealedBatch:
    """A batch of the hot library as statistics may see it; `Drained` with clusters as they stand in the outbox."""

    frames: bytes
    leaves: bytes
    entries: bytes
    counts: Mapping[tuple[bytes, int, int, int], int]
    discordant: Sequence[Difference]
    clusters: bytes
    latencies: Mapping[tuple[bytes, bytes], tuple[Sequence[int], Sequence[int]]]
    parked: Sequence[RingRecord]
    new_tail: int


@dataclass(frozen=True)
class _Found:
    record: Record
    tag: bytes
    window: int


class Sealer:
    """Seals for one key store. Any thread."""

    def __init__(self, open_store: Opener) -> None:
        """`open_store` is called with a point, before the first record of it is sealed."""
        self._open_store = open_store
        self._store: SealingKeys | None = None
        self._generation = self._seen = -1
        self._lock, self._opening = threading.Lock(), threading.Lock()
        self._keys = LockedKeys(MAX_KEYS)

    def entries(self, made: Entries, asked: Sealing) -> Entries:
        """The same entries with sealed frames. Raises CannotSeal."""
        with self._lock:
            return Entries(self._sealed(made.frames, asked), made.entries, made.count)

    def batch(self, made: Entries, drained: Drained, asked: Sealing) -> tuple[Entries, Drained]:
        """Both with sealed frames. Raises CannotSeal."""
        sealed = self.entries(made, asked)
        with self._lock:
            tags_key = self._opened(asked.point).tags_key
        seen = memoryview(drained.clusters).cast("Q")
        clusters = struct.pack(f"={len(seen)}Q", *(blinded(tags_key, each) for each in seen))
        discordant = tuple(_Blind(each.receipt, blinded(tags_key, each.cluster), each.arms) for each in drained.discordant)
        return sealed, SealedBatch(
            sealed.frames,
            drained.leaves,
            drained.entries,
            drained.counts,
            discordant,
            clusters,
            drained.latencies,
            drained.parked,
            drained.new_tail,
        )

    def _sealed(self, frames: bytes, asked: Sealing) -> bytes:
        try:
            store = self._opened(asked.point)
            found = [self._found(frames[start:end], asked.privacy, store.tags_key) for start, end in payloads(frames)]
            keys = self._keys_of(asked.point, {(each.tag, each.window) for each in found}, store)
        except (KnhkError, Bad) as error:
            raise CannotSeal(f"cannot seal for {asked.point}: {error}") from error
        return b"".join(_frame(each, keys[each.tag, each.window], store.tags_key) for each in found)

    # ---- what waits in the agent's own files ---------------------------------------------------------

    def box(self, data: bytes, point: str, time_ns: int) -> bytes:
        """`data` sealed by the key of nobody at this point, whose retention alone ends it. Raises CannotSeal."""
        window = window_of(time_ns)
        key, name = self._key_of_nobody(point, window), point.encode()
        head = BOX + window.to_bytes(4, "big") + key.id + len(name).to_bytes(2, "big") + name
        nonce = os.urandom(NONCE)
        return head + nonce + AESGCM(key.key).encrypt(nonce, data, head)

    def unbox(self, boxed: bytes, where: str) -> bytes | None:
        """What is in a box; None when its key was destroyed, or its window is so long over that no guard gets the key. Raises Corrupt, and
        CannotSeal while keys cannot be had."""
        at = len(BOX) + 4 + KEY_ID + 2
        end = at + int.from_bytes(boxed[at - 2 : at], "big")
        head, key_id = boxed[:end], boxed[len(BOX) + 4 : at - 2]
        point, window = head[at:].decode("utf-8", "replace"), int.from_bytes(boxed[len(BOX) : len(BOX) + 4], "big")
        try:
            key = self._key_of_nobody(point, window)
        except CannotSeal as error:
            if isinstance(error.__cause__, NotFound):
                return None
            raise
        if key.id != key_id:
            return None
        try:
            return AESGCM(key.key).decrypt(boxed[end : end + NONCE], boxed[end + NONCE :], head)
        except (InvalidTag, ValueError) as error:
            raise Corrupt(where, "does not open: it was altered") from error

    def named(self, data: bytes, point: str) -> bytes:
        """A keyed hash, by which what is boxed is found again. Raises CannotSeal."""
        try:
            return hmac.digest(self._opened(point).tags_key, b"knhk.dev/waiting/v1\n" + data, "sha256")
        except KnhkError as error:
            raise CannotSeal(f"cannot seal for {point}: {error}") from error

    def _key_of_nobody(self, point: str, window: int) -> SubjectKey:
        with self._lock:
            try:
                return self._keys_of(point, {(NOBODY, window)}, self._opened(point))[NOBODY, window]
            except KnhkError as error:
                raise CannotSeal(f"cannot seal for {point}: {error}") from error

    def _opened(self, point: str) -> SealingKeys:
        with self._opening:
            if self._store is None:
                self._store = self._open_store(point)
            return self._store

    def _found(self, payload: bytes, privacy: Privacy, tags_key: bytes) -> _Found:
        record = parse_record(payload, "record")
        try:
            subject = privacy.subject_of(parse_observation(record.observation))
        except Bad:  # an O that is none is a refused request's: nobody's, and sealed all the same
            subject = ""
        return _Found(record, tag_of(tags_key, subject), window_of(time_of(record.observation)))

    def _keys_of(self, point: str, wanted: set[tuple[bytes, int]], store: SealingKeys) -> dict[tuple[bytes, int], SubjectKey]:
        if (generation := store.generation()) != self._generation:
            self._keys.clear()
            self._generation = generation
        found = {each: self._keys.get((point, *each)) for each in wanted}
        if lacking := [each for each, key in found.items() if key is None]:
            for each, key in store.keys_for(point, lacking).items():
                self._keys.put((point, *each), key)
                found[each] = key
        return {each: key for each, key in found.items() if key is not None}

    def moved(self, point: str) -> bool:
        """Whether keys were destroyed since the last look, as far as that is known; asks nobody who may be slow. One thread. Raises as
        KeyStore, but for Waiting."""
        try:
            before, self._seen = self._seen, self._opened(point).generation()
        except Waiting:
            return False
        return before not in (-1, self._seen)

    def close(self) -> None:
        if self._store is not None:
            self._store.close()
        with self._lock:
            self._keys.close()


def _frame(found: _Found, key: SubjectKey, tags_key: bytes) -> bytes:
    record = found.record
    arms = {leaf[5] & 1: action for leaf, action in zip(record.leaves, record.actions, strict=True)}
    envelope = seal(key.key, key.id, found.tag, record.leaves, Plain(record.salt, record.observation, arms))
    beside = (without_triples(action) for action in record.actions)
    parts = [
        _HEAD.pack(1, len(record.leaves), SEALED, blinded(tags_key, record.cluster), bytes(len(record.salt))),
        *record.leaves,
        len(envelope).to_bytes(4, "big"),
        envelope,
        *(len(action).to_bytes(4, "big") + action for action in beside),
    ]
    return frame(b"".join(parts))


def store_opener(folder: Path, store_key: Path) -> Opener:
    """Opens a key store with its own key from a file, which its owner alone may read."""
    from knhk_runtime.keyfile import read_private

    return lambda _: KeyStore(folder, read_private(store_key, "the key of the key store"))
