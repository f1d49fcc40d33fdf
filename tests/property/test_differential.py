"""C scalar = C AVX2 = oracle: random shapes of class R1 over random payloads.

The oracle starts from the mapping's and shapes' text and from the payload; it knows no plan. Set
KNHK_CASES for more than the 10,000 cases of `make test`; `make cases` runs 100,000.
"""

from __future__ import annotations

import os
from collections import Counter

import pytest
from hypothesis import HealthCheck, Phase, given, settings

from knhk.model.arrows import GuardPlan, PackSources, Source
from knhk_gen.emit import emit
from knhk_gen.lower import lower
from knhk_hot.pack import COLD, ESCAPE, OK, Pack
from knhk_hot.toolchain import HOST, link_pack
from oracle.expected import Pairs, expected, shapes_graph
from oracle.mapping import read_yaml
from oracle.observation import failing, observation
from oracle.strategies import MAPPING, RandomPack, payloads, random_packs

PAYLOADS_PER_PACK = 100
SHARDS = 2
PACKS_PER_SHARD = -(-int(os.environ.get("KNHK_CASES", "10000")) // (PAYLOADS_PER_PACK * SHARDS))
ORACLE = read_yaml(MAPPING)


def plan_of(pack: RandomPack) -> GuardPlan:
    """The plan of a random pack; every guard of it must be of class R1."""
    mapping = Source("m", "mapping", MAPPING, "m.yaml", media="application/yaml")
    shapes = Source("s", "shapes", pack.shapes, "s.ttl")
    plan = lower(PackSources("test", "random", "1.0.0", (shapes, mapping), {"r": "m"}))
    assert {g["class"] for g in plan.document["guards"]} == {"R1"}
    return plan


def pairs_of(plan: GuardPlan, a: bytes) -> Pairs | None:
    """Failing (shape, component) pairs in A; None when guard 0 refused the body."""
    verdict, bits = failing(a)
    assert verdict == (2 if bits else 1), "every guard here is a violation"
    if 0 in bits:
        assert bits == {0}
        return None
    guards = plan.document["guards"]
    return {(guards[i]["shape"], guards[i]["component"]) for i in bits}


def judge(pack: RandomPack, seen: Counter[str]) -> None:
    """Every variant of the compiled pack against the oracle, on PAYLOADS_PER_PACK bodies."""
    plan = plan_of(pack)
    native = Pack.load(link_pack(emit(plan), HOST))
    assert "scalar" in native.variants
    bindings = [native.bind(kernel=name) for name in native.variants]
    bodies = payloads(pack.seed, PAYLOADS_PER_PACK)
    wanted = expected(shapes_graph(pack.shapes), ORACLE, bodies)
    for body, want in zip(bodies, wanted, strict=True):
        decisions = [binding.decide(observation(body)) for binding in bindings]
        assert len({(d.status, d.a) for d in decisions}) == 1, f"variants differ on {body!r}"
        first = decisions[0]
        assert first.status in (OK, ESCAPE), f"status {first.status} on {body!r}"
        seen["cases"] += 1
        seen["escaped"] += first.status == ESCAPE
        if first.status == OK:
            got = pairs_of(plan, first.a)
            seen["refused" if got is None else "failing" if got else "passing"] += 1
            assert got == want, f"{body!r}\n{pack.shapes}"


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("shard", range(SHARDS))
def test_compiled_packs_agree_with_the_oracle(shard: int) -> None:
    seen: Counter[str] = Counter()

    @settings(
        max_examples=PACKS_PER_SHARD,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(random_packs())
    def run(pack: RandomPack) -> None:
        judge(pack, seen)

    run()
    assert seen["cases"] >= PACKS_PER_SHARD * PAYLOADS_PER_PACK * 0.9
    for kind in ("passing", "failing", "refused"):
        assert seen[kind] >= seen["cases"] // 100, f"{seen}: the cases are too much alike"
    assert seen["escaped"] <= seen["cases"] // 10, f"{seen}: too few cases were compared"


def test_a_cold_guard_leaves_the_input_to_the_tier_below() -> None:
    shapes = "@prefix sh: <http://www.w3.org/ns/shacl#> . @prefix ex: <https://e.x/> .\n"
    shapes += 'ex:S sh:targetClass ex:Thing ; sh:property [ sh:path ex:any ; sh:pattern "^a" ] .'
    mapping = Source("m", "mapping", MAPPING, "m.yaml", media="application/yaml")
    sources = (Source("s", "shapes", shapes, "s.ttl"), mapping)
    plan = lower(PackSources("test", "cold", "1.0.0", sources, {"r": "m"}))
    binding = Pack.load(link_pack(emit(plan), HOST)).bind()
    assert binding.decide(observation(b'{"things": [{"id": "1", "any": ["a"]}]}')).status == COLD
    assert binding.decide(observation(b'{"things": []}')).status == OK
