"""Where the embedded home keeps its things.

```
HOME/store.db            resources
HOME/keys/               private keys (0600), root.pub
HOME/registry/           OCI layout
HOME/log/                the lockchain (formats/log.md)
HOME/points/NS.NAME/     one folder for each enforcement point (formats/agent.md)
HOME/run/                pid and status of the control plane, logs of its children
SOCKETS/                 Unix sockets (their paths must be short), 0700
SHM/                     rings, in a tmpfs, 0700
```
"""

from __future__ import annotations

import hashlib
import os
import stat
import tempfile
from dataclasses import dataclass
from pathlib import Path

from knhk.model.faults import Stalled

DEFAULT_HOME = ".knhk"
LOG_ORIGIN = "knhk.dev/local"


def find_home(given: str | None) -> Home:
    """The home that --home, KNHK_HOME or the current folder names, in this order."""
    return Home(Path(given or os.environ.get("KNHK_HOME") or DEFAULT_HOME).absolute())


@dataclass(frozen=True)
class Home:
    root: Path

    @property
    def store(self) -> Path:
        return self.root / "store.db"

    @property
    def keys(self) -> Path:
        return self.root / "keys"

    @property
    def root_pub(self) -> Path:
        return self.keys / "root.pub"

    @property
    def registry(self) -> Path:
        return self.root / "registry"

    @property
    def log(self) -> Path:
        return self.root / "log"

    @property
    def run(self) -> Path:
        return self.root / "run"

    @property
    def pid_file(self) -> Path:
        return self.run / "control.json"

    def point(self, namespace: str, name: str) -> Path:
        return self.root / "points" / f"{namespace}.{name}"

    def outbox(self, namespace: str, name: str) -> Path:
        """Segments of one agent; at once the Δ log that replay reads."""
        return self.log / "observations" / f"{namespace}.{name}"

    @property
    def _tag(self) -> str:
        return f"knhk-{os.getuid()}-{hashlib.sha256(str(self.root).encode()).hexdigest()[:12]}"

    @property
    def sockets(self) -> Path:
        return Path(os.environ.get("XDG_RUNTIME_DIR") or tempfile.gettempdir()) / self._tag

    @property
    def sequencer_socket(self) -> Path:
        return self.sockets / "sequencer.sock"

    def rings(self, namespace: str, name: str) -> Path:
        base = Path("/dev/shm") if os.access("/dev/shm", os.W_OK) else self.run / "rings"
        return base / self._tag / f"{namespace}.{name}"

    def prepare(self) -> None:
        """Makes the folders that must be private. Raises Stalled when one of them belongs to somebody else."""
        for folder in (self.root, self.keys, self.registry, self.log, self.run, self.sockets):
            private_folder(folder)


def private_folder(folder: Path) -> None:
    """Makes `folder` with mode 0700 and refuses one that others own or may write: it will hold keys or sockets."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = folder.lstat()
        if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid():
            raise Stalled("ForeignFolder", f"{folder}: must be a folder of the user {os.getuid()}; remove it or choose another --home")
        if stat.S_IMODE(status.st_mode) & 0o077:
            folder.chmod(0o700)
    except OSError as error:
        raise Stalled("NoFolder", f"{folder}: must be writable: {error.strerror}; choose another --home") from error
