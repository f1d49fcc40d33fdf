"""This folder's own modules are importable by their names; real registries, one of each for the session."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent))
from registry_servers import debian_registry, oci11_registry


@pytest.fixture(scope="session")
def debian(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """http://ADDRESS of Debian's docker-registry (distribution 2.8): no referrers API."""
    with debian_registry(tmp_path_factory.mktemp("docker-registry")) as url:
        yield url


@pytest.fixture(scope="session")
def oci11() -> Iterator[str]:
    """http://ADDRESS of a registry with the referrers API (go-containerregistry)."""
    with oci11_registry() as url:
        yield url
