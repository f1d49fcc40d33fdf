"""Invariant: whatever the bytes, a parser returns a value or raises the error that it declares, within seconds; what it accepts, it would
write again to the byte where the format is canonical.

One row per parser of bytes that come from outside: from other processes, from files that a crash or a person may have altered, from
authors. `search.py` looks for inputs, `test_parsers.py` replays those that the repository keeps."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Any

import image_layouts
from house_keys import Signer, spelled, trusted

from knhk.api.parse import parse as parse_resources
from knhk.model.arrows import PackSources, Source
from knhk.model.faults import Corrupt, Refused
from knhk_gen.bundle import build as build_bundle
from knhk_gen.emit import emit
from knhk_gen.jsonpath import BadPath, parse_path
from knhk_gen.lower import lower
from knhk_gen.xpath import parse_xpath
from knhk_hot.frames import entries_of_frames, sound_frames
from knhk_runtime.elf import stated
from knhk_runtime.exchange.documents import Accepted, Beside, read_keys, read_rollout
from knhk_runtime.outbox.segments import check_frames
from knhk_runtime.parking.message import bundle_of
from knhk_runtime.parking.server import parse_checked
from knhk_runtime.point import parse_point
from knhk_runtime.record import (
    SEGMENT_HEAD,
    SEGMENT_MAGIC,
    check_record,
    encode_leaf,
    frame,
    parse_action,
    parse_observation,
    parse_record,
    parse_wal_payload,
    scan_frames,
)
from knhk_runtime.sequencer.wire import parse_append, parse_event
from knhk_runtime.signatures import ROLLOUT
from knhk_runtime.tiers.errors import ShapeError
from knhk_runtime.tiers.evaluator import Evaluator
from knhk_runtime.tiers.graph import Graph
from knhk_runtime.tiers.xpath_regex import PatternError, compile_pattern
from knhk_runtime.tlog.notes import sign_note
from knhk_runtime.tlog.tree import parse_bundle_of_entries, parse_tile_path, tile_path
from knhk_verify.errors import Bad
from knhk_verify.evidence import Evidence
from knhk_verify.leaf import parse_leaf
from knhk_verify.note import b64, open_checkpoint, parse_vkey, unb64
from knhk_verify.signed import KEYS, canonical, keyid, parse_time, verify_event

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
CORPUS = HERE / "corpus"
EVIDENCE = json.loads((HERE.parents[1] / "formats" / "vectors" / "receipt.json").read_bytes())
VECTORS = ROOT / "formats" / "vectors"
PACKS = ROOT / "examples" / "packs"
NOW = datetime(2027, 1, 1, tzinfo=UTC)
SIGNER = Signer(0)
TRUSTED = trusted(build=SIGNER, rollout=SIGNER, log=SIGNER, data=SIGNER)


@dataclass(frozen=True)
class Parser:
    """`errors`: what it declares. `seeds`: right inputs to begin with."""

    parse: Callable[[bytes], object]
    errors: tuple[type[Exception], ...]
    seeds: Callable[[], Iterator[bytes]]


def run(name: str, data: bytes) -> None:
    """Raises whatever the parser does not declare."""
    with suppress(*PARSERS[name].errors):
        PARSERS[name].parse(data)


# ---- records, segments, tiles -----------------------------------------------------------------------


def _vectors(file: str) -> Iterator[bytes]:
    """Every hexadecimal text of 4 or more bytes in a file of vectors, as bytes."""
    todo = [json.loads((VECTORS / file).read_text())]
    while todo:
        value = todo.pop()
        if isinstance(value, dict | list):
            todo += value.values() if isinstance(value, dict) else value
        elif isinstance(value, str) and len(value) >= 8:
            with suppress(ValueError):
                yield bytes.fromhex(value)


def _leaf(data: bytes) -> None:
    assert encode_leaf(parse_leaf(data)) == data


def _segment(data: bytes) -> None:
    """A segment of the outbox or of the WAL, with the head that its name states."""
    whole = SEGMENT_MAGIC + bytes(8) + data
    whole_bytes, sound_bytes = sound_frames(data)
    assert sound_bytes <= whole_bytes <= len(data)
    with suppress(ValueError):
        assert len(entries_of_frames(data)) % 137 == 0
    with suppress(Corrupt):
        check_frames(data, "segment", SEGMENT_HEAD)
    frames, end = scan_frames(whole, 0, "segment")
    assert whole[:SEGMENT_HEAD] + b"".join(frame(payload) for _, payload in frames) == whole[:end]
    for _, payload in frames:
        with suppress(Bad):
            check_record(parse_record(payload, "record"), "record")
        with suppress(Bad):
            parse_wal_payload(payload, "WAL")


def _framed(file: str) -> Iterator[bytes]:
    for data in _vectors(file):
        yield data[SEGMENT_HEAD:] if data.startswith(SEGMENT_MAGIC) else frame(data)


def _tile_name(data: bytes) -> None:
    text = data.decode(errors="surrogateescape")
    assert tile_path(*parse_tile_path(text)) == text


def _entries(data: bytes) -> None:
    whole = b"".join(len(entry).to_bytes(2, "big") + entry for _, entry in parse_bundle_of_entries(data, "entries"))
    assert whole == data


# ---- signed documents: the search changes what is signed, not the signature --------------------------


def _keys(payload: bytes) -> None:
    read_keys(canonical(SIGNER.envelope(KEYS, spelled(payload))), SIGNER.public, NOW, Accepted(), "keys.json")


def _rollout(payload: bytes) -> None:
    read_rollout(canonical(SIGNER.envelope(ROLLOUT, spelled(payload))), TRUSTED, NOW, BESIDE, Accepted(), "rollout.json")


def _event(payload: bytes) -> None:
    whole = SIGNER.bundle(spelled(payload))
    with suppress(Bad):
        parse_event(whole)
    verify_event(whole, TRUSTED)


def _unsigned(data: bytes) -> None:
    for read in (lambda: read_keys(data, SIGNER.public, NOW, Accepted(), "keys.json"), lambda: verify_event(data, TRUSTED)):
        with suppress(Bad, Refused):
            read()


def _evidence(data: bytes) -> None:
    """Evidence of anybody, by keys that are trusted: whatever it is, it is told."""
    evidence = Evidence(unb64(EVIDENCE["root_pub"], "root"), EVIDENCE["keys.json"].encode(), parse_time(EVIDENCE["at"], "at"))
    evidence.add(data, "given")
    evidence.together()
    assert len(evidence.steps) > 1 or data.startswith(b"old ")


def _cases() -> Iterator[bytes]:
    for case in EVIDENCE["cases"]:
        yield from (text.encode() for text in case["files"].values() if len(text) < 4096)


def _note(data: bytes) -> None:
    """A note by a key that is trusted, over any text; then any text as a note and as a key."""
    verifier = parse_vkey(VKEY)
    for read in (
        lambda: open_checkpoint(sign_note(data.decode(), "log.example", SIGNER.public, SIGNER.key.sign), verifier),
        lambda: open_checkpoint(data, verifier),
        lambda: parse_vkey(data.decode(errors="replace")),
    ):
        with suppress(Bad, UnicodeError):
            read()


POINT = canonical(
    {
        "version": 1, "point": "default/orders", "region": "r1", "regionIndex": 0, "stickyAttribute": "sub", "failure": "Closed",
        "attributes": [{"name": "sub", "filterState": "knhk.sub"}], "agentGraceSeconds": 30, "parkTimeoutMs": 800, "ringBytes": 4 << 20,
        "baseline": "Deny", "schemas": {}, "spiffe": None, "residency": {"bytes": 0, "absent": "Decide"},
    }
)  # fmt: skip
BOOTSTRAP = b'{"static_resources":{}}'
BESIDE = Beside(parse_point(POINT, "point.json"), BOOTSTRAP)
VKEY = f"log.example+{sha256(b'log.example' + bytes([10, 1]) + SIGNER.public).digest()[:4].hex()}+{b64(bytes([1]) + SIGNER.public)}"
PACK = {"name": "erp", "namespace": "default", "version": "1.0.0", "digest": "sha256:" + "ab" * 32}


def _some_keys() -> Iterator[bytes]:
    key = {"keyid": SIGNER.id, "pub": b64(SIGNER.public), "name": "log.example", "until": "2030-01-01T00:00:00Z"}
    yield canonical({"version": 1, "serial": 3, "expires": "2030-01-01T00:00:00Z", "roles": {}})
    other = b64(bytes(32))
    key |= {"pub": other, "keyid": keyid(bytes(32))}
    yield canonical({"version": 1, "serial": 3, "expires": "2030-01-01T00:00:00Z", "roles": {"log": [key]}})


def _some_rollout() -> Iterator[bytes]:
    document = {
        "version": 1, "point": "default/orders", "epoch": 7, "origin": "log.example", "issued": "2026-12-31T00:00:00Z",
        "notAfter": "2027-02-01T00:00:00Z", "mode": "Canary", "weight": 50, "salt": "0f" * 16, "baseline": "Deny", "stable": PACK,
        "candidate": None, "data": {"name": "roles", "digest": "sha256:" + "cd" * 32}, "flags": {},
        "pointConfig": "sha256:" + sha256(POINT).hexdigest(), "bootstrap": sha256(BOOTSTRAP).hexdigest(),
    }  # fmt: skip
    yield canonical(document)


def _some_event() -> Iterator[bytes]:
    subject = [{"name": "erp", "digest": {"sha256": "ab" * 32}}]
    predicate = {"kind": "Promoted", "time": "2026-12-31T00:00:00Z"}
    kind = "https://knhk.dev/policy-event/v1"
    yield canonical({"_type": "https://in-toto.io/Statement/v1", "subject": subject, "predicateType": kind, "predicate": predicate})


# ---- what authors write -------------------------------------------------------------------------------


def _text(data: bytes) -> str:
    return data.decode(errors="replace")


def _pack(*sources: Source, mapping: str | None = None) -> None:
    plan = lower(PackSources("fuzz", "fuzz", "1.0.0", sources, {"r": mapping}))
    emit(plan)
    Evaluator(plan.document)


def _mapping(media: str) -> Callable[[bytes], None]:
    return lambda data: _pack(Source("m", "mapping", _text(data), "m", media=media), mapping="m")


def _rules(kind: Any, media: str, target: str | None = None) -> Callable[[bytes], None]:
    return lambda data: _pack(Source("x", kind, _text(data), "x", media=media, target=target))


def _resources(data: bytes) -> None:
    parse_resources(data, "pack.yaml")


def _examples(*patterns: str) -> Callable[[], Iterator[bytes]]:
    def read() -> Iterator[bytes]:
        for pattern in patterns:
            for path in sorted(PACKS.glob(pattern)):
                if not path.name.startswith("pack.in"):
                    yield path.read_bytes()

    return read


def _bundles() -> Iterator[bytes]:
    for path in sorted(PACKS.glob("*/*-roles.yaml")):
        yield from (resource.spec["source"]["inline"].encode() for resource in parse_resources(path.read_bytes(), path.name))


def _lines(*texts: str) -> Callable[[], Iterator[bytes]]:
    return lambda: (text.encode() for text in texts)


TRIPLES = '<https://e.x/a> <https://e.x/p> "v\\u00e9"@en .\n_:b <https://e.x/q> "1"^^<http://www.w3.org/2001/XMLSchema#integer> .\n'
ENTRY = struct.pack(">17sH118s", bytes(17), 118, b"\1\1\1\1\1" + bytes(113))

CONSTRUCT = """PREFIX ex: <https://e.x/>
CONSTRUCT { $this <https://out.x/big> ?x ; <https://out.x/ok> 'yes'@en }
WHERE { $this ex:dec ?x OPTIONAL { $this ex:date ?d } FILTER(?x >= 7) }"""
RML = """@prefix rr: <http://www.w3.org/ns/r2rml#> . @prefix rml: <http://semweb.mmlab.be/ns/rml#> .
@prefix ql: <http://semweb.mmlab.be/ns/ql#> . @prefix ex: <https://e.x/> . @prefix xsd: <http://www.w3.org/2001/XMLSchema#> .
ex:order rml:logicalSource [ rml:source "request" ; rml:referenceFormulation ql:JSONPath ; rml:iterator "$.doc" ] ;
  rr:subjectMap [ rr:template "https://e.x/o/{id}" ; rr:class ex:Order ] ;
  rr:predicateObjectMap [ rr:predicate ex:total ; rr:objectMap [ rml:reference "$.sum.total" ; rr:datatype xsd:decimal ] ] ;
  rr:predicateObjectMap [ rr:predicate ex:line ; rr:objectMap [ rr:parentTriplesMap ex:line ] ] .
ex:line rml:logicalSource [ rml:source "request" ; rml:referenceFormulation ql:JSONPath ; rml:iterator "$.doc.lines[*]" ] ;
  rr:subjectMap [ rr:termType rr:BlankNode ] ;
  rr:predicateObjectMap [ rr:predicate ex:n ; rr:objectMap [ rml:reference "$.n" ; rr:language "en" ] ] .
"""


JSON_LD = """{"@context": {"@vocab": "https://e.x/", "ex": "https://e.x/", "id": "@id", "type": "@type",
  "total": {"@id": "ex:total", "@type": "ex:decimal"}, "tags": {"@container": "@set"}, "web": {"@type": "@id"},
  "lines": {"@container": "@set", "@context": {"qty": {"@language": "en"}, "x": null}}}, "unknownMembers": "Allow"}"""


def _parked() -> Iterator[bytes]:
    o = next(o for o in _vectors("observation.json") if o.startswith(b"KNO1"))
    a = next(a for a in _vectors("action.json") if a.startswith(b"KNA1"))
    head = struct.pack(">4sBBH16sQ16s", b"KNPK", 1, 2, 0, bytes(16), 5, bytes(16))
    arms = struct.pack(">20sBBHI", bytes(20), 0, 1, 1, 0) + struct.pack(">20sBBHI", bytes(20), 1, 2, 2, len(a)) + a
    yield head + arms + len(o).to_bytes(4, "big") + o


PARSERS: dict[str, Parser] = {
    "leaf": Parser(_leaf, (Bad,), lambda: _vectors("leaf.json")),
    "observation": Parser(parse_observation, (Bad,), lambda: _vectors("observation.json")),
    "action": Parser(parse_action, (Bad,), lambda: _vectors("action.json")),
    "segment": Parser(_segment, (Bad,), lambda: _framed("frame.json")),
    "append": Parser(parse_append, (Bad,), lambda: iter([b"\0\0\0\1" + ENTRY, b"\0\0\0\2" + 2 * ENTRY])),
    "entries": Parser(_entries, (Bad,), lambda: iter([b"\0\3abc\0\0\0\1x"])),
    "tile": Parser(_tile_name, (Bad,), _lines("tile/0/x001/067.p/8", "tile/entries/000", "tile/2/x999/x999/999")),
    "note": Parser(_note, (), _lines("log.example\n7\n" + b64(bytes(32)) + "\n", VKEY)),
    "evidence": Parser(_evidence, (), _cases),
    "parked": Parser(lambda data: bundle_of(parse_checked(data).o), (Refused,), _parked),
    "keys": Parser(_keys, (Refused,), _some_keys),
    "rollout": Parser(_rollout, (Refused,), _some_rollout),
    "event": Parser(_event, (Bad,), _some_event),
    "unsigned": Parser(_unsigned, (), lambda: (canonical(SIGNER.envelope(KEYS, data)) for data in _some_keys())),
    "point": Parser(lambda data: parse_point(spelled(data), "point.json"), (Refused,), lambda: iter([POINT])),
    "image": Parser(image_layouts.fetch, image_layouts.ERRORS, image_layouts.seeds),
    "elf": Parser(lambda data: stated(data, "so"), (Corrupt,), lambda: iter([image_layouts.elf(), image_layouts.elf(183)])),
    "graph": Parser(Graph.parse, (SyntaxError, ValueError, ShapeError), _lines(TRIPLES)),
    "pattern": Parser(
        lambda data: compile_pattern(_text(data)), (PatternError,), _lines("^[A-Z-[IO]]{2,3}\\d+$", "(a|b)*?\\p{Lu}\\i\\c", "\\1")
    ),
    "jsonpath": Parser(lambda data: parse_path(_text(data)), (BadPath,), _lines("$.a[*].b[0]['c d']", "$")),
    "xpath": Parser(
        lambda data: parse_xpath(_text(data), {"p": "urn:p", "": "urn:d"}), (BadPath,), _lines("p:a/b[2]/@c", "text()", "/p:a/*")
    ),
    "resources": Parser(_resources, (Refused,), _examples("*/pack.yaml", "invoice-controls/*.yaml")),
    "bundle": Parser(lambda data: build_bundle(_text(data), "b.ttl", "https://e.x/{}"), (Refused,), _bundles),
    "shapes": Parser(_rules("shapes", "text/turtle"), (Refused, ShapeError), _examples("*/shapes.ttl")),
    "abac": Parser(_rules("abac", "text/turtle"), (Refused, ShapeError), _examples("*/access.ttl", "*/release.ttl", "*/approval.ttl")),
    "ask": Parser(_rules("ask", "application/sparql-query", "https://e.x/T"), (Refused, ShapeError), _examples("*/*.rq")),
    "construct": Parser(_rules("construct", "application/sparql-query", "https://e.x/T"), (Refused, ShapeError), _lines(CONSTRUCT)),
    "mapping": Parser(
        _mapping("application/yaml"),
        (Refused, ShapeError),
        _examples("*/mapping.yaml", "*/sap.yaml", "payment/pain001.yaml", "clinical/observation.yaml"),
    ),
    "rml": Parser(_mapping("text/turtle"), (Refused, ShapeError), _lines(RML)),
    "jsonld": Parser(_mapping("application/ld+json"), (Refused, ShapeError), _lines(JSON_LD)),
}
