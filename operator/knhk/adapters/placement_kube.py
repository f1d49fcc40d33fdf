"""Placement on a cluster: what a point has of its own in its namespace, server-side applied, and what its pods tell of themselves.

A Sidecar's pods are the application's own; here they get a NetworkPolicy. A Gateway is a Deployment with Service, disruption budget and
autoscaler. Both are owned by the EnforcementPoint, so that the cluster removes them with it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from knhk.adapters.kube_client import APPLY, KubeClient
from knhk.adapters.kube_documents import place
from knhk.decide.injection import COMPONENT, ENFORCE, GATEWAY, POINT, point_faults
from knhk.model.canonical import canonical, sha256_hex
from knhk.model.faults import Conflict, Gap, NotFound, Refused, Stalled, Waiting
from knhk.model.resource import API_VERSION, Key, Resource
from knhk.ports.clock import Clock
from knhk.ports.placement import Placed, Placement
from knhk_templates.kubernetes import render
from knhk_templates.kubernetes.guard import Guard, Surroundings, guard_of

MANAGER = "knhk"
APPLIED_EVERY_NS = 60 * 10**9  # what somebody else changed is put back
LOOKED_EVERY_NS = 3 * 10**9
MAX_TROUBLE = 20
LABELS = {"app.kubernetes.io/part-of": "knhk", "app.kubernetes.io/managed-by": "knhk"}
# Kind → where its objects lie; in the order in which a point's children go.
PATHS: Mapping[str, tuple[str, str]] = {
    "HorizontalPodAutoscaler": ("/apis/autoscaling/v2", "horizontalpodautoscalers"),
    "PodDisruptionBudget": ("/apis/policy/v1", "poddisruptionbudgets"),
    "Service": ("/api/v1", "services"),
    "Deployment": ("/apis/apps/v1", "deployments"),
    "NetworkPolicy": ("/apis/networking.k8s.io/v1", "networkpolicies"),
}
OF_EVERY_POINT = "NetworkPolicy"


def child_name(point_name: str) -> str:
    """Name of what a point has of its own; the API server bounds it at 63 characters."""
    return f"knhk-{point_name}" if len(point_name) <= 58 else f"knhk-{point_name[:49]}-{sha256_hex(point_name.encode())[:8]}"


def service_name(point: str) -> str:
    """DNS name of the Service of a point (NAMESPACE/NAME) of mode Gateway: its address, and what it must show a certificate for."""
    namespace, _, name = point.partition("/")
    return f"{child_name(name)}.{namespace}.svc"


@dataclass
class _Known:
    """What was done for a point last, and when."""

    wanted: str = ""
    applied_ns: int = 0
    placed: Placed | None = None
    looked_ns: int = 0


class KubePlacement:
    """`knhk.ports.placement.Placement`. `documents`: what Envoy starts with, and what hands the trust to the pods; `own_namespace`: of our
    processes, of which admission alone may ask points that judge objects. One thread."""

    def __init__(
        self, documents: Placement, client: KubeClient, around: Surroundings, clock: Clock, own_namespace: str = "knhk-system"
    ) -> None:
        self._documents, self._client, self._around, self._clock = documents, client, around, clock
        self._admission = {
            "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": own_namespace}},
            "podSelector": {"matchLabels": {"app.kubernetes.io/name": "knhk-admission"}},
        }
        self._known: dict[str, _Known] = {}
        self._listed = False

    def bootstrap(self, point: str, spec: Mapping[str, Any]) -> bytes:
        """See the port."""
        return self._documents.bootstrap(point, spec)

    def ensure(self, point: str, spec: Mapping[str, Any]) -> Placed:
        """See the port. Asks the API server when something changed, and every few seconds."""
        namespace, _, name = point.partition("/")
        faults = point_faults(Resource("EnforcementPoint", namespace, name, spec))
        if faults:
            raise Stalled("BadPoint", "\n".join(map(str, faults)))
        if "privacy" in spec and not self._around.keys:
            raise Stalled("NoKeyService", "spec.privacy: needs a key service, and this cluster has none: install component keys")
        self._documents.ensure(point, spec)
        with _translated(point):
            return self._ensured(point, namespace, name, spec)

    def _ensured(self, point: str, namespace: str, name: str, spec: Mapping[str, Any]) -> Placed:
        known, now = self._known.setdefault(point, _Known()), self._clock.monotonic_ns()
        guard = guard_of(name, spec, self._around, native=spec["mode"] == "Sidecar")
        wanted = sha256_hex(canonical([_plain(spec), guard.containers, guard.volumes]))
        if wanted != known.wanted or now - known.applied_ns >= APPLIED_EVERY_NS:
            self._apply(namespace, name, spec, guard)
            known.wanted, known.applied_ns, known.placed = wanted, now, None
        if known.placed is None or now - known.looked_ns >= LOOKED_EVERY_NS:
            known.placed, known.looked_ns = self._look(namespace, name, spec), now
        return known.placed

    def remove(self, point: str) -> None:
        """See the port."""
        namespace, _, name = point.partition("/")
        with _translated(point):
            self._delete(namespace, name, tuple(PATHS))
        self._known.pop(point, None)
        self._documents.remove(point)

    def placed(self) -> frozenset[str]:
        """See the port. What an earlier life of this process placed is found on the cluster."""
        if not self._listed:
            base, plural = PATHS[OF_EVERY_POINT]
            query = {"labelSelector": ",".join(f"{key}={value}" for key, value in LABELS.items())}
            for row in self._client.call("GET", f"{base}/{plural}", query)["items"]:
                if name := row["metadata"].get("labels", {}).get(POINT):
                    self._known.setdefault(f"{row['metadata']['namespace']}/{name}", _Known())
            self._listed = True
        return frozenset(self._known)

    # ---- what it has of its own ------------------------------------------------------------------

    def _apply(self, namespace: str, name: str, spec: Mapping[str, Any], guard: Guard) -> None:
        gateway = spec["mode"] == "Gateway"
        pods = {POINT: name, COMPONENT: GATEWAY}
        replicas = spec.get("gateway") or {}
        documents = render(
            "placed",
            child=child_name(name),
            namespace=namespace,
            name=name,
            labels={**LABELS, POINT: name, "app.kubernetes.io/name": child_name(name), COMPONENT: GATEWAY if gateway else "sidecar"},
            owners=[self._owner(namespace, name)],
            port=spec["listen"]["port"],
            protocol="https" if "admission" in spec else "http",
            callers=[self._admission] if "admission" in spec else [],
            gateway=guard if gateway else None,
            pods=pods,
            pod_labels={**LABELS, **pods, "app.kubernetes.io/name": child_name(name)},
            min_replicas=replicas.get("minReplicas", 2),
            max_replicas=replicas.get("maxReplicas", 10),
            cpu_percent=replicas.get("cpuPercent", 300),
            scale_in_after_s=replicas.get("scaleInAfterSeconds", 300),
        )
        for document in documents:
            base, plural = PATHS[document["kind"]]
            path = f"{base}/namespaces/{namespace}/{plural}/{document['metadata']['name']}"
            self._client.call("PATCH", path, {"fieldManager": MANAGER, "force": "true", "fieldValidation": "Strict"}, document, APPLY)
        self._delete(namespace, name, [kind for kind in PATHS if kind not in {document["kind"] for document in documents}])

    def _owner(self, namespace: str, name: str) -> dict[str, Any]:
        uid = self._client.call("GET", place(Key("EnforcementPoint", namespace, name)))["metadata"]["uid"]
        return {"apiVersion": API_VERSION, "kind": "EnforcementPoint", "name": name, "uid": uid, "controller": True}

    def _delete(self, namespace: str, name: str, kinds: Sequence[str]) -> None:
        """Children of these kinds; only those that are ours."""
        for kind in kinds:
            base, plural = PATHS[kind]
            path = f"{base}/namespaces/{namespace}/{plural}/{child_name(name)}"
            try:
                labels = self._client.call("GET", path)["metadata"].get("labels") or {}
                if labels.get("app.kubernetes.io/managed-by") == MANAGER and labels.get(POINT) == name:
                    self._client.call("DELETE", path, body={"propagationPolicy": "Background"})
            except NotFound:
                continue

    # ---- what runs -------------------------------------------------------------------------------

    def _look(self, namespace: str, name: str, spec: Mapping[str, Any]) -> Placed:
        port = spec["listen"]["port"]
        pods = self._pods(namespace, f"{POINT}={name}")
        trouble = [*(self._unheard(namespace) if pods else ()), *self._trouble(pods)]
        if spec["mode"] == "Gateway":
            return Placed(f"{service_name(f'{namespace}/{name}')}:{port}", tuple(trouble)[:MAX_TROUBLE])
        wanted = (spec.get("selector") or {}).get("matchLabels") or {}
        if not wanted:
            return Placed(f"pods.{namespace}:{port}", ("spec.selector.matchLabels must be given on a cluster: no pod is selected",))
        selected = self._pods(namespace, ",".join(f"{key}={value}" for key, value in sorted(wanted.items())))
        bare = [pod for pod in selected if POINT not in (pod["metadata"].get("labels") or {})]
        lines = [f"pod {pod['metadata']['name']}: must have its guard; delete it to have it made anew" for pod in bare]
        return Placed(self._service(namespace, wanted, pods, port), (*lines, *trouble)[:MAX_TROUBLE])

    def _pods(self, namespace: str, selector: str) -> list[dict[str, Any]]:
        rows = self._client.call("GET", f"/api/v1/namespaces/{namespace}/pods", {"labelSelector": selector})["items"]
        ended = ("Succeeded", "Failed")
        return [row for row in rows if "deletionTimestamp" not in row["metadata"] and (row.get("status") or {}).get("phase") not in ended]

    def _unheard(self, namespace: str) -> Iterator[str]:
        labels = self._client.call("GET", f"/api/v1/namespaces/{namespace}")["metadata"].get("labels") or {}
        if labels.get(ENFORCE) != "true":
            yield f"namespace {namespace}: must have label {ENFORCE}=true: the exchange hears no pod of another, which anybody may label"

    def _trouble(self, pods: Sequence[Mapping[str, Any]]) -> Iterator[str]:
        for pod in pods:
            name, status = pod["metadata"]["name"], pod.get("status") or {}
            told = {row["name"]: row for row in (*(status.get("initContainerStatuses") or ()), *(status.get("containerStatuses") or ()))}
            for row in (*(pod["spec"].get("initContainers") or ()), *pod["spec"]["containers"]):
                if row["name"] in ("knhk-agent", "knhk-envoy"):
                    if row["image"] != self._around.image:
                        must = f"must have {self._around.image}; delete it to have it made anew"
                        yield f"pod {name}: {row['name']} has image {row['image']}, {must}"
                    if why := _not_ready(told.get(row["name"])):
                        yield f"pod {name}: {row['name']}: {why}"

    def _service(self, namespace: str, wanted: Mapping[str, str], pods: Sequence[Mapping[str, Any]], port: int) -> str:
        """The Service that leads to the pods at that port, of several the first by name; the pods themselves when there is none."""
        declared = [row for pod in pods for container in pod["spec"]["containers"] for row in container.get("ports") or ()]
        targets = {port, *(row["name"] for row in declared if row["containerPort"] == port and "name" in row)}
        rows = self._client.call("GET", f"/api/v1/namespaces/{namespace}/services")["items"]
        for row in sorted(rows, key=lambda row: str(row["metadata"]["name"])):
            selector = row["spec"].get("selector") or {}
            leads = [p for p in row["spec"].get("ports") or () if p.get("targetPort") in targets]
            if selector and leads and selector.items() <= wanted.items():
                return f"{row['metadata']['name']}.{namespace}.svc:{leads[0]['port']}"
        return f"pods.{namespace}:{port}"


@contextmanager
def _translated(point: str) -> Iterator[None]:
    """Errors of the API server that are none of the port's, in its words."""
    try:
        yield
    except NotFound as error:
        raise Waiting("PointGone", f"{point}: {error}", 1.0) from error
    except (Conflict, Gap) as error:
        raise Waiting("Contended", f"{point}: {error}", 1.0) from error
    except Refused as error:
        raise Stalled("ClusterRefused", f"{point}: the API server must take what the point has of its own: {error}") from error


def _not_ready(status: Mapping[str, Any] | None) -> str:
    if status is None:
        return "not started"
    if status.get("ready"):
        return ""
    state = status.get("state") or {}
    waiting, ended = state.get("waiting") or {}, state.get("terminated") or {}
    return str(waiting.get("reason") or ended.get("reason") or "not ready")


def _plain(spec: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "admission": "admission" in spec,
        "mode": spec["mode"],
        "port": spec["listen"]["port"],
        "gateway": spec.get("gateway"),
        "selector": spec.get("selector"),
    }
