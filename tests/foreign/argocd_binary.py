"""Argo CD's own engine as one program, argocd/main.go, built once from the pinned Go modules of its folder."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from go_binaries import CannotBuild, GoProject

ARGOCD = GoProject(
    name="argocd",
    folder=Path(__file__).resolve().parent / "argocd",
    packages={"argocd-sync": "."},
    flags=("-trimpath", "-ldflags", "-s -w"),
    cgo=False,
    tells="argocd",
    about="Argo CD's engine (about a minute on two free cores)",
)


def argocd_sync(*, build: bool) -> Path:
    """The program. Raises CannotBuild."""
    return ARGOCD.built(("argocd-sync",), build=build)["argocd-sync"]


if __name__ == "__main__":
    try:
        print(argocd_sync(build=True))
    except CannotBuild as error:
        sys.exit(f"argocd: {error}")
