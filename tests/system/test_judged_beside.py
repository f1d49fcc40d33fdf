"""A candidate that says the same but costs more goes back by itself, and the status says which tolerance was crossed."""

from __future__ import annotations

import pytest
from system_world import Document, World, fast_pack, until, with_text

pytestmark = [pytest.mark.server, pytest.mark.slow, pytest.mark.xdist_group("system"), pytest.mark.timeout(300)]


def slower_tier(version: str) -> Document:
    """A pattern on what every invoice has: nothing is denied by it, and the tables cannot decide it."""
    shape, pattern = "inv:InvoiceShape a sh:NodeShape ;\n", '  sh:property [ sh:path inv:currency ; sh:pattern "^([A-Z])([A-Z]+)$" ] ;\n'
    return with_text(fast_pack(version), "shapes", shape, shape + pattern)


def test_a_candidate_that_parks_everything_is_rolled_back_by_itself(world: World) -> None:
    """It denies nothing, so only the share of R1 tells."""
    with world.traffic(rate_s=80.0):
        stable = world.roll(fast_pack("1.0.0"))
        gone = world.roll(slower_tier("1.1.0"), "RolledBack")
    (finding,) = gone["findings"]
    assert (finding["tolerance"], finding["threshold"]) == ("maxR1Drop", "0.1")
    assert float(finding["value"]) > 0.1
    assert finding["pairs"] > 0
    assert gone["reason"].startswith(f"maxR1Drop is {finding['value']}, must be 0.1 at most")
    until(lambda: world.statistics()["running"]["candidate"] is None, "the agent runs without the candidate")
    assert world.statistics()["running"]["stable"] == stable["digest"]
