"""Packs in this process: opened by digest, bound, safe for threads; what is no pack is refused."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hot_plans import EX, Json, a_map, guard, item, lit, mapping, pack, plan, prop, ref
from hot_wire import action, observation

from knhk_gen.emit import emit
from knhk_hot.pack import Pack, PackError
from knhk_hot.toolchain import HOST, link_pack

THINGS: Json = {"kind": "class", "classes": [EX + "Thing"]}
REQUEST: Json = {"kind": "request"}


def made(limit: str) -> bytes:
    test: Json = {"t": "in", "terms": [lit(limit)]}
    maps = mapping(a_map("m", [], item("id"), prop("p", ref("p")), classes=("Thing",)))
    return link_pack(emit(plan([guard("g", {"op": "all", "p": EX + "p", "test": test}, path="ex:p", shape=EX + "S")], [maps])), HOST)


def body(text: str) -> bytes:
    return observation(b'{"id":"1","p":"%s"}' % text.encode())


def test_a_pack_opens_only_with_its_own_digest(tmp_path: Path) -> None:
    data, file = made("a"), tmp_path / "x.so"
    file.write_bytes(data)
    digest = hashlib.sha256(data).hexdigest()
    assert Pack.open(file, digest).sha256 == digest
    with pytest.raises(PackError, match="SHA-256"):
        Pack.open(file, "0" * 64)
    file.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(PackError, match="SHA-256"):
        Pack.open(file, digest)
    with pytest.raises(PackError, match="cannot read"):
        Pack.open(tmp_path / "none.so")


def test_another_pack_under_the_same_path_is_another_pack(tmp_path: Path) -> None:
    file = tmp_path / "x.so"
    verdicts = []
    for limit in "ab":
        file.write_bytes(made(limit))
        verdicts.append([Pack.open(file).bind().decide(body(text)).verdict for text in "ab"])
    assert verdicts == [[1, 2], [2, 1]]
    assert Pack.load(made("a")) is Pack.load(made("a"))


@pytest.mark.parametrize("data", [b"", b"\x7fELF", b"#!/bin/sh\n", bytes(4096)])
def test_what_is_no_pack_is_refused(data: bytes) -> None:
    with pytest.raises(PackError, match="not a pack"):
        Pack.load(data)


def test_a_shared_object_without_the_symbol_is_refused(tmp_path: Path) -> None:
    from knhk_hot.toolchain import artifacts

    with pytest.raises(PackError, match="knhk_pack_v1"):
        Pack.load(artifacts().kernels.read_bytes())


def test_batches_decide_as_single_calls_do() -> None:
    binding = Pack.load(made("a")).bind()
    observations = [body("ab"[i % 2] * (1 + i % 3)) for i in range(700)] + [b"", observation(b"{}", "nowhere"), observation(b"")]
    assert binding.decide_batch(observations) == [binding.decide(o) for o in observations]
    assert binding.decide_batch([]) == []
    many = binding.decide_many(observations)
    one_by_one = [binding.decide(o) for o in observations]
    assert list(many.statuses) == [d.status for d in one_by_one]
    assert list(many.verdicts) == [d.verdict for d in one_by_one]
    assert [many[0], many[-1], *many[1:]] == [one_by_one[0], one_by_one[-1], *one_by_one[1:]]
    assert (len(binding.decide_many([])), list(binding.decide_many([]).verdicts)) == (0, [])


def test_a_kernel_is_chosen_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    opened = Pack.load(made("a"))
    assert opened.variants[-1] == "scalar"
    monkeypatch.setenv("KNHK_KERNEL", "scalar")
    assert opened.bind().kernel == "scalar"
    monkeypatch.setenv("KNHK_KERNEL", "neon9")
    with pytest.raises(PackError, match="scalar"):
        opened.bind()


def test_threads_share_a_binding() -> None:
    binding = Pack.load(made("a")).bind()
    wanted = {text: binding.decide(body(text)).a for text in ("a", "b", "a" * 60_000)}
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda text: (text, binding.decide(body(text)).a), list(wanted) * 100))
    assert all(wanted[text] == a for text, a in found)


def test_explain_names_rule_shape_path_focus_value_and_message() -> None:
    binding = Pack.load(made("a")).bind()
    o = body("b")
    assert binding.explain(o, binding.decide(o).a) == [
        {"guard": "g", "rule": "sh:X", "shape": EX + "S", "path": "ex:p", "focus": EX + "i/1", "value": "b", "message": "g failed"}
    ]
    assert binding.explain(body("a"), action(1, 2, ())) == []
    whole = action(2, 2, (1,))
    cut_line, nine = whole[:-1] + b"\1\0\0\0\2x", whole[:-1] + b"\x09" + 9 * b"\0\0\0\1x"
    for a in (b"", b"KNA1", action(2, 3, (1,)), whole + b"\0", cut_line, nine):
        with pytest.raises(PackError):
            binding.explain(o, a)


def test_explain_of_a_cold_guard_has_no_focus() -> None:
    maps = mapping(a_map("m", [], item("id"), classes=("Thing",)))
    binding = pack(plan([guard("c", klass="C1")], [maps])).bind()
    o = observation(b'{"id":"1"}')
    assert binding.decide(o).status == 1
    (entry,) = binding.explain(o, action(2, 2, (1,)))
    assert (entry["guard"], entry["focus"], entry["value"]) == ("c", "", "")


def test_a_cold_guard_without_a_focus_node_needs_no_lower_tier() -> None:
    maps = mapping(a_map("m", [], item("id"), classes=("Thing",)))
    binding = pack(plan([guard("c", klass="C1"), guard("w", klass="W1", target=1)], [maps], [THINGS, REQUEST])).bind()
    without, having = binding.decide(observation(b"{}")), binding.decide(observation(b'{"id":"1"}'))
    assert (without.status, without.klass, having.status, having.klass) == (1, 2, 1, 3)
    alone = pack(plan([guard("c", klass="C1")], [maps])).bind().decide(observation(b"{}"))
    assert (alone.status, alone.verdict) == (0, 1)


def test_explain_is_bounded() -> None:
    maps = mapping(a_map("m", [{"key": "v"}, {"each": True}], item("id"), prop("p", ref("p")), classes=("Thing",)))
    binding = pack(plan([guard("g", {"op": "const", "value": False})], [maps])).bind()
    o = observation(b'{"v":[' + b",".join(b'{"id":"%d"}' % i for i in range(500)) + b"]}")
    assert len(binding.explain(o, binding.decide(o).a)) == 64


def test_importing_the_binding_brings_nothing_heavy() -> None:
    code = "import sys, knhk_hot.pack, knhk_hot.drain; print(sorted({m.split('.')[0] for m in sys.modules}))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    for name in ("rdflib", "kopf", "kubernetes", "sigstore", "asyncio", "ziglang", "knhk", "knhk_gen", "pycparser"):
        assert f"'{name}'" not in loaded
