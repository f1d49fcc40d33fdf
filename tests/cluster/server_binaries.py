"""The Kubernetes servers that tests run: from an existing install, or built once from the pinned Go modules of this folder.

`KNHK_ASSETS` names a folder with binaries (as setup-envtest lays it out); what it lacks is built. Built ones lie in
`$KNHK_CACHE/kubernetes/KEY` or `~/.cache/knhk/kubernetes/KEY`; KEY is a digest of go.mod, go.sum, the flags and the Go version.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from go_binaries import CannotBuild, GoProject, pinned

__all__ = ["CONTROL_PLANE", "NODE", "PACKAGES", "CannotBuild", "binaries", "cache_folder", "version"]

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


def version() -> str:
    """The pinned version of Kubernetes, such as 1.36.3."""
    return pinned(HERE, "k8s.io/kubernetes").removeprefix("v")


def binaries(names: Iterable[str] = tuple(PACKAGES), *, build: bool) -> dict[str, Path]:
    """Name → executable. Builds what is missing, telling progress on stderr, or raises CannotBuild when `build` is false."""
    installed = {name: path for name in names if (path := _installed(name)) is not None}
    missing = [name for name in names if name not in installed]
    if not missing:
        return installed
    return installed | _project().built(missing, build=build)


def cache_folder() -> Path:
    """Where the binaries of these pins and this Go lie."""
    return _project().cache_folder()


def _project() -> GoProject:
    about = f"Kubernetes {version()} (about 10 minutes on two free cores)"
    return GoProject("kubernetes", HERE, PACKAGES, tuple(_flags()), cgo=False, tells="cluster", about=about)


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
