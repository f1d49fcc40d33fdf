"""Linking: same plan, same bytes, wherever; nothing of the machine or of libc in a pack; author text is only bytes."""

from __future__ import annotations

import hashlib
import os
import struct
import subprocess
from pathlib import Path

import pytest
from hot_plans import BLANK, EX, a_map, failing, guard, lit, mapping, pack, path, plan, prop, ref
from hot_wire import observation

from knhk.model.arrows import CText
from knhk_gen import table
from knhk_gen.emit import emit
from knhk_gen.emit_terms import EmitError
from knhk_hot import toolchain

MAPS = mapping(a_map("m", [], BLANK, prop("p", ref("p")), classes=("Thing",)))
KERNEL_CYCLES = table.kernel_cycles()
PLAN = plan([guard("g", {"op": "count", "p": EX + "p", "min": 1, "max": None})], [MAPS])


@pytest.mark.parametrize("arch", ["amd64", "arm64"])
def test_the_same_plan_gives_the_same_bytes_in_any_folder(arch: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = toolchain.link_pack(emit(PLAN), arch)
    for name in ("a", "b/c d"):
        folder = tmp_path / name
        folder.mkdir(parents=True)
        monkeypatch.setattr("tempfile.tempdir", str(folder))
        monkeypatch.chdir(folder)
        monkeypatch.setenv("SOURCE_DATE_EPOCH", "5")
        assert toolchain.link_pack(emit(PLAN), arch) == first
    machine = struct.unpack_from("<H", first, 18)[0]
    assert machine == {"amd64": 62, "arm64": 183}[arch]
    for secret in (str(tmp_path), str(Path.home()), str(toolchain.SOURCE), os.uname().nodename):
        if len(secret) > 4:  # a shorter name occurs in machine code by chance
            assert secret.encode() not in first


def test_a_pack_imports_nothing_but_mem_and_exports_its_two_constants(tmp_path: Path) -> None:
    """Undefined symbols are what the process that opens it must bring."""
    file = tmp_path / "pack.so"
    file.write_bytes(toolchain.link_pack(emit(PLAN), "amd64"))
    rows = subprocess.run(["nm", "-D", str(file)], capture_output=True, text=True, check=True).stdout.split("\n")
    undefined = {row.split()[-1] for row in rows if " U " in row}
    assert undefined <= {"memcpy", "memset", "memcmp", "memchr", "memmove", "bcmp", "strlen"}
    assert sorted(row.split()[-1] for row in rows if row and " U " not in row) == ["knhk_heat_v1", "knhk_pack_v1"]
    dynamic = subprocess.run(["readelf", "-dlW", str(file)], capture_output=True, text=True, check=True).stdout
    assert "NEEDED" not in dynamic
    assert "RWE" not in dynamic
    assert "TEXTREL" not in dynamic


def test_author_text_reaches_c_as_numbers_only() -> None:
    evil = '*/ #include "/etc/passwd" \\\n"; } int main(){return 0;} ??/ %s \u202e'
    made = plan(
        [guard("g", {"op": "all", "p": EX + "p", "test": {"t": "in", "terms": [lit(evil)]}}, message=evil, path=evil)],
        [MAPS],
        routes={"create": "m", evil: None},
    )
    text = emit(made).text
    assert text.isascii()
    for word in ("passwd", "main", "e.x", "Thing", "create"):
        assert word not in text
    assert failing(made, observation(b'{"p":"x"}')) == {"g"}
    assert pack(made).guards[1].message == evil


def test_a_thousand_guards_are_tables() -> None:
    few, many = (
        emit(plan([guard(f"g{i:04}", {"op": "count", "p": EX + f"p{i}", "min": 1, "max": None}) for i in range(n)], [MAPS]))
        for n in (1, 1024)
    )
    assert len(toolchain.link_pack(many, "amd64")) < len(toolchain.link_pack(few, "amd64")) + 1024 * 512


def test_emit_is_deterministic_and_says_its_plan() -> None:
    assert emit(PLAN) == emit(PLAN)
    assert emit(PLAN).plan_digest == PLAN.digest
    assert pack(PLAN).plan_digest == PLAN.digest


def test_c_that_does_not_compile_is_refused_with_the_compilers_words() -> None:
    with pytest.raises(toolchain.LinkError, match="error"):
        toolchain.link_pack(CText("int x = ;", ""), "amd64")


def test_the_compiler_sees_no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CPATH", "/nonexistent")
    monkeypatch.setenv("CCC_OVERRIDE_OPTIONS", "+-DEVIL")
    monkeypatch.setenv("ZIG_VERBOSE_CC", "1")
    assert toolchain.link_pack(CText("#ifdef EVIL\n#error evil\n#endif\n" + emit(PLAN).text, ""), "amd64")


def test_materials_name_compiler_yyjson_and_engine() -> None:
    found = {name: (version, digest) for name, version, digest in toolchain.materials()}
    assert {
        "ziglang",
        "yyjson",
        "astropy",
        "hot_c/src/extract.c",
        "hot_c/include/knhk_pack.h",
        "engine/amd64/extract.o",
        "engine/arm64/yyjson.o",
    } <= set(found)
    assert all(len(digest) == 64 for _, digest in found.values())
    source = toolchain.SOURCE / "src" / "extract.c"
    assert found["hot_c/src/extract.c"][1] == hashlib.sha256(source.read_bytes()).hexdigest()


@pytest.mark.parametrize(
    ("maps", "word"),
    [
        (mapping(a_map("m", [], {"kind": "template", "parts": [{"ref": path("id")}, {"text": "x"}], "node": "iri"})), "scheme"),
        (mapping(a_map("m", [], {"kind": "template", "parts": [{"text": EX}, {"ref": path("v", "*")}], "node": "iri"})), "one value"),
        (mapping(a_map("m", path("a"), BLANK, prop("c", {"child": "n"})), a_map("n", path("b"), BLANK)), "begins with"),
        (mapping(a_map("m", [], BLANK), depth=4000), "maxDepth"),
        (mapping(a_map("m", [], BLANK)) | {"source": "csv"}, "no walker"),
    ],
)
def test_mappings_that_have_no_tables_are_refused(maps: dict[str, object], word: str) -> None:
    with pytest.raises(EmitError, match=word):
        emit(plan([], [maps]))


def test_a_kernel_above_its_budget_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    assert emit(PLAN)
    monkeypatch.setattr(table, "kernel_cycles", lambda: {**KERNEL_CYCLES, "ask_sp": 8.5})
    with pytest.raises(EmitError, match=r"kernel ask_sp: kernel-cost\.tsv says 8\.5 cycles, must be at most 8"):
        emit(PLAN)
    assert set(KERNEL_CYCLES) == {"ask_sp", "ask_spo", "count", "compare", "validate", "unique"}


def test_a_constant_that_is_not_exact_is_no_r1_guard() -> None:
    test = {"t": "value", "op": "eq", "term": lit("1e400", "double")}
    with pytest.raises(EmitError, match="exact"):
        emit(plan([guard("g", {"op": "all", "p": EX + "p", "test": test})], [MAPS]))
