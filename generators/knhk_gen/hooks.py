"""Hooks: one question of one kernel over a small graph, as lanes and words; the same numbers that packs are made of. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from rdflib import BNode

from knhk.model.faults import Fault, Refused
from knhk_gen import emit_terms
from knhk_gen.emit_guards import ANY_LENGTH, range_words
from knhk_gen.terms import plan_term, scaled
from knhk_gen.turtle import Term, TripleStore, parse, show

Lane = tuple[int, int, int, int]

MAX_LANES: Final = 8
EXAMPLE: Final = "http://example.org/"
DELTA: Final = """@prefix ex: <http://example.org/> .
ex:alice ex:hasPermission ex:approveInvoice ;
  ex:hasRole ex:manager ;
  ex:limit 5000 .
"""


@dataclass(frozen=True)
class Kernel:
    """One kernel for people: what it asks, and which options say what it compares with."""

    name: str
    asks: str
    options: tuple[str, ...]


KERNELS: Final[Mapping[str, Kernel]] = {
    kernel.name: kernel
    for kernel in (
        Kernel("ASK_SP", "does the subject have the predicate", ()),
        Kernel("ASK_SPO", "does the subject have the predicate with this object", ("object",)),
        Kernel("COUNT", "does the subject have the predicate so many times", ("min", "max")),
        Kernel("COMPARE", "does every value of the predicate lie within the bounds", ("min", "max")),
        Kernel("VALIDATE", "is every value of the predicate of this datatype, kind and length", ("datatype", "kind", "min", "max")),
        Kernel("UNIQUE", "does no value of the predicate occur twice within the Δ", ()),
    )
}


@dataclass(frozen=True)
class Question:
    """What is asked. Empty `subject`: the first of the Δ that has the predicate. `minimum`, `maximum`: text as it was given."""

    kernel: str
    predicate: str
    subject: str = ""
    object: str = ""
    minimum: str | None = None
    maximum: str | None = None
    datatype: str = ""
    kind: str = ""


@dataclass(frozen=True)
class Asked:
    """A question as numbers. `lanes`: of the subject (of all subjects for UNIQUE), eight to a chunk; `words` for the kernel;
    `inexact`: a value that the tables cannot compare, which gives the decision to the class below."""

    subject: str
    lanes: tuple[Lane, ...]
    triples: tuple[str, ...]
    words: tuple[int, ...]
    bounds: tuple[int, int | None]
    key: int
    inexact: str


def read(text: str, path: str) -> TripleStore:
    """A Δ in Turtle or N-Triples. Raises Refused."""
    return parse(text, path)


def ask(question: Question, store: TripleStore) -> Asked:
    """The question over a Δ. Raises Refused with every fault of it."""
    strings = emit_terms.Strings()
    subjects = list(dict.fromkeys(s for s, _, _ in store.triples))
    nodes = {s: i + 1 for i, s in enumerate(subjects)}
    chosen = _subject(question, store, subjects)
    everyone = question.kernel == "UNIQUE"
    rows, told, inexact = [], [], ""
    for s, p, o in store.triples:
        if not everyone and s != chosen:
            continue
        lanes = strings.term(_plan_term(o))
        node = 1 if everyone else nodes[s]
        rows.append((node << 32 | strings.id(str(p)), lanes.term, lanes.value, lanes.meta))
        told.append(f"{show(s)} {show(p)} {show(o)}")
        if str(p) == question.predicate and lanes.value >> 63:
            inexact = show(o)
    if everyone and len(rows) > MAX_LANES:
        must = f"must have at most {MAX_LANES} triples: UNIQUE looks at one chunk, longer runs are class C1"
        raise Refused([Fault("the Δ", f"{len(rows)} triples", must)])
    key = (1 if everyone else nodes.get(chosen, 0)) << 32 | strings.id(question.predicate)
    words, bounds = _words(question, strings)
    return Asked(
        "" if everyone else show(chosen) if chosen is not None else question.subject,
        tuple(rows), tuple(told), (key, *words), bounds, key, inexact if question.kernel == "COMPARE" else "",
    )  # fmt: skip


def holds(question: Question, asked: Asked, masks: Sequence[int]) -> bool:
    """The answer, from the masks of the chunks: verdicts of chunks joined."""
    hits = sum(mask.bit_count() for mask in masks)
    present = sum(lane[0] == asked.key for lane in asked.lanes)
    match question.kernel:
        case "ASK_SP" | "ASK_SPO":
            return hits > 0
        case "COUNT":
            low, high = asked.bounds
            return hits >= low and (high is None or hits <= high)
        case "UNIQUE":
            return hits == 0
        case _:
            return hits == present


def expected(kernel: str, lanes: Sequence[Lane], words: Sequence[int]) -> int:
    """The mask of one chunk by the definition of the kernel, lane by lane: what every variant must give."""
    key, *rest = words
    here = [i for i, lane in enumerate(lanes) if lane[0] == key]
    match kernel:
        case "ASK_SPO":
            here = [i for i in here if lanes[i][1] == rest[0]]
        case "COMPARE":
            here = [i for i in here if rest[0] <= lanes[i][2] <= rest[1]]
        case "VALIDATE":
            here = [i for i in here if _valid(lanes[i][3], *rest)]
        case "UNIQUE":
            values = [lanes[i][1] for i in here]
            here = [i for i in here if values.count(lanes[i][1]) > 1]
    return sum(1 << i for i in here)


def _valid(meta: int, mask: int, want: int, kinds: int, low: int, high: int) -> bool:
    return meta & mask == want and meta & kinds != 0 and low <= meta >> 40 <= high


def _subject(question: Question, store: TripleStore, subjects: Sequence[Any]) -> Any:
    """The subject that was named; else the first with the predicate; else the first."""
    if question.subject:
        return next((s for s in subjects if str(s) == question.subject), None)
    having = [s for s, p, _ in store.triples if str(p) == question.predicate]
    return next(iter([*having, *subjects]), None)


def _plan_term(term: Term) -> Mapping[str, Any]:
    return {"k": "bnode", "v": str(term)} if isinstance(term, BNode) else plan_term(term)


def _words(question: Question, strings: emit_terms.Strings) -> tuple[tuple[int, ...], tuple[int, int | None]]:
    match question.kernel:
        case "ASK_SPO":
            return (strings.term(_plan_term(_term(question.object, "--object"))).term,), (0, None)
        case "COUNT":
            low, high = _count(question.minimum, "--min"), _count(question.maximum, "--max")
            return (), (1 if low is None else low, high)
        case "COMPARE":
            return _range(question), (0, None)
        case "VALIDATE":
            return _validate(question, strings), (0, None)
        case _:
            return (), (0, None)


def _term(text: str, where: str) -> Term:
    """An object as Turtle writes it; a bare absolute IRI or a bare word is taken as IRI or string."""
    if not text:
        raise Refused([Fault(where, "nothing", 'must be given: an IRI, or a literal such as 42 or "text"')])
    forms = (f"<{text}>",) if "://" in text and not text.startswith(("<", '"')) else (text, _string(text))
    for form in forms:
        try:
            return next(o for _, _, o in parse(f"<s:s> <p:p> {form} .", where).triples)
        except Refused as refused:
            last = refused
    raise Refused([Fault(where, text, "must be an IRI or a literal as Turtle writes it")]) from last


def _string(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'


def _count(text: str | None, where: str) -> int | None:
    if text is None:
        return None
    if not text.isdigit():
        raise Refused([Fault(where, text, "must be a number of triples, 0 or more")])
    return int(text)


def _range(question: Question) -> tuple[int, int]:
    bounds = [(text, where) for text, where in ((question.minimum, "--min"), (question.maximum, "--max")) if text is not None]
    if not bounds:
        raise Refused([Fault("--min, --max", "nothing", "must be given, one or both: a number, or a typed literal of Turtle")])
    found = [_scaled(text, where) for text, where in bounds]
    if len({family for family, _ in found}) > 1:
        raise Refused(
            [Fault("--min, --max", " and ".join(text for text, _ in bounds), "must be of one family, both numbers or both dates")]
        )
    values = dict(zip((where for _, where in bounds), (value for _, value in found), strict=True))
    return range_words({"family": found[0][0], "min": values.get("--min"), "max": values.get("--max")})


def _scaled(text: str, where: str) -> tuple[str, int]:
    value = scaled(_term(text, where))  # type: ignore[arg-type]
    if isinstance(value, str):
        raise Refused([Fault(where, text, f"must be a number, date or dateTime that is exact: {value}")])
    return value


def _validate(question: Question, strings: emit_terms.Strings) -> tuple[int, ...]:
    low, high = _count(question.minimum, "--min"), _count(question.maximum, "--max")
    if not (question.datatype or question.kind or low is not None or high is not None):
        raise Refused([Fault("--datatype, --kind, --min, --max", "nothing", "must be given, at least one")])
    bits = {"iri": emit_terms.META_IRI, "bnode": emit_terms.META_BNODE, "literal": emit_terms.META_LITERAL}
    anything = emit_terms.META_IRI | emit_terms.META_BNODE | emit_terms.META_LITERAL
    kinds = bits[question.kind] if question.kind else emit_terms.META_LITERAL if question.datatype else anything
    mask = want = 0
    if question.datatype:
        mask, want = emit_terms.DATATYPE_MASK | emit_terms.META_VALID, strings.id(question.datatype) << 8 | emit_terms.META_VALID
    return mask, want, kinds, low or 0, ANY_LENGTH >> 32 if high is None else min(high, emit_terms.LENGTH_MAX)


def expanded(iri: str) -> str:
    """`xsd:NAME` written out; other IRIs as they are."""
    return emit_terms.XSD + iri.removeprefix("xsd:") if iri.startswith("xsd:") else iri


def differential(seed: int, cases: int) -> Iterator[tuple[str, tuple[Lane, ...], tuple[int, ...]]]:
    """Chunks and words for each kernel in turn, made from a seed so that hits are frequent."""
    import random

    pick = random.Random(seed)
    keys = [node << 32 | p for node in (0, 1, 7) for p in (1, 9, 0xFFFFFFFF)]
    objects = [1 << 60 | 5, 3 << 60 | 8 << 32 | 5, 3 << 60 | 8 << 32 | 6, 4 << 60 | 9 << 32 | 5]
    values = [0, 1 << 60, (1 << 60) + 5, (2 << 60) - 1, 4 << 60, 9 << 60, 12 << 60]
    metas = [length << 40 | dt << 8 | bits for length in (0, 1, 200, 0xFFFFFF) for dt in (8, 11) for bits in (1, 2, 4, 12)]
    for i in range(cases):
        kernel = tuple(KERNELS)[i % len(KERNELS)]
        few = pick.sample(keys, 2)
        lanes = tuple((pick.choice([*few, 0]), pick.choice(objects), pick.choice(values), pick.choice(metas)) for _ in range(MAX_LANES))
        low, high = sorted(pick.sample([v for v in values if v < 1 << 63], 2))
        words = {
            "ASK_SPO": (pick.choice(objects),),
            "COMPARE": (low, high),
            "VALIDATE": (
                0xFFFFFF08,
                pick.choice((8, 11)) << 8 | 8,
                pick.choice((4, 5, 7)),
                pick.choice((0, 1)),
                pick.choice((200, 0xFFFFFF)),
            ),
        }.get(kernel, ())
        yield kernel, lanes, (few[0], *words)
