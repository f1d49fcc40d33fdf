"""metrics-server, built once from the pinned Go modules of metrics_server/: what gives an autoscaler the CPU of pods."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from go_binaries import CannotBuild, GoProject

METRICS_SERVER = GoProject(
    name="metrics-server",
    folder=Path(__file__).resolve().parent / "metrics_server",
    packages={"metrics-server": "sigs.k8s.io/metrics-server/cmd/metrics-server"},
    flags=("-trimpath", "-ldflags", "-s -w"),
    cgo=False,
    tells="metrics-server",
    about="metrics-server (about two minutes on two free cores)",
)


def metrics_server(*, build: bool) -> Path:
    """The program. Raises CannotBuild."""
    return METRICS_SERVER.built(("metrics-server",), build=build)["metrics-server"]


if __name__ == "__main__":
    try:
        print(metrics_server(build=True))
    except CannotBuild as error:
        sys.exit(f"metrics-server: {error}")
