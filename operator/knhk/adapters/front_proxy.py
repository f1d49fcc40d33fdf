"""Whom a request comes from when an API server hands it on, and whether the cluster's own authorizer lets it pass.

Delegated authentication by the front proxy: only a client certificate by the authority that the cluster names (ConfigMap
kube-system/extension-apiserver-authentication), and of a name that it allows, may say by headers who asks.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote

from knhk.adapters.kube_client import KubeClient
from knhk.model.faults import Stalled

CONFIG = "/api/v1/namespaces/kube-system/configmaps/extension-apiserver-authentication"
REVIEWS = "/apis/authorization.k8s.io/v1/subjectaccessreviews"


@dataclass(frozen=True)
class User:
    name: str
    uid: str = ""
    groups: tuple[str, ...] = ()
    extra: Mapping[str, Sequence[str]] = field(default_factory=dict)


@dataclass(frozen=True)
class FrontProxy:
    """`authority`: PEM; `names`: common names of its certificates that count, none: all; then the names of the headers, lower case."""

    authority: str
    names: tuple[str, ...]
    user: tuple[str, ...]
    uid: tuple[str, ...]
    group: tuple[str, ...]
    extra: tuple[str, ...]

    def user_of(self, certificate: Mapping[str, Any] | None, headers: Sequence[tuple[str, str]]) -> User | None:
        """Who asks, of a client whose certificate (as `ssl` tells it) was held against `authority`; None: nobody that this proxy names."""
        if not certificate or (self.names and common_name(certificate) not in self.names):
            return None
        found = [(name.lower(), value) for name, value in headers]
        name = next((value for wanted in self.user for named, value in found if named == wanted and value), "")
        if not name:
            return None
        uid = next((value for wanted in self.uid for named, value in found if named == wanted), "")
        groups = tuple(value for wanted in self.group for named, value in found if named == wanted)
        extra = dict[str, list[str]]()
        for named, value in found:
            for prefix in self.extra:
                if named.startswith(prefix):
                    extra.setdefault(unquote(named.removeprefix(prefix)), []).append(value)
        return User(name, uid, groups, extra)


def common_name(certificate: Mapping[str, Any]) -> str:
    """Of the subject of a certificate, as `ssl` tells it; empty when it has none."""
    return next((str(value) for part in certificate.get("subject", ()) for key, value in part if key == "commonName"), "")


def front_proxy(api: KubeClient) -> FrontProxy:
    """As the cluster says now. Raises as KubeClient.call, and Stalled for a cluster without an aggregation layer."""
    data: Mapping[str, str] = api.call("GET", CONFIG).get("data") or {}
    if not data.get("requestheader-client-ca-file"):
        raise Stalled(
            "NoFrontProxy", "the cluster names no authority of a front proxy: its API server must have --requestheader-client-ca-file"
        )

    def names(key: str) -> tuple[str, ...]:
        return tuple(str(name) for name in json.loads(data.get(f"requestheader-{key}") or "[]"))

    def headers(key: str) -> tuple[str, ...]:
        return tuple(name.lower() for name in names(key))

    return FrontProxy(
        data["requestheader-client-ca-file"],
        names("allowed-names"),
        headers("username-headers"),
        headers("uid-headers"),
        headers("group-headers"),
        headers("extra-headers-prefix"),
    )


def may(api: KubeClient, user: User, verb: str, resource: Mapping[str, str]) -> str:
    """Why not, as the cluster's authorizer says; "": it may. Asked anew each time: what is taken away from somebody counts at once. Raises
    as KubeClient.call."""
    spec = {"user": user.name, "groups": list(user.groups), "resourceAttributes": {"verb": verb, **resource}}
    spec |= {"uid": user.uid} if user.uid else {}
    spec |= {"extra": {key: list(values) for key, values in user.extra.items()}} if user.extra else {}
    body = {"apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview", "spec": spec}
    answer = api.call("POST", REVIEWS, body=body)["status"]
    return "" if answer.get("allowed") is True and not answer.get("denied") else str(answer.get("reason") or "no rule allows it")
