"""The guard in a pod: which point a pod belongs to, what it may not have, what it gets, and whether it has it.

Pods are plain JSON data, as an API server gives them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from knhk.model.faults import Fault, Refused
from knhk.model.resource import Resource
from knhk_templates.kubernetes.guard import DRAIN_S, USER, Guard

POINT, ENFORCE, UNGUARDED = "knhk.dev/point", "knhk.dev/enforce", "knhk.dev/unguarded"
COMPONENT, GATEWAY = "app.kubernetes.io/component", "gateway"
GRACE_S: Final = 60  # the least: draining, the application's end, and what the agent still has to upload
AUDIENCES: Final = ("exchange.knhk.dev", "keys.knhk.dev")
LOOPBACK: Final = ("127.0.0.1", "::1", "localhost")
NOT_OURS: Final = "must have another name, or be as the guard's template says"
_GROUPS: Final = ("initContainers", "containers", "ephemeralContainers")
_SHARED: Final = {
    "hostNetwork": "others would reach the application past its guard",
    "hostPID": "the guard must be out of the application's reach",
    "hostIPC": "the guard must be out of the application's reach",
    "shareProcessNamespace": "the guard must be out of the application's reach",
}
_POWERS: Final = frozenset(
    {"ALL", "NET_ADMIN", "NET_RAW", "SYS_ADMIN", "SYS_PTRACE", "BPF", "CAP_NET_ADMIN", "CAP_NET_RAW", "CAP_SYS_ADMIN"}
)


def is_gateway(pod: Mapping[str, Any]) -> bool:
    """Whether a pod says that it is a point's own, not an application."""
    return labels_of(pod).get(COMPONENT) == GATEWAY and POINT in labels_of(pod)


def labels_of(pod: Mapping[str, Any]) -> Mapping[str, str]:
    """Its labels."""
    found: Mapping[str, str] = (pod.get("metadata") or {}).get("labels") or {}
    return found


def point_of(pod: Mapping[str, Any], points: Sequence[Resource]) -> Resource:
    """The one point whose selector fits the pod; of a gateway's pod the one that it names. Raises Refused."""
    labels = labels_of(pod)
    if is_gateway(pod):
        fitting = [point for point in points if point.spec["mode"] == "Gateway" and point.name == labels[POINT]]
    else:
        fitting = [point for point in points if point.spec["mode"] == "Sidecar" and _selects(point, labels)]
    if len(fitting) == 1:
        return fitting[0]
    shown = ", ".join(f"{name}={value}" for name, value in sorted(labels.items())) or "no labels"
    if not fitting:
        must = "must be selected by an EnforcementPoint of this namespace, mode Sidecar (spec.selector.matchLabels): pods here are guarded"
        raise Refused([Fault("metadata.labels", shown[:200], must)])
    names = " and ".join(sorted(point.name for point in fitting))
    raise Refused([Fault("metadata.labels", shown[:200], f"must be selected by one EnforcementPoint, not by {names}")])


def _selects(point: Resource, labels: Mapping[str, str]) -> bool:
    wanted = (point.spec.get("selector") or {}).get("matchLabels") or {}
    return bool(wanted) and all(labels.get(name) == value for name, value in wanted.items())


# ---- what a point must be to stand in a pod --------------------------------------------------------


def point_faults(point: Resource) -> tuple[Fault, ...]:
    """Why a point of mode Sidecar or Gateway cannot run in a pod; empty when it can."""
    spec, faults = point.spec, []
    upstream, listen = spec.get("upstream", {}), spec["listen"]
    if not listen["port"]:
        faults.append(Fault("spec.listen.port", "0", "must be the port that clients know: pods have no free one"))
    elif listen["port"] < 1024:
        faults.append(Fault("spec.listen.port", str(listen["port"]), "must be 1024 or more: the guard has no privileges"))
    if "socket" in upstream:
        faults.append(Fault("spec.upstream.socket", upstream["socket"], "must be host and port: a pod's containers share no sockets"))
    elif spec["mode"] == "Sidecar" and upstream["host"] not in LOOPBACK:
        faults.append(Fault("spec.upstream.host", upstream["host"], "must be 127.0.0.1: the application is in the same pod"))
    files = {
        "spec.attributes.jwt.jwks.file": (spec["attributes"].get("jwt") or {}).get("jwks", {}).get("file"),
        **{f"spec.listen.tls.{name}": file for name, file in (listen.get("tls") or {}).items()},
    }
    faults += [Fault(where, file, "must not be a file: a pod has none") for where, file in files.items() if file]
    return tuple(faults)


# ---- what an application's pod may not have --------------------------------------------------------


def pod_faults(pod: Mapping[str, Any], point: Resource, guard: Guard) -> tuple[Fault, ...]:
    """Everything that would let requests, or the application, past the guard."""
    spec = pod.get("spec") or {}
    faults = [Fault(f"spec.{name}", "true", f"must not be set: {why}") for name, why in _SHARED.items() if spec.get(name)]
    if (spec.get("securityContext") or {}).get("runAsUser") == USER:
        faults.append(_same_user("spec.securityContext.runAsUser"))
    ours = {container["name"] for container in guard.containers}
    for group in _GROUPS:
        for number, container in enumerate(spec.get(group) or ()):
            if container.get("name") not in ours:
                faults += _container_faults(f"spec.{group}[{number}]", container, point, guard)
    names = {volume["name"] for volume in guard.volumes}
    for number, volume in enumerate(spec.get("volumes") or ()):
        if volume.get("name") not in names:
            faults += _token_faults(f"spec.volumes[{number}]", volume)
    return tuple(faults)


def _same_user(where: str) -> Fault:
    return Fault(where, str(USER), "must be another user: this one is the guard's")


def _container_faults(where: str, container: Mapping[str, Any], point: Resource, guard: Guard) -> Iterator[Fault]:
    port = point.spec["listen"]["port"]
    for number, row in enumerate(container.get("ports") or ()):
        if row.get("hostPort"):
            yield Fault(f"{where}.ports[{number}].hostPort", str(row["hostPort"]), "must not be set: it leads past the guard")
        if row.get("containerPort") != port:
            must = f"must be {port}, spec.listen.port of EnforcementPoint {point.name}: the guard listens there, and nowhere else"
            yield Fault(f"{where}.ports[{number}].containerPort", str(row.get("containerPort")), must)
    yield from _security_faults(f"{where}.securityContext", container.get("securityContext") or {})
    ours = {volume["name"] for volume in guard.volumes}
    for number, mount in enumerate(container.get("volumeMounts") or ()):
        if mount.get("name") in ours:
            yield Fault(f"{where}.volumeMounts[{number}].name", mount["name"], "must be a volume of the pod's own: this one is the guard's")
    for name in ("startupProbe", "readinessProbe", "livenessProbe"):
        yield from _handler_faults(f"{where}.{name}", container.get(name) or {}, port)
    for name, handler in (container.get("lifecycle") or {}).items():
        if isinstance(handler, Mapping):
            yield from _handler_faults(f"{where}.lifecycle.{name}", handler, port)


def _security_faults(where: str, security: Mapping[str, Any]) -> Iterator[Fault]:
    if security.get("privileged"):
        yield Fault(f"{where}.privileged", "true", "must not be set: the guard must be out of the application's reach")
    if security.get("runAsUser") == USER:
        yield _same_user(f"{where}.runAsUser")
    for power in (security.get("capabilities") or {}).get("add") or ():
        if str(power).upper() in _POWERS:
            yield Fault(f"{where}.capabilities.add", str(power), "must not be added: with it the application could go past the guard")


def _handler_faults(where: str, handler: Mapping[str, Any], port: int) -> Iterator[Fault]:
    """kubelet asks the pod's address, where the guard is: it would judge the question, and answer for itself."""
    for way in ("httpGet", "grpc"):
        if way in handler:
            yield Fault(f"{where}.{way}", str(handler[way].get("port")), "must be exec: the guard judges what comes over the network")
    if "tcpSocket" in handler and handler["tcpSocket"].get("port") != port:
        must = f"must be exec: over the network only {port} answers, and that is the guard"
        yield Fault(f"{where}.tcpSocket", str(handler["tcpSocket"].get("port")), must)


def _token_faults(where: str, volume: Mapping[str, Any]) -> Iterator[Fault]:
    for number, source in enumerate((volume.get("projected") or {}).get("sources") or ()):
        audience = (source.get("serviceAccountToken") or {}).get("audience")
        if audience in AUDIENCES:
            place = f"{where}.projected.sources[{number}].serviceAccountToken.audience"
            yield Fault(place, audience, "must be another audience: this one speaks for the guard")


# ---- the guard -------------------------------------------------------------------------------------


def taken_faults(pod: Mapping[str, Any], guard: Guard) -> tuple[Fault, ...]:
    """Names of the guard's that the pod uses for something else."""
    spec = pod.get("spec") or {}
    faults = []
    for group in _GROUPS:
        for number, found in enumerate(spec.get(group) or ()):
            wanted = _named(guard.containers, found.get("name"))
            if wanted is not None and (group != "initContainers" or not _same(wanted, found)):
                faults.append(Fault(f"spec.{group}[{number}].name", found["name"], NOT_OURS))
    for number, found in enumerate(spec.get("volumes") or ()):
        wanted = _named(guard.volumes, found.get("name"))
        if wanted is not None and not _same(wanted, found):
            faults.append(Fault(f"spec.volumes[{number}].name", found["name"], NOT_OURS))
    for name, value in guard.labels.items():
        if labels_of(pod).get(name, value) != value:
            faults.append(Fault(f"metadata.labels.{name}", labels_of(pod)[name], f"must be {value}, the point that selects the pod"))
    return tuple(faults)


def injected(pod: Mapping[str, Any], guard: Guard) -> dict[str, Any]:
    """The pod with its guard: first of all containers, wherever it stood, so that nothing of the application runs before it and it ends
    last. Doing it twice changes nothing more."""
    spec, metadata = pod.get("spec") or {}, pod.get("metadata") or {}
    init, volumes = list(spec.get("initContainers") or ()), list(spec.get("volumes") or ())
    ours = [_named(init, container["name"]) or container for container in guard.containers]
    more = {
        "initContainers": [*ours, *(container for container in init if container not in ours)],
        "volumes": [*volumes, *(volume for volume in guard.volumes if _named(volumes, volume["name"]) is None)],
        "containers": [_ends_late(container) for container in spec.get("containers") or ()],
        "terminationGracePeriodSeconds": max(GRACE_S, int(spec.get("terminationGracePeriodSeconds") or 0)),
    }
    return {**pod, "metadata": {**metadata, "labels": {**labels_of(pod), **guard.labels}}, "spec": {**spec, **more}}


def _ends_late(container: Mapping[str, Any]) -> dict[str, Any]:
    """An application that has no word of its own before it ends waits while the guard drains."""
    lifecycle = container.get("lifecycle") or {}
    if "preStop" in lifecycle:
        return dict(container)
    return {**container, "lifecycle": {**lifecycle, "preStop": {"sleep": {"seconds": DRAIN_S}}}}


def patch_of(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[dict[str, Any]]:
    """JSON patch from a pod to the same pod with its guard."""
    patch = []
    if before.get("metadata", {}).get("labels") != after["metadata"]["labels"]:
        patch.append({"op": "add", "path": "/metadata/labels", "value": after["metadata"]["labels"]})
    for name, value in after["spec"].items():
        if before["spec"].get(name) != value:
            patch.append({"op": "add", "path": f"/spec/{name}", "value": value})
    return patch


def guard_faults(pod: Mapping[str, Any], guard: Guard) -> tuple[Fault, ...]:
    """What a stored pod lacks of its guard; empty when it is whole."""
    spec = pod.get("spec") or {}
    own = is_gateway(pod)
    containers = [*(spec.get("initContainers") or ()), *((spec.get("containers") or ()) if own else ())]
    faults = [
        Fault(f"spec.initContainers.{wanted['name']}", "missing or changed", "must be there as the guard's template says")
        for wanted in guard.containers
        if (found := _named(containers, wanted["name"])) is None or not _same(wanted, found)
    ]
    faults += [
        Fault(f"spec.volumes.{wanted['name']}", "missing or changed", "must be there as the guard's template says")
        for wanted in guard.volumes
        if (found := _named(spec.get("volumes") or (), wanted["name"])) is None or not _same(wanted, found)
    ]
    order = [container["name"] for container in guard.containers]
    if not own and [container.get("name") for container in containers[: len(order)]] != order:
        must = f"must begin with {' and '.join(order)}: what runs before them could have their port"
        faults.append(Fault("spec.initContainers", str([container.get("name") for container in containers])[:200], must))
    if own and len(containers) != len(guard.containers):
        faults.append(Fault("spec.containers", f"{len(containers)} containers", "must be the guard's alone in a gateway"))
    if any(labels_of(pod).get(name) != value for name, value in guard.labels.items()):
        faults.append(Fault("metadata.labels", str(labels_of(pod).get(POINT)), f"must have {POINT}={guard.labels[POINT]}"))
    return tuple(faults)


def _named(rows: Sequence[Mapping[str, Any]], name: object) -> Mapping[str, Any] | None:
    return next((row for row in rows if row.get("name") == name), None)


def _same(wanted: Mapping[str, Any], found: Mapping[str, Any]) -> bool:
    """Equal, but for resources, to which a LimitRange may add."""
    resources: Mapping[str, Any] = found.get("resources") or {}
    for kind, rows in (wanted.get("resources") or {}).items():
        if any((resources.get(kind) or {}).get(name) != value for name, value in rows.items()):
            return False
    return {k: v for k, v in wanted.items() if k != "resources"} == {k: v for k, v in found.items() if k != "resources"}
