"""Authenticator: which pod sent a request. Readers: who else did, and whether he may."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Protocol

from knhk.model.faults import KnhkError

AUDIENCE, KEYS_AUDIENCE, ERASURES_AUDIENCE = "exchange.knhk.dev", "keys.knhk.dev", "erasures.knhk.dev"
POINT_LABEL, ENFORCE_LABEL, UNGUARDED_LABEL = "knhk.dev/point", "knhk.dev/enforce", "knhk.dev/unguarded"


class Denied(KnhkError):
    """The credentials are none, or of nobody who may ask."""


@dataclass(frozen=True)
class Caller:
    """A pod, and the point that it was injected for; both in `namespace`."""

    namespace: str
    pod: str
    uid: str
    name: str

    @property
    def point(self) -> str:
        """NAMESPACE/NAME."""
        return f"{self.namespace}/{self.name}"

    @property
    def uri(self) -> str:
        """Who it is in a client's certificate (formats/exchange.md)."""
        return f"spiffe://knhk.dev/ns/{self.namespace}/point/{self.name}/pod/{self.pod}"


class Acquaintance(Enum):
    """How a token is known that has no answer now. MET: it was somebody's; STRANGER: nobody asked for it, or long ago."""

    MET, STRANGER = "met", "stranger"


class Authenticator(Protocol):
    """Promises of every adapter. Default deny; safe from any thread; may block for an answer of the API server.
    Errors: Denied for what is nobody's, Waiting when it cannot be told now."""

    def remembered(self, token: str) -> Caller | Acquaintance:
        """What is known of a token without asking anybody: returns at once. Raises Denied for what was denied a moment ago, and for what is
        no token of a pod for us by its own words."""
        ...

    def caller(self, token: str) -> Caller:
        """The pod that a service account token of the adapter's audience is bound to."""
        ...

    def pods(self, point: str) -> Mapping[str, str]:
        """uid → name of the pods of a point that run and do not end."""
        ...

    def there(self, point: str) -> frozenset[str]:
        """uids of all pods of a point that exist, those that begin, end or have ended too."""
        ...


class NotAllowed(KnhkError):
    """It is known who asks, and he may not."""


class Readers(Protocol):
    """Promises of every adapter. Default deny; safe from any thread; what was said is believed for ten seconds at most.
    Errors: Denied, NotAllowed, Waiting when it cannot be told now."""

    def remembered(self, token: str, verb: str, namespace: str) -> str | None:
        """Who may use the subject keys of a namespace so, without asking anybody."""
        ...

    def reader(self, token: str, verb: str, namespace: str) -> str:
        """The same, asked now."""
        ...
