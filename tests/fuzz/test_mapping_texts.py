"""Invariant: whatever the text of a mapping, the compiler refuses it with faults that name its lines, or makes a plan whose tables hold."""

from __future__ import annotations

import os
import random
import re
import time
from pathlib import Path

import pytest
import yaml

from knhk.model.arrows import PackSources, Source
from knhk.model.faults import Refused
from knhk_gen.emit import emit
from knhk_gen.lower import lower

ROOT = Path(__file__).resolve().parents[2]
SECONDS = 5.0
JSON_LD = """{"@context": {"@vocab": "https://e.x/", "ex": "https://e.x/", "id": "@id", "type": "@type",
  "total": {"@id": "ex:total", "@type": "ex:decimal"}, "tags": {"@container": "@set"}, "web": {"@type": "@id"},
  "lines": {"@container": "@set", "@context": {"qty": {"@language": "en"}, "x": null}}}, "unknownMembers": "Allow"}
"""
XML = """format: xml
namespaces: {"": "urn:a", b: "urn:b"}
prefixes: {ex: "https://e.x/"}
maps:
  - id: item
    iterator: /Doc/Item
    subject: {template: "https://e.x/{@id|trim}"}
    properties: {ex:n: "b:Name[2]", ex:j: {join: item, on: {child: A, parent: "@k"}}}
"""
WORDS = (
    "{", "}", "[", "]", ":", ",", '"', "'", "\\", "|", "*", "/", "@", "..", "[*]", "[0]", "$", "#", "\n", "\t", " ", "é", "\ud7ff", "0",
    "-1", "rml:template", "rml:reference", "rml:constant", "rml:class", "rml:termType rml:BlankNode", "fn:date", "fn:codes", "@id",
    "@type", "@context", "null", "true", "as: trim", "child: line", "join: x", "{date: YYYYMMDD}", "format: xml", "ex:", "https://",
    "()", "codes", "constant: 1",
)  # fmt: skip


def seeds() -> list[Source]:
    """Texts that compile."""
    found = [
        Source("m", "mapping", path.read_text(), "m", "text/turtle") for path in sorted((ROOT / "examples" / "mappings").glob("*.ttl"))
    ]
    pack = yaml.safe_load((ROOT / "examples" / "mappings" / "one-invoice" / "pack.yaml").read_text())
    found += [Source("m", "mapping", row["inline"], "m", "application/yaml") for row in pack["spec"]["sources"] if row["kind"] == "mapping"]
    return [*found, Source("m", "mapping", XML, "m", "application/yaml"), Source("m", "mapping", JSON_LD, "m", "application/ld+json")]


def mutate(rng: random.Random, text: str) -> str:
    for _ in range(rng.randrange(1, 5)):
        at, end = sorted((rng.randrange(len(text) + 1), rng.randrange(len(text) + 1)))
        kind = rng.randrange(5)
        if kind == 0:
            text = text[:at] + text[min(end, at + rng.randrange(20)) :]
        elif kind == 1:
            text = text[:at] + rng.choice(WORDS) + text[at:]
        elif kind == 2:
            text = text[:at] + text[at : min(end, at + 60)] * 2 + text[min(end, at + 60) :]
        elif kind == 3 and (words := list(re.finditer(r"[\w:@*$.]+", text))):
            one, other = rng.choice(words), rng.choice(words)
            text = text[: one.start()] + other[0] + text[one.end() :]
        else:
            lines = text.split("\n")
            lines.insert(rng.randrange(len(lines) + 1), lines.pop(rng.randrange(len(lines))))
            text = "\n".join(lines)
    return text


def outcome(source: Source) -> str:
    """ "made" or "refused"; everything else is an error."""
    try:
        plan = lower(PackSources("t", "p", "1", (source,), {"r": "m"}))
    except Refused as refused:
        last = source.text.count("\n") + 2
        for fault in refused.faults:
            place = re.fullmatch(r"m:(\d+)", fault.where)
            assert place is not None or fault.where == "routes", fault
            assert place is None or 1 <= int(place[1]) <= last, fault
            assert fault.must, fault
        return "refused"
    assert len(emit(plan).text) > 1000
    return "made"


def test_seeds_compile() -> None:
    assert {outcome(source) for source in seeds()} == {"made"}


@pytest.mark.slow
@pytest.mark.timeout(SECONDS + 120)
def test_any_text_is_refused_or_compiles() -> None:
    seed = int(os.environ.get("FUZZ_SEED", "1"))
    rng, texts, counts = random.Random(seed), seeds(), {"made": 0, "refused": 0}
    deadline = time.monotonic() + SECONDS
    while time.monotonic() < deadline:
        source = rng.choice(texts)
        mutated = Source("m", "mapping", mutate(rng, source.text), "m", source.media)
        try:
            counts[outcome(mutated)] += 1
        except BaseException:
            print(f"FUZZ_SEED={seed}, {source.media}:\n{mutated.text}")
            raise
    assert counts["made"] > 0
    assert counts["refused"] > 0
