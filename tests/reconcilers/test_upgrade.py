"""Objects that an earlier version stored: an API server shows them with the defaults of fields that came later, and nobody changed them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from rollout_world import STEPS, World, pack, point

from knhk.api import parse
from knhk.model.canonical import canonical, sha256_hex
from knhk.model.resource import Resource
from knhk.reconcilers.provenance import spec_digest

BEFORE = ("version", "sources", "routes", "targets", "dataBundles")  # what a revision was made of, as it was written then


def before(spec: Mapping[str, Any]) -> dict[str, Any]:
    """A spec of `pack` as it was stored before targets had stages and steps had waves."""
    steps = [{name: row[name] for name in ("weight", "minPairs")} for row in spec["rollout"]["steps"]]
    targets = [{"point": row["point"]} for row in spec["targets"]]
    return {**spec, "targets": targets, "rollout": {**spec["rollout"], "steps": steps}}


def shown(text: str) -> Resource:
    return parse(text, "pack.yaml")[0]


def test_what_a_commit_brought_before_the_upgrade_is_as_it_was_brought() -> None:
    """Else its next commit, and its removal, would be refused: it was changed by hand."""
    found = shown(pack("1.0.0"))
    assert found.spec != before(found.spec)
    assert spec_digest(found) == sha256_hex(canonical(before(found.spec)))


@pytest.mark.parametrize(
    ("old", "new"), [("{point: p1}", "{point: p1, stage: canary}"), (STEPS, STEPS.replace("minPairs: 20}", "minPairs: 20, wave: 50}", 1))]
)
def test_what_the_new_fields_say_counts(old: str, new: str) -> None:
    text = pack("1.0.0")
    assert spec_digest(shown(text)) != spec_digest(shown(text.replace(old, new)))


def test_a_rollout_that_began_before_the_upgrade_goes_on_when_its_deadline_is_edited() -> None:
    world = World()
    world.apply(point(), pack("1.0.0"))
    world.until_phase("Live")
    world.apply(pack("1.1.0"))
    world.until(lambda: world.get().status["revision"].get("arm") == "Canary")
    old = before(world.get().spec)
    assert world.get().status["revision"]["inputs"] == sha256_hex(canonical({name: old[name] for name in BEFORE}))
    world.apply(pack("1.1.0", deadline=900))
    world.run(2)
    assert world.get().status["revision"]["arm"] == "Canary"
