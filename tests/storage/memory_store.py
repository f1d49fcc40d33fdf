"""An object store in memory, for tests that lie about its steps."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Sequence
from hashlib import md5

from knhk.model.faults import AlreadyExists, Conflict, NotFound
from knhk_runtime.objects.port import PLAIN, About, Listed, Stored, checked


class MemoryStore:
    """`ObjectStore` of one process; `about`: what each object was told to be."""

    name = "memory"

    def __init__(self) -> None:
        self.objects = dict[str, bytes]()
        self.about = dict[str, About]()
        self._lock = threading.Lock()

    def get(self, key: str) -> Stored:
        with self._lock:
            if (data := self.objects.get(checked(key))) is None:
                raise NotFound(f"{key}: there is no such object")
            return Stored(data, _etag(data))

    def get_all(self, keys: Iterable[str]) -> Iterator[bytes]:
        return (self.get(key).data for key in keys)

    def get_range(self, key: str, start: int, length: int) -> bytes:
        return self.get(key).data[start : start + length]

    def put(self, key: str, data: bytes, about: About = PLAIN) -> str:
        with self._lock:
            return self._write(key, data, about)

    def put_all(self, items: Sequence[tuple[str, bytes]], about: About = PLAIN) -> None:
        for key, data in items:
            self.put(key, data, about)

    def create(self, key: str, data: bytes, about: About = PLAIN) -> str:
        with self._lock:
            if checked(key) in self.objects:
                raise AlreadyExists(f"{key} is there already")
            return self._write(key, data, about)

    def create_all(self, items: Sequence[tuple[str, bytes]], about: About = PLAIN) -> list[tuple[str, bytes]]:
        there = []
        for key, data in items:
            try:
                self.create(key, data, about)
            except AlreadyExists:
                there.append((key, data))
        return there

    def swap(self, key: str, data: bytes, etag: str, about: About = PLAIN) -> str:
        with self._lock:
            found = self.objects.get(checked(key))
            if found is None or _etag(found) != etag:
                raise Conflict(f"{key} is no longer what it was")
            return self._write(key, data, about)

    def list(self, folder: str = "") -> Iterator[Listed]:
        with self._lock:
            found = sorted((key, len(data)) for key, data in self.objects.items() if not folder or key.startswith(f"{folder}/"))
        return (Listed(key, size) for key, size in found)

    def delete(self, keys: Sequence[str]) -> None:
        with self._lock:
            for key in keys:
                self.objects.pop(checked(key), None)

    def _write(self, key: str, data: bytes, about: About) -> str:
        self.objects[checked(key)], self.about[key] = bytes(data), about
        return _etag(data)


def _etag(data: bytes) -> str:
    return md5(data, usedforsecurity=False).hexdigest()
