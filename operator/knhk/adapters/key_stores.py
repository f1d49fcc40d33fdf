"""The key stores of a cluster: one for each namespace, in a folder that one process has."""

from __future__ import annotations

import fcntl
import logging
import os
import re
import threading
from collections.abc import Callable
from pathlib import Path

from knhk.model.faults import Corrupt, KnhkError, Stalled
from knhk.ports.wrapping import Wrapping
from knhk_runtime import subject_keys
from knhk_runtime.envelope import KEY
from knhk_runtime.subject_keys import KeyStore, Quota

MOST = 256  # each with files that stay open
_NAMESPACE = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
STORE = b"store"
NOT_SHOWN = ("NoSecret", "Forbidden")
_log = logging.getLogger("knhk.keys")
TagsKey = Callable[[str], bytes | None]
"""The key of the tags of a namespace's consents; None where there is none, or it may not be read."""


def established(folder: Path, wrapping: Wrapping, tags_key: bytes | None = None) -> bytes:
    """The own key of the key store in a folder, which is made when it is missing. Raises Stalled, Corrupt and Waiting."""
    if subject_keys.wrapped_store_key(folder) is None:
        made = os.urandom(KEY)
        subject_keys.create(folder, made, wrapping.wrap(STORE, made), tags_key)
    if (wrapped := subject_keys.wrapped_store_key(folder)) is None:
        raise Corrupt(str(subject_keys.store_file(folder)), "has no key of its own")
    return wrapping.unwrap(STORE, wrapped)


class KeyStores:
    """Any thread. `quota`: of each namespace. Raises Stalled when another process has the folder, and as KeyStore."""

    def __init__(self, folder: Path, wrapping: Wrapping, tags_key: TagsKey, quota: Quota | None = None) -> None:
        self._folder, self._wrapping, self._tags_key, self._quota = folder, wrapping, tags_key, quota
        self._open = dict[str, KeyStore]()
        self._lock = threading.Lock()
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._handle = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self._handle)
            raise Stalled("Running", f"{folder}: another key service has it: there is one for each folder") from None

    def of(self, namespace: str) -> KeyStore:
        """That of a namespace, made when it is missing. One that is open waits for no other that is being opened."""
        if (known := self._open.get(namespace)) is not None:
            return known
        with self._lock:
            if namespace not in self._open:
                self._open[namespace] = self._opened(namespace)
            return self._open[namespace]

    def there(self, namespace: str) -> KeyStore | None:
        """The same, not made: None where there is none."""
        if not _NAMESPACE.fullmatch(namespace) or not subject_keys.store_file(self._folder / namespace).exists():
            return None
        return self.of(namespace)

    def of_consents(self, namespace: str) -> bytes | None:
        """The key of the tags of a namespace's consents as it is now; None: there is none, or it may not be read. Raises as TagsKey."""
        try:
            return self._tags_key(namespace)
        except Stalled as error:
            if error.reason in NOT_SHOWN:
                return None
            raise

    def known(self) -> dict[str, KeyStore]:
        """Those that are open, by namespace."""
        with self._lock:
            return dict(self._open)

    def close(self) -> None:
        with self._lock:
            for store in self._open.values():
                store.close()
            self._open.clear()
            os.close(self._handle)

    def _opened(self, namespace: str) -> KeyStore:
        folder = self._folder / namespace
        if not _NAMESPACE.fullmatch(namespace):
            raise Stalled("Namespace", "must be the name of a namespace")
        if len(self._open) >= MOST:
            raise Stalled("TooMany", f"more than {MOST} namespaces have a key store")
        told = self._of_consents(namespace)
        store = KeyStore(folder, established(folder, self._wrapping, told), self._quota)
        if told not in (None, store.tags_key):
            _log.warning("namespace %s: its consents have another key of tags than its sealed records: one subject has two tags", namespace)
        return store

    def _of_consents(self, namespace: str) -> bytes | None:
        try:
            return self.of_consents(namespace)
        except KnhkError:
            if subject_keys.wrapped_store_key(self._folder / namespace) is None:
                raise  # which key its tags are made by stays so for ever: not decided while nobody answers
            return None
