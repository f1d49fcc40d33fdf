"""Port Secrets in the embedded home: FOLDER/NAMESPACE/NAME/KEY, files that only this user reads."""

from __future__ import annotations

import re
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from knhk.model.faults import Stalled

MAX_BYTES = 1 << 20
_NAME = re.compile(r"[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?")


@dataclass(frozen=True)
class FolderSecrets:
    folder: Path

    def read(self, namespace: str, name: str) -> Mapping[str, bytes]:
        if not _NAME.fullmatch(namespace) or not _NAME.fullmatch(name):
            raise Stalled("NoSecret", f"{namespace}/{name}: must be the name of a secret")
        place = self.folder / namespace / name
        try:
            return {file.name: _value(file) for file in sorted(place.iterdir()) if file.is_file()}
        except OSError as error:
            raise Stalled("NoSecret", f"{place}: must be a folder with a file for each key of the secret: {error.strerror}") from error


def _value(file: Path) -> bytes:
    status = file.stat()
    if stat.S_IMODE(status.st_mode) & 0o077:
        raise Stalled("NoSecret", f"{file}: must be readable by its owner only; run: chmod 600 {file}")
    if status.st_size > MAX_BYTES:
        raise Stalled("NoSecret", f"{file}: must have at most {MAX_BYTES} bytes")
    return file.read_bytes()
