"""Packs loaded into this process: the same shared object that Envoy maps, bound to a data bundle, with the cold tier beside it."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from knhk.model.canonical import sha256_hex

if TYPE_CHECKING:
    from knhk_hot.pack import Binding, Decision
    from knhk_runtime.tiers.evaluator import Evaluator as ColdTier


@dataclass
class Evaluator:
    """A pack bound to a bundle. Not for several threads at once: the binding's scratch memory is its own."""

    plan: Mapping[str, Any]
    binding: Binding
    _cold: ColdTier | None = None

    def judge(self) -> ColdTier:
        """The cold tier for the plan, made on first use."""
        if self._cold is None:
            from knhk_runtime.tiers.evaluator import Evaluator as ColdTier

            self._cold = ColdTier(self.plan)
        return self._cold

    def tables(self, observations: Sequence[bytes]) -> list[Decision]:
        """What the tables decide of each observation, in one call."""
        return self.binding.decide_batch(observations)


def load(so: bytes, plan: Mapping[str, Any], bundle: bytes | None, folder: Path) -> Evaluator:
    """Map a verified shared object and bind it. `folder` (private, of the caller) keeps the file, named by its digest."""
    from knhk_hot.pack import Pack

    path = folder / f"{sha256_hex(so)}.so"
    if not path.exists():
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o500)
        with os.fdopen(handle, "wb") as file:
            file.write(so)
    return Evaluator(plan, Pack(path).bind(bundle))
