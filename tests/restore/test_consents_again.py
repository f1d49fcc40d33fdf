"""Consents of a lost control plane: what the log recorded last counts, nothing is recorded twice, what nobody gives is told by tag."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from git_repo import Repo
from restore_house import House, quiet
from rollout_world import point

from knhk.model.consents import consent_name
from knhk.model.resource import Key
from knhk.wiring.restore import restore_home

pytestmark = [pytest.mark.xdist_group("restore"), pytest.mark.server]
PURPOSE = "https://example.com/recruiting"
ADA, BEA, CAM, DAN = (digit * 64 for digit in "abcd")
CONSENT = """apiVersion: knhk.dev/v1alpha1
kind: Consent
metadata: {{name: {name}, namespace: erp}}
spec: {{subject: "{tag}", purpose: "{purpose}", state: {state}, controller: Example Ltd, actor: "local:kim"}}
"""


def consent(tag: str, state: str = "Granted") -> str:
    return CONSENT.format(name=consent_name(tag, PURPOSE), tag=tag, purpose=PURPOSE, state=state)


def key(tag: str) -> Key:
    return Key("Consent", "erp", consent_name(tag, PURPOSE))


def recorded(world: Any) -> list[str]:
    return [kind for kind in world.kinds() if kind.startswith("Consent")]


def test_consents_stand_as_they_were_recorded_last(tmp_path: Path) -> None:
    house = House(tmp_path / "house", Repo(tmp_path / "repo"), [])
    world = house.start()
    house.commit(point(), *(consent(tag) for tag in (ADA, BEA, CAM, DAN)))
    world.until(lambda: len(recorded(world)) == 4)
    world.apply(consent(CAM, "Withdrawn"), consent(DAN, "Withdrawn"))
    world.until(lambda: len(recorded(world)) == 6)
    world.settle()
    entries, granted = len(world.log.entries), world.get(key(BEA)).status["index"]
    world.log.close()
    house.commit_only(point())
    given = tmp_path / "consents.yaml"
    given.write_text("---\n".join((consent(ADA), consent(CAM))))  # a copy from before the withdrawals, which lacks some
    done = restore_home(house.home, house.left(keys=house.home.keys, files=(given,)), quiet)

    assert [(row["subject"], row["purpose"], row["index"]) for row in done.plan.consents] == [(BEA, PURPOSE, granted)]
    assert [note for note in done.plan.notes if "is Withdrawn, as entry" in note and consent_name(CAM, PURPOSE) in note]
    world = house.start(house.opened())
    world.run(12)
    states = {resource.spec["subject"]: resource.status["state"] for resource in world.store.list("Consent").resources}
    assert states == {ADA: "Granted", CAM: "Withdrawn", DAN: "Withdrawn"}
    assert not [kind for kind in world.kinds()[entries:] if kind.startswith("Consent")]
    assert world.get(key(ADA)).status["index"] < entries
    world.log.close()
