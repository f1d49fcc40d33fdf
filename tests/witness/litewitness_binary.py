"""litewitness of others (torchwood), built once from the pinned Go modules of this folder."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from go_binaries import CannotBuild, GoProject

LITEWITNESS = GoProject(
    name="witness",
    folder=Path(__file__).resolve().parent,
    packages={"litewitness": "filippo.io/torchwood/cmd/litewitness"},
    flags=("-trimpath", "-ldflags", "-s -w"),
    cgo=False,
    tells="witness",
    about="litewitness (about a minute on two free cores)",
)


def litewitness(*, build: bool) -> Path:
    """The program. Raises CannotBuild."""
    return LITEWITNESS.built(("litewitness",), build=build)["litewitness"]


if __name__ == "__main__":
    try:
        print(litewitness(build=True))
    except CannotBuild as error:
        sys.exit(f"witness: {error}")
