"""The Kubernetes servers that tests run: from an existing install, or built once from the pinned Go modules of this folder.

`KNHK_ASSETS` names a folder with binaries (as setup-envtest lays it out); what it lacks is built. Built ones lie in
`$KNHK_CACHE/kubernetes/KEY` or `~/.cache/knhk/kubernetes/KEY`; KEY is a digest of go.mod, go.sum, the flags and the Go version.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

HERE = Path(__file__).resolve().parent
PACKAGES: Mapping[str, str] = {
    "etcd": "go.etcd.io/etcd/server/v3",
    "kube-apiserver": "k8s.io/kubernetes/cmd/kube-apiserver",
    "kube-controller-manager": "k8s.io/kubernetes/cmd/kube-controller-manager",
    "kube-scheduler": "k8s.io/kubernetes/cmd/kube-scheduler",
    "kubectl": "k8s.io/kubernetes/cmd/kubectl",
    "kubelet": "k8s.io/kubernetes/cmd/kubelet",
    "kube-proxy": "k8s.io/kubernetes/cmd/kube-proxy",
}
CONTROL_PLANE = ("etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler")
NODE = ("kubelet", "kube-proxy")
TELL_EVERY_S = 15.0
# auto: a Go that is too old for go.mod fetches the right toolchain through the module proxy.
_GO = {**os.environ, "GOTOOLCHAIN": "auto", "GOFLAGS": "-mod=readonly -buildvcs=false", "CGO_ENABLED": "0", "GOWORK": "off"}


class CannotBuild(Exception):
    """Why the servers cannot be had on this machine, in words for people."""


def version() -> str:
    """The pinned version of Kubernetes, such as 1.36.3."""
    found = re.search(r"^\tk8s\.io/kubernetes v(\S+)", (HERE / "go.mod").read_text(), re.MULTILINE)
    if found is None:
        raise CannotBuild("go.mod must name k8s.io/kubernetes")
    return found[1]


def binaries(names: Iterable[str] = tuple(PACKAGES), *, build: bool) -> dict[str, Path]:
    """Name → executable. Builds what is missing, telling progress on stderr, or raises CannotBuild when `build` is false."""
    installed = {name: path for name in names if (path := _installed(name)) is not None}
    missing = [name for name in names if name not in installed]
    if not missing:
        return installed
    folder = cache_folder()
    absent = [name for name in missing if not (folder / name).exists()]
    if absent and not build:
        raise CannotBuild(f"not built yet: {', '.join(absent)}; run: make test, or let KNHK_ASSETS name a folder that has them")
    if absent:
        _build_all(folder, absent)
    return installed | {name: folder / name for name in missing}


def cache_folder() -> Path:
    """Where the binaries of these pins and this Go lie."""
    base = os.environ.get("KNHK_CACHE")
    key = hashlib.sha256()
    for part in ((HERE / "go.mod").read_bytes(), (HERE / "go.sum").read_bytes(), " ".join(_flags()).encode(), _go_version().encode()):
        key.update(len(part).to_bytes(8, "big") + part)
    return (Path(base) if base else Path.home() / ".cache" / "knhk") / "kubernetes" / key.hexdigest()[:16]


def _installed(name: str) -> Path | None:
    assets = os.environ.get("KNHK_ASSETS")
    path = Path(assets) / name if assets else None
    return path if path is not None and os.access(path, os.X_OK) else None


def _flags() -> list[str]:
    """Without the stamps every binary calls itself v0.0.0-master."""
    major, minor, _ = version().split(".", 2)
    stamps = {"gitVersion": f"v{version()}", "gitMajor": major, "gitMinor": minor}
    linker = " ".join(["-s", "-w", *(f"-X k8s.io/component-base/version.{name}={value}" for name, value in stamps.items())])
    return ["-trimpath", "-ldflags", linker]


def _go_version() -> str:
    if shutil.which("go") is None:
        raise CannotBuild("the go command is absent: install Go 1.21 or newer, or let KNHK_ASSETS name a folder with the binaries")
    done = subprocess.run(["go", "env", "GOVERSION"], cwd=HERE, env=_GO, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise CannotBuild(f"go: {done.stderr.strip()[-500:]}")
    return done.stdout.strip()


def _build_all(folder: Path, names: list[str]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with _locked(folder / ".lock"):
        left = [name for name in names if not (folder / name).exists()]
        if left:
            _tell(f"building {', '.join(left)} of Kubernetes {version()} once, into {folder} (about 12 minutes on two free cores)")
        for name in left:
            _build(folder, name)


def _build(folder: Path, name: str) -> None:
    """One binary, under a temporary name until it is whole."""
    temporary = folder / f".{name}.{os.getpid()}"
    command = ["go", "build", "-v", *_flags(), "-o", str(temporary), PACKAGES[name]]
    start_s = time.monotonic()
    said: list[str] = []
    done = threading.Event()
    teller = threading.Thread(target=_tell_progress, args=(name, said, done, start_s), daemon=True)
    with subprocess.Popen(command, cwd=HERE, env=_GO, stderr=subprocess.PIPE, text=True) as process:
        teller.start()
        assert process.stderr is not None
        for line in process.stderr:
            said.append(line)
        code = process.wait()
    done.set()
    teller.join()
    if code != 0:
        temporary.unlink(missing_ok=True)
        raise CannotBuild(f"go build {PACKAGES[name]} ended with {code}:\n{''.join(said[-20:])}")
    temporary.rename(folder / name)
    _tell(f"{name}: built in {time.monotonic() - start_s:.0f} s, {(folder / name).stat().st_size >> 20} MiB")


def _tell_progress(name: str, said: list[str], done: threading.Event, start_s: float) -> None:
    while not done.wait(TELL_EVERY_S):
        _tell(f"{name}: {time.monotonic() - start_s:.0f} s, {len(said)} packages compiled")


def _tell(line: str) -> None:
    print(f"cluster: {line}", file=sys.stderr, flush=True)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """One builder at a time, whatever process it is in; the others find everything there."""
    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
