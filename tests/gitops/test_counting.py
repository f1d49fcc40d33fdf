"""Where only merged commits count, nothing does that a person changed by hand: what it said before stays, and the condition says why."""

from __future__ import annotations

from base64 import b64encode
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from git_repo import Repo
from policy_house import DATA, OWNER, POINT, House
from rollout_world import PACK, bundle, pack, payload, point

from knhk.api import parse
from knhk.model.canonical import canonical
from knhk.model.faults import NotFound
from knhk.model.resource import Key
from knhk.reconcilers.provenance import spec_digest

pytestmark = pytest.mark.slow
EXAMPLES = Path(__file__).resolve().parents[2] / "manifests" / "examples"
FLAG = Key("FeatureFlag", "erp", "canary")


def flag(default: str) -> str:
    spec = f"{{pack: orders, variants: {{'on': true, 'off': false}}, defaultVariant: '{default}'}}"
    return f"apiVersion: knhk.dev/v1alpha1\nkind: FeatureFlag\nmetadata: {{name: canary, namespace: erp}}\nspec: {spec}\n"


@pytest.fixture
def house(tmp_path: Path) -> House:
    """All of it merged, and 1.0.0 live."""
    made = House(Repo(tmp_path / "repo" / "erp" / "policies"), tmp_path)
    made.world.merged_only = frozenset({"erp"})
    made.world.start()
    made.repo.commit({"point.yaml": point(), "roles.yaml": bundle(), "pack.yaml": pack("1.0.0", bundles="{name: roles}")})
    made.follow()
    made.until_live()
    made.world.run(4)
    return made


def by_hand(house: House, text: str) -> Key:
    """As somebody does who may write the object: labels and annotations stay as the repository gave them."""
    (resource,) = parse(text, "hand.yaml")
    try:
        before = house.world.get(resource.key)
        resource = replace(resource, labels=before.labels, annotations=before.annotations)
    except NotFound:
        pass  # it is new
    house.world.store.apply(resource)
    return resource.key


def stops(house: House, key: Key, *, by: str = "it was applied by hand") -> None:
    house.world.until(lambda: reason(house, key) == "NotMerged")
    house.world.run(20)
    told = house.world.ready(key)
    assert (told["status"], told["reason"]) == ("Unknown", "NotMerged")
    assert f"namespace erp takes only what a merged commit says: {by}" in told["message"]


def reason(house: House, key: Key) -> str:
    rows = house.world.get(key).status.get("conditions", ())
    return next((str(row["reason"]) for row in rows if row["type"] == "Ready"), "")


def document(house: House) -> dict[str, Any]:
    return house.world.document()


def test_data_changed_by_hand_reaches_no_point(house: House) -> None:
    before = document(house)["data"]
    stops(house, by_hand(house, bundle(9)))
    assert document(house)["data"] == before
    house.world.store.delete(DATA)
    stops(house, by_hand(house, bundle(9)))
    assert document(house)["data"] == before
    house.repo.commit({"roles.yaml": bundle(9)})
    house.world.store.delete(DATA)
    house.pulled()
    house.world.until(lambda: document(house)["data"] != before)
    assert reason(house, DATA) == "Published"


def test_a_point_changed_by_hand_stays_as_it_was_and_a_rollback_still_reaches_it(house: House) -> None:
    before, placed = document(house), house.world.placement.running["erp/p1"]
    opened = point(baseline="Admit").replace("port: 8080", "port: 8099")
    stops(house, by_hand(house, opened))
    after = document(house)
    assert {name: after[name] for name in ("baseline", "pointConfig")} == {name: before[name] for name in ("baseline", "pointConfig")}
    assert house.world.placement.running["erp/p1"] == placed
    house.world.bad = frozenset({"2.0.0"})
    house.repo.commit({"pack.yaml": pack("2.0.0", bundles="{name: roles}", constraint="sh:minCount 2")})
    house.pulled()
    house.world.until_phase("RolledBack", "2.0.0")
    assert (document(house)["stable"]["version"], document(house)["candidate"], document(house)["baseline"]) == ("1.0.0", None, "Deny")
    assert reason(house, POINT) == "NotMerged"
    house.repo.commit({"point.yaml": opened})
    house.pulled()
    house.world.until(lambda: document(house)["baseline"] == "Admit")
    house.world.until(lambda: reason(house, POINT) == "Running")
    assert house.world.placement.running["erp/p1"] != placed


def test_a_point_made_by_hand_is_not_placed_and_no_pack_starts_there(house: House) -> None:
    key = by_hand(house, point("p2"))
    stops(house, key)
    assert "erp/p2" not in house.world.placement.running
    house.repo.commit({"pack.yaml": pack("1.1.0", constraint="sh:minCount 1 ; sh:maxCount 9", targets="{point: p2}")})
    house.pulled()
    house.world.until(lambda: "EnforcementPoint erp/p2 must count first" in house.world.ready(PACK)["message"])
    house.repo.commit({"p2.yaml": point("p2")})
    house.world.store.update(replace(house.world.get(key), labels={OWNER: "erp.policies"}))
    house.pulled()
    house.world.until_phase("Live", "1.1.0")


def test_a_flag_changed_by_hand_lets_no_canary_go(house: House) -> None:
    house.repo.commit({"flag.yaml": flag("off"), "pack.yaml": pack("1.1.0", bundles="{name: roles}", constraint="sh:minCount 2")})
    house.pulled()
    house.world.until(lambda: house.world.ready(PACK)["reason"] == "Held")
    stops(house, by_hand(house, flag("on")))
    assert house.world.ready(PACK)["reason"] == "Held"
    assert (document(house)["mode"], document(house)["flags"]) == ("Shadow", {"canary": "off"})
    house.repo.commit({"flag.yaml": flag("on")})
    house.pulled()
    house.world.until_phase("Live", "1.1.0")


@pytest.mark.parametrize("name", ["invoice-schema", "finance-hooks"])
def test_schemas_and_hooks_made_by_hand_are_nothing_to_build_with(house: House, name: str) -> None:
    text = (EXAMPLES / f"{name}.yaml").read_text().partition("\n---")[0] + "\n"
    key = by_hand(house, text)
    stops(house, key)
    assert not {"accepted", "digest"} & house.world.get(key).status.keys()
    house.repo.commit({"made.yaml": text})
    house.world.store.update(replace(house.world.get(key), labels={OWNER: "erp.policies"}))
    house.pulled()
    house.world.until(lambda: house.world.ready(key)["status"] == "True")


def test_hooks_changed_by_hand_are_not_indexed_until_they_are_merged(house: House) -> None:
    text = (EXAMPLES / "finance-hooks.yaml").read_text()
    house.repo.commit({"hooks.yaml": text})
    house.pulled()
    key = Key("HookRegistry", "erp", "finance-hooks")
    house.world.until(lambda: reason(house, key) == "Indexed")
    before = house.world.get(key).status["digest"]
    changed = text.replace("sh:minInclusive 0", "sh:minInclusive 1")
    stops(house, by_hand(house, changed))
    assert house.world.get(key).status["digest"] == before
    house.repo.commit({"hooks.yaml": changed})
    house.pulled()
    house.world.until(lambda: reason(house, key) == "Indexed")
    assert house.world.get(key).status["digest"] != before


def test_a_point_changed_by_hand_escapes_no_flag(house: House) -> None:
    """A flag may look at what a point says of itself, its region for one: who may write that lets no canary go."""
    careful = flag("on").replace("'on'}\n", "'on', targeting: [{var: region, values: [local], variant: 'off'}]}\n")
    house.repo.commit({"flag.yaml": careful, "pack.yaml": pack("1.1.0", bundles="{name: roles}", constraint="sh:minCount 2")})
    house.pulled()
    house.world.until(lambda: house.world.ready(PACK)["reason"] == "Held")
    stops(house, by_hand(house, point().replace("  mode: Sidecar", "  mode: Sidecar\n  region: elsewhere")))
    assert (document(house)["mode"], document(house)["flags"]) == ("Shadow", {"canary": "off"})


def test_what_counted_before_goes_on_counting(tmp_path: Path) -> None:
    """Neither a label that is set later, nor a row that is taken away, stops what runs."""
    house = House(Repo(tmp_path / "repo"), tmp_path)
    house.world.apply(point(), bundle(), flag("on"), pack("1.0.0", bundles="{name: roles}"))
    house.until_live()
    house.world.run(8)
    house.world.merged_only = frozenset({"erp"})
    house.world.start()
    house.world.run(20)
    assert [reason(house, key) for key in (POINT, DATA, FLAG)] == ["Running", "Published", "Evaluated"]
    assert house.world.get(PACK).status["revision"]["phase"] == "Live"


def test_a_point_of_which_nothing_is_known_any_more_is_told_nothing(house: House) -> None:
    """Not what a person wrote into it, nor what somebody wrote to where documents lie: only what was signed is signed again."""
    stops(house, by_hand(house, point(baseline="Admit")))
    forged = {**document(house), "baseline": "Admit"}
    kind = "application/vnd.knhk.rollout.v1+json"
    told = {"payload": b64encode(canonical(forged)).decode(), "payloadType": kind, "signatures": []}
    house.world.fleet.documents["erp/p1"] = canonical(told)
    house.world.run(20)
    assert not [1 for name, handed in house.world.fleet.handed if name == "erp/p1" and payload(handed)["baseline"] == "Admit"]
    house.world.fleet.documents.clear()
    house.world.annotate(PACK, abort="now")
    house.world.run(20)
    assert house.world.fleet.documents == {}
    house.repo.commit({"point.yaml": point(baseline="Admit")})
    house.pulled()
    house.world.until(lambda: "erp/p1" in house.world.fleet.documents)
    house.world.until(lambda: document(house)["stable"] is not None)
    assert document(house)["baseline"] == "Admit"


def test_what_another_point_was_told_is_signed_again_for_none_but_it(house: House) -> None:
    """Whoever writes where documents lie may lay there what we signed for a point with an open door."""
    stops(house, by_hand(house, point(baseline="Admit")))
    others = {**document(house), "point": "erp/p2", "baseline": "Admit"}
    signed = house.world.signer.sign("rollout", "application/vnd.knhk.rollout.v1+json", canonical(others))
    house.world.fleet.documents["erp/p1"] = canonical(signed)
    house.world.run(20)
    assert not [1 for name, handed in house.world.fleet.handed if name == "erp/p1" and payload(handed)["baseline"] == "Admit"]


def test_an_older_document_of_a_point_that_is_laid_back_is_told_to_nobody(house: House) -> None:
    """Nor by a detour over one that says what the point is to be told anyway."""
    closed = house.world.fleet.documents["erp/p1"]
    house.repo.commit({"point.yaml": point(baseline="Admit")})
    house.pulled()
    house.world.until(lambda: document(house)["baseline"] == "Admit")
    opened = house.world.fleet.documents["erp/p1"]
    house.repo.commit({"point.yaml": point()})
    house.pulled()
    house.world.until(lambda: document(house)["baseline"] == "Deny" and reason(house, POINT) == "Running")
    house.world.fleet.documents["erp/p1"] = closed
    house.world.run(8)
    newest = document(house)
    assert newest["epoch"] > payload(opened)["epoch"]
    stops(house, by_hand(house, point(baseline="Admit")))
    handed = len(house.world.fleet.handed)
    house.world.fleet.documents["erp/p1"] = opened
    house.world.run(20)
    assert house.world.fleet.handed[handed:] == []
    by_hand(house, point())
    house.world.until(lambda: document(house)["epoch"] > newest["epoch"])
    assert document(house)["baseline"] == "Deny"


def test_turning_a_flag_off_by_hand_stops_a_canary_at_once(house: House) -> None:
    """The switch for emergencies needs no merge: a flag that does not count holds, a new one too."""
    house.world.traffic = 1
    house.repo.commit({"pack.yaml": pack("1.1.0", bundles="{name: roles}", constraint="sh:minCount 2")})
    house.pulled()
    house.world.until(lambda: document(house)["mode"] == "Canary")
    by_hand(house, flag("off"))
    house.world.until(lambda: document(house)["mode"] == "Shadow")
    house.world.start()  # whoever leads next knows it, too
    house.world.run(20)
    assert (document(house)["mode"], house.world.ready(PACK)["reason"]) == ("Shadow", "Held")
    house.world.store.delete(FLAG)
    house.world.until(lambda: document(house)["mode"] == "Canary")


def test_what_a_key_signed_that_was_replaced_is_still_what_a_point_was_told(house: House) -> None:
    house.world.signer.turn("rollout")
    stops(house, by_hand(house, point(baseline="Admit")))
    assert document(house)["baseline"] == "Deny"
    assert house.world.signer.keyid("rollout").encode() in house.world.fleet.documents["erp/p1"]


def test_a_lower_level_of_receipts_must_be_merged_a_higher_one_counts_at_once(house: House) -> None:
    def at(level: str) -> str:
        return pack("1.0.0", bundles="{name: roles}") + f"  receipts: {{durability: {level}}}\n"

    by_hand(house, at("log"))
    house.world.until(lambda: document(house)["stable"].get("durability") == "log")
    stops(house, by_hand(house, at("disk")))
    assert document(house)["stable"]["durability"] == "log"
    house.repo.commit({"pack.yaml": at("disk")})
    house.pulled()
    house.world.until(lambda: document(house)["stable"]["durability"] == "disk")
    (told,) = house.predicates("Loosened")
    assert told["evidence"]["loosened"] == [{"field": "receipts.durability", "was": "log", "is": "disk"}]


def test_a_flag_that_was_deleted_by_hand_holds_until_a_merged_commit_takes_it_away(house: House) -> None:
    house.repo.commit({"flag.yaml": flag("off"), "pack.yaml": pack("1.1.0", bundles="{name: roles}", constraint="sh:minCount 2")})
    house.pulled()
    house.world.until(lambda: house.world.ready(PACK)["reason"] == "Held")
    house.follow("  suspend: true\n")
    house.world.store.delete(FLAG)
    house.world.run(10)
    house.world.start()  # whoever leads next knows it, too
    house.world.run(10)
    assert (document(house)["mode"], document(house)["flags"]) == ("Shadow", {"canary": "off"})
    assert "FeatureFlag canary: it was deleted by hand, and commit" in house.world.ready(PACK)["message"]
    house.follow()
    house.repo.commit({"flag.yaml": None})
    house.pulled()
    house.world.until_phase("Live", "1.1.0")


def test_the_guard_of_a_point_that_was_deleted_by_hand_runs_on_until_a_merged_commit_takes_it_away(house: House) -> None:
    before, placed = document(house), house.world.placement.running["erp/p1"]
    house.follow("  suspend: true\n")
    house.world.store.delete(POINT)
    house.world.run(20)
    house.world.start()
    house.world.run(20)
    assert (house.world.placement.running["erp/p1"], document(house)) == (placed, before)
    assert "its guard runs on: it was deleted by hand" in house.world.store.events(POINT)[-1].message
    assert "it was deleted by hand, and commit" in house.predicates("Deleted")[0]["evidence"]["stays"]
    stops(house, by_hand(house, point(baseline="Admit")))
    assert document(house)["baseline"] == "Deny"
    house.world.store.delete(POINT)
    house.follow()
    house.pulled()
    house.world.until(lambda: house.has(POINT) and reason(house, POINT) == "Running")
    assert document(house)["stable"]["version"] == "1.0.0"
    head = house.repo.commit({"point.yaml": None, "pack.yaml": None})
    house.pulled()
    house.world.until(lambda: "erp/p1" not in house.world.placement.running)
    taken = [said["evidence"] for said in house.predicates("Deleted") if "by" in said["evidence"]]
    assert {canonical(said["by"]) for said in taken} == {canonical({"repository": "erp/policies", "commit": head})}
    assert len(taken) == 2
    assert house.ready() == ("True", "Applied")
    assert "EnforcementPoint" not in {row["kind"] for row in house.status_of().status["applied"]}


def test_a_pack_that_was_deleted_by_hand_stays_enforced_and_is_live_when_it_comes_again(house: House) -> None:
    by_hand(house, pack("1.0.0", bundles="{name: roles}") + "  receipts: {durability: log}\n")
    house.world.until(lambda: document(house)["stable"].get("durability") == "log")
    before = document(house)
    house.follow("  suspend: true\n")
    house.world.store.delete(PACK)
    house.world.run(20)
    assert (document(house)["stable"], document(house)["data"]) == (before["stable"], before["data"])
    by_hand(house, pack("9.0.0", constraint="sh:minCount 0"))
    house.world.until(lambda: reason(house, PACK) == "NotMerged")
    house.world.run(20)
    assert document(house)["stable"] == before["stable"]
    by_hand(house, pack("9.0.0", name="other", constraint="sh:minCount 0"))
    house.world.store.delete(PACK)
    house.world.run(20)
    assert document(house)["stable"] == before["stable"]
    house.world.store.delete(Key("PolicyPack", "erp", "other"))
    house.follow()
    house.pulled()
    house.until_live()
    assert document(house)["stable"]["digest"] == before["stable"]["digest"]
    assert house.world.kinds().count("Promoted") == 1
    house.repo.commit({"pack.yaml": None})
    house.pulled()
    house.world.until(lambda: document(house)["stable"] is None)


@pytest.mark.parametrize("turned", ["paths: [elsewhere/*.yaml]", "branch: other"])
def test_who_writes_a_policy_repository_takes_nothing_away_that_no_merged_commit_did(house: House, turned: str) -> None:
    house.repo.git("switch", "--quiet", "--create", "other")
    house.repo.commit({"roles.yaml": None, "point.yaml": None, "pack.yaml": None, "README.md": "nothing"})
    house.repo.git("switch", "--quiet", "main")
    house.follow(f"  {turned}\n")
    house.pulled()
    house.world.run(10)
    assert {key for key in (POINT, DATA, PACK) if not house.has(key)} == set()
    assert house.ready() == ("False", "Conflicts")
    assert "namespace erp lets go only what a merged commit took away" in house.message()
    house.follow()
    house.repo.commit({"roles.yaml": None, "pack.yaml": pack("1.0.1")})
    house.pulled()
    house.until_live("1.0.1")
    assert not house.has(DATA)


def test_a_label_makes_a_repository_take_nothing_away(house: House) -> None:
    (resource,) = parse(bundle(name="more"), "hand.yaml")
    house.world.merged_only = frozenset()
    house.world.start()
    house.world.store.apply(resource)
    house.world.run(8)
    house.world.merged_only = frozenset({"erp"})
    house.world.start()
    key = Key("DataBundle", "erp", "more")
    found = house.world.get(key)
    house.world.store.update(
        replace(found, labels={OWNER: "erp.policies"}, annotations={"knhk.dev/applied": spec_digest(found), "knhk.dev/commit": "0" * 40})
    )
    house.pulled()
    assert house.has(key)
    assert "its commit was not noted" in house.message()
