"""Where the embedded home keeps its things.

```
HOME/store.db            resources
HOME/keys/               private keys (0600), root.pub
HOME/registry/           OCI layout
HOME/forges.yaml         which repositories may be followed, and what they may tell
HOME/regions             regions that points may be of, if it is there: local,eu,us (docs/cluster.md)
HOME/subjects/           key store of sealed records
HOME/log/                the lockchain (formats/log.md)
HOME/receipts.db         an index over it, made anew when it is missing
HOME/points/NS.NAME/     one folder for each enforcement point (formats/agent.md)
HOME/run/                pid and status of the control plane, logs of its children
/tmp/knhk-…/             Unix sockets (their paths must be short), 0700
/dev/shm/knhk-…/         rings, in a tmpfs, 0700
```
"""

from __future__ import annotations

import getpass
import hashlib
import os
import stat
from dataclasses import dataclass
from pathlib import Path

from knhk.decide.approvals import LOCAL
from knhk.model.faults import Stalled
from knhk.model.regions import regions_of

DEFAULT_HOME = ".knhk"
LOG_ORIGIN = "knhk.dev/local"


def cache() -> Path:
    """What is kept for all homes of this user, and can be made anew."""
    base = os.environ.get("KNHK_CACHE")
    return Path(base) if base else Path.home() / ".cache" / "knhk"


def find_home(given: str | None) -> Home:
    """The home that --home, KNHK_HOME or the current folder names, in this order."""
    return Home(Path(given or os.environ.get("KNHK_HOME") or DEFAULT_HOME).absolute())


def local_user() -> str:
    """This user as events and approvals name it: local: and the name, or the number where there is none (containers)."""
    try:
        return f"{LOCAL}{getpass.getuser()}"
    except (KeyError, OSError):
        return f"{LOCAL}{os.getuid()}"


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
    def git(self) -> Path:
        """Copies of repositories, and what checks of their pull requests build."""
        return self.root / "git"

    @property
    def secrets(self) -> Path:
        """NAMESPACE/NAME/KEY: what resources name by secretRef."""
        return self.root / "secrets"

    @property
    def trusts(self) -> Path:
        """Whom the administrator of this home believes (docs/gitops.md)."""
        return self.root / "forges.yaml"

    def regions(self) -> tuple[str, ...]:
        """Regions that points may be of; none: any. Raises Refused."""
        path = self.root / "regions"
        return regions_of(path.read_text("utf-8", "replace")) if path.exists() else ()

    @property
    def subjects(self) -> Path:
        """The key store: keys of the subjects whose data records hold, and erasures (docs/privacy.md)."""
        return self.root / "subjects"

    @property
    def store_key(self) -> Path:
        """The key store's own key while the home is up, in a tmpfs."""
        return self.ring_root / "store.key"

    @property
    def receipts(self) -> Path:
        """The index over the log's entries."""
        return self.root / "receipts.db"

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
    def children_file(self) -> Path:
        """Processes that the control plane started: name, id and start time; for the next life, should this one end by force."""
        return self.run / "children.json"

    @property
    def sockets(self) -> Path:
        """The same for every caller, whatever its environment says, so that `down` finds what `up` made."""
        return Path("/tmp") / self._tag

    def point_sockets(self, namespace: str, name: str) -> Path:
        """Short whatever the names are: a socket's path may have 107 bytes."""
        return self.sockets / hashlib.sha256(f"{namespace}/{name}".encode()).hexdigest()[:12]

    @property
    def sequencer_socket(self) -> Path:
        return self.sockets / "sequencer.sock"

    @property
    def ring_root(self) -> Path:
        base = Path("/dev/shm") if os.access("/dev/shm", os.W_OK) else self.run / "rings"
        return base / self._tag

    def rings(self, namespace: str, name: str) -> Path:
        return self.ring_root / f"{namespace}.{name}"

    def prepare(self) -> None:
        """Makes the folders that must be private. Raises Stalled when one of them belongs to somebody else, or when the root holds
        something else than a home."""
        self._check_root()
        for folder in (self.root, self.keys, self.registry, self.log, self.run):
            private_folder(folder)

    def prepare_to_run(self) -> None:
        """As `prepare`, with the folders outside of the home that only what runs needs."""
        self.prepare()
        for folder in (self.sockets, self.ring_root):
            private_folder(folder)

    def _check_root(self) -> None:
        """A folder with other people's things must neither become private nor get keys."""
        try:
            found = {path.name for path in self.root.iterdir()} if self.root.exists() else set()
        except NotADirectoryError as error:
            raise Stalled("NoFolder", f"{self.root}: must be a folder; choose another --home") from error
        except OSError as error:
            raise Stalled("NoFolder", f"{self.root}: must be readable: {error.strerror}; choose another --home") from error
        if found - {"regions"} and "keys" not in found and "store.db" not in found:
            raise Stalled("NotAHome", f"{self.root}: must be empty or a home; it holds {sorted(found)[0]}; choose another --home")


def is_own(folder: Path) -> bool:
    """Whether there is such a folder (not a link to one) and it belongs to this user."""
    try:
        status = folder.lstat()
    except FileNotFoundError:
        return False
    return stat.S_ISDIR(status.st_mode) and status.st_uid == os.getuid()


def private_folder(folder: Path) -> None:
    """Makes `folder` with mode 0700 and refuses one that others own or may write: it will hold keys or sockets."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not is_own(folder):
            raise Stalled("ForeignFolder", f"{folder}: must be a folder of the user {os.getuid()}; remove it or choose another --home")
        if stat.S_IMODE(folder.lstat().st_mode) & 0o077:
            folder.chmod(0o700)
    except OSError as error:
        raise Stalled("NoFolder", f"{folder}: must be writable: {error.strerror}; choose another --home") from error
