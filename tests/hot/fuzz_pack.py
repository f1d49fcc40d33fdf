"""The pack that the fuzz drivers judge with, as C: python tests/hot/fuzz_pack.py writes hot_c/fuzz/pack.c."""

from __future__ import annotations

from pathlib import Path

from hot_plans import BLANK, EX, KNHK, a_map, guard, iri, item, mapping, path, plan, prop, ref, template
from test_guards import CASES

from knhk_gen.emit import emit

CREATE = mapping(
    a_map(
        "root",
        [],
        item("id"),
        prop("s", ref("currency")),
        prop("d", ref("total", datatype="decimal")),
        prop("t", ref("issued", datatype="date")),
        prop("b", ref("paid")),
        prop("line", {"child": "line"}),
        prop("link", ref("link", node="iri")),
        classes=("Thing",),
    ),
    a_map("line", path("lines", "*"), BLANK, prop("i", ref("qty")), prop("any", ref("price", datatype="double")), classes=("Part",)),
    a_map(
        "tag",
        path("tags", "*"),
        {"kind": "template", "parts": template("t", []), "node": "bnode"},
        prop("en", ref(lang="en")),
        classes=("Thing",),
    ),
    name="create",
)
OTHER = mapping(
    a_map(
        "x",
        path("a", "*"),
        item("k"),
        prop("any", {"parts": template("v", path("v", "*"), path("w", "*")), "datatype": None, "lang": "", "node": "literal"}),
    ),
    unknown="Deny",
    depth=3,
    name="other",
)
PLAN = plan(
    [guard(f"g{i:03}", case.values[0]) for i, case in enumerate(CASES)],  # type: ignore[arg-type]
    [CREATE, OTHER],
    [
        {"kind": "class", "classes": [EX + "Thing"]},
        {"kind": "class", "classes": [EX + "Part"]},
        {"kind": "node", "node": iri(KNHK + "caller")},
    ],
    {"create": "create", "other": "other", "bare": None},
    predicates=("https://e.x/limit",),
    subjects=("https://e.x/u",),
)

if __name__ == "__main__":
    (Path(__file__).parents[2] / "hot_c" / "fuzz" / "pack.c").write_text(emit(PLAN).text)
