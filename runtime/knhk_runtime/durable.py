"""Files that are replaced whole: written beside, synced, renamed."""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def replace_file(path: Path, data: bytes, mode: int = 0o600, sync: bool = True) -> None:
    """After this returns the file holds `data`; a reader sees the old bytes or the new ones. Raises OSError."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".", suffix=".tmp")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fchmod(file.fileno(), mode)
            if sync:
                os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    if sync:
        sync_folder(path.parent)


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """Where to write what `path` is to hold: a name beside it, with its suffix, that becomes `path` when the block ends well; else `path`
    stays as it was. What is no regular file (a pipe, a terminal) is written as it is. Not synced. Raises OSError."""
    target = Path(os.path.realpath(path))
    if target.exists() and not target.is_file():
        yield path
        return
    if not target.parent.is_dir():
        raise FileNotFoundError(errno.ENOENT, "there is no such folder", str(target.parent))
    temporary = target.with_name(f".{os.getpid()}.{target.name}")
    try:
        yield temporary
        if target.exists():
            temporary.chmod(target.stat().st_mode & 0o777)
        os.replace(temporary, target)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and (error.filename == str(temporary) or error.errno in FULL):
            error.filename = str(path)  # the name that its reader knows
        raise


def sync_folder(folder: Path) -> None:
    """Makes names in `folder` durable."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
