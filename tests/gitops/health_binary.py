"""The program that tells what Flux and Argo CD make of an object, built once from the pinned Go modules of health/."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from go_binaries import CannotBuild, GoProject

HEALTH = GoProject(
    name="gitops-health",
    folder=Path(__file__).resolve().parent / "health",
    packages={"health": "."},
    flags=("-trimpath", "-ldflags", "-s -w"),
    cgo=False,
    tells="gitops",
    about="kstatus and a Lua interpreter (about half a minute on two free cores)",
)


def health(*, build: bool) -> Path:
    """The program. Raises CannotBuild."""
    return HEALTH.built(("health",), build=build)["health"]


if __name__ == "__main__":
    try:
        print(health(build=True))
    except CannotBuild as error:
        sys.exit(f"gitops: {error}")
