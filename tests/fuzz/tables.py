"""Invariant: tables that the compiler makes, of whatever sources, are read and judged within bounds for any O, and kernels agree on A.
Random packs of tests/oracle, and the example packs with all their mutants as guards.

``python tests/fuzz/tables.py [--seconds N]`` searches with one pack after another; `test_tables.py` replays some."""

from __future__ import annotations

import argparse
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import astuple, dataclass, replace
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


def every(seed: int) -> Iterator[Tables]:
    """The example packs in another order for each seed, then random packs."""
    yield from map(of_example, random.Random(seed).sample(EXAMPLES, len(EXAMPLES)))
    yield from of_random_packs(RANDOM)


def search(seconds: float, seed: int, artifacts: Path) -> Iterator[tuple[str, fuzz.Search]]:
    """Each pack and what its search counted. Raises CalledProcessError with the sanitizer's report; tables, seeds and the input are then in
    a folder of `artifacts`."""
    deadline = time.monotonic() + seconds
    for tables in every(seed):
        place = artifacts / tables.name
        shutil.rmtree(place, ignore_errors=True)
        text, _ = written(tables, place)
        driver = fuzz.build_driver(fuzz.GUIDED, "decide", text, place)
        left = min(SEARCH_SECONDS, int(deadline - time.monotonic()))
        if left < 1:
            shutil.rmtree(place)
            return
        line = fuzz.command("decide", left, seed, place, driver, place / "seeds")
        done = subprocess.run(line, cwd=place, capture_output=True, text=True, errors="replace", check=False)
        if done.returncode != 0:
            raise subprocess.CalledProcessError(done.returncode, line, done.stdout, done.stderr)
        shutil.rmtree(place)
        yield tables.name, fuzz.search_of(done.stderr)


def main() -> int:
    parser = argparse.ArgumentParser(description="Fuzzes the engine with the tables of many packs.")
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--seed", type=int, default=1, help="of libFuzzer, and of the order of packs")
    parser.add_argument("--artifacts", type=Path, default=fuzz.t.cache_root() / "fuzz-broken" / "tables")
    options = parser.parse_args()
    begun, made = time.monotonic(), list[fuzz.Search]()
    try:
        for name, found in search(options.seconds, options.seed, options.artifacts):
            made.append(found)
            print(f"fuzz: tables: {name}: {found}", flush=True)
    except subprocess.CalledProcessError as error:
        print(f"{error.stderr[-8000:]}\nfuzz: tables failed; pack and input are in {options.artifacts}", flush=True)
        return 1
    if made:
        most = fuzz.Search(*(max(column) for column in zip(*map(astuple, made), strict=True)))
        whole = replace(most, runs=sum(one.runs for one in made), seconds=round(time.monotonic() - begun))
        print(f"fuzz: tables: {len(made)} packs: {whole}", flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
