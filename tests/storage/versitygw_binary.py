"""versitygw, an S3 server in front of a folder, built once from the pinned Go modules of this folder."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from go_binaries import CannotBuild, GoProject

HERE = Path(__file__).resolve().parent
PACKAGES = {"versitygw": "github.com/versity/versitygw/cmd/versitygw"}
FLAGS = ("-trimpath", "-ldflags", "-s -w")


def versitygw(*, build: bool) -> Path:
    """The program. Raises CannotBuild."""
    project = GoProject("versitygw", HERE, PACKAGES, FLAGS, cgo=False, tells="versitygw", about="an S3 server (2 to 3 minutes)")
    return project.built(PACKAGES, build=build)["versitygw"]


if __name__ == "__main__":
    try:
        print(versitygw(build=True))
    except CannotBuild as error:
        sys.exit(f"versitygw: {error}")
