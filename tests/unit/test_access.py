"""The way to the API server that kopf takes: the token as the pinned client spells it, from a kubeconfig and in a pod."""

from __future__ import annotations

import pytest
from kubernetes.client import ApiClient, Configuration

from knhk.wiring.cluster import access_of


@pytest.mark.parametrize("header", ["Bearer abc.def", "bearer abc.def"])
def test_a_token_is_given_without_its_scheme(header: str) -> None:
    configuration = Configuration(host="https://127.0.0.1")
    configuration.api_key["BearerToken"] = header
    assert access_of(ApiClient(configuration)).token() == "abc.def"
