"""The key that makes tags of names, as a home makes it for each namespace: that of its key store."""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from knhk.adapters.secrets_folder import FolderSecrets
from knhk.model.consents import SECRET, SECRET_KEY
from knhk.wiring import privacy
from knhk.wiring.home import Home, private_folder
from knhk_runtime.durable import sync_folder


@dataclass(frozen=True)
class Made:
    """Secrets of a home. The key of a namespace's tags is taken from the key store when it is asked for first, so that what is sealed and
    what is consented to have one tag; one that is there stays."""

    home: Home

    def read(self, namespace: str, name: str) -> dict[str, bytes]:
        """See the port. Raises as `privacy.tags_key`, too."""
        if name == SECRET:
            _make(self.home.secrets / namespace / name / SECRET_KEY, lambda: privacy.tags_key(self.home))
        return dict(FolderSecrets(self.home.secrets).read(namespace, name))


def _make(path: Path, made: Callable[[], bytes]) -> None:
    """A file that only this user reads, whole or not at all; one that is there stays."""
    if path.exists():
        return
    for folder in reversed(path.parents[:3]):
        private_folder(folder)
    temporary = path.parent.parent / f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}"
    handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(made())
            file.flush()
            os.fsync(file.fileno())
        with suppress(FileExistsError):  # another made it meanwhile
            os.link(temporary, path)
        sync_folder(path.parent)
    finally:
        temporary.unlink()
