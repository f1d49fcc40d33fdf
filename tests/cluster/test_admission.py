"""Admission on the real API server: our kinds are refused in the parser's words, and no state of it can lock the cluster out."""

from __future__ import annotations

import base64
import http.client
import json
import re
import shutil
import signal
import ssl
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from knhk.adapters.kube_client import MERGE, KubeClient
from knhk.adapters.kube_documents import collection
from knhk.adapters.kube_webhooks import WRITTEN_BY_US
from knhk.api import from_document
from knhk.model.faults import Fault, Refused

sys.path.insert(0, str(Path(__file__).parent))
from admission_process import OWN_NAMESPACE, Admission, applied, certificate, hooks, path_of
from admission_requests import ROOT, create, pack
from control_plane import Cluster

pytestmark = [pytest.mark.cluster, pytest.mark.xdist_group("cluster"), pytest.mark.timeout(600)]
WITHIN_S = 240.0
WRONG = [p for p in sorted((ROOT / "tests" / "api" / "wrong").glob("*.yaml")) if not p.stem.startswith("file-")]
# What the API server says before it asks anybody: of the request itself, and, as kubectl has it do, of unknown fields.
BEFORE = re.compile(r"unknown field|must be inline for now")
OTHER_REQUESTS = {"pack-unknown-api-version", "pack-unknown-kind", "pack-name-missing"}


@pytest.fixture(scope="module")
def admission(cluster: Cluster, client: KubeClient, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Admission]:
    folder = tmp_path_factory.mktemp("admission")
    certificate(folder)
    authority = cluster.kubeconfig.parent / "pki" / "ca.crt"
    found = Admission(folder, cluster.kubeconfig, f"--client-ca={authority}", "--client-name=kube-apiserver-webhooks")
    found.until_ready()
    yield found
    if found.process.poll() is None:
        assert found.end() == 0, found.said()


@pytest.fixture(scope="module")
def asked(admission: Admission, client: KubeClient) -> Iterator[KubeClient]:
    """The API server asks the process, and trusts it: the process has put its authority into the configurations. All that is created is
    a dry run."""
    with asking(client, hooks(admission.url), admission):
        yield client


@contextmanager
def asking(client: KubeClient, documents: list[dict[str, Any]], admission: Admission) -> Iterator[None]:
    with applied(client, documents):
        until(lambda: all(trusted(client, document) for document in documents), admission)
        until(lambda: refused_by_webhook(client), admission)
        yield


def authorities(client: KubeClient, admission: Admission) -> set[str]:
    paths = [path_of(document) for document in hooks(admission.url)]
    return {hook["clientConfig"]["caBundle"] for path in paths for hook in client.call("GET", path)["webhooks"]}


def trusted(client: KubeClient, document: dict[str, Any]) -> bool:
    return all(hook["clientConfig"].get("caBundle") for hook in client.call("GET", path_of(document))["webhooks"])


def until(holds: Callable[[], bool], admission: Admission) -> None:
    deadline_s = time.monotonic() + WITHIN_S
    while not holds():
        assert time.monotonic() < deadline_s, admission.said()
        time.sleep(0.1)


def refused_by_webhook(client: KubeClient) -> bool:
    """An API server takes a moment to see a new configuration."""
    try:
        create(client, pack("faulty"))
    except Refused:
        return True
    return False


def faults_of(document: dict[str, Any]) -> tuple[Fault, ...]:
    try:
        from_document(document)
    except Refused as refused:
        return refused.faults
    return ()


def test_what_is_stored_already_can_be_labelled_and_deleted_whatever_it_is(clean: KubeClient, admission: Admission) -> None:
    """The faulty pack came before the webhooks."""
    path = f"{collection('PolicyPack', 'erp')}/{pack('faulty')['metadata']['name']}"
    clean.call("POST", collection("PolicyPack", "erp"), {}, pack("faulty"))
    with asking(clean, hooks(admission.url), admission):
        clean.call("PATCH", path, {}, {"metadata": {"labels": {"a": "b"}}}, MERGE)
        with pytest.raises(Refused):
            clean.call("PATCH", path, {}, {"spec": {"version": "9.0.0"}}, MERGE)
        clean.call("DELETE", path)


def test_what_cert_manager_serves_is_left_alone(clean: KubeClient, admission: Admission) -> None:
    documents = hooks(admission.url)
    documents[0]["metadata"]["annotations"] = {"cert-manager.io/inject-ca-from": "knhk-system/knhk-admission"}
    with applied(clean, documents):
        until(lambda: trusted(clean, documents[1]), admission)
        assert not trusted(clean, documents[0])


def test_who_is_not_the_api_server_may_not_ask(asked: KubeClient, admission: Admission, cluster: Cluster) -> None:
    """Neither without a certificate, nor with one of the same authority and another name; the API server, which has its own, may."""
    question = json.dumps({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": {}}).encode()
    pki = cluster.kubeconfig.parent / "pki"
    for shown in (None, "scheduler"):
        context = ssl.create_default_context(cafile=str(admission.folder / "ca.crt"))
        if shown is not None:
            context.load_cert_chain(pki / f"{shown}.crt", pki / f"{shown}.key")
        request = urllib.request.Request(f"{admission.url}/validate", question, {"content-type": "application/json"})
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context))
        with pytest.raises(urllib.error.HTTPError) as refused:
            opener.open(request, timeout=60)
        assert refused.value.code == 403
        assert "client certificate" in refused.value.read().decode()
    assert refused_by_webhook(asked)


def test_who_comes_from_elsewhere_than_the_api_servers_may_not_ask(admission: Admission, cluster: Cluster, tmp_path: Path) -> None:
    """Where an API server has no certificate to show: pods have addresses of their own."""
    for file in ("tls.crt", "tls.key", "ca.crt"):  # another authority of its own would take the place of the other process's
        shutil.copy(admission.folder / file, tmp_path)
    question = json.dumps({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": {}}).encode()
    elsewhere = Admission(tmp_path, cluster.kubeconfig, "--client-networks=192.0.2.0/24,127.0.0.2")
    elsewhere.until_ready()
    context = ssl.create_default_context(cafile=str(tmp_path / "ca.crt"))
    host, port = elsewhere.url.removeprefix("https://").split(":")
    answers = []
    for source in ("127.0.0.1", "127.0.0.2"):
        connection = http.client.HTTPSConnection(host, int(port), timeout=60, source_address=(source, 0), context=context)
        connection.request("POST", "/objects/erp/orders", question, {"content-type": "application/json"})
        answer = connection.getresponse()
        answers.append((answer.status, answer.read().decode()))
        connection.close()
    assert elsewhere.end() == 0, elsewhere.said()
    assert answers[0] == (403, "questions must come from 192.0.2.0/24, 127.0.0.2/32, not from 127.0.0.1\n")
    assert answers[1][0] == 400  # it is read, and is none


def test_each_wrong_object_is_refused_in_the_parsers_words_all_at_once(asked: KubeClient) -> None:
    """Required fields, types and double names too, of which the API server has words of its own."""
    for path in WRONG:
        for document in yaml.safe_load_all(path.read_bytes()):
            document["metadata"]["namespace"] = "erp"
            ours = faults_of(document)
            if (
                not ours
                or document["kind"] in WRITTEN_BY_US
                or path.stem in OTHER_REQUESTS
                or any(BEFORE.search(fault.must) for fault in ours)
            ):
                continue
            with pytest.raises(Refused) as caught:
                create(asked, document)
            assert said(caught.value.faults) == said(ours), path.name


def said(faults: tuple[Fault, ...]) -> list[tuple[str, str]]:
    """Without the values: an API server orders the members of an object."""
    return [(fault.where, fault.must) for fault in faults]


def test_a_pack_that_cannot_be_lowered_is_refused_with_all_its_faults(asked: KubeClient) -> None:
    with pytest.raises(Refused) as caught:
        create(asked, pack("faulty"))
    assert len(caught.value.faults) > 1
    assert all("must" in fault.must for fault in caught.value.faults)


@pytest.mark.parametrize("example", ["invoice-schema", "finance-hooks"])
def test_schemas_and_hooks_that_are_no_rdf_are_refused(asked: KubeClient, example: str) -> None:
    document = next(yaml.safe_load_all((ROOT / "manifests" / "examples" / f"{example}.yaml").read_bytes()))
    with pytest.raises(Refused, match=r"inline:.*must be Turtle"):
        create(asked, broken(document))


def broken(value: Any) -> Any:
    """The document with Turtle that ends in the middle."""
    if isinstance(value, dict):
        return {key: f"{found}\n<" if key == "inline" else broken(found) for key, found in value.items()}
    return [broken(found) for found in value] if isinstance(value, list) else value


def test_good_objects_pass(asked: KubeClient) -> None:
    create(asked, pack())
    for path in sorted((ROOT / "manifests" / "examples").glob("*.yaml")):
        for document in yaml.safe_load_all(path.read_bytes()):
            document["metadata"]["namespace"] = "erp"
            create(asked, document)


def test_the_namespaces_of_the_system_and_its_own_are_never_asked_about(asked: KubeClient) -> None:
    for rows in (document["webhooks"] for document in hooks("https://127.0.0.1:1")):
        for hook in rows:
            (row,) = [r for r in hook["namespaceSelector"]["matchExpressions"] if r["key"] == "kubernetes.io/metadata.name"]
            assert row["operator"] == "NotIn"
            assert {"kube-system", OWN_NAMESPACE} <= set(row["values"])
            assert hook["timeoutSeconds"] <= 5
    create(asked, pack("faulty") | {"metadata": {"name": "faulty", "namespace": "kube-system"}}, "kube-system")


def test_a_new_certificate_is_served_and_trusted_without_a_restart(asked: KubeClient, admission: Admission) -> None:
    before = (admission.folder / "ca.crt").read_bytes()
    certificate(admission.folder)
    after = base64.b64encode((admission.folder / "ca.crt").read_bytes()).decode()
    until(lambda: authorities(asked, admission) == {after}, admission)
    assert before != (admission.folder / "ca.crt").read_bytes()
    assert admission.get("/healthz") == (200, "ok\n")  # by the new certificate
    until(lambda: refused_by_webhook(asked), admission)


def test_metrics_count_what_was_asked(asked: KubeClient, admission: Admission) -> None:
    create(asked, pack())
    _, text = admission.get("/metrics")
    assert 'controller_runtime_webhook_requests_total{webhook="validate",code="200"}' in text


@pytest.mark.failure("admission", "rollout")
def test_without_the_process_objects_are_stored_by_the_schemas_rules(asked: KubeClient, admission: Admission) -> None:
    """The last test of this file: it ends the process."""
    assert admission.end(signal.SIGTERM) == 0, admission.said()
    create(asked, pack("faulty"))
    wrong = pack()
    wrong["spec"]["version"] = "one"
    with pytest.raises(Refused, match="semantic version"):
        create(asked, wrong)
