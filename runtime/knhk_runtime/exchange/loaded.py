"""Packs in this process, for the cold tier: by the 20 bytes that leaves carry and the bundle that O names."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from knhk_runtime.tiers.decide import Binding
from knhk_runtime.tiers.pool import WarmEvaluator

KEPT = 8


class CountedBinding(Binding, Protocol):
    """A binding that names what its pack counts."""

    @property
    def predicates(self) -> tuple[str, ...]: ...


Opener = Callable[[Path, str, bytes | None], CountedBinding]
NO_BUNDLE = bytes(32)


@dataclass(frozen=True)
class LoadedPack:
    """A pack bound to a bundle. `plan_digest` names the plan in the evaluator."""

    pack: bytes
    bundle: bytes
    label: str
    binding: CountedBinding
    plan: Mapping[str, Any]
    plan_digest: str

    @property
    def guard_names(self) -> tuple[str, ...]:
        return tuple(guard["id"] for guard in self.plan["guards"])


class LoadedPacks:
    """The packs of the last documents; a request that was parked under an earlier one still finds its own. Safe from any thread."""

    def __init__(self, evaluator: WarmEvaluator, opener: Opener) -> None:
        self._evaluator = evaluator
        self._open = opener
        self._packs: OrderedDict[tuple[bytes, bytes], LoadedPack] = OrderedDict()
        self._lock = threading.Lock()

    def load(
        self, digest: str, label: str, so: tuple[Path, str], plan: tuple[str, Mapping[str, Any]], bundle: tuple[bytes, bytes] | None
    ) -> None:
        """`digest` of the image; `bundle`: (its SHA-256, its bytes). Raises ShapeError, Corrupt and OSError; then nothing changes."""
        key = (bytes.fromhex(digest.removeprefix("sha256:"))[:20], bundle[0] if bundle else NO_BUNDLE)
        with self._lock:
            if key in self._packs:
                self._packs.move_to_end(key)
                return
        self._evaluator.load(*plan)
        binding = self._open(*so, bundle[1] if bundle else None)
        loaded = LoadedPack(key[0], key[1], label, binding, plan[1], plan[0])
        with self._lock:
            self._packs[key] = loaded
            gone = [self._packs.popitem(last=False)[1] for _ in range(len(self._packs) - KEPT)]
            kept = {pack.plan_digest for pack in self._packs.values()}
        for pack in gone:
            if pack.plan_digest not in kept:
                self._evaluator.forget(pack.plan_digest)

    def find(self, pack: bytes, bundle: bytes) -> LoadedPack | None:
        with self._lock:
            return self._packs.get((pack, bundle))

    def guard_names(self, pack: bytes) -> tuple[str, ...]:
        """Names of the guards of a pack, whatever its bundle; empty when it is not loaded."""
        with self._lock:
            return next((loaded.guard_names for loaded in self._packs.values() if loaded.pack == pack), ())

    def predicates(self, pack: bytes) -> tuple[str, ...]:
        """Predicates of a pack in the order of its heat; empty when it is not loaded."""
        with self._lock:
            return next((loaded.binding.predicates for loaded in self._packs.values() if loaded.pack == pack), ())
