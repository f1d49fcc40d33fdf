"""Who leads, as the API server is told: the object that policy `leading.knhk.dev` compares the sender of each write with."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any

from knhk.adapters.kube_client import KubeClient
from knhk.model.faults import Conflict, NotFound, Stalled, Waiting
from knhk.model.resource import API_VERSION

AGAIN_S = 0.1
_log = logging.getLogger("knhk.lease")


def proclaim(client: KubeClient, namespace: str, name: str, holder: str, check: Callable[[], None]) -> bool:
    """From now on the Leader `namespace`/`name` says `holder`, POD_RANDOM, whoever it said before; the pod is the one that the API server
    knows this process by, for a host's name may be another (of the node's network, or longer than 63 characters). `check` looks between
    reading and writing whether this process leads: one that was stopped anywhere here, and wakes when another has said its own, meets a
    Conflict and then Deposed. False for a cluster without the definition, which has no such fence. Raises as `check`, and Stalled."""
    folder = f"/apis/{API_VERSION}/namespaces/{namespace}/leaders"
    new = {"apiVersion": API_VERSION, "kind": "Leader", "metadata": {"name": name, "namespace": namespace}}
    while True:
        try:
            found, pod = _read(client, f"{folder}/{name}"), _pod(client)
            spec = {"holder": f"{pod}_{holder.rpartition('_')[2]}" if pod else holder}
            check()
            if found is not None and found.get("spec") == spec:
                return True
            if found is None:
                client.call("POST", folder, {}, {**new, "spec": spec})
            else:
                client.call("PUT", f"{folder}/{name}", {}, {**found, "spec": spec})
            _log.info("%s is the Leader %s/%s", spec["holder"], namespace, name)
            return True
        except (Conflict, NotFound):  # somebody was faster, or the namespace ends: it is read again
            time.sleep(AGAIN_S)
        except Waiting as waiting:
            check()
            time.sleep(waiting.retry_after_s)
        except Stalled as error:
            if error.reason != "NoSuchKind":
                raise
            _log.warning("%s", error)
            return False


def _read(client: KubeClient, path: str) -> dict[str, Any] | None:
    try:
        return client.call("GET", path)
    except NotFound:
        return None


def _pod(client: KubeClient) -> str:
    """That our token is bound to, as the policy sees it; empty for a token of no pod."""
    review = {"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"}
    said = client.call("POST", "/apis/authentication.k8s.io/v1/selfsubjectreviews", body=review)["status"]["userInfo"]
    return str(next(iter(said.get("extra", {}).get("authentication.kubernetes.io/pod-name", ())), ""))
