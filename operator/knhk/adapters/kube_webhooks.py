"""Our webhook configurations on an API server: what they say, and the authority in them kept fresh."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any

from knhk.adapters.kube_client import APPLY, KubeClient
from knhk.api import KINDS
from knhk.decide.injection import ENFORCE
from knhk.model.faults import NotFound
from knhk_templates.kubernetes import render

NAME = "knhk-admission"
MANAGER = "knhk-admission"
BASE = "/apis/admissionregistration.k8s.io/v1"
PLURALS = {
    "MutatingWebhookConfiguration": "mutatingwebhookconfigurations",
    "ValidatingWebhookConfiguration": "validatingwebhookconfigurations",
}
CERT_MANAGER = ("cert-manager.io/inject-ca-from", "cert-manager.io/inject-ca-from-secret", "cert-manager.io/inject-apiserver-ca")
PATHS = ("/parse", "/validate", "/mutate-pods", "/validate-pods")
TIMEOUT_S = 5
LABELS = {
    "app.kubernetes.io/name": "knhk-admission",
    "app.kubernetes.io/component": "admission",
    "app.kubernetes.io/part-of": "knhk",
    "app.kubernetes.io/managed-by": "knhk",
}
NEVER_ASKED = ("kube-system", "kube-public", "kube-node-lease")
SPEC_CHANGES = "request.operation != 'UPDATE' || !has(object.spec) || !has(oldObject.spec) || object.spec != oldObject.spec"
POD_UNGUARDED = "object.metadata.?labels[?'knhk.dev/unguarded'].orValue('') == 'true'"
WRITTEN_BY_US = ("Receipt",)  # by nobody else: an admission that does not answer must not make receipts slow


def configurations(client: Mapping[str, Any], own_namespace: str, image: str, before: str = "") -> list[dict[str, Any]]:
    """The webhook configurations, and the policies that stand without them. `client`: {"service": {"namespace", "name", "port"}} or
    {"url": "https://…"}. `image`: that of the guard; `before`: that of
    the release before, while pods with either are made."""
    other = _not_in("kubernetes.io/metadata.name", (*NEVER_ASKED, own_namespace))
    enforced = {"matchExpressions": [{"key": ENFORCE, "operator": "In", "values": ["true"]}, other]}
    elsewhere = {"matchExpressions": [other]}
    hooks = render(
        "webhooks",
        clients={path: _client(client, path) for path in PATHS},
        labels=LABELS,
        enforced=enforced,
        plurals=sorted(kind.plural for kind in KINDS.values() if kind.kind not in WRITTEN_BY_US),
        elsewhere=elsewhere,
        spec_changes=SPEC_CHANGES,
        timeout_s=TIMEOUT_S,
    )
    policies = render(
        "enforced",
        labels=LABELS,
        enforced=enforced,
        elsewhere=elsewhere,
        images=f"['{image}', '{before}']",
        pod_unguarded=POD_UNGUARDED,
    )
    return hooks + policies


def _not_in(key: str, values: tuple[str, ...]) -> dict[str, Any]:
    return {"key": key, "operator": "NotIn", "values": list(values)}


def _client(client: Mapping[str, Any], path: str) -> dict[str, Any]:
    return {"url": f"{client['url']}{path}"} if "url" in client else {"service": {**client["service"], "path": path}}


def refresh(api: KubeClient, authority: bytes) -> tuple[str, ...]:
    """Puts the authority (PEM) into each webhook of our configurations whose own differs; which ones. Configurations that are not there,
    or that cert-manager serves, are left alone. Raises as KubeClient.call."""
    bundle = base64.b64encode(authority).decode()
    changed: list[str] = []
    for kind, plural in PLURALS.items():
        path = f"{BASE}/{plural}/{NAME}"
        try:
            found = api.call("GET", path)
        except NotFound:
            continue  # a person removed it to break the glass: that stays so
        if any(name in (found["metadata"].get("annotations") or {}) for name in CERT_MANAGER):
            continue
        names = [hook["name"] for hook in found.get("webhooks") or () if hook["clientConfig"].get("caBundle") != bundle]
        if not names:
            continue
        hooks = [{"name": hook["name"], "clientConfig": {"caBundle": bundle}} for hook in found["webhooks"]]
        document = {"apiVersion": found["apiVersion"], "kind": kind, "metadata": {"name": NAME}, "webhooks": hooks}
        api.call("PATCH", path, {"fieldManager": MANAGER, "force": "true"}, document, APPLY)
        changed += names
    return tuple(changed)
