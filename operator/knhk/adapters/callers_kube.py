"""Authenticator by the API server: TokenReview, and the pod that the token is bound to."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from knhk.adapters.kube_client import KubeClient
from knhk.model.faults import NotFound, Refused
from knhk.ports.caller import AUDIENCE, ENFORCE_LABEL, POINT_LABEL, UNGUARDED_LABEL, Acquaintance, Caller, Denied
from knhk.ports.clock import Clock

BELIEVED_S, DENIED_S, LISTED_S, SKEW_S = 60.0, 10.0, 5.0, 60.0
REMEMBERED = 20_000
MAX_TOKEN = 8192
_REVIEWS = "/apis/authentication.k8s.io/v1/tokenreviews"
_EXTRA = "authentication.kubernetes.io/"
_ACCOUNT = "system:serviceaccount:"
T = TypeVar("T")


@dataclass(frozen=True)
class _Answer(Generic[T]):
    """Who it is, or why it is nobody."""

    found: T
    until_ns: int


@dataclass(frozen=True)
class _Listed:
    running: Mapping[str, str]
    there: frozenset[str]
    until_ns: int


class KubeAuthenticator:
    """`knhk.ports.caller.Authenticator`. Remembers digests of tokens, never tokens; what was denied takes no room from what is believed."""

    def __init__(self, client: KubeClient, clock: Clock, audience: str = AUDIENCE) -> None:
        self._client, self._clock, self._audience = client, clock, audience
        self._believed: OrderedDict[bytes, _Answer[Caller]] = OrderedDict()
        self._denied: OrderedDict[bytes, _Answer[str]] = OrderedDict()
        self._listed: dict[str, _Listed] = {}
        self._enforced: dict[str, tuple[bool, int]] = {}
        self._lock = threading.Lock()

    def remembered(self, token: str) -> Caller | Acquaintance:
        """See the port."""
        name, now = _digest(token), self._clock.monotonic_ns()
        with self._lock:
            believed, denied = self._believed.get(name), self._denied.get(name)
        if believed is not None:
            return believed.found if believed.until_ns > now else Acquaintance.MET
        if denied is not None and denied.until_ns > now:
            raise Denied(denied.found)
        _must_be_for_us(token, self._audience, self._clock.now_ns())
        return Acquaintance.STRANGER

    def caller(self, token: str) -> Caller:
        """See the port."""
        known = self.remembered(token)
        if isinstance(known, Caller):
            return known
        name, now = _digest(token), self._clock.monotonic_ns()
        try:
            found = self._bound_pod(reviewed(self._client, token, self._audience))
        except (Denied, Refused) as denied:
            with self._lock:
                self._believed.pop(name, None)
                _remember(self._denied, name, _Answer(str(denied), now + int(DENIED_S * 1e9)))
            raise Denied(str(denied)) from denied
        with self._lock:
            _remember(self._believed, name, _Answer(found, now + int(BELIEVED_S * 1e9)))
        return found

    def pods(self, point: str) -> Mapping[str, str]:
        """See the port."""
        return self._list(point).running

    def there(self, point: str) -> frozenset[str]:
        """See the port."""
        return self._list(point).there

    def _list(self, point: str) -> _Listed:
        now, found = self._clock.monotonic_ns(), self._listed.get(point)
        if found is None or found.until_ns <= now:
            namespace, _, name = point.partition("/")
            query = {"labelSelector": f"{POINT_LABEL}={name}"}
            rows = self._client.call("GET", f"/api/v1/namespaces/{namespace}/pods", query)["items"]
            running = {row["metadata"]["uid"]: row["metadata"]["name"] for row in rows if _runs(row)}
            found = _Listed(running, frozenset(row["metadata"]["uid"] for row in rows), now + int(LISTED_S * 1e9))
            self._listed[point] = found
        return found

    def _is_enforced(self, namespace: str) -> bool:
        """Whether pods there are what admission let in: elsewhere whoever may make pods may give them any label."""
        now = self._clock.monotonic_ns()
        found, until_ns = self._enforced.get(namespace, (False, now))
        if until_ns <= now:
            try:
                labels = self._client.call("GET", f"/api/v1/namespaces/{namespace}")["metadata"].get("labels") or {}
            except NotFound:
                labels = {}
            found = labels.get(ENFORCE_LABEL) == "true"
            while len(self._enforced) >= REMEMBERED:
                self._enforced.pop(next(iter(self._enforced)))
            self._enforced[namespace] = found, now + int(DENIED_S * 1e9)
        return found

    def _bound_pod(self, user: Mapping[str, Any]) -> Caller:
        account, extra = str(user.get("username", "")), user.get("extra") or {}
        named: list[list[str]] = [extra.get(f"{_EXTRA}{what}") or [] for what in ("pod-name", "pod-uid")]
        if not account.startswith(_ACCOUNT) or not all(len(rows) == 1 for rows in named):
            raise Denied("the token must be of a service account, bound to a pod")
        namespace, (pod, uid) = account.removeprefix(_ACCOUNT).partition(":")[0], (rows[0] for rows in named)
        try:
            document = self._client.call("GET", f"/api/v1/namespaces/{namespace}/pods/{pod}")
        except NotFound:
            raise Denied(f"the pod {namespace}/{pod} must be there") from None
        metadata: Mapping[str, Any] = document["metadata"]
        labels: Mapping[str, str] = metadata.get("labels") or {}
        point = labels.get(POINT_LABEL)
        if metadata["uid"] != uid:
            raise Denied(f"the pod {namespace}/{pod} must be the one that the token was given to")
        if not point:
            raise Denied(f"the pod {namespace}/{pod} must have label {POINT_LABEL}")
        if UNGUARDED_LABEL in labels:
            raise Denied(f"the pod {namespace}/{pod} must not have label {UNGUARDED_LABEL}: nobody saw to it that it has its guard")
        if not self._is_enforced(namespace):
            raise Denied(f"the namespace {namespace} must have label {ENFORCE_LABEL}=true: elsewhere anybody may label a pod")
        return Caller(namespace, pod, uid, str(point))


def reviewed(client: KubeClient, token: str, audience: str) -> Mapping[str, Any]:
    """The user of a token that is good for an audience, as the API server says. Raises Denied, and as KubeClient.call."""
    review = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": {"token": token, "audiences": [audience]}}
    status: Mapping[str, Any] = client.call("POST", _REVIEWS, body=review).get("status") or {}
    if status.get("authenticated") is not True or audience not in (status.get("audiences") or ()):
        raise Denied(f"the token must be a valid one of audience {audience}")
    user: Mapping[str, Any] = status.get("user") or {}
    return user


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode(errors="surrogateescape")).digest()  # what is no text in a header comes so


def _remember(answers: OrderedDict[bytes, _Answer[T]], name: bytes, answer: _Answer[T]) -> None:
    answers[name] = answer
    answers.move_to_end(name)
    while len(answers) > REMEMBERED:
        answers.popitem(last=False)


def _must_be_for_us(token: str, audience: str, now_ns: int) -> None:
    """Raises Denied for what the API server could not find good: it is no JWT (RFC 7519), of another audience, over, or of no pod. Who it
    is nobody believes of it."""
    try:
        if len(token) > MAX_TOKEN:
            raise ValueError("too long")
        _, claims, _ = token.split(".")
        said = json.loads(base64.b64decode(claims + "=" * (-len(claims) % 4), b"-_", validate=True))
        audiences = said["aud"] if isinstance(said["aud"], list) else [said["aud"]]
        fits = audience in audiences and "pod" in said["kubernetes.io"] and said["exp"] > now_ns / 1e9 - SKEW_S
    except (ValueError, KeyError, TypeError, RecursionError):
        raise Denied("the token must be one of a service account, bound to a pod") from None
    if not fits:
        raise Denied(f"the token must be one of audience {audience}, bound to a pod, and not be over")


def _runs(pod: Mapping[str, Any]) -> bool:
    return (pod.get("status") or {}).get("phase") == "Running" and "deletionTimestamp" not in pod["metadata"]
