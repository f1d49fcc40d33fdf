"""cosign, as users run it, and a private sigstore of the real servers."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent), str(HERE.parent / "registry"), str(HERE.parent / "receipts")]

from private_stack import Stack, private_sigstore  # noqa: E402
from sigstore_binaries import built  # noqa: E402

from go_binaries import CannotBuild  # noqa: E402


@pytest.fixture(scope="session")
def programs() -> dict[str, Path]:
    try:
        return built(build=False)
    except CannotBuild as error:
        pytest.skip(f"no cosign, no sigstore: {error}")


@pytest.fixture(scope="session")
def cosign_program(programs: dict[str, Path]) -> Path:
    return programs["cosign"]


@pytest.fixture(scope="module")
def sigstore(programs: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """Until the last test of its module, not of the session: other runs on this machine wait for it meanwhile."""
    with private_sigstore(programs, tmp_path_factory.mktemp("sigstore")) as stack:
        yield stack
