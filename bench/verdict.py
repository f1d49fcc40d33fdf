"""From raw JSON to a verdict: the product single and in batches, and other engines with the same rule over the same inputs."""

from __future__ import annotations

import time
from collections.abc import Callable

from bench import inputs
from bench.anchors import Decide, available
from bench.figures import Figures, Goal, Row, Spread, per_op, single, spread
from bench.native import NativePack
from knhk_hot.pack import ADMIT, Binding, Pack

TITLE = "JSON to verdict"
BATCH = 1000
GOALS = {"OPA (Go engine in process)": Goal(100), "Cedar (cedarpy)": Goal(90), "msgspec and a rule in Python": Goal(2.5)}
SAMPLE_NS = 20_000_000
SLOW = frozenset(("pyrudof SHACL, shapes read each time", "pySHACL"))  # timed over eight of the inputs


def agree(anchors: dict[str, Decide], cases: tuple[inputs.Case, ...]) -> dict[str, list[int]]:
    """Engine → numbers of the inputs that it does not answer as the rule does."""
    return {name: [i for i, case in enumerate(cases) if decide(case.body) != case.admit] for name, decide in anchors.items()}


def _wrong(binding: Binding, cases: tuple[inputs.Case, ...]) -> list[int]:
    return [i for i, case in enumerate(cases) if (binding.decide(case.o).verdict == ADMIT) != case.admit]


def _over(decide: Callable[[bytes], object], given: list[bytes]) -> Callable[[], None]:
    def work() -> None:
        for item in given:
            decide(item)

    return work


def _fitting(work: Callable[[], object]) -> Callable[[int], int]:
    """How many repeats of `work` fill the time of a sample, at least one."""
    begun = time.process_time_ns()
    work()
    once = max(1, time.process_time_ns() - begun)
    return lambda limit: max(1, min(limit, SAMPLE_NS // once))


def _timed(work: Callable[[], object], ops: int, samples: int) -> Spread:
    """CPU nanoseconds of this process per operation, all its threads."""
    repeats = _fitting(work)(1000)

    def repeated() -> None:
        for _ in range(repeats):
            work()

    return spread(per_op(repeated, ops * repeats, samples, time.process_time_ns, warm=1))


def _invoice_rows(samples: int) -> list[Row]:
    cases = inputs.invoice_cases()
    binding = Pack.load(inputs.invoice_pack()).bind(inputs.finance_roles())
    given = [o for _, o in cases]
    size = sum(len(body) for body, _ in cases) / len(cases)
    native = NativePack(inputs.invoice_pack(), given, binding.kernel, inputs.finance_roles())
    rounds = 200 if samples > 5 else 10
    in_c = spread([native.decide(rounds) for _ in range(samples)])
    batched = spread([native.batch(rounds) for _ in range(samples)])
    note = f"{len(binding.pack.guards)} guards, bodies of {size:,.0f} bytes on average, a data bundle"
    return [
        Row("invoice pack, in C", "ns", in_c, note),
        Row(f"invoice pack, in C, batches of {len(given)}", "ns", batched),
        Row("invoice pack, single through cffi", "ns", _timed(_over(binding.decide, given), len(given), samples)),
        Row("invoice pack, in C, per body byte", "ns", single(in_c.median / size)),
    ]


def run(quick: bool = False) -> Figures:
    """Raises ValueError when an engine answers other verdicts than the rule."""
    samples = 3 if quick else 15
    cases = inputs.access_cases()
    binding = Pack.load(inputs.access_pack()).bind()
    anchors, missing = available()
    wrong = {name: where for name, where in {**agree(anchors, cases), "the pack": _wrong(binding, cases)}.items() if where}
    if wrong:
        raise ValueError(f"engines that do not answer as the rule does, with the numbers of the inputs: {wrong}")
    o = [case.o for case in cases]
    many = (o * (BATCH // len(o) + 1))[:BATCH]
    native = NativePack(inputs.access_pack(), o, binding.kernel)
    rounds = 20 if quick else 500
    in_c = spread([native.decide(rounds) for _ in range(samples)])
    batched = spread([native.batch(rounds) for _ in range(samples)])
    ours_single = _timed(_over(binding.decide, o), len(o), samples)
    ours_batch = _timed(lambda: binding.decide_many(many).verdicts, BATCH, samples)
    objects = _timed(lambda: binding.decide_batch(many), BATCH, samples)
    rows = [
        Row("access pack, in C", "ns", in_c, f"{len(binding.pack.guards)} guards, {len(cases[0].body)} bytes of JSON, {binding.kernel}"),
        Row(f"access pack, in C, batches of {len(o)}", "ns", batched),
        Row(
            "of a single one: reading O and JSON to lanes",
            "ns",
            spread([native.extract(rounds * 20) for _ in range(samples)]),
            "first input",
        ),
        Row("of a single one: guards", "ns", spread([native.guards(rounds * 20) for _ in range(samples)]), "first input"),
        Row("access pack, single through cffi", "ns", ours_single),
        Row(f"access pack, batch of {BATCH} through cffi", "ns", ours_batch, "verdicts as one array"),
        Row(f"access pack, batch of {BATCH} through cffi, as objects", "ns", objects, "a Decision with its A for each"),
    ]
    for name, decide in anchors.items():
        given = [case.body for case in cases][: 8 if name in SLOW else None]
        theirs = _timed(_over(decide, given), len(given), samples)
        rows.append(Row(name, "ns", theirs))
        ratio = theirs.median / ours_batch.median
        rows.append(Row(f"{name} ÷ batched", "×", single(ratio), f"÷ single {theirs.median / ours_single.median:.1f}", GOALS.get(name)))
    rows += [Row(name, "ns", None, f"not run: {why}") for name, why in missing.items()]
    rows += _invoice_rows(samples)
    notes = (
        f"{len(cases)} inputs, {sum(case.admit for case in cases)} admitted; every engine answered all of them right before it was timed.",
        "CPU time of the process with all its threads, so that neighbours on the machine do not count.",
        "Ours begins at canonical O (in Envoy the shim writes it); anchors begin at the raw JSON.",
        "Policies, schemas and shapes are parsed once, outside of the time, where the engine allows it.",
        "OPA is called through a ctypes wrapper around the Go engine; most of its time is the crossing and the set-up of an evaluation.",
    )
    return Figures("verdict", TITLE, tuple(rows), notes)
