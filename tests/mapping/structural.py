"""A mapping of everything that a payload holds, as RML: one map for each object or element, one property for each scalar."""

from __future__ import annotations

import re
from collections.abc import Iterator
from xml.etree.ElementTree import Element, fromstring

from oracle.payload import Json, Number, read

HEAD = """@prefix rr: <http://www.w3.org/ns/r2rml#> . @prefix rml: <http://semweb.mmlab.be/ns/rml#> .
@prefix ql: <http://semweb.mmlab.be/ns/ql#> .
@prefix xsd: <http://www.w3.org/2001/XMLSchema#> . @prefix knhk: <https://knhk.dev/ns#> . @prefix ex: <https://e.x/> .
ex:m0 knhk:unknownMembers "Allow" .
"""
Path = tuple[str | None, ...]


def name_of(text: str) -> str:
    """A name for any text."""
    return "m" + re.sub(r"[^A-Za-z0-9]", lambda m: f"_{ord(m[0]):02x}", text)


def _jsonpath(path: Path) -> str:
    return "".join("[*]" if step is None else "['" + step.replace("\\", "\\\\").replace("'", "\\'") + "']" for step in path)


def _scalars(value: Json, path: Path) -> Iterator[tuple[Path, Json]]:
    """Everything below a value, with its path."""
    yield path, value
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from _scalars(inner, (*path, name))
    elif isinstance(value, list):
        for inner in value:
            yield from _scalars(inner, (*path, None))


def _kind(value: Json) -> str:
    if isinstance(value, dict):
        return "object"
    if isinstance(value, list):
        return "array"
    if isinstance(value, bool):
        return "boolean"
    if isinstance(value, Number):
        return "integer" if re.fullmatch(r"-?\d+", value) else "double"
    return "null" if value is None else "string"


def _datatype(kinds: set[str]) -> str:
    (kind,) = kinds if len(kinds) == 1 else ({"double"} if kinds == {"double", "integer"} else {"string"})
    return "" if kind == "string" else f"; rr:datatype xsd:{kind}"


def _quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _map(number: int, formulation: str, iterator: str, objects: list[str]) -> str:
    source = f'rml:source "in"; rml:referenceFormulation ql:{formulation}; rml:iterator {_quoted(iterator)}'
    lines = [f"ex:m{number} rml:logicalSource [ {source} ]; rr:subjectMap [ rr:termType rr:BlankNode ]"]
    return ";\n  ".join([*lines, *(f"rr:predicateObjectMap [ {one} ]" for one in objects)]) + " .\n"


def of_json(body: bytes) -> str:
    """RML of a JSON payload. An array that mixes objects with scalars is left out: a mapping needs one form."""
    kinds: dict[Path, set[str]] = {}
    for path, value in _scalars(read(body), ()):
        kinds.setdefault(path, set()).add(_kind(value))
    kinds = {path: found - {"null"} for path, found in kinds.items() if found - {"null"}}
    objects = [path for path, found in kinds.items() if found == {"object"}]
    numbers = {path: i for i, path in enumerate(objects)}
    texts = [HEAD]
    for path in objects:
        made = []
        for child, found in kinds.items():
            inner = child[len(path) :]
            if child[: len(path)] != path or not inner or inner[0] is None or any(step is not None for step in inner[1:]):
                continue
            predicate = f"rr:predicate ex:{name_of(inner[0])}; rr:objectMap"
            if child in numbers:
                made.append(f"{predicate} [ rr:parentTriplesMap ex:m{numbers[child]} ]")
            elif not found & {"object", "array"} and len(inner) <= 2:
                made.append(f"{predicate} [ rml:reference {_quoted('$' + _jsonpath(inner))}{_datatype(found)} ]")
        texts.append(_map(numbers[path], "JSONPath", "$" + _jsonpath(path), made))
    return "".join(texts)


def _elements(element: Element, path: Path) -> Iterator[tuple[Path, Element]]:
    yield path, element
    for child in element:
        yield from _elements(child, (*path, child.tag.rpartition("}")[2]))


def of_xml(body: bytes) -> str:
    """RML of an XML payload, by local names: elements with elements are nodes, the others and attributes are values."""
    root = fromstring(body)
    found: dict[Path, list[Element]] = {}
    for path, element in _elements(root, (root.tag.rpartition("}")[2],)):
        found.setdefault(path, []).append(element)
    nodes = [path for path, elements in found.items() if any(len(e) for e in elements)]
    numbers = {path: i for i, path in enumerate(nodes)}
    texts = [HEAD]
    for path in nodes:
        made = []
        for child in (p for p in found if len(p) == len(path) + 1 and p[:-1] == path):
            name = str(child[-1])
            predicate = f"rr:predicate ex:{name}; rr:objectMap"
            if child in numbers:
                made.append(f"{predicate} [ rr:parentTriplesMap ex:m{numbers[child]} ]")
                continue
            made.append(f'{predicate} [ rml:reference "*:{name}" ]')
            for attribute in sorted({a for e in found[child] for a in e.attrib if "}" not in a}):
                made.append(f'rr:predicate ex:{name}-{attribute}; rr:objectMap [ rml:reference "*:{name}/@{attribute}" ]')
        texts.append(_map(numbers[path], "XPath", "".join(f"/*:{step}" for step in path), made))
    return "".join(texts)
