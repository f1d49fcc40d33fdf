"""Helm, as users run it, built once from the pinned Go modules of this folder."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from go_binaries import CannotBuild, GoProject, pinned

HERE = Path(__file__).resolve().parent
MODULE = "helm.sh/helm/v4"


def helm(*, build: bool) -> Path:
    """The program. Raises CannotBuild."""
    version = pinned(HERE, MODULE)
    stamps = {"version": version, "metadata": "", "gitTreeState": "clean"}
    linker = " ".join(["-s", "-w", *(f"-X {MODULE}/internal/version.{name}={value}" for name, value in stamps.items())])
    flags = ("-trimpath", "-ldflags", linker)
    project = GoProject("helm", HERE, {"helm": f"{MODULE}/cmd/helm"}, flags, cgo=False, tells="helm", about=f"Helm {version}")
    return project.built(("helm",), build=build)["helm"]


if __name__ == "__main__":
    try:
        print(helm(build=True))
    except CannotBuild as error:
        sys.exit(f"helm: {error}")
