"""Receipts as a person of a cluster may read them, as rows of the index: decisions and policy events by the aggregated API."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any
from urllib.parse import quote

from knhk.adapters.kube_client import KubeClient
from knhk.lockchain.entries import Row
from knhk.model.canonical import canonical
from knhk.model.faults import NotFound, Stalled
from knhk.model.selection import EVENT_TRAITS, FLAGS
from knhk_verify.note import unb64

BASE = "/apis/receipts.knhk.dev/v1alpha1"
PAGE = 500
Read = Callable[[Mapping[str, Any]], Row]


def page(client: KubeClient, namespace: str | None, query: Mapping[str, str], *, policy: bool = False) -> tuple[list[Row], str, int]:
    """Decisions, or policy events; `continue`, and the size of the log. Raises Stalled where it would not go on, and as
    KubeClient.call."""
    plural, read = ("policyreceipts", _event) if policy else ("decisionreceipts", _decision)
    where = f"{BASE}/namespaces/{quote(namespace, safe='')}/{plural}" if namespace else f"{BASE}/{plural}"
    try:
        answer = client.call("GET", where, query)
    except (NotFound, Stalled) as error:
        if isinstance(error, NotFound) or error.reason == "NotFound" or "could not find" in str(error):
            raise Stalled(
                "NotServed", f"the cluster serves no {plural}: it must have manifests/components/receipts, of this version"
            ) from error
        raise
    token = answer["metadata"].get("continue", "")
    if token and token == query.get("continue"):
        raise Stalled("NoNextPage", f"{where}: the next page is said to be the one that was asked for: what serves {plural} must go on")
    return [read(item) for item in answer["items"]], token, int(answer["metadata"]["resourceVersion"])


def decisions(client: KubeClient, namespace: str | None, fields: str = "", labels: str = "") -> Iterator[Row]:
    """All that fit, the newest first, of the log as it was at the first page. Raises as `page`."""
    return _all(client, namespace, fields, labels, policy=False)


def events(client: KubeClient, namespace: str | None, fields: str = "", labels: str = "") -> Iterator[Row]:
    """The same of policy events: all that the log has, whether or not there still are Receipts of them."""
    return _all(client, namespace, fields, labels, policy=True)


def policy_receipt(client: KubeClient, namespace: str, name: str) -> dict[str, Any]:
    """The object of a policy event, with its proof. Raises as KubeClient.call."""
    return _object(client, namespace, "policyreceipts", name)


def looked_up(client: KubeClient, namespace: str | None, word: str) -> list[Row]:
    """The entry at an index, or the decisions of a receipt id (one for each arm), in the order of the log; of all namespaces without one.
    Raises NotFound, and as `page`."""
    at = word.isdecimal() and len(word) < 16
    query = {"fieldSelector": f"{'logIndex' if at else 'receipt'}={word}"}
    try:
        found = page(client, namespace, query)[0] or (page(client, namespace, query, policy=True)[0] if at else [])
    except Stalled as error:
        if error.reason == "Forbidden" and namespace is None:
            raise Stalled(error.reason, f"{error}, or a namespace must be named: -n NAMESPACE") from error
        raise
    if not found:
        where = f"namespace {namespace}" if namespace else "this cluster"
        raise NotFound(f"{where}: no {'entry' if at else 'receipt'} {word} in its log; a receipt enters it within a second")
    return sorted(found, key=lambda row: row.number)


def evidence(client: KubeClient, row: Row) -> dict[str, Any]:
    """The object of a row, with its proof. Raises as KubeClient.call."""
    plural = "policyreceipts" if row.traits["kind"] == "POLICY" else "decisionreceipts"
    return _object(client, row.traits["namespace"], plural, row.name)


def _object(client: KubeClient, namespace: str, plural: str, name: str) -> dict[str, Any]:
    return client.call("GET", f"{BASE}/namespaces/{quote(namespace, safe='')}/{plural}/{quote(name, safe='')}")


def _all(client: KubeClient, namespace: str | None, fields: str, labels: str, *, policy: bool) -> Iterator[Row]:
    query = {name: text for name, text in (("fieldSelector", fields), ("labelSelector", labels), ("limit", str(PAGE))) if text}
    token = ""
    while True:
        rows, token, _ = page(client, namespace, query | ({"continue": token} if token else {}), policy=policy)
        yield from rows
        if not token:
            return


def _decision(item: Mapping[str, Any]) -> Row:
    status, spec = item["status"], item["spec"]
    told = {
        name: str(status.get(name, "")) for name in ("kind", "verdict", "class", "mode", "arm", "pack", "version", "packDigest", "region")
    }
    flags = {flag: "true" if flag in status["flags"] else "false" for flag in FLAGS}
    traits = {"namespace": str(item["metadata"]["namespace"]), **told, **flags}
    return Row(int(spec["logIndex"]), traits, unb64(spec["leaf"], "leaf"))


def _event(item: Mapping[str, Any]) -> Row:
    said = {**item["status"], **item["spec"]}
    traits = {name: str(said.get(name, "")) for name in (*EVENT_TRAITS, "time")}
    where = {"kind": "POLICY", "namespace": str(item["metadata"]["namespace"]), "name": str(item["metadata"]["name"])}
    return Row(int(said["logIndex"]), {**where, **traits}, canonical(item["status"]["statement"]))
