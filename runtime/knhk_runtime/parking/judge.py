"""Judging the arms of a parked request: blocking, bounded by the evaluator's budget, run on a worker thread."""

from __future__ import annotations

import json

from knhk_runtime.exchange.loaded import LoadedPacks
from knhk_runtime.log import log
from knhk_runtime.outbox.records import DECISION, REFUSED, UNAVAILABLE
from knhk_runtime.parking.decisions import Judged
from knhk_runtime.parking.message import DECIDE, DECIDED, Parked, ParkedArm, bundle_of
from knhk_runtime.parking.message import REFUSED as STATE_REFUSED
from knhk_runtime.tiers.decide import Decided, decide
from knhk_runtime.tiers.errors import InputRefused, Undecided
from knhk_runtime.tiers.pool import PooledJudge, WarmEvaluator

CLASS_NONE, CLASS_R1 = 0, 1
ADMIT, DENY = 1, 2
_NO_PACK = bytes(20)
_NONE = b"[]"
VERDICT_AT = 4  # of A


class ArmJudge:
    """Decides arms by the loaded packs."""

    def __init__(self, loaded: LoadedPacks, evaluator: WarmEvaluator) -> None:
        self._loaded = loaded
        self._evaluator = evaluator

    def judge(self, parked: Parked) -> tuple[Judged, ...]:
        """One Judged for each arm; kind UNAVAILABLE where no decision was possible."""
        return tuple(self._arm(arm, parked.o) for arm in parked.arms)

    def _arm(self, arm: ParkedArm, o: bytes) -> Judged:
        if arm.state == DECIDE:
            return self.decide(arm.pack, o)
        return by_shim(arm)

    def decide(self, pack: bytes, o: bytes) -> Judged:
        """One pack's decision about O."""
        try:
            made = self._decide(pack, o)
        except InputRefused:
            return Judged(pack, REFUSED, CLASS_NONE, DENY, b"", _NONE)
        except Undecided as error:
            log("undecided", pack=pack.hex(), fault=str(error))
            return Judged(pack, UNAVAILABLE, CLASS_NONE, 0, b"", _NONE)
        violations = json.dumps(made.violations, ensure_ascii=False).encode()
        return Judged(pack, DECISION, made.klass, made.verdict, made.a, violations)

    def _decide(self, pack: bytes, o: bytes) -> Decided:
        loaded = self._loaded.find(pack, bundle_of(o))
        if loaded is None:
            raise Undecided("the pack is not loaded with this data bundle")
        return decide(loaded.binding, PooledJudge(self._evaluator, loaded.plan_digest, loaded.plan), o)

    def label(self, pack: bytes, o: bytes) -> str:
        """NAMESPACE/NAME@VERSION of a loaded pack, for problem+json."""
        loaded = self._loaded.find(pack, bundle_of(o))
        return loaded.label if loaded else ""


def by_shim(arm: ParkedArm) -> Judged:
    """An arm that the shim has settled: the tables decided (class R1), or no pack did (class none)."""
    if arm.state == DECIDED:
        klass = CLASS_NONE if arm.pack == _NO_PACK else CLASS_R1
        return Judged(arm.pack, DECISION, klass, arm.a[VERDICT_AT], arm.a, _NONE)
    if arm.state == STATE_REFUSED:
        return Judged(arm.pack, REFUSED, CLASS_NONE, DENY, b"", _NONE)
    return Judged(arm.pack, UNAVAILABLE, CLASS_NONE, 0, b"", _NONE)
