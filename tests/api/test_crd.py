"""The generated CRDs: fresh, structural, bounded, and in the terms that tools know."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from knhk.api import KINDS, check_status
from knhk.api.check import completed
from knhk.api.crdgen import crd, files

CRDS = Path(__file__).parents[2] / "crds"
TYPES = {"string", "integer", "boolean", "array", "object"}
ALLOWED = {
    "type",
    "description",
    "default",
    "minLength",
    "maxLength",
    "format",
    "minimum",
    "maximum",
    "minItems",
    "maxItems",
    "items",
    "properties",
    "required",
    "additionalProperties",
    "maxProperties",
    "x-kubernetes-validations",
    "x-kubernetes-list-type",
    "x-kubernetes-list-map-keys",
}
BOUND = {"string": {"maxLength"}, "integer": {"minimum", "maximum"}, "array": {"maxItems", "items"}}

kinds = pytest.mark.parametrize("kind", KINDS)


def version(kind: str) -> dict[str, Any]:
    """The one version of a CRD as it is committed."""
    document = yaml.safe_load((CRDS / f"knhk.dev_{KINDS[kind].plural}.yaml").read_text(encoding="utf-8"))
    (found,) = document["spec"]["versions"]
    return dict(found)


def schemas(schema: dict[str, Any], at: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Every schema in a schema, with its place."""
    yield at, schema
    for name, child in schema.get("properties", {}).items():
        yield from schemas(child, f"{at}.{name}")
    for part in ("items", "additionalProperties"):
        if isinstance(schema.get(part), dict):
            yield from schemas(schema[part], f"{at}[]")


def test_committed_files_are_what_the_declaration_gives() -> None:
    assert {path.name: path.read_text(encoding="utf-8") for path in CRDS.glob("*.yaml")} == files()


@kinds
def test_the_schema_is_structural_and_bounded(kind: str) -> None:
    for at, schema in schemas(version(kind)["schema"]["openAPIV3Schema"]):
        assert set(schema) <= ALLOWED, at
        assert schema["type"] in TYPES, at
        assert set(schema) >= BOUND.get(schema["type"], set()), at
        if schema["type"] == "object" and at != ".metadata":
            assert "properties" in schema or "maxProperties" in schema, at
        assert set(schema.get("required", ())) <= set(schema.get("properties", ())), at


@kinds
def test_everything_is_described_for_kubectl_explain(kind: str) -> None:
    for at, schema in schemas(version(kind)["schema"]["openAPIV3Schema"]):
        assert at == ".metadata" or schema["description"].endswith((".", "type.")), at


@kinds
def test_keyed_lists_require_their_key(kind: str) -> None:
    for at, schema in schemas(version(kind)["schema"]["openAPIV3Schema"]):
        for key in schema.get("x-kubernetes-list-map-keys", ()):
            assert key in schema["items"]["required"], at


@kinds
def test_rules_say_must_in_one_line_and_point_at_fields_that_exist(kind: str) -> None:
    for at, schema in schemas(version(kind)["schema"]["openAPIV3Schema"]):
        for rule in schema.get("x-kubernetes-validations", ()):
            assert "must" in rule["message"], at
            assert "\n" not in rule["message"] + rule["rule"], at
            assert rule.get("fieldPath", ".").removeprefix(".") in {
                "",
                *schema.get("properties", ()),
            }, at


@kinds
def test_status_columns_names(kind: str) -> None:
    names = crd(KINDS[kind])["spec"]["names"]
    found = version(kind)
    assert found["subresources"] == {"status": {}}
    columns = [c["name"] for c in found["additionalPrinterColumns"] if not c.get("priority")]
    assert {"Age", *(() if kind == "Receipt" else ("Ready", "Status"))} <= set(columns)  # nobody has to do anything about a receipt
    assert (names["categories"], bool(names["shortNames"])) == (["knhk"], True)
    status = found["schema"]["openAPIV3Schema"]["properties"]["status"]["properties"]
    assert status["conditions"]["x-kubernetes-list-map-keys"] == ["type"]
    assert "observedGeneration" in status


@kinds
def test_what_nobody_has_worked_on_says_so(kind: str) -> None:
    status = version(kind)["schema"]["openAPIV3Schema"]["properties"]["status"]
    assert status.get("default") == (None if kind == "Receipt" else {"observedGeneration": -1})


def test_short_names_are_of_one_kind_only() -> None:
    names = [n for k in KINDS.values() for n in (k.plural, k.singular, *k.short)]
    assert len(names) == len(set(names))


def test_a_receipt_cannot_change() -> None:
    spec = version("Receipt")["schema"]["openAPIV3Schema"]["properties"]["spec"]
    assert {
        "rule": "self == oldSelf",
        "message": "must not change: a Receipt is immutable",
    } in spec["x-kubernetes-validations"]


def test_a_status_that_an_api_server_would_cut_is_told() -> None:
    faults = check_status("PolicyPack", {"revision": {"phase": "Live", "phaze": "x"}, "faults": [{}]})
    assert [f.where for f in faults] == [
        "status.revision.phaze",
        "status.faults[0].where",
        "status.faults[0].value",
        "status.faults[0].must",
    ]
    assert check_status("PolicyPack", {"observedGeneration": 1}) == ()


@kinds
def test_the_api_server_fills_in_nothing_in_items_of_lists(kind: str) -> None:
    """Argo CD compares lists as wholes: it would call that drift for ever."""
    inside = [(at, schema) for at, schema in schemas(version(kind)["schema"]["openAPIV3Schema"]["properties"]["spec"]) if "[]" in at]
    assert [at for at, schema in inside if "default" in schema] == []


def test_what_it_does_not_fill_in_is_filled_in_when_it_is_read() -> None:
    shape = KINDS["PolicyPack"].spec
    kept = {"targets": [{"point": "orders"}], "rollout": {"steps": [{"weight": 10, "wave": 50}]}}
    found = completed(shape, kept)
    assert found == {
        "targets": [{"point": "orders", "stage": "production"}],
        "rollout": {"steps": [{"weight": 10, "minPairs": 100, "wave": 50}]},
    }
    assert kept["targets"] == [{"point": "orders"}]
