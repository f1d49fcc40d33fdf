"""The mapping read from the author's words, as proofs do (knhk.reconcilers.oracle_mapping), and the compiled extractor make the same of
every sample payload. `mapped.lines` holds both against each other in every other test of this folder."""

from __future__ import annotations

from mapped import Denied, canonical, lines_of, together
from sample_payloads import EXAMPLES, PAYLOADS, family

from knhk.model.arrows import Source
from knhk.reconcilers.oracle import canonical_lines
from knhk.reconcilers.oracle_mapping import Malformed, MappingOracle

FAMILIES = sorted({family(path) for path in PAYLOADS})


def reading(text: str, body: bytes, media: str) -> set[str] | None:
    """The graph by the reading; None for a body that must be refused."""
    try:
        return canonical_lines(MappingOracle(Source("m", "mapping", text, "m", media)).triples(body))
    except Malformed:
        return None


def test_every_payload_by_the_mapping_of_its_family() -> None:
    texts = {name: (EXAMPLES / f"{name}.ttl").read_text() for name in FAMILIES}
    bound = together(texts)
    seen = 0
    for path in PAYLOADS:
        found = lines_of(bound, path.read_bytes(), family(path))
        ours = None if isinstance(found, Denied) else canonical(found)
        assert ours == reading(texts[family(path)], path.read_bytes(), "text/turtle"), path
        seen += len(ours or ())
    assert seen > 500
