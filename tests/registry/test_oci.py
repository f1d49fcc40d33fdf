"""Real registries, with the referrers API and without: the contract, and what only a registry can do."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from registry_contract import RegistryContract, artifact, image

from knhk.adapters.registry_oci import OciRegistry
from knhk.model.faults import Stalled
from knhk_runtime.distribution import Repository

pytestmark = pytest.mark.server


@contextmanager
def fresh(url: str, grace_s: float = 0.0) -> Iterator[OciRegistry]:
    """A repository that nobody used yet."""
    repository = Repository(f"{url}/knhk/{secrets.token_hex(8)}")
    try:
        yield OciRegistry(repository, grace_s)
    finally:
        repository.close()


class TestWithoutReferrersApi(RegistryContract):
    @pytest.fixture
    def registry(self, debian: str) -> Iterator[OciRegistry]:
        with fresh(debian) as found:
            yield found


class TestWithReferrersApi(RegistryContract):
    @pytest.fixture
    def registry(self, oci11: str) -> Iterator[OciRegistry]:
        with fresh(oci11) as found:
            yield found


def test_garbage_waits_for_those_that_publish_meanwhile(debian: str) -> None:
    with fresh(debian, grace_s=3600.0) as registry:
        registry.publish([one := image(b"one")])
        registry.remove(one.digest)
        assert registry.collect_garbage() == ()
        assert registry.read(artifact(b"one").digest)


def test_a_name_too_long_for_a_tag_is_told(debian: str) -> None:
    with fresh(debian) as registry, pytest.raises(Stalled, match="at most 128"):
        registry.publish([artifact(b"one")], f"erp/{'x' * 200}:1")
