"""One invoice as SAP and as NetSuite write it: the same graph, the same A, right or wrong."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from mapped import lines_of

from knhk.adapters.pack_folder import find
from knhk.api import to_sources
from knhk_gen.emit import emit
from knhk_gen.lower import lower
from knhk_hot.fuzz_seeds import observation
from knhk_hot.pack import Binding, Pack
from knhk_hot.toolchain import HOST, link_pack

FOLDER = Path(__file__).parents[2] / "examples" / "mappings" / "one-invoice"
ROUTES = ("sap", "netsuite")


@pytest.fixture(scope="module")
def bound() -> Binding:
    return Pack.load(link_pack(emit(lower(to_sources(find(FOLDER).pack))), HOST)).bind()


def payload(route: str) -> Any:
    return json.loads((FOLDER / f"{route}.json").read_text())


def decide(bound: Binding, route: str, document: Any) -> tuple[int, bytes]:
    decision = bound.decide(observation(json.dumps(document).encode(), route.encode()))
    assert decision.status == 0
    return decision.verdict, decision.a


def test_the_graph_is_the_same(bound: Binding) -> None:
    sap, netsuite = (lines_of(bound, (FOLDER / f"{route}.json").read_bytes(), route) for route in ROUTES)
    assert sap == netsuite
    assert isinstance(sap, list)
    assert len(sap) == 22
    assert any('"-50"^^<http://www.w3.org/2001/XMLSchema#decimal>' in line for line in sap)
    assert any("<https://example.com/customers/100042>" in line for line in sap)
    assert not any("invoice#due>" in line for line in sap)


CHANGES = [  # (in the SAP form, in the NetSuite form, admitted)
    ({}, {}, True),
    ({"WRBTR": "10.000,01"}, {"total": 10000.01}, False),
    ({"SKFBT": "1,00"}, {"discounttotal": 1}, False),
    ({"WAERS": "GBP"}, {"currency": {"refName": "GBP"}}, False),
    ({"ITEMS": []}, {"item": {"items": []}}, False),
    ({"ZFBDT": "20250228"}, {"duedate": "2/28/2025"}, True),
    ({"BLDAT": "20250230"}, {"trandate": "2/30/2025"}, False),
    ({"AUGST": "Z"}, {"status": {"id": "Z"}}, False),
]


@pytest.mark.parametrize(("sap", "netsuite", "admitted"), CHANGES)
def test_a_is_the_same(bound: Binding, sap: Any, netsuite: Any, admitted: bool) -> None:
    answers = [decide(bound, route, payload(route) | change) for route, change in zip(ROUTES, (sap, netsuite), strict=True)]
    assert answers[0] == answers[1]
    assert (answers[0][0] == 1) is admitted
