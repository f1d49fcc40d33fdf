"""Packs loaded into this process: the same shared object that Envoy maps, bound to a data bundle, with the cold tier beside it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import Any

from knhk.model.faults import Corrupt
from knhk_hot.pack import Binding, Decision, Pack, PackError
from knhk_runtime.tiers.errors import InputRefused
from knhk_runtime.tiers.evaluator import Evaluator as ColdTier


class Evaluator:
    """A pack bound to a bundle; a `Binding` of knhk_runtime.tiers.decide, its refusals as InputRefused. Safe from any thread."""

    def __init__(self, plan: Mapping[str, Any], binding: Binding) -> None:
        self.plan = plan
        self._binding = binding

    @cached_property
    def judge(self) -> ColdTier:
        """The cold tier for the plan, made on first use. Raises ShapeError."""
        return ColdTier(self.plan)

    def decide(self, o: bytes) -> Decision:
        """What the tables decide of one observation."""
        return self._binding.decide(o)

    def tables(self, observations: Sequence[bytes]) -> list[Decision]:
        """What the tables decide of each observation, in one crossing into C."""
        return self._binding.decide_batch(observations)

    def graph(self, o: bytes) -> bytes:
        """The Δ as N-Triples. Raises InputRefused."""
        with _translated():
            return self._binding.graph(o)

    def explain(self, o: bytes, a: bytes) -> list[dict[str, Any]]:
        """Why guards failed. Raises InputRefused."""
        with _translated():
            return list(self._binding.explain(o, a))


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except PackError as error:
        raise InputRefused(error.status, str(error)) from error


def load(so: bytes, plan: Mapping[str, Any], bundle: bytes | None) -> Evaluator:
    """Map a verified shared object and bind it. Raises Corrupt when the object or the bundle is refused."""
    try:
        return Evaluator(plan, Pack.load(so).bind(bundle))
    except PackError as error:
        raise Corrupt("pack" if bundle is None else "pack or data bundle", str(error)) from error
