"""Keys in memory: in one piece that is locked and left out of core dumps, where the system allows that, and zeros when it is let go."""

from __future__ import annotations

import ctypes
import mmap
import os
from collections.abc import Hashable

from knhk_runtime.envelope import KEY
from knhk_runtime.log import log
from knhk_runtime.subject_keys import SubjectKey


class LockedKeys:
    """At most `most` keys, by name. Of one thread. What is taken out is a copy of Python's, for as long as somebody holds it."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._memory: mmap.mmap | None = None  # before the first key
        self._places = dict[Hashable, tuple[bytes, int]]()

    def __len__(self) -> int:
        return len(self._places)

    def get(self, name: Hashable) -> SubjectKey | None:
        if self._memory is None or (found := self._places.get(name)) is None:
            return None
        key_id, place = found
        return SubjectKey(key_id, self._memory[place * KEY : (place + 1) * KEY])

    def put(self, name: Hashable, key: SubjectKey) -> None:
        """Where there is no room, all others go first."""
        if self._memory is None:
            self._memory = _locked(self._most * KEY)
        if name not in self._places and len(self._places) >= self._most:
            self.clear()
        place = self._places[name][1] if name in self._places else len(self._places)
        self._memory[place * KEY : (place + 1) * KEY] = key.key
        self._places[name] = key.id, place

    def clear(self) -> None:
        self._places.clear()
        if self._memory is not None:
            self._memory[:] = bytes(len(self._memory))

    def close(self) -> None:
        self.clear()
        if self._memory is not None:
            self._memory.close()
            self._memory = None


def _locked(size: int) -> mmap.mmap:
    made = mmap.mmap(-1, size)
    made.madvise(mmap.MADV_DONTDUMP)
    begin = ctypes.c_char.from_buffer(made)
    if ctypes.CDLL(None, use_errno=True).mlock(ctypes.c_void_p(ctypes.addressof(begin)), ctypes.c_size_t(size)):
        log("keys", fault=f"memory is not locked: {os.strerror(ctypes.get_errno())}")
    return made
