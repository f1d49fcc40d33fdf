"""Flux's source-controller and kustomize-controller, as clusters run them, built once from the pinned Go modules of flux/."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from go_binaries import CannotBuild, GoProject

__all__ = ["CannotBuild", "flux", "flux_definitions"]
MODULES = "github.com/fluxcd"
FLUX = GoProject(
    name="flux",
    folder=Path(__file__).resolve().parent / "flux",
    packages={name: f"{MODULES}/{name}" for name in ("source-controller", "kustomize-controller")},
    flags=("-trimpath", "-ldflags", "-s -w"),
    cgo=False,
    tells="flux",
    about="Flux's controllers 1.9.6 (about four minutes on two free cores)",
)


def flux(*, build: bool) -> dict[str, Path]:
    """Name → program. Raises CannotBuild."""
    return FLUX.built(FLUX.packages, build=build)


def flux_definitions() -> list[Path]:
    """The CustomResourceDefinitions of both, as their modules bring them. Raises CannotBuild."""
    folders = (FLUX.module_folder(f"{MODULES}/{name}") / "config" / "crd" / "bases" for name in FLUX.packages)
    return [file for folder in folders for file in sorted(folder.glob("*.yaml"))]


if __name__ == "__main__":
    try:
        print(flux(build=True)["source-controller"].parent)
    except CannotBuild as error:
        sys.exit(f"flux: {error}")
