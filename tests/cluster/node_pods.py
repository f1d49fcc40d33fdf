"""A cluster with a node, as tests use it: push an image, run pods of it, read what they said, reach them."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import node_machine as machine
from control_plane import Cluster
from node_images import push

from knhk.adapters.kube_client import KubeClient
from knhk.model.faults import NotFound
from knhk.model.oci import Artifact

WITHIN_S = 240.0
RESTRICTED = {
    "runAsNonRoot": True,
    "runAsUser": 65532,
    "readOnlyRootFilesystem": True,
    "allowPrivilegeEscalation": False,
    "capabilities": {"drop": ["ALL"]},
    "seccompProfile": {"type": "RuntimeDefault"},
}
"""The security context that Pod Security "restricted" asks for, and a read-only root."""


@dataclass(frozen=True)
class Node:
    """Addresses of pods, of services and of `cluster.registry` are reachable from the test's process."""

    cluster: Cluster
    client: KubeClient
    program: Path

    def push(self, image: Artifact, name: str) -> str:
        """Puts an image on the registry as `name` (REPOSITORY:TAG); returns how a pod names it, by digest."""
        repository, _, tag = name.rpartition(":")
        push(self.cluster.registry, repository, tag, image)
        return f"{machine.REGISTRY}/{repository}@{image.digest}"

    def kubectl(self, *arguments: str, given: str = "") -> str:
        """What kubectl says as the cluster's admin. Fails the test when it fails."""
        command = [str(self.program), f"--kubeconfig={self.cluster.kubeconfig}", *arguments]
        done = subprocess.run(command, input=given, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"kubectl {' '.join(arguments)}: {done.stderr}"
        return done.stdout

    def apply(self, *documents: dict[str, Any]) -> None:
        self.kubectl("apply", "-f", "-", given="\n---\n".join(json.dumps(document) for document in documents))

    @contextmanager
    def namespace(self, name: str) -> Iterator[str]:
        """A namespace in which pods can run, gone with all of its objects afterwards."""
        self.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
        self.until(lambda: self.exists(f"/api/v1/namespaces/{name}/serviceaccounts/default"), "a service account")
        try:
            yield name
        finally:
            self.without(name)

    def without(self, namespace: str) -> None:
        """Takes the namespace away with all of its objects, if it is there; its pods are not waited for."""
        self.kubectl("delete", "namespace", namespace, "--wait=false", "--ignore-not-found")
        self.kubectl("-n", namespace, "delete", "pods", "--all", "--force", "--grace-period=0")
        self.until(lambda: not self.exists(f"/api/v1/namespaces/{namespace}"), f"the namespace {namespace} gone")

    def exists(self, path: str) -> bool:
        try:
            self.client.call("GET", path)
        except NotFound:
            return False
        return True

    def pod(self, namespace: str, name: str, holds: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """The pod, as soon as it is so."""
        found: dict[str, Any] = {}

        def look() -> bool:
            found.clear()
            found.update(self.client.call("GET", f"/api/v1/namespaces/{namespace}/pods/{name}"))
            return holds(found)

        self.until(look, f"the pod {name}", lambda: self.told(namespace, name))
        return found

    def told(self, namespace: str, name: str) -> str:
        """What there is to know of a pod that is not as it should be."""
        events = self.kubectl("-n", namespace, "events", "--for", f"pod/{name}")
        words = self.kubectl("-n", namespace, "logs", name, "--all-containers", "--prefix", "--tail=20", "--ignore-errors")
        return f"{events[-3000:]}\n{words[-6000:]}"

    def until(self, holds: Callable[[], bool], what: str, told: Callable[[], str] = lambda: "") -> None:
        """Returns when it is so; fails the test, with what is told then, when it is not in time."""
        deadline_s = time.monotonic() + WITHIN_S
        while not holds():
            assert time.monotonic() < deadline_s, f"{what} must be there within {WITHIN_S:g} s: {told()}"
            time.sleep(0.1)


def is_ready(pod: dict[str, Any]) -> bool:
    return any(row["type"] == "Ready" and row["status"] == "True" for row in pod["status"].get("conditions") or ())


def has_ended(pod: dict[str, Any]) -> bool:
    return pod["status"].get("phase") in ("Succeeded", "Failed")
