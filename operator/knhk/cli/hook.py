"""`knhk hook …`: the six kernels of the hot library, one question at a time."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from knhk.cli.framework import FAULTS, OK, Argument, Call, Outcome, Table, command, noun
from knhk.cli.schema import array, integer, mapping, nullable, obj, string

if TYPE_CHECKING:
    from knhk_gen.hooks import Asked, Question

NAMES = ("ASK_SP", "ASK_SPO", "COUNT", "COMPARE", "VALIDATE", "UNIQUE")
NUMBER = {"type": "number"}
MAX_DELTA_BYTES = 1 << 20

noun("hook", "Hooks: the kernels that guards are made of; list, execute, test")

KERNEL = Argument("--kernel", help="instruction set (default: the best of this processor)", choices=("scalar", "avx2", "avx512", "neon"))


@command(
    ("hook", "list"),
    summary="List the kernels, or the hooks of a pack: its guards and the kernels that decide them",
    arguments=(
        Argument("path", help="a PolicyPack file or folder (default: the kernels alone)", kind=Path, metavar="DIR_OR_FILE", optional=True),
    ),
    output=obj(
        variants=array(string()),
        kernels=array(obj(name=string(), asks=string(), options=array(string()), ns=mapping(NUMBER))),
        hooks=array(obj(id=string(), **{"class": string("R1", "W1", "C1")}, kernels=mapping(integer()), source=string())),
    ),
    examples=("knhk hook list", "knhk hook list examples/packs/invoice-controls/1.2.0"),
    detail="`ns` is what one evaluation of a chunk of eight lanes takes here and now, by variant: the best of batch means over chunks in\n"
    "the first cache. It is throughput of a kernel alone; bench/results says what a whole decision takes.",
)
def hooks(call: Call) -> Outcome:
    from knhk_gen.hooks import KERNELS
    from knhk_hot import kernels as native

    times = _times()
    kernels = [
        {"name": k.name, "asks": k.asks, "options": [f"--{name}" for name in k.options], "ns": times[k.name]} for k in KERNELS.values()
    ]
    found = [] if call.args.path is None else _hooks(call.args.path)
    columns = ("kernel", "asks", "options", *(f"{variant} ns" for variant in native.variants()))
    tables = [Table("kernels", columns, _rows(kernels))]
    if call.args.path is not None:
        lines = tuple(
            (h["id"], h["class"], ", ".join(f"{k} ×{n}" if n > 1 else k for k, n in h["kernels"].items()), h["source"]) for h in found
        )
        tables = [Table("hooks", ("hook", "class", "kernels", "source"), lines)]
    return Outcome({"variants": list(native.variants()), "kernels": kernels, "hooks": found}, tables=tuple(tables))


def _rows(kernels: list[dict[str, Any]]) -> tuple[tuple[str, ...], ...]:
    return tuple((k["name"], k["asks"], " ".join(k["options"]), *(f"{ns:.2f}" for ns in k["ns"].values())) for k in kernels)


def _times() -> dict[str, dict[str, float]]:
    """Nanoseconds of one evaluation: kernel → variant → best batch mean."""
    from knhk_gen.hooks import differential
    from knhk_hot import kernels as native

    found: dict[str, dict[str, float]] = {}
    for name, lanes, words in differential(1, len(NAMES)):
        chunks = native.Chunks(lanes)
        found[name] = {variant: round(native.timing(name, variant, chunks, words).best_ns, 3) for variant in native.variants()}
    return found


def _hooks(path: Path) -> list[dict[str, Any]]:
    from knhk.adapters.pack_folder import find
    from knhk.api import to_sources
    from knhk.reconcilers.lowering import place, plan_of
    from knhk_gen.explain import explain

    pack = to_sources(find(path).pack)
    plan = plan_of(pack).document
    return [
        {"id": g["id"], "class": g["class"], "kernels": {k.upper(): n for k, n in e.kernels.items()}, "source": place(pack, g["source"])}
        for g, e in zip(plan["guards"], explain(plan), strict=True)
    ]


@command(
    ("hook", "execute"),
    summary="Ask one kernel one question about a small Δ, by the compiled kernel of the hot library",
    arguments=(
        Argument("hook", help="the kernel", choices=NAMES, kind=str.upper),
        Argument("--predicate", "-p", help="IRI of the predicate", required=True, metavar="IRI"),
        Argument("--subject", "-s", help="IRI of the subject (default: the first of the Δ that has the predicate)", metavar="IRI"),
        Argument("--object", help="ASK_SPO: an IRI, or a literal as Turtle writes it", metavar="TERM"),
        Argument("--min", help="COUNT: a number of triples; COMPARE: least value; VALIDATE: least length", metavar="N"),
        Argument("--max", help="the same for the most", metavar="N"),
        Argument("--datatype", help="VALIDATE: IRI, or xsd:NAME", metavar="IRI"),
        Argument("--kind", help="VALIDATE: kind of term", choices=("iri", "bnode", "literal")),
        Argument("--data", "-d", help="the Δ, Turtle or N-Triples (default: an example)", kind=Path, metavar="FILE"),
        KERNEL,
    ),
    output=obj(
        hook=string(*NAMES),
        question=string(),
        subject=string(),
        predicate=string(),
        verdict=nullable(string("ADMIT", "DENY")),
        masks=array(string()),
        **{"class": string("R1", "W1")},
        why=string(),
        cost=obj(lanes=integer(), chunks=integer(), cycles=NUMBER),
        time=obj(best_ns=NUMBER, median_ns=NUMBER, samples=integer()),
        kernel=string(),
        delta=array(string()),
    ),
    examples=(
        'knhk hook execute ASK_SP --predicate "http://example.org/hasPermission"',
        'knhk hook execute COMPARE -p "http://example.org/limit" --max 5000 --kernel scalar',
        'knhk hook execute ASK_SPO -p "http://example.org/hasRole" --object "http://example.org/manager" --data delta.ttl',
    ),
    detail="The verdict is ADMIT when the answer to the question is yes. A mask has one bit for each lane, lane 0 at the right; a Δ\n"
    "of more lanes is taken in chunks of eight and the verdicts are joined. Cost and time are of the whole Δ of the subject: cycles\n"
    "by knhk_gen/tables/kernel-cost.tsv, for the core named there; time as the mean of a batch on this machine, here and now. Both\n"
    "verdicts end with exit 0. Without --data the Δ is:\n"
    "  ex:alice ex:hasPermission ex:approveInvoice ; ex:hasRole ex:manager ; ex:limit 5000 .   (ex: is http://example.org/)",
)
def execute(call: Call) -> Outcome:
    from knhk_gen import hooks as asking
    from knhk_gen.table import kernel_cycles
    from knhk_hot import kernels as native

    args = call.args
    question = asking.Question(
        args.hook, args.predicate, args.subject or "", args.object or "", args.min, args.max,
        asking.expanded(args.datatype or ""), args.kind or "",
    )  # fmt: skip
    asked = asking.ask(question, asking.read(_delta(args.data), str(args.data or "the Δ")))
    variant = _variant(args.kernel)
    chunks = native.Chunks(asked.lanes)
    masks = native.masks(args.hook, variant, chunks, asked.words)
    timing = native.timing(args.hook, variant, chunks, asked.words)
    verdict = None if asked.inexact else "ADMIT" if asking.holds(question, asked, masks) else "DENY"
    told = {
        "hook": args.hook,
        "question": asking.KERNELS[args.hook].asks,
        "subject": asked.subject,
        "predicate": args.predicate,
        "verdict": verdict,
        "masks": [f"{mask:08b}" for mask in masks],
        "class": "W1" if asked.inexact else "R1",
        "why": f"{asked.inexact} has no exact scaled value: the class below decides" if asked.inexact else _why(asked, chunks.count),
        "cost": {
            "lanes": len(asked.lanes),
            "chunks": chunks.count,
            "cycles": round(kernel_cycles()[args.hook.lower()] * chunks.count, 1),
        },
        "time": {
            "best_ns": round(timing.best_ns * chunks.count, 3),
            "median_ns": round(timing.median_ns * chunks.count, 3),
            "samples": timing.samples,
        },
        "kernel": variant,
        "delta": list(asked.triples),
    }
    return Outcome(told, tables=_answer(told, question, asked))


def _why(asked: Asked, chunks: int) -> str:
    return f"{len(asked.lanes)} lanes, exact values" + (f", {chunks} chunks joined" if chunks > 1 else "")


def _delta(file: Path | None) -> str:
    from knhk.model.faults import Fault, Refused
    from knhk_gen.hooks import DELTA

    if file is None:
        return DELTA
    data = file.read_bytes()
    if len(data) > MAX_DELTA_BYTES:
        raise Refused([Fault(str(file), f"{len(data)} bytes", f"must have at most {MAX_DELTA_BYTES} bytes")])
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise Refused([Fault(str(file), f"byte 0x{data[error.start]:02x}", "must be UTF-8")]) from error


def _variant(given: str | None) -> str:
    import os

    from knhk.cli.framework import Usage
    from knhk_hot import kernels as native

    found = native.variants()
    wanted = given or os.environ.get("KNHK_KERNEL") or found[0]
    if wanted not in found:
        raise Usage(f"{wanted!r} must be a variant that this processor has: {', '.join(found)}", "--kernel")
    return wanted


def _answer(told: dict[str, Any], question: Question, asked: Asked) -> tuple[Table, ...]:
    lanes = []
    for i, (lane, triple) in enumerate(zip(asked.lanes, asked.triples, strict=True)):
        hit = told["masks"][i // 8][7 - i % 8] == "1"
        lanes.append((str(i), "1" if hit else "0", triple, "" if lane[0] == asked.key else "another predicate"))
    rows = (
        ("verdict", told["verdict"] or "undecided here"),
        ("question", f"{question.kernel}: {told['question']}?"),
        ("subject", told["subject"]),
        ("predicate", told["predicate"]),
        ("lane mask", " ".join(told["masks"])),
        ("class", f"{told['class']}: {told['why']}"),
        ("cost", _cost(told["cost"])),
        ("time", f"{told['time']['median_ns']:.2f} ns (best {told['time']['best_ns']:.2f}), {told['kernel']}"),
    )
    return Table("", ("", ""), rows), Table("lanes", ("lane", "bit", "triple", ""), tuple(lanes))


def _cost(cost: dict[str, Any]) -> str:
    chunks = "1 chunk" if cost["chunks"] == 1 else f"{cost['chunks']} chunks"
    return f"{cost['lanes']} lanes in {chunks}, {cost['cycles']:g} cycles by the committed table"


@command(
    ("hook", "test"),
    summary="Compare every variant of the kernels with their definitions on random lanes",
    arguments=(
        Argument("hook", help="one kernel (default: all)", choices=NAMES, kind=str.upper, optional=True),
        Argument("--cases", help="chunks to try (default 6000)", kind=int, default=6000, metavar="N"),
        Argument("--seed", help="seed of the lanes (default 1)", kind=int, default=1, metavar="N"),
    ),
    output=obj(
        variants=array(string()),
        seed=integer(),
        hooks=array(obj(name=string(), cases=integer(), hits=integer(), wrong=integer())),
        wrong=array(
            obj(hook=string(), variant=string(), expected=string(), mask=string(), words=array(string()), lanes=array(array(string())))
        ),
    ),
    examples=("knhk hook test", "knhk hook test COMPARE --cases 60000 --seed 7"),
    detail="The definitions are a lane-by-lane model; `hits` counts cases whose mask is not empty. A wrong mask is listed with its lanes.",
    exits={FAULTS: "a variant gave another mask"},
)
def test(call: Call) -> Outcome:
    from knhk_gen import hooks as asking
    from knhk_hot import kernels as native

    args = call.args
    counts = {name: [0, 0, 0] for name in NAMES if args.hook in (None, name)}
    wrong = []
    for name, lanes, words in asking.differential(args.seed, max(0, args.cases)):
        if name not in counts:
            continue
        expected, chunks = asking.expected(name, lanes, words), native.Chunks(lanes)
        counts[name][0] += 1
        counts[name][1] += expected != 0
        for variant in native.variants():
            (mask,) = native.masks(name, variant, chunks, words)
            if mask != expected:
                counts[name][2] += 1
                told = [[f"{word:#x}" for word in lane] for lane in lanes]
                wrong.append(
                    {"hook": name, "variant": variant, "expected": f"{expected:08b}", "mask": f"{mask:08b}",
                     "words": [f"{word:#x}" for word in words], "lanes": told}
                )  # fmt: skip
    rows = [{"name": name, "cases": n, "hits": hits, "wrong": bad} for name, (n, hits, bad) in counts.items()]
    table = Table(
        f"{' = '.join(native.variants())} = definition, seed {args.seed}",
        ("hook", "cases", "with a hit", "wrong"),
        tuple(tuple(str(cell) for cell in row.values()) for row in rows),
    )
    data = {"variants": list(native.variants()), "seed": args.seed, "hooks": rows, "wrong": wrong[:16]}
    return Outcome(data, FAULTS if wrong else OK, (table,))
