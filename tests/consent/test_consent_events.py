"""Consents as policy events: what the log says, when, and of whom."""

from __future__ import annotations

import hashlib
import json
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
from memory import MemoryStore
from rollout_world import World

from knhk.cli import main
from knhk.model.canonical import canonical
from knhk.model.consents import base_bytes, base_records, consent_name, masks_of
from knhk.model.faults import Refused
from knhk.model.resource import Key, Resource
from knhk.model.subjects import tag_of
from knhk.wiring import consenting
from knhk.wiring.consenting import Desk
from knhk.wiring.home import Home
from knhk.wiring.subject_key import Made

VECTORS = json.loads((Path(__file__).parents[2] / "formats" / "vectors" / "consent.json").read_bytes())
PURPOSE = "https://example.com/purposes/recruiting"
TAG = tag_of(bytes(32), "c-117")
NAME = consent_name(TAG, PURPOSE)
KEY = Key("Consent", "erp", NAME)
CONSENT = """apiVersion: knhk.dev/v1alpha1
kind: Consent
metadata: {{name: {name}, namespace: erp}}
spec:
  subject: {tag}
  purpose: {purpose}
  state: {state}
  controller: Example Ltd
  actor: {actor}
"""


def consent(state: str, actor: str = "local:ada", tag: str = TAG) -> str:
    return CONSENT.format(name=consent_name(tag, PURPOSE), tag=tag, purpose=PURPOSE, state=state, actor=actor)


def events(world: World) -> list[dict[str, Any]]:
    return [one for one in world.log.statements() if one["predicate"]["kind"].startswith("Consent")]


def is_recorded(world: World, state: str) -> bool:
    return condition(world) == "True" and world.get(KEY).status.get("state") == state


def condition(world: World) -> str:
    return next((str(c["status"]) for c in world.get(KEY).status.get("conditions", ()) if c["type"] == "Ready"), "")


@pytest.mark.parametrize("row", VECTORS["tags"], ids=lambda row: row["tag"][:8])
def test_a_tag_is_what_another_program_makes_of_key_and_name(row: dict[str, str]) -> None:
    assert tag_of(bytes.fromhex(VECTORS["key"]), row["subject"]) == row["tag"]


def test_a_base_is_what_the_format_says() -> None:
    rows = {bytes.fromhex(tag): (granted, withdrawn) for tag, granted, withdrawn in VECTORS["base"]["rows"]}
    data = bytes.fromhex(VECTORS["base"]["hex"])
    assert base_bytes(rows.items()) == data
    assert base_records(data) == rows
    for wrong in (data[:-1], data[24:48] + data[:24], data[:24] * 2):
        with pytest.raises(ValueError, match="must "):
            base_records(wrong)


def test_masks_have_a_bit_for_each_purpose_of_the_point_and_withdrawn_wins() -> None:
    bits = {"a:2": 1, "a:3": 2, "a:9": 4}
    standing = [("a:1", "Granted"), ("a:2", "Withdrawn"), ("a:3", "Granted"), ("a:9", "Withdrawn"), ("a:9", "Granted")]
    assert masks_of(standing, bits) == (0b010, 0b101)


def test_each_change_is_an_event_that_names_a_tag_and_never_the_person() -> None:
    world = World()
    world.apply(consent("Granted"))
    world.until(lambda: is_recorded(world, "Granted"))
    world.apply(consent("Withdrawn"))
    world.until(lambda: is_recorded(world, "Withdrawn"))
    world.settle()
    granted, withdrawn = events(world)
    assert [one["predicate"]["kind"] for one in (granted, withdrawn)] == ["ConsentGranted", "ConsentWithdrawn"]
    for one in (granted, withdrawn):
        evidence = one["predicate"]["evidence"]
        assert one["subject"][0]["name"] == f"consent/erp/{TAG}"
        assert one["subject"][0]["digest"]["sha256"] == hashlib.sha256(canonical(evidence)).hexdigest()
        assert (evidence["purpose"], evidence["controller"], evidence["basis"]) == (PURPOSE, "Example Ltd", "consent")
        assert one["predicate"]["actor"] == "local:ada"
    assert (granted["predicate"]["evidence"]["after"], withdrawn["predicate"]["evidence"]["after"]) == (-1, 0)
    assert world.get(KEY).status["index"] == 1
    assert b"c-117" not in b"".join(world.log.entries)
    assert {receipt.spec["event"] for receipt in world.receipts()} == {"ConsentGranted", "ConsentWithdrawn"}


def test_what_is_applied_twice_is_recorded_once_and_a_crash_doubles_nothing() -> None:
    world = World()
    for _ in range(2):
        world.apply(consent("Granted"))
        world.until(lambda: is_recorded(world, "Granted"))
        world.start()
        world.run(5)
    assert len(events(world)) == 1


def test_back_and_forth_within_one_second_is_an_event_each() -> None:
    world = World()
    for state in ("Granted", "Withdrawn", "Granted"):
        world.apply(consent(state))
        ns = world.clock.ns
        world.until(lambda state=state: is_recorded(world, state))  # type: ignore[misc]
        world.clock.ns = ns
    assert [one["predicate"]["evidence"]["after"] for one in events(world)] == [-1, 0, 1]


@pytest.mark.parametrize(("reviews", "actor"), [(True, "local:ada"), (False, "ada@example.com")])
def test_who_records_must_be_a_user_of_the_home_it_is_recorded_in(reviews: bool, actor: str) -> None:
    world = World(reviews=reviews)
    world.apply(consent("Granted", actor))
    world.until(lambda: condition(world) == "False")
    assert world.ready(KEY)["reason"] == "Refused"
    assert events(world) == []


@pytest.mark.parametrize(
    ("field", "value", "must"),
    [
        ("subject", "c-117", "must be a tag of 64 hexadecimal digits"),
        ("purpose", "recruiting", "must be an absolute IRI"),
        ("state", "Perhaps", "must be Granted or Withdrawn"),
    ],
)
def test_a_name_in_place_of_a_tag_and_other_wrong_fields_are_refused(field: str, value: str, must: str) -> None:
    from knhk.api.parse import from_document

    spec = {"subject": TAG, "purpose": PURPOSE, "state": "Granted", "controller": "Example Ltd", "actor": "local:ada", field: value}
    document = {"apiVersion": "knhk.dev/v1alpha1", "kind": "Consent", "metadata": {"name": NAME, "namespace": "erp"}, "spec": spec}
    with pytest.raises(Refused) as refused:
        from_document(document)
    assert any(must in fault.must for fault in refused.value.faults)


class AtOnce(Desk):
    """A desk whose home records at once."""

    def recorded(self, key: Key, generation: int, within_s: float) -> Resource:
        return self.store.get(key)


def test_who_records_another_controller_is_who_is_named_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What holds already is recorded once, by whom it was; what differs is recorded anew, by who does."""
    store = MemoryStore()

    def recorded(actor: str, controller: str) -> tuple[str, int]:
        monkeypatch.setattr(consenting, "desk", lambda home, kubeconfig: nullcontext(AtOnce(store, actor, Made(Home(tmp_path)))))
        words = ["c-117", "-n", "erp", "--purpose", PURPOSE, "--controller", controller, "-o", "json"]
        assert main(["--home", str(tmp_path), "consent", "grant", *words]) == 0
        row = json.loads(capsys.readouterr().out)
        (found,) = store.list("Consent", "erp").resources
        return row["actor"], found.generation

    assert recorded("local:ada", "Example Ltd") == ("local:ada", 1)
    assert recorded("local:eve", "Example Ltd") == ("local:ada", 1)
    assert recorded("local:eve", "Other Ltd") == ("local:eve", 2)
