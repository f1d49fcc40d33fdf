"""cosign, as users run it, built once from the pinned Go modules of this folder."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from go_binaries import CannotBuild, GoProject, pinned

HERE = Path(__file__).resolve().parent
MODULE = "github.com/sigstore/cosign/v3"


def cosign(*, build: bool) -> Path:
    """The program. Raises CannotBuild."""
    flags = ("-trimpath", "-ldflags", "-s -w")
    about = f"cosign {pinned(HERE, MODULE)}"
    project = GoProject("cosign", HERE, {"cosign": f"{MODULE}/cmd/cosign"}, flags, cgo=False, tells="cosign", about=about)
    return project.built(("cosign",), build=build)["cosign"]


if __name__ == "__main__":
    try:
        print(cosign(build=True))
    except CannotBuild as error:
        sys.exit(f"cosign: {error}")
