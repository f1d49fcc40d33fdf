"""Pods and points that tests of injection share: one that is fine, and one for each way past the guard."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any

from knhk_templates.kubernetes.guard import USER

Change = Callable[[dict[str, Any]], object]


def point_spec(port: int = 8080, app: int = 9000, app_label: str = "orders") -> dict[str, Any]:
    """Of an EnforcementPoint for pods with label app."""
    return {
        "mode": "Sidecar",
        "selector": {"matchLabels": {"app": app_label}},
        "listen": {"port": port},
        "upstream": {"host": "127.0.0.1", "port": app},
        "match": [{"name": "submit", "method": "POST", "path": "/invoices", "action": "submit"}],
    }


def app_pod(name: str = "orders-1", labels: Mapping[str, str] | None = None) -> dict[str, Any]:
    """An application as Pod Security "restricted" wants it."""
    security = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}, "runAsNonRoot": True, "runAsUser": 1000}
    container = {
        "name": "app",
        "image": "registry.test/app:1",
        "ports": [{"name": "http", "containerPort": 8080}],
        "securityContext": {**security, "seccompProfile": {"type": "RuntimeDefault"}},
        "readinessProbe": {"exec": {"command": ["true"]}},
    }
    metadata = {"name": name, "labels": dict({"app": "orders"} if labels is None else labels)}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": {"containers": [container]}}


def changed(change: Change) -> dict[str, Any]:
    """The good pod with one change of its spec."""
    pod = copy.deepcopy(app_pod())
    change(pod["spec"])
    return pod


def first(spec: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = spec["containers"][0]
    return found


_OF_KEYS = {"name": "t", "projected": {"sources": [{"serviceAccountToken": {"audience": "keys.knhk.dev", "path": "t"}}]}}
_TOKEN = {"name": "t", "projected": {"sources": [{"serviceAccountToken": {"audience": "exchange.knhk.dev", "path": "t"}}]}}
PAST_THE_GUARD: Mapping[str, tuple[str, Change]] = {
    "host network": ("spec.hostNetwork", lambda s: s.update(hostNetwork=True)),
    "host processes": ("spec.hostPID", lambda s: s.update(hostPID=True)),
    "shared processes": ("spec.shareProcessNamespace", lambda s: s.update(shareProcessNamespace=True)),
    "the guard's user": ("spec.securityContext.runAsUser", lambda s: s.update(securityContext={"runAsUser": USER})),
    "the guard's user in a container": (
        "spec.containers[0].securityContext.runAsUser",
        lambda s: first(s)["securityContext"].update(runAsUser=USER),
    ),
    "a host's port": ("spec.containers[0].ports[0].hostPort", lambda s: first(s)["ports"][0].update(hostPort=8080)),
    "another port": ("spec.containers[0].ports[1].containerPort", lambda s: first(s)["ports"].append({"containerPort": 9090})),
    "another port of an init container": (
        "spec.initContainers[0].ports[0].containerPort",
        lambda s: s.update(initContainers=[{"name": "i", "image": "i", "ports": [{"containerPort": 9090}]}]),
    ),
    "privileges": ("spec.containers[0].securityContext.privileged", lambda s: first(s)["securityContext"].update(privileged=True)),
    "raw sockets": (
        "spec.containers[0].securityContext.capabilities.add",
        lambda s: first(s)["securityContext"]["capabilities"].update(add=["NET_RAW"]),
    ),
    "the guard's volume": (
        "spec.containers[0].volumeMounts[0].name",
        lambda s: first(s).update(volumeMounts=[{"name": "knhk-run", "mountPath": "/x"}]),
    ),
    "the guard's token": ("spec.volumes[0].projected.sources[0].serviceAccountToken.audience", lambda s: s.update(volumes=[_TOKEN])),
    "the guard's token for keys": (
        "spec.volumes[0].projected.sources[0].serviceAccountToken.audience",
        lambda s: s.update(volumes=[_OF_KEYS]),
    ),
    "a probe over the network": (
        "spec.containers[0].livenessProbe.httpGet",
        lambda s: first(s).update(livenessProbe={"httpGet": {"port": 8080, "path": "/"}}),
    ),
    "a probe of another port": (
        "spec.containers[0].livenessProbe.tcpSocket",
        lambda s: first(s).update(livenessProbe={"tcpSocket": {"port": 9000}}),
    ),
    "the guard's name": ("spec.containers[1].name", lambda s: s["containers"].append({"name": "knhk-envoy", "image": "mine"})),
    "the guard's name before": (
        "spec.initContainers[0].name",
        lambda s: s.update(initContainers=[{"name": "knhk-agent", "image": "mine"}]),
    ),
    "the guard's volume's name": ("spec.volumes[0].name", lambda s: s.update(volumes=[{"name": "knhk-state", "emptyDir": {}, "x": 1}])),
}
