"""What was in force at an earlier time, from policy events in the log's order."""

from __future__ import annotations

from typing import Any

from knhk.lockchain.events import PolicyEvent
from knhk.reconcilers.history import Rolling, state_at

ONE, TWO = "sha256:" + "1" * 64, "sha256:" + "2" * 64


def pack(kind: str, at: str, version: str, digest: str, generation: int = 1, **more: Any) -> PolicyEvent:
    named = {"namespace": "erp", "name": "orders", "version": version, "digest": digest}
    evidence = {"generation": generation}
    return PolicyEvent(kind, (f"pack/erp/orders@{version}", digest[7:]), "knhk", at, pack=named, evidence=evidence, **more)


def point(at: str, mode: str, **said: Any) -> PolicyEvent:
    return PolicyEvent("PointChanged", ("point/erp/p", "0" * 64), "knhk", at, point="erp/p", evidence={"mode": mode, **said})


EVENTS = list(
    enumerate(
        [
            pack("RolloutStarted", "2026-11-26T10:00:00Z", "1.0.0", ONE, stage="production", arm="Shadow", step=0, weight=0),
            point("2026-11-26T10:00:01Z", "Shadow", candidate=ONE, flags={"fast": "on"}),
            pack("Promoted", "2026-11-26T10:05:00Z", "1.0.0", ONE),
            pack("RolloutStarted", "2026-11-26T11:00:00Z", "1.1.0", TWO, 2, stage="canary", arm="Shadow", step=0, weight=0),
            pack("StepAdvanced", "2026-11-26T11:10:00Z", "1.1.0", TWO, 2, stage="canary", arm="Canary", step=1, weight=100),
            pack("Aborted", "2026-11-26T11:20:00Z", "1.1.0", TWO, 2, reason="by hand"),
            pack("Compiled", "2026-11-26T11:30:00Z", "1.1.0", TWO, 3),
            pack("RolledBack", "2026-11-26T12:00:00Z", "1.1.0", TWO, 3, reason="new denials"),
            pack("Compiled", "2026-11-26T12:30:00Z", "1.2.0", ONE, 4),
        ]
    )
)


def test_what_was_live_and_on_its_way_is_told_for_each_moment() -> None:
    then = state_at(EVENTS, "2026-11-26T10:04:00Z")
    assert (then.events, then.last, then.packs["erp/orders"].version) == (2, 1, "")
    assert (then.points["erp/p"].mode, then.points["erp/p"].candidate, then.points["erp/p"].flags) == ("Shadow", ONE, {"fast": "on"})
    then = state_at(EVENTS, "2026-11-26T11:15:00Z")
    orders = then.packs["erp/orders"]
    assert (orders.version, orders.digest, orders.index) == ("1.0.0", ONE, 2)
    assert orders.rolling == Rolling("1.1.0", TWO, "canary", "Canary", 1, 100, 4)
    assert state_at(EVENTS, "2026-11-26T09:00:00Z").packs == {}


def test_an_abort_is_denied_until_the_spec_changes_and_a_rollback_for_ever() -> None:
    denied = {at: state_at(EVENTS, f"2026-11-26T{at}:00Z").packs["erp/orders"].denied for at in ("11:25", "11:45", "12:10", "12:45")}
    assert denied["11:25"] == {TWO: "Aborted: by hand"}
    assert denied["11:45"] == {}
    assert denied["12:10"] == denied["12:45"] == {TWO: "RolledBack: new denials"}
    assert state_at(EVENTS, "2026-11-26T12:45:00Z").packs["erp/orders"].rolling is None
