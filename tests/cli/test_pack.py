"""`knhk pack check` and `explain`: guards with their places, and every fault at once, in the author's words."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from knhk.adapters.store_sqlite import SqliteStore
from knhk.adapters.system import SystemClock, SystemRandom
from knhk.api import parse
from knhk.wiring.home import Home


def test_check_lists_guards_with_file_and_line(knhk: Any, pack: Path) -> None:
    answer = knhk("pack", "check", pack)
    assert answer.exit == 0
    assert answer.out["faults"] == []
    assert len(answer.out["digest"]) == 64
    guards = {guard["id"]: guard for guard in answer.out["guards"]}
    assert set(guards["payload"]) == {"id", "kind", "class", "shape", "path", "source"}
    currency = guards["shapes.OrderShape.currency.minCount"]
    assert (currency["kind"], currency["class"], currency["path"]) == ("shacl", "R1", "ex:currency")
    line = next(n for n, text in enumerate((pack / "pack.yaml").read_text().splitlines(), 1) if "ex:currency ;" in text)
    assert currency["source"] == f"{pack}/pack.yaml:{line}"


def test_a_file_and_its_folder_are_the_same_pack(knhk: Any, pack: Path) -> None:
    assert knhk("pack", "check", pack).out == knhk("pack", "check", pack / "pack.yaml").out


def test_the_digest_does_not_depend_on_the_folder(knhk: Any, pack: Path, tmp_path: Path) -> None:
    other = tmp_path / "a" / "deeper" / "folder"
    shutil.copytree(pack, other)
    text = (other / "pack.yaml").read_text()
    (other / "pack.yaml").write_text("# a comment moves every line\n" + text)
    assert knhk("pack", "check", other).out["digest"] == knhk("pack", "check", pack).out["digest"]


def test_explain_says_why(knhk: Any, pack: Path) -> None:
    rows = {row["id"]: row for row in knhk("pack", "explain", pack).out["guards"]}
    assert "sh:minCount" in rows["shapes.OrderShape.currency.minCount"]["why"]
    assert rows["shapes.OrderShape.currency.minCount"]["message"] == "An order needs a currency."


Edit = tuple[str, str]

MISTAKES: dict[str, tuple[Edit, str, str]] = {
    "unknown field": (("  routes:", "  route: x\n  routes:"), "route", "unknown field"),
    "version is a number": (("version: 1.0.0", "version: 1.0"), "1.0", "must"),
    "unknown kind": (("kind: PolicyPack", "kind: PolicePack"), "PolicePack", "must be PolicyPack"),
    "mapping that is not there": (("mapping: order", "mapping: orders"), "routes", "must name in each mapping a source of kind mapping"),
    "Turtle that does not parse": (("sh:minCount 1 ;", "sh:minCount ;"), "", ""),
    "undeclared prefix": (("sh:path ex:currency", "sh:path exx:currency"), "exx", ""),
    "unknown constraint": (("sh:minCount 1", "sh:minimumCount 1"), "minimumCount", ""),
    "same name twice": (("    - name: order\n", "    - name: shapes\n"), "shapes", ""),
    "tab indentation": (("  version: 1.0.0", "\tversion: 1.0.0"), "", "YAML"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_typical_mistakes_are_told_with_place_value_and_remedy(knhk: Any, pack: Path, name: str) -> None:
    (old, new), value, must = MISTAKES[name]
    file = pack / "pack.yaml"
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new, 1))
    answer = knhk("pack", "check", pack)
    assert answer.exit == 1
    assert answer.out["digest"] is None
    faults = answer.out["faults"]
    assert faults
    assert all(set(fault) == {"where", "value", "must"} for fault in faults)
    assert all(fault["where"].startswith(str(file)) for fault in faults), faults
    assert any(value in f"{fault['where']} {fault['value']}" and must in fault["must"] for fault in faults), faults


def test_all_faults_come_at_once(knhk: Any, pack: Path) -> None:
    file = pack / "pack.yaml"
    file.write_text(file.read_text().replace("version: 1.0.0", "version: one").replace("point: gate", "point: Gate!"))
    assert len(knhk("pack", "check", pack).out["faults"]) >= 2


FILES: dict[str, bytes] = {
    "empty": b"",
    "only a comment": b"# nothing\n",
    "no UTF-8": b"apiVersion: \xff\xfe\n",
    "huge": b"a: " + b"x" * (5 << 20),
    "deep": b"a: " + b"[" * 200 + b"]" * 200,
    "an alias bomb": b"a: &a [x,x,x,x,x,x,x,x,x]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a,*a]\nc: [*b,*b,*b,*b,*b,*b,*b,*b,*b]\n",
    "a scalar": b"just text\n",
    "binary": bytes(range(256)),
    "another kind": b"apiVersion: v1\nkind: Pod\nmetadata: {name: x}\n",
}


@pytest.mark.parametrize("name", FILES)
def test_hostile_files_are_faults_not_crashes(knhk: Any, tmp_path: Path, name: str) -> None:
    file = tmp_path / "pack.yaml"
    file.write_bytes(FILES[name])
    answer = knhk("pack", "check", file)
    assert answer.exit == 1
    assert answer.out["faults"]
    assert str(file) in answer.out["faults"][0]["where"]


def test_a_folder_without_a_pack_says_what_it_wants(knhk: Any, tmp_path: Path) -> None:
    for path, value in ((tmp_path, "no pack.yaml"), (tmp_path / "absent", "no such file")):
        answer = knhk("pack", "check", path)
        assert answer.exit == 1
        must = "must be a PolicyPack file, or a folder that holds pack.yaml or one other PolicyPack file"
        assert answer.out["faults"] == [{"where": str(path), "value": value, "must": must}]


def test_a_folder_may_hold_one_pack_under_another_name(knhk: Any, pack: Path) -> None:
    (pack / "pack.yaml").rename(pack / "policy.yaml")
    assert knhk("pack", "check", pack).exit == 0
    (pack / "second.yaml").write_text((pack / "policy.yaml").read_text())
    answer = knhk("pack", "check", pack)
    assert answer.exit == 1
    assert answer.out["faults"][0]["value"] == "no pack.yaml, but policy.yaml, second.yaml"


def test_a_data_bundle_is_found_beside_or_above_or_told(knhk: Any, pack: Path) -> None:
    file = pack / "pack.yaml"
    file.write_text(file.read_text().replace("  targets:", "  dataBundles: [{name: roles}]\n  targets:"))
    answer = knhk("pack", "check", pack)
    assert answer.exit == 1
    (fault,) = answer.out["faults"]
    assert fault["value"] == "roles"
    assert str(file) in fault["where"]
    (pack.parent / "roles.yaml").write_text(
        "apiVersion: knhk.dev/v1alpha1\nkind: DataBundle\nmetadata: {name: roles, namespace: erp}\n"
        "spec:\n  version: 1.0.0\n  source:\n    inline: |\n      <https://example.com/a> <https://example.com/b> 1 .\n"
    )
    assert knhk("pack", "check", pack).exit == 0


def test_status_without_a_home_says_how_to_get_one(knhk: Any) -> None:
    answer = knhk("pack", "status", "erp/small")
    assert answer.exit == 3
    assert "run: knhk up" in answer.err["error"]


@pytest.mark.parametrize("verb", ["rebuild", "materials"])
def test_an_unknown_pack_is_told_with_the_tags_that_are_there(knhk: Any, verb: str) -> None:
    answer = knhk("pack", verb, "erp/unknown:1.0.0")
    assert answer.exit == 1
    assert "known: none yet" in answer.err["faults"][0]["must"]


def test_status_and_abort_speak_through_the_store(knhk: Any, pack: Path, tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    home.prepare()
    store = SqliteStore(home.store, SystemClock(), SystemRandom())
    (resource,) = parse((pack / "pack.yaml").read_text(), "pack.yaml")
    made = store.create(resource)
    store.update_status(replace(made, status={"revision": {"phase": "Rolling"}}))
    answer = knhk("pack", "status", "erp/small")
    assert (answer.exit, answer.out["phase"], answer.out["version"], answer.out["generation"]) == (0, "Rolling", "1.0.0", 1)
    asked = knhk("pack", "abort", "erp/small", "--reason", "wrong limits")
    assert asked.out == {"name": "erp/small", "generation": 1, "asked": "1 wrong limits"}
    assert store.get(made.key).annotations["knhk.dev/abort"] == "1 wrong limits"
    missing = knhk("pack", "abort", "erp/absent")
    assert missing.exit == 1
    assert "absent" in missing.err["error"]
    store.close()
