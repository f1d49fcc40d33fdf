"""Gitea, the Git server that tests run, built once from the pinned Go modules of this folder."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from go_binaries import CannotBuild, GoProject

HERE = Path(__file__).resolve().parent
MODULE = "code.gitea.io/gitea"
GITEA = GoProject(
    name="gitea",
    folder=HERE,
    packages={"gitea": MODULE},
    flags=("-trimpath", "-tags", "sqlite sqlite_unlock_notify", "-ldflags", "-s -w"),
    cgo=True,
    tells="gitops",
    about="Gitea (about 12 minutes on two free cores)",
)


def gitea(*, build: bool) -> tuple[Path, Path]:
    """The program, and the folder with its templates, which are not built in. Raises CannotBuild."""
    program = GITEA.built(("gitea",), build=build)["gitea"]
    return program, GITEA.module_folder(MODULE)


if __name__ == "__main__":
    try:
        print(gitea(build=True)[0])
    except CannotBuild as error:
        sys.exit(f"gitops: {error}")
