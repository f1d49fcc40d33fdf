"""Schemas that are accepted or not, hooks that packs take, and packs that wait for both."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from rollout_world import World, pack, point

from knhk.adapters.pack_folder import find
from knhk.api import parse, to_sources
from knhk.model.faults import Refused
from knhk.model.resource import Key
from knhk.reconcilers.admission import admit

SCHEMA = """apiVersion: knhk.dev/v1alpha1
kind: SchemaVersion
metadata: {{name: {name}, namespace: erp}}
spec:
  ontology: https://example.com/ns
  version: {version}
  compatibility: {mode}
  {more}
  source:
    inline: |
      @prefix owl: <http://www.w3.org/2002/07/owl#> .
      @prefix sh: <http://www.w3.org/ns/shacl#> .
      @prefix ex: <https://example.com/ns#> .
      ex:Order a owl:Class . ex:total a owl:DatatypeProperty . {terms}
      ex:Form a sh:NodeShape ; sh:targetClass ex:Order ; sh:property [ sh:path ex:total ; sh:maxCount {most} ] .
"""
HOOKS = """apiVersion: knhk.dev/v1alpha1
kind: HookRegistry
metadata: {{name: finance, namespace: erp}}
spec:
  hooks:
    - name: total-below-million
      owner: ap@example.com
      domain: payables
      class: {klass}
      kind: shapes
      inline: |
        @prefix sh: <http://www.w3.org/ns/shacl#> .
        @prefix ex: <https://example.com/ns#> .
        ex:Limit a sh:NodeShape ; sh:targetClass ex:Order ; sh:property [ sh:path ex:total ; {constraint} ] .
    - name: no-self-approval
      owner: audit@example.com
      domain: duties
      class: R1
      kind: ask
      target: https://example.com/ns#Order
      inline: |
        PREFIX ex: <https://example.com/ns#>
        ASK {{ FILTER NOT EXISTS {{ $this ex:selfApproved true }} }}
"""


def schema(name: str, version: str, *, most: int = 2, mode: str = "BACKWARD", previous: str = "", terms: str = "", more: str = "") -> str:
    if previous:
        more = f"previous: {{name: {previous}}}\n  {more}"
    return SCHEMA.format(name=name, version=version, mode=mode, most=most, terms=terms, more=more)


def hooks(constraint: str = "sh:maxExclusive 1000000", klass: str = "R1") -> str:
    return HOOKS.format(constraint=constraint, klass=klass)


def version_of(world: World, name: str) -> dict[str, Any]:
    return dict(world.get(Key("SchemaVersion", "erp", name)).status)


def registry(world: World) -> dict[str, Any]:
    return dict(world.get(Key("HookRegistry", "erp", "finance")).status)


def condition(status: dict[str, Any]) -> tuple[str, str]:
    found = next(c for c in status["conditions"] if c["type"] == "Ready")
    return found["status"], found["reason"]


def with_line(text: str, line: str) -> str:
    return text.replace("  routes:", f"  {line}\n  routes:")


def test_a_first_version_is_accepted_and_the_next_is_judged_by_its_mode() -> None:
    world = World()
    world.apply(
        schema("v1", "1.0.0"), schema("v2", "1.1.0", most=3, previous="v1"), schema("v3", "1.2.0", most=3, previous="v2", mode="FULL")
    )
    world.until(lambda: "verdict" in version_of(world, "v3"))
    first, second = version_of(world, "v1"), version_of(world, "v2")
    assert (first["verdict"], condition(first)) == ("First", ("True", "Accepted"))
    assert (second["verdict"], second["accepted"]) == ("Compatible", True)
    assert second["difference"]["previous"] == first["digest"]
    assert (second["difference"]["widened"], second["difference"]["narrowed"]) == (1, 0)
    assert second["difference"]["changes"][0]["change"] == "total: sh:maxCount 2 to 3"
    assert (version_of(world, "v3")["verdict"], version_of(world, "v3")["difference"]["changes"]) == ("Compatible", [])
    world.settle()
    assert [k for k in world.kinds() if k.startswith("Schema")] == ["SchemaAccepted"] * 3


def test_what_breaks_its_mode_is_rejected_in_words_and_a_person_may_override_it_with_a_reason() -> None:
    world = World()
    world.apply(schema("v1", "1.0.0"), schema("v2", "1.1.0", most=1, previous="v1"))
    world.until(lambda: "verdict" in version_of(world, "v2"))
    status = version_of(world, "v2")
    assert (status["verdict"], status["accepted"], condition(status)) == ("Incompatible", False, ("False", "Incompatible"))
    assert "https://example.com/ns#Form: total: sh:maxCount 2 to 1" in str(status["conditions"])
    world.apply(schema("v2", "1.1.0", most=1, previous="v1", more='override: {reason: "no order has two totals"}'))
    world.until(lambda: version_of(world, "v2")["verdict"] == "Overridden")
    assert version_of(world, "v2")["accepted"]
    assert [row["outcome"] for row in version_of(world, "v2")["history"]] == ["Overridden", "Incompatible"]
    told = [s["predicate"] for s in world.log.statements() if s["predicate"]["kind"].startswith("Schema")]
    assert [row["kind"] for row in told] == ["SchemaAccepted", "SchemaRejected", "SchemaAccepted"]
    assert "no order has two totals" in told[-1]["reason"]


@pytest.mark.parametrize(("mode", "verdict"), [("BACKWARD", "Compatible"), ("BACKWARD_TRANSITIVE", "Incompatible")])
def test_transitive_is_against_every_version_before(mode: str, verdict: str) -> None:
    """The term that 1.0.0 had went away unchecked in 1.1.0."""
    world = World()
    world.apply(schema("v1", "1.0.0", terms="ex:Old a owl:Class ."), schema("v2", "1.1.0", previous="v1", mode="NONE"))
    world.apply(schema("v3", "1.2.0", previous="v2", mode=mode))
    world.until(lambda: "verdict" in version_of(world, "v3"))
    assert (version_of(world, "v2")["verdict"], version_of(world, "v3")["verdict"]) == ("Unchecked", verdict)


def test_a_version_waits_for_the_one_before_it_and_a_circle_is_refused() -> None:
    world = World()
    world.apply(schema("v2", "1.1.0", previous="v1"))
    world.run(4)
    assert condition(version_of(world, "v2")) == ("Unknown", "Waiting")
    assert "SchemaVersion erp/v1 must be there" in str(version_of(world, "v2")["conditions"])
    world.apply(schema("v1", "1.0.0"))
    world.until(lambda: version_of(world, "v2").get("verdict") == "Compatible")
    world.apply(schema("v1", "1.0.0", previous="v2"))
    world.until(lambda: condition(version_of(world, "v1"))[1] == "Refused")
    assert "must lead to a first version" in version_of(world, "v1")["faults"][0]["must"]


def test_a_pack_waits_for_a_schema_that_is_not_accepted_and_goes_on_by_itself() -> None:
    world = World()
    world.apply(point(), with_line(pack("1.0.0"), "schemas: [{name: v2}]"))
    world.run(4)
    assert (world.ready()["reason"], "SchemaVersion erp/v2 must be there" in world.ready()["message"]) == ("SchemaNotAccepted", True)
    world.apply(schema("v1", "1.0.0"), schema("v2", "1.1.0", most=1, previous="v1"))
    world.until(lambda: "must be accepted first: 1.1.0 must be BACKWARD compatible" in world.ready()["message"])
    assert world.get().status["revision"]["phase"] == "Pending"
    world.apply(schema("v2", "1.1.0", most=1, previous="v1", more="override: {reason: seen}"))
    world.until_phase("Live")
    named = world.get().status["live"]["schemas"]
    assert named == [{"name": "v2", "digest": version_of(world, "v2")["digest"]}]
    built = next(s["predicate"] for s in world.log.statements() if s["predicate"]["kind"] == "Built")
    assert built["evidence"]["schemas"] == named


def test_a_pack_takes_the_hooks_that_it_selects_and_the_registry_tells_who_uses_what() -> None:
    world = World()
    world.apply(point(), with_line(pack("1.0.0"), "hooks: [{registry: finance, domains: [payables]}]"))
    world.run(4)
    assert (world.ready()["reason"], "HookRegistry erp/finance must be there" in world.ready()["message"]) == ("HooksNotIndexed", True)
    world.apply(hooks())
    world.until_phase("Live")
    live = world.get().status["live"]
    assert (live["hooks"], live["guards"]) == (["finance/total-below-million"], 3)
    world.run(12)
    status = registry(world)
    assert status["counts"] == {"hooks": 2, "guards": 2, "R1": 2, "W1": 0, "C1": 0}
    index = {row["name"]: row for row in status["index"]}
    assert index["total-below-million"]["packs"] == ["orders"]
    assert set(index["total-below-million"]["terms"]) >= {"https://example.com/ns#Order", "https://example.com/ns#total"}
    assert status["coverage"]["unused"] == ["no-self-approval"]
    assert status["coverage"]["uncovered"] == [{"name": "orders", "guards": 2, "uncovered": 1}]
    assert condition(status) == ("True", "Indexed")
    assert world.kinds().count("HooksIndexed") == 1


def test_a_hook_that_is_slower_than_it_says_is_refused_and_packs_wait() -> None:
    world = World()
    world.apply(hooks('sh:pattern "^(a+)+$"'), point(), with_line(pack("1.0.0"), "hooks: [{registry: finance}]"))
    world.run(6)
    status = registry(world)
    assert condition(status) == ("False", "Refused")
    assert any("must be R1, or say so" in row["must"] for row in status["faults"])
    assert "HookRegistry erp/finance must be indexed first" in world.ready()["message"]
    world.apply(hooks('sh:pattern "^(a+)+$"', "C1"))
    world.until_phase("Live")


def test_a_schema_tells_which_hooks_and_packs_it_breaks_and_the_registry_which_schema_breaks_it() -> None:
    world = World()
    world.apply(hooks(), point(), with_line(pack("1.0.0"), "hooks: [{registry: finance, names: [total-below-million]}]"))
    world.until_phase("Live")
    world.apply(schema("v1", "1.0.0"))
    gone = schema("v2", "2.0.0", previous="v1").replace("ex:total a owl:DatatypeProperty .", "")
    world.apply(gone)
    world.until(lambda: "affected" in version_of(world, "v2"))
    assert version_of(world, "v2")["affected"] == {"hooks": ["finance/total-below-million"], "packs": ["orders"]}
    world.until(lambda: "broken" in registry(world))
    row = {"hook": "total-below-million", "schema": "v2", "terms": ["https://example.com/ns#total"]}
    assert registry(world)["broken"] == [row]


def test_what_rests_writes_nothing() -> None:
    world = World()
    world.apply(hooks(), schema("v1", "1.0.0"), schema("v2", "1.1.0", previous="v1"))
    world.run(20)
    before = [world.get(Key(kind, "erp", name)).resource_version for kind, name in (("HookRegistry", "finance"), ("SchemaVersion", "v2"))]
    world.run(40)
    after = [world.get(Key(kind, "erp", name)).resource_version for kind, name in (("HookRegistry", "finance"), ("SchemaVersion", "v2"))]
    assert before == after


def test_of_a_suspended_registry_packs_take_only_what_is_indexed() -> None:
    world = World()
    world.apply(hooks())
    world.run(4)
    digest = registry(world)["digest"]
    world.apply(hooks("sh:maxExclusive 5").replace("spec:", "spec:\n  suspend: true"))
    world.apply(point(), with_line(pack("1.0.0"), "hooks: [{registry: finance}]"))
    world.run(4)
    assert (registry(world)["digest"], world.ready()["reason"]) == (digest, "HooksNotIndexed")
    world.apply(hooks().replace("spec:", "spec:\n  suspend: true"))
    world.until_phase("Live")
    world.apply(hooks("sh:maxExclusive 5"))
    world.until(lambda: registry(world)["digest"] != digest)


def test_in_a_folder_a_pack_finds_the_registry_beside_it(tmp_path: Path) -> None:
    folder = tmp_path / "orders"
    folder.mkdir()
    (folder / "pack.yaml").write_text(with_line(pack("1.0.0"), "hooks: [{registry: finance, classes: [R1]}]"))
    with pytest.raises(Refused, match=r"finance: must name a HookRegistry of namespace erp"):
        find(folder)
    (tmp_path / "hooks.yaml").write_text(hooks())
    sources = to_sources(find(folder).pack).sources
    assert [source.name for source in sources] == ["shapes", "body", "finance/total-below-million", "finance/no-self-approval"]
    (folder / "pack.yaml").write_text(with_line(pack("1.0.0"), "hooks: [{registry: finance, owners: [nobody]}]"))
    with pytest.raises(Refused, match=r"must select at least one hook"):
        find(folder)


def test_admission_says_what_the_reconcilers_would() -> None:
    (wrong,) = parse(hooks('sh:pattern "^(a+)+$"'), "hooks.yaml")
    assert any("must be R1, or say so" in fault.must for fault in admit(wrong))
    (broken,) = parse(schema("v1", "1.0.0", terms="ex:a ex:b"), "schema.yaml")
    assert [fault.where.partition(":")[0] for fault in admit(broken)] == ["schema.yaml"]
