"""Guards reach the operator that leads: the Service of the exchange has no selector, and its slice is what the leader says."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from knhk.adapters import endpoints_kube
from knhk.adapters.endpoints_kube import KubeEndpoints, leading_to
from knhk.adapters.kube_client import APPLY, KubeClient
from knhk.model.faults import Conflict, Deposed
from knhk.wiring.leading import fence

sys.path.insert(0, str(Path(__file__).parent))
from waiting import until

pytestmark = [pytest.mark.cluster, pytest.mark.xdist_group("cluster"), pytest.mark.timeout(300)]
NAMESPACE, NAME = "led", "knhk-exchange"
SLICE = f"/apis/discovery.k8s.io/v1/namespaces/{NAMESPACE}/endpointslices"
MANIFEST = Path(__file__).parents[2] / "manifests" / "base" / "operator" / "deployment.yaml"


@pytest.fixture
def led(clean: KubeClient) -> Iterator[KubeClient]:
    """Service and slice as they are installed, in a namespace of their own."""
    until(lambda: made(clean), 240)
    install(clean)
    yield clean
    clean.call("DELETE", f"/api/v1/namespaces/{NAMESPACE}")


def made(client: KubeClient) -> bool:
    """The namespace; not while that of the test before is on its way out."""
    try:
        client.call("POST", "/api/v1/namespaces", body={"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}})
    except Conflict:
        return False
    return True


def install(client: KubeClient) -> None:
    paths = {"Service": f"/api/v1/namespaces/{NAMESPACE}/services", "EndpointSlice": SLICE}
    for document in yaml.safe_load_all(MANIFEST.read_text()):
        if document["kind"] in paths:
            document["metadata"]["namespace"] = NAMESPACE
            path = f"{paths[document['kind']]}/{document['metadata']['name']}"
            client.call("PATCH", path, {"fieldManager": "kubectl", "fieldValidation": "Strict"}, document, APPLY)


def led_to(client: KubeClient) -> list[str]:
    """Every address to which the Service leads."""
    rows = client.call("GET", SLICE, {"labelSelector": f"kubernetes.io/service-name={NAME}"})["items"]
    endpoints: list[dict[str, Any]] = [endpoint for row in rows for endpoint in row.get("endpoints") or ()]
    return [address for endpoint in endpoints for address in endpoint["addresses"]]


@pytest.mark.failure("operator", "rollout")
def test_the_service_leads_to_the_leader_alone_through_changes_of_leaders_and_of_manifests(led: KubeClient) -> None:
    """With a standby: guards are led to the leader, never to who follows."""
    assert led_to(led) == []
    with leading_to(KubeEndpoints(led, NAMESPACE, NAME), "10.1.2.3"):
        assert led_to(led) == ["10.1.2.3"]
    with leading_to(KubeEndpoints(led, NAMESPACE, NAME), "10.1.2.4"):
        assert led_to(led) == ["10.1.2.4"]
        install(led)
        assert led_to(led) == ["10.1.2.4"]


def test_a_leader_that_was_deposed_says_its_address_no_more(led: KubeClient, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its process has yet to end, and another leads."""
    monkeypatch.setattr(endpoints_kube, "APPLY_EVERY_S", 0.0)
    looks: list[bool] = []

    def check() -> None:
        looks.append(deposed.is_set())
        if deposed.is_set():
            raise Deposed("another leads")

    deposed = threading.Event()
    with leading_to(fence(KubeEndpoints(led, NAMESPACE, NAME), frozenset({"lead_to"}), check), "10.1.2.3"):
        deposed.set()
        until(lambda: sum(looks) > 2, 120)
        KubeEndpoints(led, NAMESPACE, NAME).lead_to("10.1.2.4")
        seen = len(looks)
        until(lambda: len(looks) > seen + 20, 120)
        assert led_to(led) == ["10.1.2.4"]
