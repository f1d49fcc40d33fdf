"""Packs that ask for approvals and promise durability, at a point that seals; and who approves."""

from __future__ import annotations

from typing import Any

from rollout_world import PACK, World, pack, point

from knhk.api.conditions import ready_of
from knhk.model.resource import Key, Resource

P1 = Key("EnforcementPoint", "erp", "p1")
ASKS = "  rollout:\n    approvals: [{stage: production, notAuthor: false}]\n"
SEALED = "  maxUnwitnessedSeconds: 60\n  privacy: {subjects: [{attribute: who}]}\n"


def asking(version: str, durability: str = "log", **more: Any) -> str:
    return at(pack(version, **more), durability).replace("  rollout:\n", ASKS)


def at(text: str, durability: str) -> str:
    return text + f"  receipts: {{durability: {durability}}}\n"


def approve(world: World, revision: str, person: str = "ada") -> None:
    spec = {"pack": "orders", "revision": revision, "stage": "production", "approver": f"local:{person}"}
    world.store.apply(Resource("Approval", "erp", f"{person}-{revision[7:15]}", spec))


def reason(world: World, key: Key = PACK) -> str:
    return str(ready_of(world.get(key).status).get("reason", ""))


def events(world: World, kind: str = "Loosened") -> list[dict[str, Any]]:
    return [s["predicate"] for s in world.log.statements() if s["predicate"]["kind"] == kind]


def live_world() -> World:
    """1.0.0 is live at the level log, approved, at a point that seals."""
    world = World()
    world.apply(point() + SEALED, asking("1.0.0"))
    world.until(lambda: reason(world) == "Unapproved")
    approve(world, world.get().status["revision"]["digest"])
    world.until_phase("Live")
    world.until(lambda: reason(world, P1) == "Running")
    return world
