"""Port Mirrors by the git program: one bare repository of ours for each remote."""

from __future__ import annotations

import base64
import hashlib
import logging
import shlex
import shutil
import tempfile
import threading
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from knhk.adapters.git_program import GitProgram, said
from knhk.adapters.repository_git import GitRepository
from knhk.model.faults import Refused, Stalled, Waiting
from knhk.ports.repository import Remote, Repository

FETCH_S = 60.0
RETRY_S = 5.0
# What git says → the reason, and what a person reads; its own words may carry a server's answer.
_STALLED = (
    ("couldn't find remote ref", "NoBranch", "must have the branch"),
    ("not allowed", "Protocol", "must be of a protocol that is allowed here"),
    ("Authentication failed", "NoAccess", "must let the credentials read it"),
    ("could not read Username", "NoAccess", "must let the credentials read it"),
    ("Permission denied", "NoAccess", "must let the credentials read it"),
    ("Host key verification failed", "NoAccess", "must have a host key that known_hosts names"),
    ("error in object", "Malformed", "must hold well-formed objects only"),
    ("fsck", "Malformed", "must hold well-formed objects only"),
)


_WAITING = (
    ("Could not resolve host", "must have a name that can be resolved"),
    ("Failed to connect", "must answer"),
    ("Connection refused", "must answer"),
    ("timed out", "must answer in time"),
    ("transfer closed", "must answer in time"),
    ("certificate", "must show a certificate of an authority that is trusted here (ca.crt of its Secret)"),
    ("The requested URL returned error: 5", "must answer without an error of the server"),
    ("not found", "must be there"),
    ("does not appear to be a git repository", "must be there"),
)
_log = logging.getLogger("knhk.repositories")


@dataclass(frozen=True)
class GitMirrors:
    """`folder` is private; `protocols`: such as https, ssh, http, file."""

    folder: Path
    protocols: tuple[str, ...]
    _locks: dict[Path, threading.Lock] = field(default_factory=dict, compare=False)
    _of_locks: threading.Lock = field(default_factory=threading.Lock, compare=False)

    def place(self, remote: Remote) -> Path:
        """Where the copy of a remote lies."""
        return self.folder / hashlib.sha256(remote.url.encode()).hexdigest()[:32]

    def fetch(self, remote: Remote, branch: str, pulls: Collection[int] = ()) -> Repository:
        with self._alone(self.place(remote)):
            return self._fetch(remote, branch, pulls)

    def keep(self, urls: Collection[str]) -> None:
        wanted = {self.place(Remote(url)) for url in urls}
        for place in [found for found in (self.folder.iterdir() if self.folder.is_dir() else ()) if found not in wanted]:
            with self._alone(place):
                shutil.rmtree(place)
            with self._of_locks:
                self._locks.pop(place, None)

    @contextmanager
    def _alone(self, place: Path) -> Iterator[None]:
        """While nobody else writes to this copy."""
        with self._of_locks:
            lock = self._locks.setdefault(place, threading.Lock())
        with lock:
            yield

    def _fetch(self, remote: Remote, branch: str, pulls: Collection[int]) -> Repository:
        place = self.place(remote)
        self._prepare(place)
        specs = [f"+refs/heads/{branch}:refs/heads/{branch}", *(f"+refs/pull/{n}/head:refs/pull/{n}/head" for n in sorted(pulls))]
        flags = ("--quiet", "--no-tags", "--no-auto-gc", "--no-write-fetch-head", "--no-recurse-submodules", "--no-show-forced-updates")
        with _access(place, self.protocols, remote) as git:
            try:
                done = git.run("fetch", *flags, "--", remote.url, *specs, timeout_s=FETCH_S, allowed=())
            except Refused as refused:
                raise Waiting("NoRepository", f"{remote.url}: {refused.faults[0].must}", RETRY_S) from refused
        if done.returncode != 0:
            raise _told(remote, said(done), done.stderr.decode(errors="replace"))
        return GitRepository(GitProgram(place))

    def _prepare(self, place: Path) -> None:
        if (place / "HEAD").exists():
            return
        place.mkdir(mode=0o700, parents=True, exist_ok=True)
        GitProgram(place).run("init", "--quiet", "--bare", "--template=", ".")


def _told(remote: Remote, last: str, whole: str) -> Stalled | Waiting:
    """In our words; git's last one goes to the log, without what is secret."""
    for secret in (value.decode(errors="replace").strip() for value in remote.secret.values()):
        last = last.replace(secret, "…") if secret else last
    _log.warning("%s: %s", remote.url, last)
    for words, reason, must in _STALLED:
        if words in whole:
            return Stalled(reason, f"{remote.url}: {must}")
    must = next((must for words, must in _WAITING if words in whole), "must be a repository that can be fetched; the log says why not")
    return Waiting("NoRepository", f"{remote.url}: {must}", RETRY_S)


@contextmanager
def _access(place: Path, protocols: tuple[str, ...], remote: Remote) -> Iterator[GitProgram]:
    """git with what it needs to reach the remote: a header for its server in the environment, or files that only this user reads."""
    scheme = urlsplit(remote.url).scheme
    with tempfile.TemporaryDirectory(prefix="knhk-git-") as made:
        settings: dict[str, str] = {}
        if "ca.crt" in remote.secret:
            settings["http.sslCAInfo"] = str(_file(Path(made) / "ca.crt", remote.secret["ca.crt"]))
        if "password" in remote.secret and scheme in ("http", "https"):
            if scheme == "http" and not remote.insecure:
                raise Stalled("Insecure", f"{remote.url}: must be https, for a password goes there")
            pair = remote.secret.get("username", b"git").strip() + b":" + remote.secret["password"].strip()
            settings[f"http.{_server(remote.url)}.extraHeader"] = f"Authorization: Basic {base64.b64encode(pair).decode()}"
        yield GitProgram(place, protocols, settings, _ssh(Path(made), remote) if scheme == "ssh" else "/bin/false")


def _server(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.hostname}{f':{parts.port}' if parts.port else ''}/"


def _ssh(folder: Path, remote: Remote) -> str:
    for name in ("identity", "known_hosts"):
        if name not in remote.secret:
            raise Stalled("NoAccess", f"{remote.url}: the secret of its credentials must have {name}")
    identity = _file(folder / "identity", remote.secret["identity"])
    known = _file(folder / "known_hosts", remote.secret["known_hosts"])
    options = {
        "BatchMode": "yes",
        "IdentitiesOnly": "yes",
        "IdentityAgent": "none",
        "StrictHostKeyChecking": "yes",
        "UserKnownHostsFile": str(known),
        "GlobalKnownHostsFile": "/dev/null",
        "ConnectTimeout": "10",
    }
    return shlex.join(["ssh", "-F", "none", "-i", str(identity), *(f"-o{name}={value}" for name, value in options.items())])


def _file(path: Path, data: bytes) -> Path:
    path.touch(mode=0o600)
    path.write_bytes(data if data.endswith(b"\n") else data + b"\n")
    return path
