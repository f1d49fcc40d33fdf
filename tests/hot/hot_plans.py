"""GuardPlans made by hand, so that the emitter and the engine are tested without the lowering."""

from __future__ import annotations

from typing import Any

from knhk.model.arrows import GuardPlan
from knhk_gen.emit import emit
from knhk_hot.pack import Binding, Pack
from knhk_hot.toolchain import HOST, link_pack

XSD = "http://www.w3.org/2001/XMLSchema#"
EX = "https://e.x/"
ATTR = "https://knhk.dev/ns/attr#"
KNHK = "https://knhk.dev/ns#"
Json = dict[str, Any]


def lit(text: str, datatype: str = "string", lang: str = "") -> Json:
    return {"k": "lit", "v": text, "dt": "http://www.w3.org/1999/02/22-rdf-syntax-ns#langString" if lang else XSD + datatype, "lang": lang}


def iri(name: str) -> Json:
    return {"k": "iri", "v": name if ":" in name else EX + name}


def guard(name: str, expr: Json | None = None, target: int = 0, klass: str = "R1", **more: str) -> Json:
    made = {
        "id": name, "kind": "shacl", "class": klass, "why": "test", "source": "s.ttl:1", "shape": EX + "S", "component": "sh:X",
        "path": "", "message": f"{name} failed", "severity": "Violation", "target": target,
    }  # fmt: skip
    made |= more
    return made if expr is None else made | {"expr": expr}


PAYLOAD = guard("payload", kind="payload", message="", component="")


def ref(*steps: str | int, datatype: str | None = None, lang: str = "", node: str = "literal") -> Json:
    return {"ref": path(*steps), "datatype": XSD + datatype if datatype else None, "lang": lang, "node": node}


def path(*steps: str | int) -> list[Json]:
    """Member names, indexes; "*" is every element."""
    return [{"each": True} if s == "*" else {"index": s} if isinstance(s, int) else {"key": s} for s in steps]


def prop(name: str, obj: Json) -> Json:
    return {"p": name if ":" in name else EX + name, "object": obj}


def template(*parts: str | list[Json]) -> list[Json]:
    return [{"text": p} if isinstance(p, str) else {"ref": p} for p in parts]


def mapping(*maps: Json, unknown: str = "Allow", depth: int = 64, name: str = "m") -> Json:
    return {"id": name, "source": "json", "unknownMembers": unknown, "duplicateMembers": "Deny", "maxDepth": depth, "maps": list(maps)}


def a_map(name: str, iterator: list[Json], subject: Json, *properties: Json, classes: tuple[str, ...] = ()) -> Json:
    return {"id": name, "iterator": iterator, "subject": subject, "classes": [EX + c for c in classes], "properties": list(properties)}


BLANK: Json = {"kind": "blank"}


def item(*steps: str | int) -> Json:
    """Subject https://e.x/i/VALUE."""
    return {"kind": "template", "parts": template(EX + "i/", path(*steps)), "node": "iri"}


def plan(
    guards: list[Json],
    mappings: list[Json],
    targets: list[Json] | None = None,
    routes: dict[str, str | None] | None = None,
    predicates: tuple[str, ...] = (),
    subjects: tuple[str, ...] = (),
) -> GuardPlan:
    ordered = [PAYLOAD, *sorted(guards, key=lambda g: str(g["id"]))]
    return GuardPlan(
        {
            "version": 1, "tool": "test", "pack": {"namespace": "t", "name": "pack", "version": "1"}, "guards": ordered,
            "targets": targets or [{"kind": "class", "classes": [EX + "Thing"]}],
            "mappings": mappings,
            "routes": routes if routes is not None else {"create": "m", "bare": None},
            "bundle": {"predicates": list(predicates), "subjects": list(subjects)},
            "cold": {"shapes": "", "asks": {}},
        }
    )  # fmt: skip


_packs: dict[str, Pack] = {}


def pack(made: GuardPlan) -> Pack:
    """The plan as an opened pack, linked once."""
    if made.digest not in _packs:
        _packs[made.digest] = Pack.load(link_pack(emit(made), HOST))
    return _packs[made.digest]


def bindings(made: GuardPlan, bundle: bytes | None = None) -> list[Binding]:
    """One binding for each variant that runs here."""
    opened = pack(made)
    return [opened.bind(bundle, kernel=name) for name in opened.variants]


def failing(made: GuardPlan, o: bytes, bundle: bytes | None = None) -> set[str] | int:
    """Ids of failing guards, or the status when nothing was decided; all variants must agree."""
    found = [b.decide(o) for b in bindings(made, bundle)]
    assert len({(d.status, d.verdict, d.a, d.triples) for d in found}) == 1, found
    first = found[0]
    if first.status != 0:
        return first.status
    return {str(made.document["guards"][i]["id"]) for i in first.failing_guards}
