"""Told by the kernel when something changes in a folder."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

_CHANGES = fcntl.DN_CREATE | fcntl.DN_RENAME | fcntl.DN_DELETE | fcntl.DN_MULTISHOT


def notices(folder: Path) -> int | None:
    """From now on this process gets SIGIO, which must have a handler, when a name comes into `folder`, goes or changes, until what is
    given is closed; None where the system does not tell. Not by inotify: of that each user has 128 instances on a machine, over all his
    pods, and an Envoy that gets none ends. Raises OSError when there is no such folder."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.fcntl(handle, fcntl.F_NOTIFY, _CHANGES)
    except OSError:
        os.close(handle)
        return None
    return handle
