"""Receipts as a person of a cluster may read them, as rows of the index: decisions by the aggregated API, policy events from Receipts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from knhk.adapters.kube_client import KubeClient
from knhk.adapters.kube_documents import collection
from knhk.lockchain.entries import Row
from knhk.model.faults import Stalled
from knhk.model.selection import FLAGS
from knhk_verify.note import unb64
from knhk_verify.signed import member, parse_json

DECISIONS = "/apis/receipts.knhk.dev/v1alpha1"
PAGE = 500


def page(client: KubeClient, namespace: str | None, query: Mapping[str, str]) -> tuple[list[Row], str, int]:
    """Rows, `continue`, and the size of the log. Raises as KubeClient.call."""
    where = f"{DECISIONS}/namespaces/{namespace}/decisionreceipts" if namespace else f"{DECISIONS}/decisionreceipts"
    try:
        answer = client.call("GET", where, query)
    except Stalled as error:
        if error.reason == "NotFound" or "could not find" in str(error):
            raise Stalled("NotServed", "the cluster serves no decision receipts: it must have manifests/components/receipts") from error
        raise
    return [_decision(item) for item in answer["items"]], answer["metadata"].get("continue", ""), int(answer["metadata"]["resourceVersion"])


def decisions(client: KubeClient, namespace: str | None, fields: str = "", labels: str = "") -> Iterator[Row]:
    """All that fit, the newest first, of the log as it was at the first page. Raises as `page`."""
    query = {name: text for name, text in (("fieldSelector", fields), ("labelSelector", labels), ("limit", str(PAGE))) if text}
    token = ""
    while True:
        rows, token, _ = page(client, namespace, query | ({"continue": token} if token else {}))
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


def events(client: KubeClient, namespace: str | None) -> Iterator[Row]:
    """Policy events whose Receipts are still there: a cluster keeps the newest; the log keeps all. Raises as KubeClient.call, Bad."""
    query: dict[str, str] = {"limit": str(PAGE)}
    while True:
        answer = client.call("GET", collection("Receipt", namespace), query)
        for item in answer["items"]:
            where = f"{item['metadata']['namespace']}/{item['metadata']['name']}"
            bundle = parse_json(item["spec"]["bundle"].encode(), where)
            statement = unb64(member(bundle, "dsseEnvelope.payload", str, where), where)
            yield Row(int(item["spec"]["logIndex"]), {"kind": "POLICY", "namespace": item["metadata"]["namespace"]}, statement)
        if not (token := answer["metadata"].get("continue", "")):
            return
        query["continue"] = token
