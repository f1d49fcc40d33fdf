"""Invariant: tables that the compiler makes, of whatever sources, are read and judged within bounds for any O, and kernels agree on A.
Random packs of tests/oracle, and the example packs with all their mutants as guards.

``python tests/fuzz/tables.py [--seconds N]`` searches with one pack after another; `test_tables.py` replays some."""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from hypothesis import HealthCheck, Phase, given, settings

from knhk.api.convert import to_sources
from knhk.api.parse import parse
from knhk.model.arrows import GuardPlan, PackSources, Source
from knhk_gen.emit import emit
from knhk_gen.lower import lower
from knhk_gen.mutants import mutants, schemata
from knhk_hot import fuzz

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from oracle.observation import observation
from oracle.strategies import MAPPING, payloads, random_packs

PACKS = Path(__file__).resolve().parents[2] / "examples" / "packs"
SEARCH_SECONDS = 10
RANDOM = 100
EXAMPLES = sorted(path.parent.relative_to(PACKS).as_posix() for path in PACKS.glob("**/pack.yaml") if path.parent.name != "faulty")


@dataclass(frozen=True)
class Tables:
    """A plan and right inputs for it."""

    name: str
    plan: GuardPlan
    inputs: list[bytes]


def of_random_packs(count: int) -> list[Tables]:
    """The same packs each time."""
    made: list[Tables] = []

    @settings(
        max_examples=count, deadline=None, database=None, derandomize=True, phases=[Phase.generate], suppress_health_check=list(HealthCheck)
    )
    @given(random_packs())
    def collect(pack) -> None:  # type: ignore[no-untyped-def]
        sources = (Source("m", "mapping", MAPPING, "m.yaml", media="application/yaml"), Source("s", "shapes", pack.shapes, "s.ttl"))
        plan = lower(PackSources("test", "random", "1.0.0", sources, {"r": "m"}))
        made.append(Tables(f"random-{len(made)}", plan, [observation(body) for body in payloads(pack.seed, 20)]))

    collect()
    return made


def of_example(name: str) -> Tables:
    """An example pack whose guards are its own and all mutants of them, and its payloads by every route."""
    pack = next(r for r in parse((PACKS / name / "pack.yaml").read_bytes(), "pack.yaml") if r.kind == "PolicyPack")
    plan = lower(to_sources(pack))
    bodies = [path.read_bytes() for path in sorted((PACKS / name).glob("payloads/**/*.*"))[:20]]
    routes = [str(route) for route in plan.document["routes"]]
    changed = [mutant for mutant in mutants(plan.document) if mutant.expr is not None]
    seeds = [observation(body, {"sub": "anna", "action": "create"}, route) for route in routes for body in [*bodies, b"", b"{}"]]
    return Tables(name.replace("/", "-"), GuardPlan(schemata(plan.document, changed)), seeds)


def written(tables: Tables, folder: Path) -> tuple[Path, list[Path]]:
    """The tables as C, and the inputs as files."""
    (folder / "seeds").mkdir(parents=True)
    (folder / "tables.c").write_text(emit(tables.plan).text)
    paths = [folder / "seeds" / f"{i:03}" for i in range(len(tables.inputs))]
    for path, data in zip(paths, tables.inputs, strict=True):
        path.write_bytes(data)
    return folder / "tables.c", paths


def every() -> Iterator[Tables]:
    yield from map(of_example, EXAMPLES)
    yield from of_random_packs(RANDOM)


def search(seconds: float) -> None:
    """Says what was run. Raises CalledProcessError with the sanitizer's report."""
    begun, runs, packs = time.monotonic(), 0, 0
    for tables in every():
        if time.monotonic() - begun > seconds:
            break
        with tempfile.TemporaryDirectory(prefix="tables-") as place:
            text, _ = written(tables, Path(place) / "pack")
            driver = fuzz.build_driver(fuzz.GUIDED, "decide", text, text.parent)
            found = fuzz.search("decide", SEARCH_SECONDS, 1, driver, text.parent / "seeds")
        runs, packs = runs + found.runs, packs + 1
        print(f"fuzz: tables: {tables.name}: {found.runs} runs, {found.edges} edges, {found.features} features", flush=True)
    print(f"fuzz: tables: {packs} packs, {runs} runs in {time.monotonic() - begun:.0f} s", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description="Fuzzes the engine with the tables of many packs.")
    parser.add_argument("--seconds", type=float, default=600)
    search(parser.parse_args().seconds)


if __name__ == "__main__":
    main()
