"""cert-manager's controller and cainjector, as clusters run them, built once from the pinned Go modules of cert_manager/.

1.11 is the last release whose programs lie in the module that Go proxies serve; newer ones have modules of their own, of no version.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from go_binaries import CannotBuild, GoProject

MODULE = "github.com/cert-manager/cert-manager"
CERT_MANAGER = GoProject(
    name="cert-manager",
    folder=Path(__file__).resolve().parent / "cert_manager",
    packages={name: f"{MODULE}/cmd/{name}" for name in ("controller", "cainjector")},
    flags=("-trimpath", "-ldflags", "-s -w"),
    cgo=False,
    tells="cert-manager",
    about="cert-manager 1.11.5 (about two minutes on two free cores)",
)


def cert_manager(*, build: bool) -> dict[str, Path]:
    """Name → program. Raises CannotBuild."""
    return CERT_MANAGER.built(CERT_MANAGER.packages, build=build)


if __name__ == "__main__":
    try:
        print(cert_manager(build=True)["controller"].parent)
    except CannotBuild as error:
        sys.exit(f"cert-manager: {error}")
