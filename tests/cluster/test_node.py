"""On the node pods run as they will with customers: pulled from a registry by digest, not as root, on a read-only root, found by name."""

from __future__ import annotations

import json
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import dns.message
import dns.query
import dns.rcode
import pytest

from knhk.adapters.kube_client import api_client
from knhk.adapters.port_forward_kube import forwarded
from knhk.model.oci import Artifact
from knhk.packaging.container import File, Platform, container_image, layer

sys.path.insert(0, str(Path(__file__).parent))
import node_machine as machine
from node_images import architecture
from node_pods import RESTRICTED, Node, is_ready

pytestmark = [pytest.mark.cluster, pytest.mark.xdist_group("node"), pytest.mark.timeout(600)]
SOURCE = Path(__file__).with_name("say.c")
SAID = {"uid": RESTRICTED["runAsUser"], "writes": False}


@pytest.fixture(scope="module")
def image(node: Node, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    out = tmp_path_factory.mktemp("say") / "say"
    subprocess.run(["gcc", "-Os", "-Wall", "-Werror", "-s", "-static", "-o", str(out), str(SOURCE)], check=True)
    return container_image([Platform(architecture(), [layer({"say": File(out.read_bytes(), 0o755)})], {"Entrypoint": ["/say"]})], {})


@pytest.fixture(scope="module")
def address(node: Node, image: Artifact) -> Iterator[str]:
    """IP of a pod that serves, behind two services: `say`, and `each` without an address of its own."""
    reference = node.push(image, "say:1")
    container = {"name": "say", "image": reference, "securityContext": RESTRICTED, "resources": {"limits": {"memory": "16Mi", "cpu": "1"}}}
    probed = {**container, "readinessProbe": {"httpGet": {"path": "/", "port": 8080}, "periodSeconds": 1}}
    with node.namespace("pods") as name:
        meta = {"namespace": name, "labels": {"app": "say"}}
        ports = {"ports": [{"port": 80, "targetPort": 8080}], "selector": {"app": "say"}}
        spec = {"containers": [probed], "hostname": "first", "subdomain": "each", "terminationGracePeriodSeconds": 5}
        node.apply(
            {"apiVersion": "v1", "kind": "Pod", "metadata": {**meta, "name": "say"}, "spec": spec},
            {"apiVersion": "v1", "kind": "Service", "metadata": {**meta, "name": "say"}, "spec": ports},
            {"apiVersion": "v1", "kind": "Service", "metadata": {**meta, "name": "each"}, "spec": {**ports, "clusterIP": "None"}},
        )
        pod = node.pod(name, "say", is_ready)
        assert pod["status"]["containerStatuses"][0]["imageID"].endswith(image.digest)
        yield pod["status"]["podIP"]
        node.kubectl("-n", name, "delete", "pod", "say", "--timeout=240s")


def fetched(address: str) -> object:
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(f"http://{address}/", timeout=10) as answer:
        return json.load(answer)


def looked_up(name: str) -> tuple[int, list[str]]:
    answer = dns.query.udp(dns.message.make_query(name, "A"), machine.ADDRESS, timeout=10)
    return answer.rcode(), [row.address for rows in answer.answer for row in rows]


def test_a_pod_runs_without_root_and_tests_reach_it_directly(node: Node, address: str) -> None:
    assert fetched(f"{address}:8080") == SAID


def test_the_api_server_forwards_a_way_to_its_port_for_each_connection(node: Node, address: str) -> None:
    with forwarded(lambda: api_client(node.cluster.kubeconfig), "pods", "say", 8080) as (host, port):
        assert [fetched(f"{host}:{port}") for _ in range(3)] == [SAID] * 3


def test_its_words_are_its_log(node: Node, address: str) -> None:
    assert json.loads(node.kubectl("-n", "pods", "logs", "say")) == SAID


def test_a_service_leads_to_it_by_address_and_by_name(node: Node, address: str) -> None:
    service = node.client.call("GET", "/api/v1/namespaces/pods/services/say")["spec"]["clusterIP"]
    node.until(lambda: looked_up("kubernetes.default.svc.cluster.local.")[0] == dns.rcode.NOERROR, "names")
    node.until(lambda: node.client.call("GET", "/api/v1/namespaces/pods/endpoints/say").get("subsets") is not None, "an endpoint")
    assert fetched(service) == SAID
    assert looked_up("say.pods.svc.cluster.local.") == (dns.rcode.NOERROR, [service])
    assert looked_up("each.pods.svc.cluster.local.") == (dns.rcode.NOERROR, [address])
    assert looked_up("first.each.pods.svc.cluster.local.") == (dns.rcode.NOERROR, [address])
    assert looked_up("nobody.pods.svc.cluster.local.") == (dns.rcode.NXDOMAIN, [])


def test_an_image_that_is_not_on_the_registry_does_not_run(node: Node, address: str) -> None:
    container = {"name": "none", "image": f"{machine.REGISTRY}/none@sha256:{'0' * 64}"}
    node.apply({"apiVersion": "v1", "kind": "Pod", "metadata": {"namespace": "pods", "name": "none"}, "spec": {"containers": [container]}})
    pod = node.pod("pods", "none", lambda found: bool(found["status"].get("containerStatuses", [{}])[0].get("state", {}).get("waiting")))
    node.until(lambda: "ErrImagePull" in node.kubectl("-n", "pods", "get", "pod", "none", "-o", "json"), "a failed pull")
    assert pod["status"]["phase"] == "Pending"
