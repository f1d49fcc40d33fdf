"""What only a leader may do: every call that changes something outside is preceded by a look at the lease."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from knhk.reconcilers.context import Ports

ACTS: Mapping[str, frozenset[str]] = {
    "store": frozenset({"create", "update", "update_status", "apply", "delete", "release", "record"}),
    "log": frozenset({"append_event", "append_events", "append_leaves"}),
    "registry": frozenset({"publish", "remove", "collect_garbage"}),
    "builder": frozenset({"pack", "data", "retire"}),
    "fleet": frozenset({"publish_document", "publish_keys", "publish_config", "publish_bootstrap", "publish_consents"}),
    "placement": frozenset({"ensure", "remove"}),
}
FORGE = frozenset({"report", "comment", "revert"})


def fenced(ports: Ports, check: Callable[[], None]) -> Ports:
    """The same ports; each act calls `check` first, which raises Deposed."""
    fences: dict[str, Any] = {name: fence(getattr(ports, name), acts, check) for name, acts in ACTS.items()}
    return replace(ports, **fences)


def fence(port: object, acts: frozenset[str], check: Callable[[], None]) -> Any:
    """One port, whose `acts` call `check` first: for what works beside the loop, and may be in the middle of it when the lease is lost."""
    return _Fence(port, acts, check)


def always() -> None:
    """The check of a process that is alone."""


class _Fence:
    """A port with a guard before its acts."""

    def __init__(self, inner: object, acts: frozenset[str], check: Callable[[], None]) -> None:
        self._inner, self._acts, self._check = inner, acts, check

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._inner, name)
        if name not in self._acts:
            return found

        def act(*args: Any, **kwargs: Any) -> Any:
            self._check()
            return found(*args, **kwargs)

        return act
