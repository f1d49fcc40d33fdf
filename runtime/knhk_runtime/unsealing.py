"""Reading sealed records (formats/envelope.md): opened by who may use the key store, else told apart from what was erased."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import suppress
from dataclasses import replace
from enum import Enum
from typing import TypeVar

from knhk_runtime.envelope import parse_envelope, unseal
from knhk_runtime.record import Record
from knhk_runtime.subject_keys import ErasableKeys
from knhk_verify.errors import Bad

MAX_KEYS = 65_536
AHEAD, AHEAD_BYTES = 4096, 16 << 20  # records whose keys are asked for together, and their O
T = TypeVar("T")


class Closed(Enum):
    """Why there is no O."""

    SEALED = "sealed"  # this reader may not use the key store
    ERASED = "erased"


class Unsealer:
    """`keys`: the key store; None for a reader without access to it. `whole`: it is all that there is; else what it never had is another's.
    One thread."""

    def __init__(self, keys: ErasableKeys | None = None, *, whole: bool = True) -> None:
        self._keys, self._whole = keys, whole
        self._known = dict[bytes, bytes | Closed | None]()  # None: the key store never had it

    def ahead(self, items: Iterable[T], record_of: Callable[[T], Record]) -> Iterator[T]:
        """The same items, of which each is to be opened; keys are asked for AHEAD records at a time. Raises as KeyStore does."""
        if self._keys is None:
            yield from items
            return
        waiting, size = list[T](), 0
        for item in items:
            waiting.append(item)
            size += len(record_of(item).observation)
            if len(waiting) >= AHEAD or size >= AHEAD_BYTES:
                self._learn(_key_ids(map(record_of, waiting)))
                yield from waiting
                waiting, size = [], 0
        self._learn(_key_ids(map(record_of, waiting)))
        yield from waiting

    def close(self) -> None:
        """Its key store, too."""
        if self._keys is not None:
            self._keys.close()

    def open(self, record: Record, where: str) -> Record | Closed:
        """The record as it was before it was sealed. Raises Bad for an envelope that does not open, and as KeyStore does."""
        if record.erased:
            return Closed.ERASED
        if not record.sealed:
            return record
        sealed = parse_envelope(record.observation, where)
        if self._keys is None:
            return Closed.SEALED
        self._learn((sealed.key_id,))
        key = self._known[sealed.key_id]
        if isinstance(key, Closed):
            return key
        if key is None:
            if not self._whole:
                return Closed.SEALED
            raise Bad(where, f"is sealed by key {sealed.key_id.hex()}, which this key store never had")
        plain = unseal(key, sealed, record.leaves[0], where)
        arms = [leaf[5] & 1 for leaf in record.leaves]
        if not set(arms) <= set(plain.actions):
            raise Bad(where, "the envelope has no A of this arm")
        actions = tuple(plain.actions[arm] for arm in arms)
        return replace(record, salt=plain.salt, observation=plain.observation, actions=actions, sealed=False)

    def _learn(self, ids: Collection[bytes]) -> None:
        lacking = {key_id for key_id in ids if key_id not in self._known}
        if self._keys is None or not lacking:
            return
        if len(self._known) + len(lacking) > MAX_KEYS:
            self._known.clear()
            lacking = set(ids)
        found = self._keys.found(lacking)
        for key_id in lacking:
            destroyed = key_id in found and found[key_id] is None
            self._known[key_id] = Closed.ERASED if destroyed else found.get(key_id)


def _key_ids(records: Iterable[Record]) -> set[bytes]:
    """Of those that are sealed; what is no envelope is told when it is opened."""
    found = set[bytes]()
    for record in records:
        if record.sealed and not record.erased:
            with suppress(Bad):
                found.add(parse_envelope(record.observation).key_id)
    return found


NO_ACCESS = Unsealer()
