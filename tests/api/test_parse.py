"""Parsing: defaults, lines, hostile text; and what is made of a parsed pack."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from knhk.api import (
    check_update,
    condition,
    from_document,
    parse,
    to_document,
    to_rollout,
    to_sources,
    with_condition,
    with_origin,
)
from knhk.api.convert import ORIGIN
from knhk.model.faults import Fault, Refused
from knhk.model.rollout import OnNoData, Step

EXAMPLES = sorted((Path(__file__).parents[2] / "manifests" / "examples").glob("*.yaml"))

PACK = """\
apiVersion: knhk.dev/v1alpha1
kind: PolicyPack
metadata: {name: controls}
spec:
  version: 1.0.0
  sources:
    - name: shapes
      kind: shapes
      inline: |  # a comment
        first
        second
    - name: rule
      kind: ask
      inline: "ASK {}"
    - name: blank
      kind: shapes
      inline: |

        after an empty line
  routes: [{name: submit}]
  targets: [{point: orders}, {point: approvals}]
"""


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_examples_are_right_and_survive_the_way_through_json(path: Path) -> None:
    for resource in parse(path.read_bytes(), path.name):
        again = from_document(to_document(resource))
        assert again == resource


def test_defaults_are_filled_in_once() -> None:
    (pack,) = parse(PACK, "p.yaml")
    assert pack.namespace == "default"
    assert pack.spec["rollout"]["analysis"]["tolerances"] == {
        "maxNewDenials": "0.01",
        "maxNewAdmits": "0.01",
        "maxParked": "0.01",
        "maxR1Drop": "0.1",
        "maxLatencyRatio": "2",
        "latencyFloorMicroseconds": 1000,
    }
    assert pack.spec["onPark"] == {"W1": "Wait", "C1": "Wait"}
    assert from_document(to_document(pack)).spec == pack.spec


def test_tolerances_of_requests_are_read() -> None:
    """Strict ones and none at all."""
    strict = '{maxParked: "0", maxR1Drop: "0.25", maxLatencyRatio: "1.5", latencyFloorMicroseconds: 50}'
    none = '{maxParked: "1", maxR1Drop: "1", maxLatencyRatio: "0"}'
    found = []
    for tolerances in (strict, none):
        (pack,) = parse(f"{PACK}  rollout: {{analysis: {{tolerances: {tolerances}}}}}\n", "p.yaml")
        analysis = to_rollout(pack).analysis
        found.append((analysis.max_parked, analysis.max_r1_drop, analysis.max_latency_ratio, analysis.latency_floor_us))
    assert found == [(Decimal(0), Decimal("0.25"), Decimal("1.5"), 50), (1, 1, 0, 1000)]


def test_defaults_of_two_objects_are_not_shared() -> None:
    first, second = (parse(PACK, "p.yaml")[0] for _ in range(2))
    first.spec["rollout"]["steps"][0]["weight"] = 99
    assert second.spec["rollout"]["steps"][0]["weight"] == 5


def test_sources_know_the_line_of_their_first_character() -> None:
    (pack,) = parse(PACK, "p.yaml")
    found = to_sources(pack)
    lines = PACK.splitlines()
    assert [(s.path, s.first_line) for s in found.sources] == [
        ("p.yaml", 10),
        ("p.yaml", 14),
        ("p.yaml", 18),
    ]
    assert lines[found.sources[0].first_line - 1].strip() == found.sources[0].text.splitlines()[0]
    last = found.sources[2]
    assert lines[last.first_line - 1 + 1].strip() == last.text.splitlines()[1]


def test_the_origin_annotation_carries_the_lines_through_a_store() -> None:
    (pack,) = parse(PACK, "p.yaml")
    stored = from_document(to_document(with_origin(pack)))
    assert not stored.lines
    assert [(s.path, s.first_line) for s in to_sources(stored).sources] == [
        ("p.yaml", 10),
        ("p.yaml", 14),
        ("p.yaml", 18),
    ]


@pytest.mark.parametrize("note", ["", "[]", "{", '{"path":1,"lines":"x"}', '{"lines":[-1,null]}', "null"])
def test_a_strange_origin_annotation_harms_nothing(note: str) -> None:
    document = to_document(parse(PACK, "p.yaml")[0])
    document["metadata"]["annotations"] = {ORIGIN: note}
    assert [s.first_line for s in to_sources(from_document(document)).sources] == [1, 1, 1]


def test_without_an_origin_faults_name_the_field() -> None:
    stored = from_document(to_document(parse(PACK, "p.yaml")[0]))
    assert to_sources(stored).sources[1].path == "PolicyPack default/controls spec.sources[1].inline"
    assert to_sources(stored, "other.yaml").sources[1].path == "other.yaml"


def test_a_rollout_is_what_the_spec_says() -> None:
    (pack,) = parse(PACK + '  rollout: {onNoData: Hold, analysis: {beta: "0.02"}}\n', "p.yaml")
    rollout = to_rollout(pack, ("b", "a", "a"))
    (stage,) = rollout.stages
    assert stage.points == ("default/orders", "default/approvals")
    assert stage.steps == (Step(5, 100), Step(25, 100), Step(50, 100))
    assert (rollout.on_no_data, rollout.suspend) == (OnNoData.HOLD, False)
    assert (str(rollout.analysis.beta), rollout.analysis.guards) == ("0.02", ("a", "b"))


def test_faults_come_in_the_order_of_the_file() -> None:
    faults = [Fault(f"p.yaml:{n}", "x", "must") for n in (10, 9, 100, 1)]
    assert [f.where for f in Refused(faults).faults] == [
        "p.yaml:1",
        "p.yaml:9",
        "p.yaml:10",
        "p.yaml:100",
    ]


def test_an_object_of_an_api_server_keeps_what_the_server_set() -> None:
    document = to_document(parse(PACK, "p.yaml")[0])
    document["metadata"] |= {
        "uid": "u",
        "resourceVersion": "42",
        "generation": 3,
        "creationTimestamp": "2026-11-23T10:00:00Z",
        "managedFields": [{"anything": 1}],
    }
    document["status"] = {"observedGeneration": 2}
    found = from_document(document)
    assert (found.uid, found.resource_version, found.generation) == ("u", "42", 3)
    assert (found.created, found.status) == ("2026-11-23T10:00:00Z", {"observedGeneration": 2})


def test_bytes_that_are_not_utf8_are_named_by_line() -> None:
    with pytest.raises(Refused, match=r"p\.yaml:2: byte 0xff: must be UTF-8"):
        parse(b"a: 1\nb: \xff\n", "p.yaml")


def test_a_huge_file_is_refused_before_it_is_read() -> None:
    with pytest.raises(Refused, match="must be at most 4194304 bytes"):
        parse(b" " * (4 << 20) + b"a", "p.yaml")


def test_too_many_documents_are_refused() -> None:
    with pytest.raises(Refused, match="must have at most 1000 documents"):
        parse("a\n---\n" * 1001, "p.yaml")


def test_an_immutable_spec_is_told_at_update() -> None:
    old = from_document(
        {
            "apiVersion": "knhk.dev/v1alpha1",
            "kind": "Receipt",
            "metadata": {"name": "r"},
            "spec": {"event": "Promoted", "bundle": "{}", "logIndex": 1},
        }
    )
    assert check_update(old, old) == ()
    changed = from_document(to_document(old) | {"spec": {**old.spec, "logIndex": 2}})
    assert [f.must for f in check_update(old, changed)] == ["must not change: a Receipt is immutable"]


def faults_of(reading: Callable[[], object]) -> tuple[Fault, ...] | None:
    """What a reading is refused for; None when it is accepted."""
    try:
        reading()
    except Refused as refused:
        return refused.faults
    return None


@given(st.text(max_size=200))
def test_no_text_does_anything_but_parse_or_be_refused(text: str) -> None:
    """Whatever stands in a file, the answer is resources or faults that say where and what must be."""
    told = faults_of(lambda: parse(text, "p.yaml"))
    assert told is None or (told and all(fault.where.startswith("p.yaml:") and fault.must for fault in told))


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=12), inner, max_size=4),
    max_leaves=12,
)
_FIELDS = (
    "version",
    "sources",
    "routes",
    "targets",
    "rollout",
    "receipts",
    "onPark",
    "suspend",
    "dataBundles",
)


@given(st.dictionaries(st.sampled_from(_FIELDS), _JSON))
def test_any_data_in_the_place_of_fields_is_refused_at_its_field(spec: dict[str, object]) -> None:
    """However wrong a spec is, every fault names a field below spec; rules never see what is malformed."""
    base = yaml.safe_load(PACK)
    base["spec"].update(spec)
    told = faults_of(lambda: from_document(base))
    assert told is None or (told and all(fault.where.startswith("spec") for fault in told))


def test_a_condition_keeps_its_time_until_its_status_moves() -> None:
    first = with_condition([], condition("Ready", None, "Progressing", "compiling", 1, "t1"))
    second = with_condition(first, condition("Ready", None, "Progressing", "building", 2, "t2"))
    third = with_condition(second, condition("Ready", True, "Promoted", "live", 2, "t3"))
    assert [c[0]["lastTransitionTime"] for c in (first, second, third)] == ["t1", "t1", "t3"]
    assert second[0]["message"] == "building"


def test_stalled_is_there_only_while_it_is_true() -> None:
    stalled = with_condition([], condition("Stalled", True, "Refused", "faults", 1, "t1"))
    assert [c["type"] for c in stalled] == ["Stalled"]
    assert with_condition(stalled, condition("Stalled", False, "Mended", "", 2, "t2")) == []


def test_a_condition_needs_a_reason() -> None:
    with pytest.raises(ValueError, match="must have a reason"):
        condition("Ready", True, "", "", 1, "t")
