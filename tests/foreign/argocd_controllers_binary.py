"""Argo CD's application-controller and repo-server as one program, argocd_controllers/main.go, built once from the pinned Go modules of its
folder; beside them the redis that they ask for."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from go_binaries import CannotBuild, GoProject

__all__ = ["CannotBuild", "argocd_controllers", "argocd_definitions"]
MODULE = "github.com/argoproj/argo-cd/v2"
ARGOCD = GoProject(
    name="argocd-controllers",
    folder=Path(__file__).resolve().parent / "argocd_controllers",
    packages={"argocd-controllers": "."},
    flags=("-trimpath", "-ldflags", "-s -w"),
    cgo=False,
    tells="argocd",
    about="Argo CD's controllers 2.14.21 (about three minutes on two free cores)",
)


def argocd_controllers(*, build: bool) -> Path:
    """The program. Raises CannotBuild."""
    return ARGOCD.built(ARGOCD.packages, build=build)["argocd-controllers"]


def argocd_definitions() -> list[Path]:
    """The CustomResourceDefinitions that both read, as their module brings them. Raises CannotBuild."""
    folder = ARGOCD.module_folder(MODULE) / "manifests" / "crds"
    return [folder / "application-crd.yaml", folder / "appproject-crd.yaml"]


if __name__ == "__main__":
    try:
        print(argocd_controllers(build=True))
    except CannotBuild as error:
        sys.exit(f"argocd: {error}")
