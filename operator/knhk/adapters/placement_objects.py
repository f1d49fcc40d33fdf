"""Placement of points that judge objects of Kubernetes: the point as it is placed everywhere, and the webhook by which an API server asks
it, server-side applied. The configuration belongs to no namespace, so nobody but this takes it away.

It can lock nobody out: it speaks of objects in namespaces only, never of those of the system, of our own processes, or of the point's own
namespace, so that its gateway can always come back; what is on its way out always goes.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urlsplit

from knhk.adapters.kube_client import APPLY, KubeClient
from knhk.adapters.kube_webhooks import BASE, CERT_MANAGER, NEVER_ASKED, PLURALS, TIMEOUT_S
from knhk.decide.injection import POINT
from knhk.model.canonical import canonical, sha256_hex
from knhk.model.faults import Conflict, Gap, NotFound, Refused, Stalled, Waiting
from knhk.ports.clock import Clock
from knhk.ports.placement import Placed, Placement
from knhk_templates.kubernetes import render

MANAGER = "knhk"
ALLOWED, NAMESPACE = "knhk.dev/admission", "knhk.dev/namespace"
KIND = "ValidatingWebhookConfiguration"
PATH = f"{BASE}/{PLURALS[KIND]}"
APPLIED_EVERY_NS = 60 * 10**9  # what somebody else changed is put back
LOOKED_EVERY_NS = 3 * 10**9
LABELS = {
    "app.kubernetes.io/name": "knhk-objects",
    "app.kubernetes.io/component": "admission",
    "app.kubernetes.io/part-of": "knhk",
    "app.kubernetes.io/managed-by": MANAGER,
}
# A finalizer keeps what is on its way out as long as its owner likes: only a change of metadata and status is let go unasked.
LEAVES = {
    "name": "knhk-stays",
    "expression": "object == null || oldObject == null || !has(object.metadata.deletionTimestamp) || "
    "!object.all(k, k in ['metadata', 'status'] || k in oldObject && object[k] == oldObject[k]) || "
    "!oldObject.all(k, k in ['metadata', 'status'] || k in object)",
}


def configuration_name(point: str) -> str:
    """Of the configuration of a point (NAMESPACE/NAME), neither of whose parts has a dot."""
    return f"knhk-objects.{point.replace('/', '.')}"


def client_of(url: str, point: str) -> dict[str, Any]:
    """clientConfig of the webhook of a point, for admission at `url`: https://NAME.NAMESPACE.svc[:PORT] is a Service. An API server looks
    those up by itself; it need not know the cluster's names."""
    parts, path = urlsplit(url), f"/objects/{point}"
    labels = (parts.hostname or "").split(".")
    if len(labels) >= 3 and labels[2] == "svc":
        return {"service": {"name": labels[0], "namespace": labels[1], "port": parts.port or 443, "path": path}}
    return {"url": f"{url.rstrip('/')}{path}"}


@dataclass
class _Known:
    """What was done for a point last, and when."""

    wanted: str = ""
    applied_ns: int = 0
    looked_ns: int = 0
    allowed: bool = False


class ObjectPlacement:
    """`knhk.ports.placement.Placement`. `inner` lets points run; `admission`: URL of our admission process, `authority`: PEM of who signed
    what it shows; `own`: namespace of our processes. One thread."""

    def __init__(
        self, inner: Placement, client: KubeClient, admission: str, own: str, authority: Callable[[], bytes], clock: Clock
    ) -> None:
        self._inner, self._client, self._admission, self._own = inner, client, admission, own
        self._authority, self._clock = authority, clock
        self._asked: dict[str, _Known] = {}
        self._listed = False

    def bootstrap(self, point: str, spec: Mapping[str, Any]) -> bytes:
        """See the port."""
        return self._inner.bootstrap(point, spec)

    def ensure(self, point: str, spec: Mapping[str, Any]) -> Placed:
        """See the port. An API server asks only once the point runs."""
        with _translated(point):
            self._list()
            if "admission" not in spec:
                self._withdraw(point)
                return self._inner.ensure(point, spec)
            self._must_be_allowed(point)
        placed = self._inner.ensure(point, spec)
        if not placed.trouble or point in self._asked:
            with _translated(point):
                self._apply(point, spec["admission"])
        return placed

    def remove(self, point: str) -> None:
        """See the port."""
        with _translated(point):
            self._list()
            self._withdraw(point)
        self._inner.remove(point)

    def placed(self) -> frozenset[str]:
        """See the port. Configurations of an earlier life of this process are found on the cluster."""
        self._list()
        return self._inner.placed() | self._asked.keys()

    def _list(self) -> None:
        if self._listed:
            return
        selector = ",".join(f"{key}={value}" for key, value in LABELS.items())
        for row in self._client.call("GET", PATH, {"labelSelector": selector})["items"]:
            labels = row["metadata"]["labels"]
            if NAMESPACE in labels and POINT in labels:
                self._asked.setdefault(f"{labels[NAMESPACE]}/{labels[POINT]}", _Known())
        self._listed = True

    def _must_be_allowed(self, point: str) -> None:
        """Who may make points in one namespace must not, by that alone, judge objects of others."""
        namespace, now = point.partition("/")[0], self._clock.monotonic_ns()
        known = self._asked.get(point) or _Known()
        if not known.allowed or now - known.looked_ns >= LOOKED_EVERY_NS:
            labels = self._client.call("GET", f"/api/v1/namespaces/{quote(namespace)}")["metadata"].get("labels") or {}
            known.allowed, known.looked_ns = labels.get(ALLOWED) == "allow", now
        if not known.allowed:
            self._withdraw(point)
            must = f"must have label {ALLOWED}=allow for a point that judges objects; who may label namespaces decides. Nobody is asked now"
            raise Stalled("NotAllowed", f"namespace {namespace}: {must}")

    def _apply(self, point: str, admission: Mapping[str, Any]) -> None:
        known, now = self._asked.setdefault(point, _Known(allowed=True, looked_ns=self._clock.monotonic_ns())), self._clock.monotonic_ns()
        wanted = sha256_hex(canonical(dict(admission)))
        if wanted == known.wanted and now - known.applied_ns < APPLIED_EVERY_NS:
            return
        name = configuration_name(point)
        query = {"fieldManager": MANAGER, "force": "true", "fieldValidation": "Strict"}
        self._client.call("PATCH", f"{PATH}/{name}", query, self._document(name, point, admission), APPLY)
        known.wanted, known.applied_ns = wanted, now

    def _document(self, name: str, point: str, admission: Mapping[str, Any]) -> dict[str, Any]:
        namespace, _, short = point.partition("/")
        client = client_of(self._admission, point)
        if not self._others_trust(name):
            client["caBundle"] = base64.b64encode(self._authority()).decode()
        never = sorted({*NEVER_ASKED, self._own, namespace})
        (document,) = render(
            "objects",
            name=name,
            labels={**LABELS, NAMESPACE: namespace, POINT: short},
            hook=f"{short}.{namespace}.objects.knhk.dev",
            client=client,
            rules=[{**rule, "scope": "Namespaced"} for rule in admission["rules"]],
            namespaces={
                **admission["namespaceSelector"],
                "matchExpressions": [{"key": "kubernetes.io/metadata.name", "operator": "NotIn", "values": never}],
            },
            conditions=[LEAVES, *admission["matchConditions"]],
            failure_policy=admission["failurePolicy"],
            timeout_s=TIMEOUT_S,
        )
        return document

    def _others_trust(self, name: str) -> bool:
        """Whether cert-manager writes the authority into it."""
        try:
            found = self._client.call("GET", f"{PATH}/{name}")
        except NotFound:
            return False
        return any(annotation in (found["metadata"].get("annotations") or {}) for annotation in CERT_MANAGER)

    def _withdraw(self, point: str) -> None:
        """Nobody is asked any more. Only what is ours goes."""
        if point not in self._asked:
            return
        path = f"{PATH}/{configuration_name(point)}"
        try:
            labels = self._client.call("GET", path)["metadata"].get("labels") or {}
            if LABELS.items() <= labels.items():
                self._client.call("DELETE", path)
        except NotFound:
            pass
        self._asked.pop(point, None)


@contextmanager
def _translated(point: str) -> Iterator[None]:
    """Errors of the API server that are none of the port's, in its words."""
    try:
        yield
    except (Conflict, Gap, NotFound) as error:
        raise Waiting("Contended", f"{point}: {error}", 1.0) from error
    except Refused as error:
        raise Stalled("ClusterRefused", f"{point}: spec.admission: the API server must take it: {error}") from error
