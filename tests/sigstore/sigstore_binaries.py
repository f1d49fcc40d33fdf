"""cosign, and the servers of a private sigstore, built once from the pinned Go modules of this folder.

One go.mod for all of them: they share most of their packages, so the servers cost little after cosign. What they are made of is what
cosign 3 itself pins (Rekor v2, the timestamp authority), Fulcio, and the log for certificates in ctlog.go.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from go_binaries import CannotBuild, GoProject, pinned

HERE = Path(__file__).resolve().parent
COSIGN = "github.com/sigstore/cosign/v3"
PACKAGES = {
    "cosign": f"{COSIGN}/cmd/cosign",
    "rekor": "github.com/sigstore/rekor-tiles/v2/cmd/rekor-server/posix",
    "timestamp": "github.com/sigstore/timestamp-authority/v2/cmd/timestamp-server",
    "fulcio": "github.com/sigstore/fulcio",
    "ctlog": "knhk.dev/tests/sigstore",
}


def built(*, build: bool) -> dict[str, Path]:
    """Name → program. Raises CannotBuild."""
    flags = ("-trimpath", "-ldflags", "-s -w")
    about = f"cosign {pinned(HERE, COSIGN)} and a private sigstore"
    project = GoProject("sigstore", HERE, PACKAGES, flags, cgo=False, tells="sigstore", about=about)
    return project.built(PACKAGES, build=build)


if __name__ == "__main__":
    try:
        for program in built(build=True).values():
            print(program)
    except CannotBuild as error:
        sys.exit(f"sigstore: {error}")
