"""morph-kgc, a maintained RML engine, as oracle: it runs in an environment of its own and gets what it needs to do the same.

What is changed on the way in, because morph-kgc has no such thing: names are spelled with letters, numbers are handed over as they are
written (it reads them into floats), each object gets a key and those of its ancestors, so that nesting becomes a join, an array of scalars
becomes one of objects, a scalar deeper in an object is a member of it (morph-kgc unrolls the arrays beside it), and the payloads of one
mapping lie in one file, each making a graph of its own.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from rdflib import BNode, Graph, Literal, Namespace, URIRef
from rdflib.term import Node
from structural import name_of

from oracle.mapping import path_of
from oracle.payload import Json, read

HERE = Path(__file__).parent
LOCK = HERE / "morph.lock"
RR, OLD, NEW = Namespace("http://www.w3.org/ns/r2rml#"), Namespace("http://semweb.mmlab.be/ns/rml#"), Namespace("http://w3id.org/rml/")
KNHK, FN = Namespace("https://knhk.dev/ns#"), "https://knhk.dev/ns/fn#"


def python() -> Path:
    """The Python of morph-kgc's environment, made with the locked uv when it is not there."""
    base = Path(os.environ.get("KNHK_CACHE") or Path.home() / ".cache" / "knhk")
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    folder = base / "tests" / f"morph-{hashlib.sha256(LOCK.read_bytes() + version.encode()).hexdigest()[:16]}"
    found = folder / "bin" / "python"
    if not (folder / "ready").is_file():
        uv = [sys.executable, "-m", "uv"]
        subprocess.run([*uv, "venv", "--quiet", "--clear", "--python", sys.executable, str(folder)], check=True)
        subprocess.run([*uv, "pip", "install", "--quiet", "--require-hashes", "--python", str(found), "-r", str(LOCK)], check=True)
        (folder / "ready").touch()
    return found


# ---- payloads ----


@dataclass(frozen=True)
class Job:
    """One payload through one mapping."""

    name: str
    mapping: str
    body: bytes
    xml: bool


def _up(path: tuple[str | None, ...]) -> str:
    return "u" + hashlib.sha256(repr(path).encode()).hexdigest()[:12]


@dataclass
class _Annotator:
    count: int = 0
    ups: dict[str, str] = field(default_factory=dict)

    def key(self) -> str:
        self.count += 1
        return str(self.count)

    def json(self, value: Json, path: tuple[str | None, ...], ups: dict[str, str]) -> Any:
        if isinstance(value, dict):
            key = self.key()
            inner = ups | {_up(path): key}
            made = {name_of(name): self.json(v, (*path, name_of(name)), inner) for name, v in value.items() if v is not None}
            return made | dict(_below(value)) | {"k": key} | inner
        if isinstance(value, list):
            return [
                self.json(v, (*path, None), ups) if isinstance(v, (dict, list)) else {"v": _text(v), "k": self.key()} | ups
                for v in value
                if v is not None
            ]
        return _text(value)

    def xml(self, element: ElementTree.Element, path: tuple[str | None, ...], ups: dict[str, str]) -> None:
        element.tag = element.tag.rpartition("}")[2]
        for name in [a for a in element.attrib if "}" in a]:
            del element.attrib[name]
        path = (*path, element.tag)
        inner = ups | {_up(path): self.key()}
        for child in element:
            self.xml(child, path, inner)
        element.attrib.update(inner | {"k": inner[_up(path)]})


def _below(value: dict[str, Json], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Scalars in the objects of an object, under the names of their paths."""
    for name, inner in value.items():
        if isinstance(inner, dict):
            yield from _below(inner, prefix + name_of(name) + "__")
        elif prefix and inner is not None and not isinstance(inner, list):
            yield prefix + name_of(name), _text(inner)


def _text(value: Json) -> str:
    return ("true" if value else "false") if isinstance(value, bool) else str(value)


def _write(jobs: list[Job], folder: Path, name: str) -> Path:
    """The payloads of one mapping in one file; each item knows the payload that it is of."""
    annotator = _Annotator()
    if jobs[0].xml:
        every = ElementTree.Element("all")
        for job in jobs:
            root = ElementTree.fromstring(job.body)
            annotator.xml(root, (), {"payload": job.name})
            every.append(root)
        path = folder / f"{name}.xml"
        path.write_bytes(ElementTree.tostring(every, encoding="utf-8"))
    else:
        path = folder / f"{name}.json"
        path.write_text(json.dumps({"all": [annotator.json(read(job.body), (), {"payload": job.name}) for job in jobs]}))
    return path


# ---- mappings ----


class _Rewriter:
    """The author's RML for one payload, as RML-Core that morph-kgc can run; its triples go into one graph."""

    def __init__(self, text: str, source: Path, name: str, xml: bool) -> None:
        self.old, self.new = Graph().parse(data=_classic(text), format="turtle"), Graph()
        self.source, self.name, self.xml = source, name, xml
        self.iterators = {tm: self._iterator(tm) for tm in self.old.subjects(OLD.logicalSource)}

    def path(self, text: str) -> tuple[str | None, ...]:
        if self.xml:
            pieces = [p.rpartition(":")[2] for p in text.strip("/").split("/") if p not in (".", "text()")]
            return tuple("@" + p.lstrip("@") if "@" in q else p for p, q in zip(pieces, text.strip("/").split("/"), strict=False))
        return tuple(None if s is None else name_of(str(s)) for s in path_of(text))

    def show(self, path: tuple[str | None, ...]) -> str:
        if self.xml:
            return "/".join(str(p) for p in path)
        return "".join("[*]" if p is None else ("." if i else "") + p for i, p in enumerate(path))

    def reference(self, text: str) -> str:
        path = self.path(text)
        return self.show(path) if self.xml else "__".join(str(p) for p in path)

    def blank(self, tm: Node, key: str) -> str:
        """Template of a blank node for each item of a map."""
        return "{" + key + "}" + self.iri(tm).rpartition(":")[2]

    def _iterator(self, tm: Node) -> tuple[str | None, ...]:
        source = self.old.value(tm, OLD.logicalSource)
        return self.path(str(self.old.value(source, OLD.iterator) or ("/" if self.xml else "$")))

    def iri(self, tm: Node) -> URIRef:
        return URIRef(f"urn:map:{self.name}:{hashlib.sha256(str(tm).encode()).hexdigest()[:12]}")

    def run(self) -> Graph:
        for tm in list(self.iterators):
            self.logical(self.iri(tm), self.iterators[tm])
            subject = self.old.value(tm, RR.subjectMap)
            node = BNode()
            self.new.add((self.iri(tm), NEW.subjectMap, node))
            self.subject(tm, subject, node)
            for pom in self.old.objects(tm, RR.predicateObjectMap):
                for p in self.old.objects(pom, RR.predicate):
                    for o in self.old.objects(pom, RR.objectMap):
                        self.object(tm, p, o)
                    for o in self.old.objects(pom, RR.object):
                        self.pom(self.iri(tm), p, partial(self.constant, o))
        return self.new

    def constant(self, value: Node, at: BNode) -> None:
        self.new.add((at, NEW.constant, value))

    def logical(self, tm: URIRef, iterator: tuple[str | None, ...]) -> None:
        source = BNode()
        root = "/all/" if self.xml else "$.all[*]." if iterator and iterator[0] is not None else "$.all[*]"
        self.new.add((tm, NEW.logicalSource, source))
        self.new.add((source, NEW.source, Literal(str(self.source))))
        self.new.add((source, NEW.referenceFormulation, NEW.XPath if self.xml else NEW.JSONPath))
        self.new.add((source, NEW.iterator, Literal(root + self.show(iterator))))

    def subject(self, tm: Node, old: Node | None, node: BNode) -> None:
        self.graph(node)
        if not self.term(old, node):
            self.new.add((node, NEW.template, Literal(self.blank(tm, "@k" if self.xml else "k"))))
            self.new.add((node, NEW.termType, NEW.BlankNode))
        for cls in self.old.objects(old, RR["class"]):
            self.new.add((node, NEW["class"], cls))

    def graph(self, subject: BNode) -> None:
        """One graph for each payload."""
        node = BNode()
        self.new.add((subject, NEW.graphMap, node))
        self.new.add((node, NEW.template, Literal("urn:payload:{@payload}" if self.xml else "urn:payload:{payload}")))

    def term(self, old: Node | None, node: BNode) -> bool:
        """Copies a term map; False when it is a blank node for each item."""
        kind = self.old.value(old, RR.termType)
        if kind is not None:
            self.new.add((node, NEW.termType, NEW[str(kind).rpartition("#")[2]]))
        for p in (RR.datatype, RR.language, RR.constant):
            if (value := self.old.value(old, p)) is not None:
                self.new.add((node, NEW[str(p).rpartition("#")[2]], value))
        reference, template = self.old.value(old, OLD.reference), self.old.value(old, RR.template)
        execution = self.old.value(old, OLD.functionExecution)
        if reference is not None:
            self.new.add((node, NEW.reference, Literal(self.reference(str(reference)))))
        if template is not None:
            holes = re.sub(r"\{([^}]*)\}", lambda m: "{" + self.reference(m[1]) + "}", str(template))
            self.new.add((node, NEW.template, Literal(holes)))
        if execution is not None:
            self.new.add((node, NEW.functionExecution, self.execution(execution)))
        return any(v is not None for v in (reference, template, execution, self.old.value(old, RR.constant)))

    def execution(self, old: Node) -> BNode:
        node = BNode()
        function = self.old.value(old, OLD.function)
        assert function is not None
        self.new.add((node, NEW.function, function))
        for one in self.old.objects(old, OLD["input"]):
            given, value = BNode(), BNode()
            parameter, inner = self.old.value(one, OLD.parameter), self.old.value(one, OLD.inputValueMap)
            assert parameter is not None
            self.new.add((node, NEW["input"], given))
            self.new.add((given, NEW.parameter, parameter))
            self.new.add((given, NEW.inputValueMap, value))
            if inner is not None:
                self.term(inner, value)
            else:
                constant = self.old.value(one, OLD.inputValue)
                self.new.add((value, NEW.constant, Literal(self.codes(constant) if str(parameter) == FN + "list" else str(constant))))
        return node

    def codes(self, old: Node | None) -> str:
        entries = {str(self.old.value(e, KNHK.code)): str(self.old.value(e, KNHK.means)) for e in self.old.objects(old, KNHK.entry)}
        other = self.old.value(old, KNHK.otherwise)
        return json.dumps({"codes": entries, "other": None if other is None else str(other)}).encode().hex()

    def pom(self, tm: URIRef, p: Node, fill: Callable[[BNode], Any]) -> None:
        pom, node = BNode(), BNode()
        self.new.add((tm, NEW.predicateObjectMap, pom))
        self.new.add((pom, NEW.predicate, p))
        self.new.add((pom, NEW.objectMap, node))
        fill(node)

    def object(self, tm: Node, p: Node, old: Node) -> None:
        parent, reference = self.old.value(old, RR.parentTriplesMap), self.old.value(old, OLD.reference)
        if parent is not None:
            self.pom(self.iri(tm), p, lambda node: self.parent(tm, parent, self.old.value(old, RR.joinCondition), node))
        elif reference is not None and None in self.path(str(reference)):
            self.scalars(tm, p, old, self.path(str(reference)))
        else:
            self.pom(self.iri(tm), p, lambda node: self.term(old, node))

    def parent(self, tm: Node, parent: Node, condition: Node | None, node: BNode) -> None:
        join, at = BNode(), "@" if self.xml else ""
        self.new.add((node, NEW.parentTriplesMap, self.iri(parent)))
        self.new.add((node, NEW.joinCondition, join))
        if condition is None:
            child, other = at + "k", at + _up(self.iterators[tm])
        else:
            child, other = (self.reference(str(self.old.value(condition, p))) for p in (RR.child, RR.parent))
        self.new.add((join, NEW.child, Literal(child)))
        self.new.add((join, NEW.parent, Literal(other)))

    def scalars(self, tm: Node, p: Node, old: Node, path: tuple[str | None, ...]) -> None:
        """The elements of an array below an item: items of their own, whose subject is that of the item."""
        assert path[-1] is None
        assert None not in path[:-1]
        own = URIRef(f"{self.iri(tm)}:{_up(path)}:{hashlib.sha256(str(p).encode()).hexdigest()[:6]}")
        subject = self.old.value(tm, RR.subjectMap)
        assert self.old.value(subject, RR.termType) == RR.BlankNode, "arrays of scalars below blank nodes only"
        self.logical(own, (*self.iterators[tm], *path))
        node = BNode()
        self.new.add((own, NEW.subjectMap, node))
        self.graph(node)
        self.new.add((node, NEW.template, Literal(self.blank(tm, _up(self.iterators[tm])))))
        self.new.add((node, NEW.termType, NEW.BlankNode))

        def fill(at: BNode) -> None:
            self.new.add((at, NEW.reference, Literal("v")))
            for known in (RR.datatype, RR.language):
                if (value := self.old.value(old, known)) is not None:
                    self.new.add((at, NEW[str(known).rpartition("#")[2]], value))

        self.pom(own, p, fill)


def _classic(text: str) -> str:
    """RML-Core spelled in the classic vocabulary; done by names, apart from the compiler's own reading."""
    if str(NEW) not in text:
        return text
    g = Graph().parse(data=text, format="turtle")
    old = [
        "logicalSource",
        "source",
        "referenceFormulation",
        "iterator",
        "reference",
        "functionExecution",
        "function",
        "input",
        "parameter",
        "inputValue",
        "inputValueMap",
    ]
    made = Graph()
    for s, p, o in g:
        terms = []
        for t in (s, p, o):
            word = str(t)[len(str(NEW)) :] if isinstance(t, URIRef) and str(t).startswith(str(NEW)) else ""
            terms.append((OLD[word] if word in old else RR[word]) if word else t)
        made.add((terms[0], terms[1], terms[2]))
    return made.serialize(format="turtle")


def run(jobs: list[Job], folder: Path) -> dict[str, list[str]]:
    """N-Triples lines of each job by morph-kgc, in one run."""
    mapping = Graph()
    for i, text in enumerate(dict.fromkeys(job.mapping for job in jobs)):
        alike = [job for job in jobs if job.mapping == text]
        mapping += _Rewriter(text, _write(alike, folder, f"m{i}"), f"m{i}", alike[0].xml).run()
    (folder / "mapping.ttl").write_text(mapping.serialize(format="turtle"))
    config = "[CONFIGURATION]\noutput_format=N-QUADS\nlogging_level=ERROR\nnumber_of_processes=1\nna_values=nan,None\n"
    (folder / "config.ini").write_text(f"{config}udfs={HERE / 'morph_functions.py'}\n[payloads]\nmappings={folder / 'mapping.ttl'}\n")
    script = "import json, morph_kgc, sys; print(json.dumps(sorted(morph_kgc.materialize_set(sys.argv[1]))))"
    done = subprocess.run([str(python()), "-c", script, str(folder / "config.ini")], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(done.stderr[-3000:])
    found: dict[str, list[str]] = {job.name: [] for job in jobs}
    for line in json.loads(done.stdout.splitlines()[-1]):
        triple, _, graph = line.rpartition(" <urn:payload:")
        found[graph.removesuffix(">")].append(triple + " .")
    return found
