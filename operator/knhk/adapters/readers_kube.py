"""Readers by the API server: who a token is of (TokenReview), and what its authorizer says (SubjectAccessReview)."""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict

from knhk.adapters.callers_kube import MAX_TOKEN, REMEMBERED, reviewed
from knhk.adapters.front_proxy import User, may
from knhk.adapters.kube_client import KubeClient
from knhk.model.faults import Refused
from knhk.ports.caller import KEYS_AUDIENCE, Denied, NotAllowed
from knhk.ports.clock import Clock

BELIEVED_S = 10.0
GROUP, RESOURCE = "knhk.dev", "subjectkeys"
_Asked = tuple[bytes, str, str]


class KubeReaders:
    """`knhk.ports.caller.Readers`. Remembers digests of tokens, never tokens; what was denied is asked again."""

    def __init__(self, client: KubeClient, clock: Clock, audience: str = KEYS_AUDIENCE) -> None:
        self._client, self._clock, self._audience = client, clock, audience
        self._believed: OrderedDict[_Asked, tuple[str, int]] = OrderedDict()
        self._lock = threading.Lock()

    def remembered(self, token: str, verb: str, namespace: str) -> str | None:
        """See the port."""
        with self._lock:
            found = self._believed.get(_asked(token, verb, namespace))
        return found[0] if found is not None and found[1] > self._clock.monotonic_ns() else None

    def reader(self, token: str, verb: str, namespace: str) -> str:
        """See the port."""
        now = self._clock.monotonic_ns()
        if len(token) > MAX_TOKEN or not token.isprintable() or not token.isascii():
            raise Denied("the token must be one of the API server")
        try:
            told = reviewed(self._client, token, self._audience)
        except Refused as refused:
            raise Denied(str(refused)) from refused
        user = User(str(told.get("username", "")), str(told.get("uid", "")), tuple(told.get("groups") or ()), told.get("extra") or {})
        resource = {"group": GROUP, "resource": RESOURCE, "namespace": namespace}
        if why := may(self._client, user, verb, resource):
            raise NotAllowed(
                f'User "{user.name}" cannot {verb} resource "{RESOURCE}" in API group "{GROUP}" in the namespace "{namespace}": {why}'
            )
        with self._lock:
            self._believed[_asked(token, verb, namespace)] = user.name, now + int(BELIEVED_S * 1e9)
            while len(self._believed) > REMEMBERED:
                self._believed.popitem(last=False)
        return user.name


def _asked(token: str, verb: str, namespace: str) -> _Asked:
    return hashlib.sha256(token.encode(errors="surrogateescape")).digest(), verb, namespace
