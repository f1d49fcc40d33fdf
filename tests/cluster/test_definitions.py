"""The CustomResourceDefinitions on the real API server: structural, served, explained; and both homes say the same of wrong objects."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from knhk.adapters.kube_client import KubeClient
from knhk.adapters.kube_documents import collection, new_document, place, resource_of
from knhk.api import KINDS, from_document, parse
from knhk.api.check import completed
from knhk.model.faults import Fault, NotFound, Refused

sys.path.insert(0, str(Path(__file__).parent))
from control_plane import Cluster
from definitions import conditions

pytestmark = [pytest.mark.cluster, pytest.mark.xdist_group("cluster"), pytest.mark.timeout(600)]
ROOT = Path(__file__).parents[2]
DRY = {"dryRun": "All", "fieldValidation": "Strict"}
# Of these the API server never asks the schema: what it says is about the request.
OTHER_REQUESTS = {"pack-unknown-api-version", "pack-unknown-kind", "pack-name-missing"}
WRONG = [
    p for p in sorted((ROOT / "tests" / "api" / "wrong").glob("*.yaml")) if not p.stem.startswith("file-")
]  # file-…: faults of the text
PACKS = sorted((ROOT / "examples" / "packs").glob("*/*/pack.yaml"))
EXAMPLES = [*sorted((ROOT / "manifests" / "examples").glob("*.yaml")), *(p for p in PACKS if p.parent.name != "faulty")]

# Ours → the schema's own words for the same. While such a fault is there, the API server looks at no rule.
SCHEMA_WORDS: Mapping[str, str] = {
    r"must be given$": r"^Required value",
    r"must be an? (string|integer|boolean|list|object)": r"must be of type",
    r"must be the only item with this": r"^Duplicate value",
    r"must be lower-case letters, digits and inner hyphens": r"must be lower-case letters|RFC 1123",
    r"must not be there: unknown field|must be inline for now": r"must not be there: unknown field",
}

kinds = pytest.mark.parametrize("kind", KINDS)


@kinds
def test_each_definition_is_established_and_structural(client: KubeClient, kind: str) -> None:
    found = conditions(client, f"{KINDS[kind].plural}.knhk.dev")
    assert (found["Established"], found["NamesAccepted"], found.get("NonStructuralSchema", "False")) == ("True", "True", "False")


@kinds
def test_kubectl_explains_every_field(cluster: Cluster, client: KubeClient, servers: dict[str, Path], kind: str) -> None:
    told = kubectl(cluster, servers, "explain", KINDS[kind].short[0], "--recursive").stdout
    assert f"KIND: {kind} " in " ".join(told.split())
    assert KINDS[kind].doc.split(":")[0] in " ".join(told.split())
    for name, field in KINDS[kind].spec.fields.items():
        one = kubectl(cluster, servers, "explain", f"{KINDS[kind].plural}.spec.{name}").stdout
        assert field.doc.split()[0] in one.split("DESCRIPTION:")[1]


def test_kubectl_gets_all_of_ours_by_category_with_columns(cluster: Cluster, clean: KubeClient, servers: dict[str, Path]) -> None:
    kubectl(cluster, servers, "apply", "-f", str(EXAMPLES[0]))
    told = kubectl(cluster, servers, "get", "knhk", "-A").stdout
    assert "READY" in told
    assert parse(EXAMPLES[0].read_bytes(), "e")[0].name in told


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: str(path.relative_to(ROOT).with_suffix("")))
def test_each_example_is_accepted_with_the_same_defaults(clean: KubeClient, path: Path) -> None:
    """By a dry run on the server, which stores nothing."""
    for resource, document in zip(parse(path.read_bytes(), path.name), yaml.safe_load_all(path.read_bytes()), strict=True):
        namespaced(clean, resource.namespace)
        made = clean.call("POST", collection(resource.kind, resource.namespace), DRY, document)
        assert completed(KINDS[resource.kind].spec, made["spec"]) == resource.spec
        with pytest.raises(NotFound):
            clean.call("GET", place(resource.key))


@pytest.mark.parametrize("path", WRONG, ids=lambda path: path.stem)
def test_each_wrong_object_is_refused_in_both_homes_in_the_same_words(clean: KubeClient, path: Path) -> None:
    for document in yaml.safe_load_all(path.read_bytes()):
        ours = faults_here(document)
        if not ours:
            continue
        namespaced(clean, namespace_of(document))
        with pytest.raises(Refused) as caught:
            clean.call("POST", collection(kind_of(document), namespace_of(document)), DRY, document)
        if path.stem not in OTHER_REQUESTS:
            assert different(ours, caught.value.faults) == []


def faults_here(document: dict[str, Any]) -> tuple[Fault, ...]:
    try:
        from_document(document)
    except Refused as refused:
        return refused.faults
    return ()


def different(ours: tuple[Fault, ...], theirs: tuple[Fault, ...]) -> list[str]:
    """Faults that one home tells and the other should tell and does not."""
    wanted = {(fault.where, said_by_schema(fault.must) or re.escape(fault.must)) for fault in ours}
    stops = any(said_by_schema(fault.must) for fault in ours)
    lost = [f"only here: {where}: {words}" for where, words in wanted if not any(meets(f, where, words) for f in theirs)]
    extra = [f"only there: {f}" for f in theirs if not any(meets(f, where, words) for where, words in wanted)]
    return extra + [line for line in lost if not (stops and theirs)]


def said_by_schema(must: str) -> str:
    return next((theirs for ours, theirs in SCHEMA_WORDS.items() if re.search(ours, must)), "")


def meets(fault: Fault, where: str, words: str) -> bool:
    return fault.where.startswith(where.removesuffix(".name").removesuffix(".from")) and re.search(words, fault.must) is not None


def kind_of(document: dict[str, Any]) -> str:
    return document["kind"] if document["kind"] in KINDS else "PolicyPack"


def namespace_of(document: dict[str, Any]) -> str:
    return str(document["metadata"].get("namespace", "default"))


def namespaced(client: KubeClient, name: str) -> None:
    try:
        client.call("GET", f"/api/v1/namespaces/{name}")
    except NotFound:
        client.call("POST", "/api/v1/namespaces", body={"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})


def kubectl(cluster: Cluster, servers: dict[str, Path], *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [str(servers["kubectl"]), f"--kubeconfig={cluster.kubeconfig}", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True)


def test_no_name_of_ours_is_a_name_of_kubernetes(client: KubeClient) -> None:
    """`kubectl get NAME` would show theirs."""
    groups = [version["groupVersion"] for group in client.call("GET", "/apis")["groups"] for version in group["versions"]]
    theirs = {"/api/v1", *(f"/apis/{group}" for group in groups if not group.startswith("knhk.dev/"))}
    listed = [row for path in theirs for row in client.call("GET", path)["resources"]]
    taken = {name for row in listed for name in (row["name"], row["singularName"], *row.get("shortNames", ()))}
    assert taken.isdisjoint(name for kind in KINDS.values() for name in (kind.plural, kind.singular, *kind.short))


def test_what_nobody_has_worked_on_says_so(clean: KubeClient) -> None:
    """By itself, when it is made and when it is read: Flux takes an object without a status for a finished one. To us it has none."""
    (resource,) = parse((ROOT / "manifests" / "examples" / "finance-roles.yaml").read_bytes(), "finance-roles.yaml")
    namespaced(clean, resource.namespace)
    clean.call("POST", collection(resource.kind, resource.namespace), body=new_document(resource))
    read = clean.call("GET", place(resource.key))
    assert (read["status"], resource_of(read).status) == ({"observedGeneration": -1}, {})
