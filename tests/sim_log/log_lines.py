"""The line from one machine to the object store: calls fail and are lost, fail and were done, fail and are done later."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from memory_store import MemoryStore

from knhk.model.faults import Conflict, NotFound
from knhk_runtime.objects.port import PLAIN, About, Listed, Stored

Hook = Callable[[str, Callable[[], Any], Callable[[], Any]], Any]


class Line:
    """`ObjectStore`; every call goes through `hook(step, do, half)`, which does it or not."""

    def __init__(self, store: MemoryStore, hook: Hook) -> None:
        self.name, self._store, self._hook = "store", store, hook

    def get(self, key: str) -> Stored:
        found: Stored = self._hook(f"get {key}", lambda: self._store.get(key), lambda: None)
        return found

    def get_all(self, keys: Iterable[str]) -> Iterator[bytes]:
        return (self.get(key).data for key in keys)

    def get_range(self, key: str, start: int, length: int) -> bytes:
        return self.get(key).data[start : start + length]

    def put(self, key: str, data: bytes, about: About = PLAIN) -> str:
        return str(self._hook(f"put {key}", lambda: self._store.put(key, data, about), lambda: None))

    def put_all(self, items: Sequence[tuple[str, bytes]], about: About = PLAIN) -> None:
        half = items[: len(items) // 2]
        self._hook("put_all", lambda: self._store.put_all(items, about), lambda: self._store.put_all(half, about))

    def create(self, key: str, data: bytes, about: About = PLAIN) -> str:
        return str(self._hook(f"create {key}", lambda: self._store.create(key, data, about), lambda: None))

    def create_all(self, items: Sequence[tuple[str, bytes]], about: About = PLAIN) -> list[tuple[str, bytes]]:
        half = items[: len(items) // 2]
        done = self._hook("create_all", lambda: self._store.create_all(items, about), lambda: self._store.create_all(half, about))
        return list(done)

    def swap(self, key: str, data: bytes, etag: str, about: About = PLAIN) -> str:
        return str(self._hook(f"swap {key}", lambda: self._store.swap(key, data, etag, about), lambda: None))

    def list(self, folder: str = "") -> Iterator[Listed]:
        return iter(self._hook(f"list {folder}", lambda: [*self._store.list(folder)], lambda: None))

    def delete(self, keys: Sequence[str]) -> None:
        half = keys[: len(keys) // 2]
        self._hook("delete", lambda: self._store.delete(keys), lambda: self._store.delete(half))


def late(do: Callable[[], Any]) -> Callable[[], None]:
    """A call that comes true when nobody waits for its answer any more."""

    def come_true() -> None:
        try:
            do()
        except (Conflict, NotFound):
            return

    return come_true
