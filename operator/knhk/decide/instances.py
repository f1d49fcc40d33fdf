"""One Statistics document out of those of many agents (formats/exchange.md, "Many pods, one sum").

Every count of a pod is joined by maximum, and pods are added: neither depends on the order of words, on repeats, or on restarts.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from knhk.model.faults import Fault, Refused
from knhk.model.rollout import DIRECTIONS, MAX_BUCKETS, MAX_SAMPLES, SIDES

Path = tuple[str, ...]
Pair = tuple[str, str]
NO_PACK: Final = "0" * 40
MAX_OUTLIERS: Final = 20
MAX_COUNTS, MAX_TEXT, MAX_BOOTS, MAX_PAIRS = 8192, 2048, 64, 4096
MAX_WEIGHT: Final = 8 << 20  # bytes, about, of what is kept of one pod
MAX_GONE_WEIGHT: Final = 64 << 20  # of all pods together that are gone
MAX_COUNT: Final = 2**44  # 4,096 pods with 64 runs each sum to less than 2**62
MAX_SUM: Final = 2**62
_LATEST: Final = "lastCandidateEnforcedNs"
_BUCKETS: Final = frozenset(map(str, range(MAX_BUCKETS)))
_CLASSES: Final = frozenset({"R1", "W1", "C1"})
_OF_A_PAIR: Final = frozenset({"pairs", "routed", "covered", "parked", "clusters", "errors", "enforcedDenials", _LATEST})
_OF_A_PACK: Final = frozenset({"admit", "deny", "park", "refused"}) | _CLASSES
Names = frozenset[str] | None  # None: any name

# Where counts stand, and nowhere else: what else a newer agent tells is left out. No place is within another, so that words of any
# pods fit into one tree.
_LASTING: Final[tuple[tuple[Names, ...], ...]] = (
    (frozenset({"drained", "durable", "acked"}),),
    (frozenset({"decisions"}), None, _OF_A_PACK),
    (frozenset({"pairs"}), None, None, _OF_A_PAIR),
    (frozenset({"pairs"}), None, None, frozenset({"any"}), frozenset(DIRECTIONS)),
    (frozenset({"pairs"}), None, None, frozenset({"guards"}), None, frozenset(DIRECTIONS)),
    (frozenset({"pairs"}), None, None, frozenset({"classes"}), frozenset({"bothR1"})),
    (frozenset({"pairs"}), None, None, frozenset({"classes"}), frozenset(SIDES), _CLASSES),
)
_OF_A_RUN: Final[tuple[tuple[Names, ...], ...]] = (
    (frozenset({"ringFull", "absent"}),),
    (frozenset({"heat"}), None, frozenset({"samples"})),
    (frozenset({"heat"}), None, frozenset({"predicates"}), None),
    (frozenset({"pairs"}), None, None, frozenset({"latency"}), frozenset(SIDES), _BUCKETS),
)
_BOOT = re.compile(r"[0-9a-f]{16}")
_DIGEST20 = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True)
class Word:
    """What one agent said, checked. `lasting` and `run`: counts by path; `samples`: receipts by pair and direction."""

    boot: str
    epoch: int
    ready: bool
    listening: bool
    counted: bool
    ending: bool
    in_wave: bool | None
    evaluator: str
    running: Mapping[str, str | None]
    refused: tuple[Mapping[str, str], ...]
    lasting: Mapping[Path, int]
    run: Mapping[Path, int]
    samples: Mapping[Path, frozenset[str]]


@dataclass
class Instance:
    """All that is known of one pod: its last word, when it was heard, and what its words join to."""

    pod: str
    last: Word
    heard_ns: int
    uid: str = ""
    lasting: dict[Path, int] = field(default_factory=dict)
    runs: dict[str, dict[Path, int]] = field(default_factory=dict)
    samples: dict[Path, frozenset[str]] = field(default_factory=dict)
    weight: int = 0

    def hear(self, word: Word, now_ns: int) -> None:
        """Joins a word. Raises Refused for one run too many, or for more counts than are kept: each word may bring names of its own."""
        if word.boot not in self.runs and len(self.runs) >= MAX_BOOTS:
            raise Refused([Fault("boot", word.boot, f"must be one of the first {MAX_BOOTS} runs of this pod under this pair of packs")])
        weight = self.weight + _more(self.lasting, word.lasting) + _more(self.samples, word.samples)
        weight += _more(self.runs.get(word.boot, {}), word.run)
        if weight > MAX_WEIGHT:
            must = f"must be at most {MAX_WEIGHT >> 20} MiB of this pod under this pair of packs"
            raise Refused([Fault("statistics", f"counts of about {weight} bytes", must)])
        self.last, self.heard_ns, self.weight = word, now_ns, weight
        _join(self.lasting, word.lasting)
        _join(self.runs.setdefault(word.boot, {}), word.run)
        for path, receipts in word.samples.items():
            self.samples[path] = _first(self.samples.get(path, frozenset()) | receipts)

    def keep(self, pair: Pair) -> None:
        """Forgets what is of other packs."""
        self.lasting = {path: n for path, n in self.lasting.items() if is_of(path, pair)}
        self.samples = {path: found for path, found in self.samples.items() if is_of(path, pair)}
        kept = {boot: {path: n for path, n in run.items() if is_of(path, pair)} for boot, run in self.runs.items()}
        self.runs = {boot: run for boot, run in kept.items() if run or boot == self.last.boot}
        self.weight = _more((), self.lasting) + _more((), self.samples) + sum(_more((), run) for run in self.runs.values())


@dataclass
class Gone:
    """The sum of pods that will never speak again: what each is known to have counted, once."""

    counts: dict[Path, int] = field(default_factory=dict)
    samples: dict[Path, frozenset[str]] = field(default_factory=dict)
    weight: int = 0

    def take(self, one: Instance) -> bool:
        """Adds a pod; False, and nothing is added, when its names have no room here: then it stays what it is."""
        counts = [one.lasting, *one.runs.values()]
        told = {path for run in counts for path in run} | set(one.samples)
        weight = self.weight + _more({*self.counts, *self.samples}, told)
        if weight > MAX_GONE_WEIGHT:
            return False
        self.weight = weight
        for run in counts:
            _add(self.counts, run)
        _add_samples(self.samples, one.samples)
        return True


def _add(total: dict[Path, int], counts: Mapping[Path, int]) -> None:
    for path, n in counts.items():
        total[path] = max(total.get(path, 0), n) if path[-1] == _LATEST else min(MAX_SUM, total.get(path, 0) + n)


def _add_samples(total: dict[Path, frozenset[str]], samples: Mapping[Path, frozenset[str]]) -> None:
    for path, receipts in samples.items():
        total[path] = _first(total.get(path, frozenset()) | receipts)


def is_of(path: Path, pair: Pair) -> bool:
    """Whether a count says something of this pair, or of no packs at all."""
    if path[0] == "pairs":
        return path[1:3] == pair
    return path[0] not in ("decisions", "heat") or path[1] in pair


def _weight(path: Path) -> int:
    return 128 + sum(map(len, path))


def _more(known: Collection[Path], told: Iterable[Path]) -> int:
    """Bytes, about, that keeping `told` beside `known` takes."""
    return sum(_weight(path) for path in told if path not in known)


def _join(into: dict[Path, int], counts: Mapping[Path, int]) -> None:
    for path, n in counts.items():
        if n > into.get(path, -1):
            into[path] = n


def _first(receipts: Iterable[str]) -> frozenset[str]:
    return frozenset(sorted(receipts)[:MAX_SAMPLES])


# ---- one document ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Silent:
    """A pod that runs and is not heard; `since_ns` 0: it was never."""

    pod: str
    since_ns: int


def together(
    point: str, heard: Iterable[Instance], live: Iterable[Instance], silent: Iterable[Silent], settled: bool, gone: Gone | None = None
) -> dict[str, Any]:
    """The Statistics document of a point. `heard` and `gone`: all whose counts count, `live` those that run now; `settled`: nobody is
    waited for."""
    lively, quiet = sorted(live, key=lambda one: one.pod), sorted(silent, key=lambda one: one.pod)
    least = min(lively, key=lambda one: one.last.epoch, default=None)
    refused = [{"pod": one.pod, **row} for one in lively for row in one.last.refused]
    return {
        "version": 1,
        "point": point,
        "boot": "",
        "epoch": least.last.epoch if least else 0,
        "evaluator": least.last.evaluator if least else "",
        "ready": bool(lively) and all(one.last.ready for one in lively),
        "listening": all(one.last.listening for one in lively),
        "counted": settled and all(one.last.counted for one in lively),
        "running": dict(least.last.running) if least else {},
        "refused": refused[:MAX_OUTLIERS],
        **_sums(list(heard), gone or Gone()),
        "instances": {
            "live": len(lively),
            "ids": sorted(one.uid for one in lively),
            "settled": settled,
            "inWave": sum(told) if (told := [one.last.in_wave for one in lively if one.last.in_wave is not None]) else None,
            "epochs": dict(Counter(str(one.last.epoch) for one in lively)),
            "stable": dict(Counter(digest for one in lively if (digest := one.last.running.get("stable")))),
            "silent": [{"pod": one.pod, "sinceNs": one.since_ns} for one in quiet[:MAX_OUTLIERS]],
            "silentCount": len(quiet),
        },
    }


def _sums(heard: list[Instance], gone: Gone) -> dict[str, Any]:
    total, samples = dict(gone.counts), dict(gone.samples)
    for one in heard:
        for counts in (one.lasting, *one.runs.values()):
            _add(total, counts)
        _add_samples(samples, one.samples)
    tree: dict[str, Any] = dict.fromkeys(("drained", "durable", "acked", "ringFull", "absent"), 0)
    for path, n in sorted(total.items()):
        _plant(tree, path, n)
    for path, receipts in samples.items():
        _plant(tree, path, sorted(receipts))
    rows = tree.pop("pairs", {})
    pairs = [{"stable": stable, "candidate": candidate, **row} for stable, ways in rows.items() for candidate, row in ways.items()]
    for row in pairs:
        if "classes" in row:
            row["classes"] = {"stable": {}, "candidate": {}, "bothR1": 0} | row["classes"]
    for told in tree.get("heat", {}).values():
        told["predicates"] = dict(sorted(told.get("predicates", {}).items(), key=lambda item: (-item[1], item[0])))
    return {"decisions": {}, "heat": {}, **tree, "pairs": pairs}


def _plant(tree: dict[str, Any], path: Path, value: object) -> None:
    for name in path[:-1]:
        tree = tree.setdefault(name, {})
    tree[path[-1]] = value


# ---- one word --------------------------------------------------------------------------------------


def word_of(document: Mapping[str, Any], point: str, pair: Pair | None = None) -> Word:
    """A Statistics document of one agent, its counts of `pair` alone where one is given. Raises Refused with every fault of its form."""
    get = document.get
    checks: list[tuple[str, bool, str]] = [
        ("version", get("version") == 1, "must be 1"),
        ("point", get("point") in ("", point), f"must be {point}"),
        ("boot", isinstance(get("boot"), str) and _BOOT.fullmatch(get("boot", "")) is not None, "must be 16 hexadecimal digits"),
        ("epoch", _is_count(get("epoch"), 2**63), "must be 0 or more"),
        ("ready", isinstance(get("ready"), bool), "must be true or false"),
        ("listening", isinstance(get("listening", True), bool), "must be true or false"),
        ("counted", isinstance(get("counted"), bool), "must be true or false"),
        ("ending", isinstance(get("ending", False), bool), "must be true or false"),
        ("inWave", get("inWave") is None or isinstance(get("inWave"), bool), "must be true, false or null"),
        ("evaluator", _is_text(get("evaluator")), f"must be a text of at most {MAX_TEXT} characters"),
        ("running", _is_running(get("running")), "must name stable, candidate and data, each a text or null"),
        ("refused", _are_refusals(get("refused")), "must be a list of objects with what, where and must"),
        (
            "pairs",
            _are_pairs(get("pairs")),
            f"must be a list of at most {MAX_PAIRS} objects with stable and candidate, 40 hexadecimal digits each",
        ),
    ]
    faults = [Fault(name, repr(get(name))[:120], must) for name, fine, must in checks if not fine]
    if faults:
        raise Refused(faults)
    lasting, run, samples = _counts(document)
    if pair is not None:
        lasting = {path: n for path, n in lasting.items() if is_of(path, pair)}
        run = {path: n for path, n in run.items() if is_of(path, pair)}
        samples = {path: found for path, found in samples.items() if is_of(path, pair)}
    if len(lasting) + len(run) > MAX_COUNTS:
        raise Refused([Fault("statistics", f"{len(lasting) + len(run)} counts", f"must be at most {MAX_COUNTS}")])
    return Word(
        boot=document["boot"],
        epoch=document["epoch"],
        ready=document["ready"],
        listening=document.get("listening", True),
        counted=document["counted"],
        ending=document.get("ending", False),
        in_wave=document.get("inWave"),
        evaluator=document["evaluator"],
        running=dict(document["running"]),
        refused=tuple({name: str(row[name])[:512] for name in ("what", "where", "must")} for row in document["refused"][:MAX_OUTLIERS]),
        lasting=lasting,
        run=run,
        samples=samples,
    )


def _counts(document: Mapping[str, Any]) -> tuple[dict[Path, int], dict[Path, int], dict[Path, frozenset[str]]]:
    rows: dict[str, dict[str, Any]] = {row["stable"]: {} for row in document["pairs"]}
    samples: dict[Path, frozenset[str]] = {}
    for row in document["pairs"]:
        rows[row["stable"]][row["candidate"]] = row
        samples.update(_samples(row.get("samples", {}), ("pairs", row["stable"], row["candidate"], "samples")))
    tree = {**document, "pairs": rows}
    lasting, run = ({path: n for shape in shapes for path, n in _at(tree, shape, ())} for shapes in (_LASTING, _OF_A_RUN))
    return lasting, run, samples


def _at(value: object, shape: tuple[Names, ...], path: Path) -> Iterator[tuple[Path, int]]:
    """The counts below `value` whose path fits."""
    if not shape:
        if not _is_count(value, 2**63 if path[-1] == _LATEST else MAX_COUNT):
            raise Refused([Fault(".".join(path), repr(value)[:120], f"must be a number, 0 to {MAX_COUNT}")])
        assert isinstance(value, int)
        yield path, value
        return
    if not isinstance(value, Mapping):
        raise Refused([Fault(".".join(path), repr(value)[:120], "must be an object")])
    for name, inner in value.items():
        if shape[0] is None and not (_is_text(name) and name):
            raise Refused([Fault(".".join(path), repr(name)[:120], f"must have names of 1 to {MAX_TEXT} characters")])
        if shape[0] is None or name in shape[0]:
            yield from _at(inner, shape[1:], (*path, name))


def _samples(value: object, path: Path) -> Iterator[tuple[Path, frozenset[str]]]:
    for name, receipts in value.items() if isinstance(value, Mapping) else ():
        if name in ("newDenials", "newAdmits") and isinstance(receipts, list):
            yield (*path, name), _first(receipt for receipt in receipts[:MAX_SAMPLES] if isinstance(receipt, str) and len(receipt) == 32)


def _is_count(value: object, end: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < end


def _is_text(value: object) -> bool:
    return isinstance(value, str) and len(value) <= MAX_TEXT


def _is_running(value: object) -> bool:
    return isinstance(value, Mapping) and all(
        value.get(name) is None or (isinstance(value[name], str) and len(value[name]) <= 71) for name in ("stable", "candidate", "data")
    )


def _are_refusals(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(row, Mapping) and {"what", "where", "must"} <= set(row) for row in value)


def _are_pairs(value: object) -> bool:
    return (
        isinstance(value, list)
        and len(value) <= MAX_PAIRS
        and all(
            isinstance(row, Mapping)
            and all(isinstance(row.get(name), str) and _DIGEST20.fullmatch(row[name]) for name in ("stable", "candidate"))
            for row in value
        )
    )
