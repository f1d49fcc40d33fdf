"""Data bundle artifact from Turtle (formats/bundle.md): closure, then one file read in place."""

from __future__ import annotations

import struct
from typing import Final

from rdflib import BNode, Literal, URIRef

from knhk.model.faults import Fault, Refused
from knhk_gen.names import ABAC, XSD
from knhk_gen.turtle import Subject, Term, TripleStore, parse, show

MAGIC: Final = b"KNHKBND1"
NONE: Final = 0xFFFFFFFF

Row = tuple[str, str, str, int]
"""Predicate, lexical form, datatype or language, kind (1 IRI, 2 typed, 3 with language)."""


def fnv1a64(data: bytes) -> int:
    """FNV-1a, 64 bits."""
    value = 0xCBF29CE484222325
    for byte in data:
        value = ((value ^ byte) * 0x100000001B3) & 0xFFFFFFFFFFFFFFFF
    return value


def build(turtle: str, path: str, caller_template: str) -> bytes:
    """The artifact of reference data and role graphs. `caller_template` holds `{}` once (empty: no
    caller). Raises Refused with every fault and its line."""
    faults: list[Fault] = []
    if caller_template and (caller_template.count("{}") != 1 or ":" not in caller_template):
        faults.append(Fault(path, caller_template, "must be an IRI with {} once, as caller template"))
    store = parse(turtle, path)
    faults += _faults(store)
    if faults:
        raise Refused(faults)
    return _pack({s: sorted(rows) for s, rows in closed(store).items()}, caller_template)


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


def _pack(subjects: dict[str, list[Row]], template: str) -> bytes:
    texts = set(subjects) | {template} | {""}
    texts |= {text for rows in subjects.values() for row in rows for text in row[:3]}
    strings = sorted(text.encode() for text in texts)
    index = {text.decode(): i for i, text in enumerate(strings)}
    names = sorted(subjects, key=lambda s: s.encode())
    offsets, area = [0], b"".join(strings)
    for text in strings:
        offsets.append(offsets[-1] + len(text))
    hbits = 0
    while (1 << hbits) < 2 * len(names):
        hbits += 1
    triples = [sorted((index[p], index[v], index[d], kind) for p, v, d, kind in subjects[name]) for name in names]
    header = struct.pack(
        "<8s6I", MAGIC, len(strings), len(names), sum(map(len, triples)), hbits, len(area),
        index[template] if template else NONE,
    )  # fmt: skip
    out = bytearray(header + struct.pack(f"<{len(offsets)}I", *offsets))
    for part in (area, _table(names, hbits), _subjects(names, index, triples)):
        out += b"\0" * (-len(out) % 8) + part
    out += b"\0" * (-len(out) % 8)
    out += b"".join(struct.pack("<3IB3x", *t) for rows in triples for t in rows)
    return bytes(out)


def _table(names: list[str], hbits: int) -> bytes:
    size = 1 << hbits
    slots = [0] * size
    for number, name in enumerate(names):
        slot = fnv1a64(name.encode()) & (size - 1)
        while slots[slot]:
            slot = (slot + 1) & (size - 1)
        slots[slot] = number + 1
    return struct.pack(f"<{size}I", *slots)


def _subjects(names: list[str], index: dict[str, int], triples: list[list[tuple[int, int, int, int]]]) -> bytes:
    out, first = bytearray(), 0
    for name, rows in zip(names, triples, strict=True):
        out += struct.pack("<4I", index[name], first, len(rows), 0)
        first += len(rows)
    return bytes(out)
