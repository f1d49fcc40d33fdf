"""Reading sealed records (formats/envelope.md): opened by who may use the key store, else told apart from what was erased."""

from __future__ import annotations

from dataclasses import replace
from enum import Enum

from knhk_runtime.envelope import parse_envelope, unseal
from knhk_runtime.record import Record
from knhk_runtime.subject_keys import ErasableKeys
from knhk_verify.errors import Bad

MAX_KEYS = 65_536


class Closed(Enum):
    """Why there is no O."""

    SEALED = "sealed"  # this reader may not use the key store
    ERASED = "erased"


class Unsealer:
    """`keys`: the key store; None for a reader without access to it. `whole`: it is all that there is; else what it never had is another's.
    One thread."""

    def __init__(self, keys: ErasableKeys | None = None, *, whole: bool = True) -> None:
        self._keys, self._whole = keys, whole
        self._known = dict[bytes, bytes]()

    def open(self, record: Record, where: str) -> Record | Closed:
        """The record as it was before it was sealed. Raises Bad for an envelope that does not open, and as KeyStore does."""
        if record.erased:
            return Closed.ERASED
        if not record.sealed:
            return record
        sealed = parse_envelope(record.observation, where)
        if self._keys is None:
            return Closed.SEALED
        key = self._key(sealed.key_id)
        if key is None:
            if self._keys.is_destroyed(sealed.key_id):
                return Closed.ERASED
            if not self._whole:
                return Closed.SEALED
            raise Bad(where, f"is sealed by key {sealed.key_id.hex()}, which this key store never had")
        plain = unseal(key, sealed, record.leaves[0], where)
        arms = [leaf[5] & 1 for leaf in record.leaves]
        if not set(arms) <= set(plain.actions):
            raise Bad(where, "the envelope has no A of this arm")
        actions = tuple(plain.actions[arm] for arm in arms)
        return replace(record, salt=plain.salt, observation=plain.observation, actions=actions, sealed=False)

    def _key(self, key_id: bytes) -> bytes | None:
        if key_id not in self._known and self._keys is not None and (found := self._keys.key(key_id)) is not None:
            if len(self._known) >= MAX_KEYS:
                self._known.clear()
            self._known[key_id] = found
        return self._known.get(key_id)


NO_ACCESS = Unsealer()
