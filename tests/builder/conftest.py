"""A real registry, keys, certificates of an authority of our own, and the builder's process as its Deployment starts it."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "registry"))
sys.path.insert(0, str(Path(__file__).resolve().parent))
from builder_rig import Rig
from registry_between import Between, between
from registry_servers import debian_registry


@pytest.fixture(scope="session")
def debian(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with debian_registry(tmp_path_factory.mktemp("docker-registry")) as url:
        yield url


@pytest.fixture(scope="module")
def middle(debian: str) -> Iterator[Between]:
    with between(debian) as found:
        yield found


@pytest.fixture(scope="module")
def rig(middle: Between, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    """One builder for a module; a test may kill it and start it again."""
    found = Rig(tmp_path_factory.mktemp("builder"), middle.url)
    try:
        yield found
    finally:
        found.close()
