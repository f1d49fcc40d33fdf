"""Data bundle artifact from Turtle (formats/bundle.md): closure, then one file read in place."""

from __future__ import annotations

import struct
from collections.abc import Collection, Mapping
from itertools import accumulate
from typing import Final

from rdflib import BNode, Literal, URIRef

from knhk.model.faults import Fault, Refused
from knhk_gen import perfect
from knhk_gen.names import ABAC, XSD
from knhk_gen.perfect import Place
from knhk_gen.turtle import Subject, Term, TripleStore, parse, show

MAGIC: Final = b"KNHKBND2"
NONE: Final = 0xFFFFFFFF

Row = tuple[str, str, str, int]
"""Predicate, lexical form, datatype or language, kind (1 IRI, 2 typed, 3 with language)."""


def build(turtle: str, path: str, caller_template: str, place: Place = perfect.place) -> bytes:
    """The artifact of reference data and role graphs. `caller_template` holds `{}` once (empty: no
    caller). `place` makes no difference but in time. Raises Refused with every fault and its line."""
    faults: list[Fault] = []
    if caller_template and (caller_template.count("{}") != 1 or ":" not in caller_template):
        faults.append(Fault(path, caller_template, "must be an IRI with {} once, as caller template"))
    store = parse(turtle, path)
    faults += _faults(store)
    if faults:
        raise Refused(faults)
    return pack(closed(store), caller_template, place)


def _faults(store: TripleStore) -> list[Fault]:
    found: list[Fault] = []
    for (s, p, o), where in store.triples.items():
        if isinstance(s, BNode):
            found.append(Fault(where, show(s), "must be an IRI: a bundle has no blank nodes"))
        if isinstance(o, BNode):
            found.append(Fault(where, f"{store.curie(str(p))} {show(o)}", "must be an IRI or a literal"))
        name = str(p)
        if name in (ABAC + "hasRole", ABAC + "inherits") and not isinstance(o, URIRef):
            found.append(Fault(where, f"{store.curie(name)} {show(o)}", "must be the IRI of a role"))
        if name == ABAC + "inheritable" and str(o) not in ("true", "false"):
            found.append(Fault(where, f"{store.curie(name)} {show(o)}", "must be true or false"))
        if name.startswith(ABAC) and name.removeprefix(ABAC) not in _TERMS:
            must = f"must be one of {', '.join('abac:' + t for t in _TERMS)}"
            found.append(Fault(where, store.curie(name), must))
    return found


_TERMS: Final = ("hasRole", "inherits", "inheritable")


def closed(store: TripleStore) -> dict[str, set[Row]]:
    """Triples of every subject after closure of roles and inheritance of their properties."""
    inheritable = {str(p) for p in store.subjects(ABAC + "inheritable", _true()) if isinstance(p, URIRef)}
    found: dict[str, set[Row]] = {}
    for subject, properties in store.by_subject.items():
        rows = found.setdefault(str(subject), set())
        rows |= {_row(p, o) for p, values in properties.items() for o in values}
        for role in _roles(store, subject):
            rows.add(_row(ABAC + "hasRole", role))
            for p in inheritable:
                rows |= {_row(p, o) for o in store.values(role, p)}
    return found


def _true() -> Literal:
    return Literal("true", datatype=URIRef(XSD + "boolean"), normalize=False)


def _roles(store: TripleStore, subject: Subject) -> set[URIRef]:
    todo = list(store.values(subject, ABAC + "hasRole"))
    found: set[URIRef] = set()
    while todo:
        role = todo.pop()
        if isinstance(role, URIRef) and role not in found:
            found.add(role)
            todo += store.values(role, ABAC + "inherits")
    return found


def _row(p: str, o: Term) -> Row:
    if isinstance(o, URIRef):
        return (p, str(o), "", 1)
    if isinstance(o, Literal) and o.language:
        return (p, str(o), o.language.lower(), 3)
    datatype = o.datatype if isinstance(o, Literal) else None
    return (p, str(o), str(datatype or XSD + "string"), 2)


def pack(subjects: Mapping[str, Collection[Row]], template: str, place: Place = perfect.place) -> bytes:
    """The file of closed triples: strings at the places that their perfect hash gives, then triples in the order of their subjects."""
    texts = set(subjects) | {template} | {""}
    texts |= {text for rows in subjects.values() for row in rows for text in row[:3]}
    keys = sorted(text.encode() for text in texts)
    found = perfect.build(keys, place)
    strings = [keys[number] for number in found.order]
    index = {text.decode(): i for i, text in enumerate(strings)}
    first, triples = [0], bytearray()
    for text in strings:
        rows = subjects.get(text.decode(), ())
        for triple in sorted((index[p], index[v], index[d], kind) for p, v, d, kind in rows):
            triples += struct.pack("<3IB3x", *triple)
        first.append(first[-1] + len(rows))
    area, offsets = b"".join(strings), [0, *accumulate(map(len, strings))]
    out = bytearray(
        struct.pack("<8s4I2Q", MAGIC, len(strings), first[-1], len(area), index[template] if template else NONE, found.seed.r, found.seed.x)
    )
    for kind, numbers in (("H", found.pilots), ("I", found.remap), ("I", offsets), ("I", first)):
        out += struct.pack(f"<{len(numbers)}{kind}", *numbers)
        out += b"\0" * (-len(out) % 8)
    return bytes(out + area + b"\0" * (-len(area) % 8) + triples)
