"""`knhk mapping test`: payload → triples, side by side."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from knhk.cli.framework import FAULTS, Argument, Call, Outcome, Table, Usage, command, noun
from knhk.cli.schema import FAULTS as FAULT_LIST
from knhk.cli.schema import array, obj, string

if TYPE_CHECKING:
    from collections.abc import Mapping

    from knhk.model.arrows import PackSources, Source
    from knhk.reconcilers.mapping_trial import Trial
    from knhk_gen.mapping_trace import Rule

noun("mapping", "mappings of payloads to RDF")

MEDIA = {
    ".ttl": "text/turtle",
    ".rml": "text/turtle",
    ".yaml": "application/yaml",
    ".yml": "application/yaml",
    ".jsonld": "application/ld+json",
}
RULE = {"map": string(), "predicate": string(), "path": string(), "source": string()}


@command(
    ("mapping", "test"),
    summary="Show the triples that a mapping makes of a payload, and which path made each",
    arguments=(
        Argument(
            "path",
            help="a pack (its file, or a folder that holds pack.yaml), or a mapping alone (.yaml, .ttl, .jsonld)",
            kind=Path,
            metavar="DIR_OR_FILE",
        ),
        Argument("--payload", help="file with the body", kind=Path, metavar="FILE", required=True),
        Argument("--mapping", help="source of the pack (default: that of its first route with a body)", metavar="NAME"),
    ),
    output=obj(
        mapping=string(),
        triples=array(obj(subject=string(), object=string(), **RULE)),
        silent=array(obj(**RULE)),
        faults=FAULT_LIST,
    ),
    examples=(
        "knhk mapping test examples/packs/invoice-controls/1.0.0 --payload examples/payloads/gobl-us-invoice-us-us.json",
        "knhk mapping test payment.ttl --payload pain.001.xml -o json | jq '.triples[] | [.path, .object]'",
    ),
    detail="The mapping is compiled and run as in a pack. `silent` are rules that made no triple of this payload. A payload that guard 0\n"
    "refuses ends with exit 1 and says where.",
    exits={FAULTS: "the mapping is faulty, or it refuses the payload"},
)
def test(call: Call) -> Outcome:
    from knhk.cli.pack import _finish
    from knhk.reconcilers.mapping_trial import try_mapping
    from knhk.wiring import packs

    pack, source = _source(call.args.path, call.args.mapping)
    file: Path = call.args.payload
    trial = _finish(call, try_mapping(pack, source, file.read_bytes(), str(file), packs.compiler(), packs.host_arch()))
    return _outcome(source.name, trial)


def _source(path: Path, name: str | None) -> tuple[PackSources, Source]:
    """The mapping to try, within the pack that its places refer to."""
    from knhk.adapters.pack_folder import find
    from knhk.api import to_sources
    from knhk.model.arrows import PackSources, Source
    from knhk.model.faults import Fault, Refused

    if path.is_file() and (path.suffix not in (".yaml", ".yml") or b"PolicyPack" not in path.read_bytes()):
        if path.suffix not in MEDIA:
            raise Refused([Fault(str(path), path.suffix or "no suffix", f"must be a mapping that ends with {', '.join(MEDIA)}")])
        source = Source(path.stem, "mapping", path.read_text(), str(path), MEDIA[path.suffix])
        return PackSources("test", path.stem, "1", (source,), {}), source
    pack = to_sources(find(path).pack)
    mappings = {source.name: source for source in pack.sources if source.kind == "mapping"}
    wanted = name or next((m for m in pack.routes.values() if m is not None), None)
    if wanted not in mappings:
        raise Usage(f"{wanted!r} must be a mapping of the pack: {', '.join(mappings) or 'it has none'}", "--mapping")
    return pack, mappings[wanted]


def _outcome(name: str, trial: Trial) -> Outcome:
    triples = [{"subject": line.subject, "object": line.object, **_rule(line.rule)} for line in trial.lines]
    silent = [_rule(rule) for rule in trial.silent]
    faults = [{"where": f.where, "value": f.value, "must": f.must} for f in trial.faults]
    data = {"mapping": name, "triples": triples, "silent": silent, "faults": faults}
    if faults:
        rows = tuple((f["where"], f["value"], f["must"]) for f in faults)
        return Outcome(data, FAULTS, (Table("the mapping refuses the payload", ("where", "value", "must"), rows),))
    shown = tuple((t["path"], _term(t["subject"]), _short(t["predicate"]), _term(t["object"])) for t in triples)
    quiet = tuple((rule["path"], _short(rule["predicate"]), rule["source"]) for rule in silent)
    tables = (Table(f"{len(shown)} triples of mapping {name}", ("path", "subject", "predicate", "object"), shown),)
    return Outcome(data, tables=(*tables, Table("nothing of the payload", ("path", "predicate", "source"), quiet)) if quiet else tables)


def _rule(rule: Rule) -> Mapping[str, Any]:
    return {"map": rule.map, "predicate": rule.predicate, "path": rule.path, "source": rule.where}


def _term(text: str) -> str:
    """A term of N-Triples, its IRIs cut to their last parts."""
    return re.sub(r"<([^<>]*)>", lambda m: _short(m[1].rstrip("/#")), text)


def _short(iri: str) -> str:
    """The last part of an IRI, for people."""
    return iri[max(iri.rfind("#"), iri.rfind("/")) + 1 :] or iri
