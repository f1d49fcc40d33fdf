"""The short YAML form of a mapping (docs/mapping.md), read with the line of every value."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import yaml
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from knhk.model.arrows import Source
from knhk.model.faults import Fault, Refused
from knhk_gen.functions import FUNCTIONS, NAMES, Function, pattern_fault, zone_fault
from knhk_gen.mapping import (
    ABSOLUTE,
    FORMATS,
    UNKNOWN,
    Mapping,
    PropertyMap,
    TermMap,
    TriplesMap,
    constant_iri,
    constant_literal,
    named_function,
)
from knhk_gen.names import PREFIXES, XSD
from knhk_gen.turtle import Text

_TOP = ("prefixes", "format", "namespaces", "codeLists", "unknownMembers", "maps")
_MAP = ("id", "iterator", "subject", "class", "properties")
_SUBJECT = ("template", "constant", "blank", "reference", "as", "node")
_VALUE = ("path", "template", "constant", "child", "join", "on", "as", "datatype", "lang", "node")
_SCALARS = {"tag:yaml.org,2002:int": "integer", "tag:yaml.org,2002:bool": "boolean"}


class _Reader:
    def __init__(self, source: Source) -> None:
        self.text = Text(source.text, source.path, source.first_line)
        self.mapping = Mapping()
        self.prefixes = dict(PREFIXES)
        self.lists: dict[str, dict[str, Node]] = {}

    def where(self, node: Node) -> str:
        return self.text.at(node.start_mark.line + 1)

    def fault(self, node: Node, value: str, must: str) -> None:
        self.mapping.fault(self.where(node), value, must)

    def fields(self, node: Node, known: tuple[str, ...] | None) -> dict[str, tuple[Node, Node]]:
        """name → (key node, value node); unknown and repeated names are faults."""
        if not isinstance(node, MappingNode):
            self.fault(node, _value(node), "must be an object (name: value lines)")
            return {}
        found: dict[str, tuple[Node, Node]] = {}
        for key, value in node.value:
            name = str(key.value) if isinstance(key, ScalarNode) else ""
            if name in found:
                self.fault(key, name, "must be given once")
            elif known is not None and name not in known:
                self.fault(key, name, f"must be one of {', '.join(known)}")
            else:
                found[name] = (key, value)
        return found

    def string(self, node: Node) -> str:
        if isinstance(node, ScalarNode) and node.value:
            return str(node.value)
        self.fault(node, _value(node), "must be a text that is not empty")
        return ""

    def iri(self, node: Node, text: str | None = None) -> str:
        """An IRI from `<iri>`, `prefix:local` or an absolute IRI."""
        word = text if text is not None else self.string(node)
        if word.startswith("<") and word.endswith(">"):
            word = word[1:-1]
        else:
            prefix, colon, rest = word.partition(":")
            if colon and prefix in self.prefixes:
                return self.prefixes[prefix] + rest
            if colon and not rest.startswith("//") and prefix not in ("urn", "mailto", "tag"):
                self.fault(node, word, f"must have a declared prefix; {prefix}: is unknown")
                return ""
        if word and not ABSOLUTE.fullmatch(word):
            self.fault(node, word, "must be an absolute IRI or prefix:name")
        return word

    def read(self, root: Node) -> None:
        top = self.fields(root, _TOP)
        if "prefixes" in top:
            for name, (_, value) in self.fields(top["prefixes"][1], None).items():
                word = self.string(value)
                if word and not ABSOLUTE.fullmatch(word):
                    self.fault(value, word, "must be an absolute IRI")
                self.prefixes[name.rstrip(":")] = word
        if "unknownMembers" in top:
            node = top["unknownMembers"][1]
            self.mapping.unknown_members = self.string(node)
            if self.mapping.unknown_members not in UNKNOWN:
                self.fault(node, _value(node), "must be Allow or Deny")
        if "format" in top:
            self.format(top["format"][1], top)
        if self.mapping.source == "rdf":
            return
        if "namespaces" in top:
            for name, (key, value) in self.fields(top["namespaces"][1], None).items():
                self.mapping.namespaces[name] = self.string(value)
                if self.mapping.source != "xml":
                    self.fault(key, name, "must not be given: only XML has namespaces")
        if "codeLists" in top:
            for name, (_, value) in self.fields(top["codeLists"][1], None).items():
                self.lists[name] = {code: meaning for code, (_, meaning) in self.fields(value, None).items()}
        if "maps" not in top:
            self.fault(root, "maps", "must be given: a list of maps")
            return
        for node in self.items(top["maps"][1]):
            if found := self.map(node):
                self.mapping.maps.append(found)

    def format(self, node: Node, top: dict[str, tuple[Node, Node]]) -> None:
        word = self.string(node)
        if word not in FORMATS:
            self.fault(node, _value(node), f"must be one of {', '.join(FORMATS)}")
            return
        self.mapping.source = word
        for name in ("namespaces", "codeLists", "unknownMembers", "maps") if word == "rdf" else ():
            if name in top:
                self.fault(top[name][0], name, "must not be given with format: rdf, whose triples are taken as they are")

    def items(self, node: Node) -> list[Node]:
        if isinstance(node, SequenceNode):
            return list(node.value)
        self.fault(node, _value(node), "must be a list (lines that begin with -)")
        return []

    def map(self, node: Node) -> TriplesMap | None:
        fields = self.fields(node, _MAP)
        missing = [name for name in ("id", "iterator", "subject") if name not in fields]
        for name in missing:
            self.fault(node, name, "must be given in every map")
        if missing:
            return None
        classes: list[str] = []
        if "class" in fields:
            value = fields["class"][1]
            members = value.value if isinstance(value, SequenceNode) else [value]
            classes = [self.iri(member) for member in members]
        properties: list[PropertyMap] = []
        if "properties" in fields:
            for name, (key, value) in self.fields(fields["properties"][1], None).items():
                many = value.value if isinstance(value, SequenceNode) else [value]
                properties += [self.property(key, name, member) for member in many]
        return TriplesMap(
            self.string(fields["id"][1]),
            self.string(fields["iterator"][1]),
            self.where(fields["iterator"][1]),
            self.subject(fields["subject"][1]),
            tuple(classes),
            tuple(properties),
        )

    def subject(self, node: Node) -> TermMap:
        where = self.where(node)
        if isinstance(node, ScalarNode):
            return TermMap("template", self.string(node), where)
        fields = self.fields(node, _SUBJECT)
        functions = self.functions(fields, "reference", "iri")
        form = self.one_of(node, fields, ("template", "constant", "blank", "reference"))
        kind = self.kind(fields, ("iri", "bnode"))
        if form == "constant":
            return TermMap("constant", self.iri(fields["constant"][1]), where)
        if form == "blank":
            return TermMap("blank", "", where)
        return TermMap(form, self.string(fields[form][1]) if form else "", where, kind, functions=functions)

    def one_of(self, node: Node, fields: dict[str, tuple[Node, Node]], names: tuple[str, ...]) -> str:
        given = [name for name in names if name in fields]
        if len(given) != 1:
            self.fault(node, ", ".join(given) or _value(node), f"must have one of {', '.join(names)}")
        return given[0] if given else ""

    def kind(self, fields: dict[str, tuple[Node, Node]], allowed: tuple[str, ...]) -> str:
        if "node" not in fields:
            return ""
        word = self.string(fields["node"][1])
        if word not in allowed:
            self.fault(fields["node"][1], word, f"must be {' or '.join(allowed)}")
        return word

    def property(self, key: Node, name: str, node: Node) -> PropertyMap:
        predicate, where = self.iri(key, name), self.where(node)
        if isinstance(node, ScalarNode):
            return PropertyMap(predicate, where, TermMap("reference", self.string(node), where))
        fields = self.fields(node, _VALUE)
        form = self.one_of(node, fields, ("path", "template", "constant", "child", "join"))
        if form in ("child", "join"):
            for other in fields.keys() - {form, "on"}:
                self.fault(fields[other][0], other, f"must not be given beside {form}")
        if form == "join":
            return self.join(predicate, node, fields)
        if "on" in fields:
            self.fault(fields["on"][0], "on", "must stand beside join")
        if form == "child":
            return PropertyMap(predicate, where, child=self.string(fields["child"][1]))
        datatype = self.iri(fields["datatype"][1]) if "datatype" in fields else ""
        lang = self.string(fields["lang"][1]) if "lang" in fields else ""
        kind = self.kind(fields, ("iri", "literal", "bnode"))
        functions = self.functions(fields, "path", kind)
        if form == "constant":
            term = self.constant(fields["constant"][1], kind, datatype, lang)
            return PropertyMap(predicate, where, TermMap("constant", "", where, kind or "any", term=term))
        text = self.string(fields[form][1]) if form else ""
        words = {"path": "reference", "template": "template", "": "reference"}
        return PropertyMap(predicate, where, TermMap(words[form], text or "$", where, kind, datatype, lang, functions=functions))

    def join(self, predicate: str, node: Node, fields: dict[str, tuple[Node, Node]]) -> PropertyMap:
        where = self.where(node)
        keys = self.fields(fields["on"][1], ("child", "parent")) if "on" in fields else {}
        if len(keys) != 2:
            self.fault(node, "join", "must have on: {child: path in this map, parent: path in the other}")
            return PropertyMap(predicate, where, child=self.string(fields["join"][1]))
        child, parent = (TermMap("reference", self.string(keys[name][1]), where) for name in ("child", "parent"))
        return PropertyMap(predicate, where, join=self.string(fields["join"][1]), keys=(child, parent))

    def functions(self, fields: dict[str, tuple[Node, Node]], form: str, kind: str) -> tuple[Function, ...]:
        """What `as` says: a name, {name: argument}, or a list of those, in the order in which a value goes through them."""
        if "as" not in fields:
            return ()
        key, node = fields["as"]
        if form not in fields:
            self.fault(key, "as", f"must stand beside {form}; in a template write {{path|function}}")
        return tuple(f for one in (node.value if isinstance(node, SequenceNode) else [node]) for f in self.function(one, kind))

    def function(self, node: Node, kind: str) -> list[Function]:
        if isinstance(node, ScalarNode):
            name, argument = self.string(node), None
            rest: dict[str, tuple[Node, Node]] = {}
        else:
            fields = self.fields(node, None)
            names = [name for name in fields if name != "zone"]
            rest = {name: fields[name] for name in fields if name == "zone"}
            if len(names) != 1:
                self.fault(node, ", ".join(names), f"must be one function: {NAMES}")
                return []
            name, argument = names[0], fields[names[0]][1]
        if named_function(name):
            self.fault(node, name, f"must be one of {NAMES}")
            return []
        wanted = FUNCTIONS[name].argument
        if (argument is None) != (not wanted):
            self.fault(node, name, f"must be written {{{name}: {wanted}}}" if wanted else f"must be written {name}, without argument")
            return []
        if rest and name != "dateTime":
            self.fault(rest["zone"][0], "zone", "must stand beside dateTime")
        if argument is None:
            return [{"f": name}]
        if wanted == "codes":
            return self.codes(argument, kind)
        made: Function = {"f": name, "text": self.plain(argument)}
        if wanted == "pattern" and (must := pattern_fault(name, made["text"])):
            self.fault(argument, made["text"], must)
        if "zone" in rest:
            made["zone"] = self.string(rest["zone"][1])
            if must := zone_fault(made["zone"]):
                self.fault(rest["zone"][1], made["zone"], must)
        return [made]

    def plain(self, node: Node) -> str:
        """A text that may be empty."""
        if isinstance(node, ScalarNode):
            return str(node.value)
        self.fault(node, _value(node), "must be a text")
        return ""

    def codes(self, node: Node, kind: str) -> list[Function]:
        name = self.string(node)
        if name not in self.lists or not self.lists[name]:
            self.fault(node, name, f"must be a list of codeLists with entries: {', '.join(self.lists) or 'none'}")
            return []
        read = self.iri if kind == "iri" else self.plain
        meanings = {code: read(meaning) for code, meaning in self.lists[name].items()}
        other = meanings.pop("*", None)
        made: Function = {"f": "codes", "codes": meanings}
        return [made | ({"other": other} if other is not None else {})]

    def constant(self, node: Node, kind: str, datatype: str, lang: str) -> dict[str, Any]:
        if kind == "iri":
            return constant_iri(self.iri(node))
        natural = XSD + _SCALARS[node.tag] if node.tag in _SCALARS else ""
        return constant_literal(self.string(node), datatype or natural, lang)


def _value(node: Node) -> str:
    return str(node.value) if isinstance(node, ScalarNode) else f"a {node.tag.rsplit(':', 1)[-1]}"


def read_yaml(source: Source) -> Mapping:
    """Reads the short form; faults are inside. Raises Refused when it is no YAML at all."""
    root = _compose(source)
    reader = _Reader(source)
    reader.read(root)
    return reader.mapping


def _compose(source: Source) -> Node:
    text = Text(source.text, source.path, source.first_line)
    try:
        _no_aliases(text)
        root = yaml.compose(source.text, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = text.at(mark.line + 1 if mark else 1)
        raise Refused([Fault(where, str(error.problem), "must be YAML")]) from error
    except (yaml.YAMLError, RecursionError) as error:
        raise Refused([Fault(text.at(1), str(error)[:120], "must be YAML")]) from error
    if root is None:
        raise Refused([Fault(text.at(1), "nothing", "must be YAML with a list of maps")])
    assert isinstance(root, Node)
    return root


def _no_aliases(text: Text) -> None:
    parse: Callable[..., Any] = yaml.parse
    depth = 0
    for event in parse(text.text, Loader=yaml.SafeLoader):
        depth += isinstance(event, yaml.CollectionStartEvent)
        depth -= isinstance(event, yaml.CollectionEndEvent)
        if isinstance(event, yaml.AliasEvent) or depth > 32:
            where = text.at(event.start_mark.line + 1)
            value = f"*{event.anchor}" if isinstance(event, yaml.AliasEvent) else f"depth {depth}"
            raise Refused([Fault(where, value, "must not use aliases, nor nest deeper than 32")])
