"""formats/vectors, made by tests/hot/hot_vectors.py apart from the product's code: C gives the same bytes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hot_plans import BLANK, EX, KNHK, a_map, bindings, guard, mapping, pack, plan
from hot_vectors import FILES, VECTORS, text_of
from hot_wire import Producer, caller_iri, observation

import knhk_hot.drain as hot
from knhk.model.arrows import GuardPlan
from knhk.model.canonical import sha256_hex
from knhk_hot.native import ffi, lib

EMPTY = plan([], [mapping(a_map("m", [], BLANK))], routes={"": None, "create": "m"})


def vector(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((VECTORS / f"{name}.json").read_text())
    return found


def sha256(domain: str, salt: str, data: bytes) -> str:
    head, digest = f"knhk.dev/{domain}/v1\n".encode() + bytes.fromhex(salt), ffi.new("uint8_t[32]")
    lib.knhk_sha256(head, len(head), data, len(data), digest)
    return bytes(digest).hex()


@pytest.mark.parametrize("name", list(FILES))
def test_vectors_are_fresh(name: str) -> None:
    assert (VECTORS / f"{name}.json").read_text() == text_of(name)


def test_observations() -> None:
    binding, found = pack(EMPTY).bind(), vector("observation")
    for row in found["good"]:
        assert binding.decide(bytes.fromhex(row["bytes"])).status == 0, row["name"]
        assert sha256("o", found["salt"], bytes.fromhex(row["bytes"])) == row["h_o"]
    for row in found["bad"]:
        assert binding.decide(bytes.fromhex(row["bytes"])).status == -1, row["name"]


def test_actions() -> None:
    found = vector("action")
    for row in found["actions"]:
        a, n = bytes.fromhex(row["bytes"]), row["guards"]
        assert sha256("a", found["salt"], a) == row["h_a"]
        severity = "Violation" if row["verdict"] == 2 else "Warning"
        expr = [{"op": "const", "value": i not in row["failing"]} for i in range(n)]
        guards = [guard(f"g{i:02}", expr[i], severity=severity) for i in range(1, n)]
        made = plan(guards, EMPTY.document["mappings"], [{"kind": "request"}])
        o = observation(b"{" if 0 in row["failing"] else b"{}")
        assert {b.decide(o).a for b in bindings(made)} == {a}


def test_frames() -> None:
    for row in vector("frame")["outbox"]:
        r = row["record"]
        arms = [hot.Arm(**(arm | {"pack": bytes.fromhex(arm["pack"]), "a": bytes.fromhex(arm["a"])})) for arm in r["arms"]]
        raw = bytes.fromhex(r["receipt"]), r["region"], int(r["cluster"]), bytes.fromhex(r["o"])
        assert hot.encode_record(*raw, arms, salt=bytes.fromhex(row["salt"])).frame.hex() == row["frame"], row["name"]


def test_ring(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = vector("ring")
    producer = Producer(tmp_path / "x.ring", found["capacity"])
    assert producer.map[:64].hex() == found["header"]
    for row in found["records"]:
        data = bytes.fromhex(row["bytes"])
        assert producer.head == row["position"]
        producer.write(data, len(data))
    ring = hot.Ring.open(producer.path)
    monkeypatch.setattr("os.urandom", lambda n: (bytes(range(16)) * (n // 16 + 1))[:n])
    drained = ring.drain(1 << 20)
    assert drained.frames.hex() == "".join(found["frames"])
    assert drained.new_tail == found["head"]
    told = [
        {"stable": stable.hex(), "candidate": candidate.hex(), "buckets": [{str(at): n for at, n in enumerate(arm) if n} for arm in arms]}
        for (stable, candidate), arms in drained.latencies.items()
    ]
    assert told == found["latencies"]
    ring.close()
    producer.close()


def test_bundles() -> None:
    for row in vector("bundle")["bundles"]:
        predicates = tuple({p for facts in row["subjects"].values() for p, _ in facts})
        made = plan([], EMPTY.document["mappings"], predicates=predicates, subjects=tuple(row["subjects"]))
        o = observation(b"{}", attributes={"sub": "anna"})
        graph = pack(made).bind(bytes.fromhex(row["bytes"])).graph(o).decode()
        subjects = row["subjects"]
        if row["caller"]:
            subjects = subjects | {KNHK + "caller": subjects[caller_iri(row["caller"], "anna")]}
        lines = {f"<{s}> <{p}> {_spelled(*term)} ." for s, facts in subjects.items() for p, term in facts}
        assert {line for line in graph.split("\n") if line and not line.startswith(f"<{KNHK}request>")} == lines, EX


def _spelled(kind: int, lexical: str, second: str) -> str:
    return {1: f"<{lexical}>", 2: f'"{lexical}"^^<{second}>', 3: f'"{lexical}"@{second}'}[kind]


def test_guardplans() -> None:
    found = vector("guardplan")
    made = GuardPlan(found["plan"])
    assert made.digest == found["digest"] == sha256_hex(made.canonical())
    for binding in bindings(made, bytes.fromhex(found["bundle"])):
        for row in found["decisions"]:
            assert binding.decide(bytes.fromhex(row["o"])).a.hex() == row["a"]
