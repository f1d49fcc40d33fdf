"""The packs that the fuzz drivers judge with, as C: python tests/hot/fuzz_pack.py writes hot_c/fuzz/pack.c and batch.c."""

from __future__ import annotations

from pathlib import Path

from hot_guards import CASES, MAP
from hot_plans import BLANK, EX, KNHK, Json, a_map, guard, iri, item, mapping, path, plan, prop, ref, template

from knhk.model.arrows import GuardPlan
from knhk_gen.emit import emit
from knhk_gen.emit_terms import DATATYPES
from knhk_gen.functions import FUNCTIONS

CODES: Json = {"f": "codes", "codes": {"EUR": "Euro", "USD": "Dollar"}, "other": "Other"}


def xpath(*names: str) -> list[Json]:
    return [{"attribute": n[1:]} if n.startswith("@") else {"element": n} for n in names]


def amount(name: str) -> Json:
    return {"ref": xpath(name), "datatype": None, "lang": "", "node": "literal", "functions": [{"f": "decimalComma"}]}


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
        prop("any", ref("when") | {"functions": [{"f": "dotNetDateTime"}]}),
        prop("any", ref("at") | {"functions": [{"f": "trim"}, {"f": "dateTime", "text": "YYYY-MM-DDThh:mm:ss.fZ"}]}),
        classes=("Thing",),
    ),
    a_map(
        "line",
        path("lines", "*"),
        BLANK,
        prop("i", ref("qty")),
        prop("any", ref("price", datatype="double")),
        prop("any", ref("day") | {"functions": [{"f": "absentIf", "text": "00000000"}, {"f": "date", "text": "YYYYMMDD"}]}),
        prop("peer", {"join": "peer", "key": {"ref": path("ref")}, "parentKey": {"ref": path("k")}}),
        classes=("Part",),
    ),
    a_map("peer", path("peers", "*"), item("k")),
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
CHAINS: dict[str, Json] = {
    "absentIf": {"text": "-"},
    "date": {"text": "YYYY-M-D*"},
    "dateTime": {"text": "DD.MM.YYYY hh:mm:ss.fZ", "zone": ""},
    "codes": {"codes": CODES["codes"]},
    "prefix": {"text": "urn:x:"},
    "expand": {"codes": {"ex:": EX, "name": EX + "name"}, "text": "https://vocab.x/"},
}
FORMS = mapping(  # every function over the member of its name, and every datatype
    a_map(
        "forms",
        [],
        item("id"),
        *(prop("any", ref(name, "*") | {"functions": [{"f": "trim"}, {"f": name, **CHAINS.get(name, {})}]}) for name in FUNCTIONS),
        prop("any", ref("local", "*") | {"functions": [{"f": "dateTime", "text": "YYYY-MM-DDThh:mm:ss", "zone": "+02:00"}]}),
        *(prop(at, ref(name, "*", datatype=name)) for name in DATATYPES for at in ("any", "t")),
        classes=("Thing",),
    ),
    name="forms",
)
XML_MAPS = (
    a_map(
        "item",
        xpath("urn:a Doc", "urn:a Item"),
        {"kind": "template", "parts": [{"text": EX + "i/"}, {"ref": xpath("@id")}], "node": "iri"},
        prop("s", {"ref": xpath("urn:a Name"), "datatype": None, "lang": "", "node": "literal"}),
        prop("d", amount("* Amt")),
        prop(
            "any", {"ref": xpath("* Amt", "@Ccy"), "datatype": None, "lang": "en", "node": "literal", "functions": [CODES, {"f": "lower"}]}
        ),
        prop(
            "t",
            {"ref": xpath("urn:a Day"), "datatype": None, "lang": "", "node": "literal", "functions": [{"f": "date", "text": "YYYYMMDD"}]},
        ),
        prop("b", {"ref": xpath("*"), "datatype": None, "lang": "", "node": "literal"}),
        prop("i", {"ref": [{"element": "urn:a Name", "index": 1}], "datatype": None, "lang": "", "node": "literal"}),
        prop("peer", {"join": "item", "key": {"ref": xpath("urn:a Ref")}, "parentKey": {"ref": xpath("@k")}}),
        prop("part", {"child": "part"}),
        classes=("Thing",),
    ),
    a_map(
        "part",
        xpath("urn:a Doc", "urn:a Item", "urn:a Part"),
        BLANK,
        prop("s", {"ref": xpath("@x"), "datatype": None, "lang": "", "node": "literal"}),
    ),
)
XML = mapping(*XML_MAPS, name="xml", unknown="Deny") | {"source": "xml"}
LOOSE = mapping(*XML_MAPS, name="loose", unknown="Allow") | {"source": "xml"}
RDF = mapping(name="rdf", unknown="Deny") | {"source": "rdf"}
THINGS = MAP | {"id": "things"}
MADE: Json = {
    "k000": [{"when": {"op": "count", "p": EX + "s", "min": 1, "max": None}, "triples": [
        {"s": {"this": True}, "p": "https://out.x/s", "o": {"of": {"this": True}, "p": EX + "s", "test": {"t": "const", "value": True}}},
        {"s": iri("https://out.x/all"), "p": "https://out.x/has", "o": {"this": True}},
    ]}],
    "k001": [{"when": {"op": "count", "p": EX + "i", "min": 1, "max": 2}, "triples": [
        {"s": {"this": True}, "p": "https://out.x/i",
         "o": {"of": {"this": True}, "p": EX + "any", "test": {"t": "kind", "kinds": ["literal"]}}},
    ]}],
}  # fmt: skip
GUARDS = [guard(f"g{i:03}", case.values[0]) for i, case in enumerate(CASES)]  # type: ignore[arg-type]


def rules(guards: list[Json]) -> GuardPlan:
    return plan(
        guards,
        [CREATE, FORMS, LOOSE, OTHER, RDF, THINGS, XML],
        [
            {"kind": "class", "classes": [EX + "Thing"]},
            {"kind": "class", "classes": [EX + "Part"]},
            {"kind": "node", "node": iri(KNHK + "caller")},
        ],
        {"bare": None} | {name: name for name in ("create", "forms", "loose", "other", "rdf", "things", "xml")},
        predicates=("https://e.x/limit",),
        subjects=("https://e.x/u",),
    )  # fmt: skip


MAKES = [guard(name, kind="construct", target=i) for i, name in enumerate(MADE)]
PLAN = GuardPlan(dict(rules([*GUARDS, *MAKES]).document) | {"constructs": MADE})
BATCH = rules(GUARDS)  # whoever makes no triples is judged in shards
PLANS = {"pack": PLAN, "batch": BATCH}

if __name__ == "__main__":
    for name, made in PLANS.items():
        (Path(__file__).parents[2] / "hot_c" / "fuzz" / f"{name}.c").write_text(emit(made).text)
