"""Packs are swapped A → B → A and a canary is aborted while requests wait for the cold tier."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from system_world import ADMIT, DENY, ENFORCED, PACK, Document, Traffic, World, assert_covered, fast_pack, until, with_text

from traffic import Request

CODES = 150
PATTERN = '"^[A-Z0-9][A-Z0-9/.-]{0,31}$"'
OTHER = '"^Z"'
GUARD = "shapes.CorrectionShape.correctsCode.pattern"
VERDICT = {201: ADMIT, 403: DENY}

pytestmark = [pytest.mark.server, pytest.mark.slow, pytest.mark.xdist_group("system"), pytest.mark.timeout(420)]


def slow(request: Request) -> Request:
    """An invoice that corrects many others: each code is matched by the cold tier, which takes long, but not for ever."""
    envelope: Document = json.loads(request.body)
    envelope["doc"]["preceding"] = [{"code": f"A{number}"} for number in range(CODES)]
    return Request(request.method, request.path, json.dumps(envelope).encode(), request.caller, True, "slow")


def slow_requests(world: World) -> Iterator[Request]:
    return (slow(request) for request in world.mix if request.kind == "right")


def admitting(version: str, step: int = 10) -> Document:
    """A pack that admits the slow invoices."""
    pack = fast_pack(version, shadow=10, step=step)
    pack["spec"]["rollout"]["analysis"] |= {"intended": [GUARD], "maxErrors": 1_000_000}
    return pack


def denying(version: str, step: int = 10) -> Document:
    """The same, but it denies the slow invoices."""
    return with_text(admitting(version, step), "shapes", PATTERN, OTHER)


def swaps_ns(world: World) -> list[int]:
    """When the agent gave Envoy another configuration, nanoseconds since 1970."""
    found = []
    for line in world.agent_log.read_text().splitlines():
        event: dict[str, Any] = json.loads(line) if line.startswith("{") else {}
        if event.get("event") == "applied":
            found.append(int(datetime.fromisoformat(event["time"]).timestamp() * 1e9))
    return found


@pytest.mark.failure("operator", "act")
def test_swaps_while_requests_are_parked(world: World, tmp_path: Path) -> None:
    """Requests that wait for the cold tier while packs are swapped, aborted and swapped back get the verdict of the pack that they met."""
    world.apply(admitting("1.0.0"))
    with Traffic(world.callers, world.sent, slow_requests(world), rate_s=200):
        verdicts = {world.until_phase("1.0.0", "Live")["digest"]: ADMIT}
        world.apply(denying("1.0.1", step=1_000_000))
        canary = until(lambda: (lambda r: r if r.get("arm") == "Canary" else {})(world.revision()), "1.0.1 is in its canary")
        verdicts[canary["digest"]] = DENY
        before = len(world.answers)
        until(lambda: any(answer.status == 403 for answer in world.answers[before:]), "the canary denies")
        world.knhk("pack", "abort", PACK)
        world.until_phase("1.0.1", "Aborted")
        verdicts[world.roll(denying("1.0.2"))["digest"]] = DENY
        verdicts[world.roll(admitting("1.0.3"))["digest"]] = ADMIT
    rings = until(lambda: (lambda r: r if len(r) == 1 else [])(world.rings()), "the rings of former configurations are gone")
    assert len(rings) == 1
    world.until_logged()
    world.down()
    assert_covered(world)
    assert_verdicts_of_their_pack(world, {digest.removeprefix("sha256:")[:40]: verdict for digest, verdict in verdicts.items()})
    world.verify()


def assert_verdicts_of_their_pack(world: World, verdicts: dict[str, int]) -> None:
    """No answer but 201, 403 and 202; each verdict is that of the pack in its leaf; some requests were parked across each swap's like."""
    answers = {answer.receipt: answer for answer in world.answers if answer.request.kind == "slow"}
    assert {answer.status for answer in answers.values()} <= {201, 202, 403}
    swaps, across = swaps_ns(world), 0
    for leaf in world.leaves():
        answer = answers.get(leaf.receipt_id.hex())
        if answer is None or leaf.mode != ENFORCED or answer.status not in VERDICT or not any(leaf.pack):
            continue
        assert VERDICT[answer.status] == leaf.verdict == verdicts[leaf.pack.hex()], (
            f"{answer.receipt}: {answer.status} of pack {leaf.pack.hex()}"
        )
        across += sum(leaf.time_ns < swap < answer.at_ns for swap in swaps)
    assert across >= len(swaps) // 2, f"{across} requests were parked across {len(swaps)} swaps"
