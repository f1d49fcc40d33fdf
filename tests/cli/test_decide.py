"""`knhk pack build`, `decide` and `rebuild` with the real compiler: what Envoy would decide, and the same digest anywhere."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

TIME = ("--time", "2026-01-01T00:00:00Z")
GOOD = '{"id": "1", "currency": "EUR", "total": 7}'


def payload(folder: Path, text: str | bytes) -> Path:
    file = folder / "payload.json"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    return file


def test_a_right_payload_is_admitted(knhk: Any, pack: Path, tmp_path: Path) -> None:
    answer = knhk("pack", "decide", pack, "--payload", payload(tmp_path, GOOD), "--attr", "sub=alice", *TIME)
    assert answer.exit == 0, answer.error_text
    assert (answer.out["verdict"], answer.out["class"], answer.out["failing"]) == ("ADMIT", "R1", [])
    assert set(answer.out) == {"verdict", "class", "failing", "o_hash", "a_hash", "pack"}


def test_a_wrong_payload_is_denied_with_rule_path_value_and_message(knhk: Any, pack: Path, tmp_path: Path) -> None:
    answer = knhk("pack", "decide", pack, "--payload", payload(tmp_path, '{"id": "1", "total": 5000}'), *TIME)
    assert answer.exit == 0
    assert answer.out["verdict"] == "DENY"
    failing = {row["guard"]: row for row in answer.out["failing"]}
    assert set(failing) == {"shapes.OrderShape.currency.minCount", "shapes.OrderShape.total.maxInclusive"}
    assert failing["shapes.OrderShape.currency.minCount"]["message"] == "An order needs a currency."
    assert "5000" in failing["shapes.OrderShape.total.maxInclusive"]["value"]
    assert failing["shapes.OrderShape.total.maxInclusive"]["path"] == "ex:total"


def test_same_observation_same_hashes_and_nothing_else(knhk: Any, pack: Path, tmp_path: Path) -> None:
    file = payload(tmp_path, GOOD)

    def ask(*more: str) -> Any:
        return knhk("pack", "decide", pack, "--payload", file, *more).out

    first, again = ask(*TIME, "--attr", "sub=a"), ask(*TIME, "--attr", "sub=a")
    other = ask(*TIME, "--attr", "sub=b")
    assert first == again
    assert other["o_hash"] != first["o_hash"]
    assert other["a_hash"] == first["a_hash"]


HOSTILE: dict[str, bytes] = {
    "empty": b"",
    "no JSON": b"<xml/>",
    "cut off": b'{"id": "1"',
    "NaN": b'{"id": "1", "currency": "EUR", "total": NaN}',
    "repeated member": b'{"id": "1", "currency": "EUR", "currency": "USD"}',
    "no UTF-8": b'{"id": "\xff\xfe"}',
    "deep": b'{"id": ' + b"[" * 2000 + b"]" * 2000 + b"}",
    "an array": b"[1]",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_payloads_are_denied_by_guard_payload_or_shapes(knhk: Any, pack: Path, tmp_path: Path, name: str) -> None:
    answer = knhk("pack", "decide", pack, "--payload", payload(tmp_path, HOSTILE[name]), *TIME)
    assert answer.exit == 0, answer.error_text
    if name != "an array":  # well-formed, and makes no order
        assert answer.out["verdict"] == "DENY"
        assert answer.out["failing"][0]["guard"] == "payload"


def test_a_body_that_no_point_accepts_is_a_fault(knhk: Any, pack: Path, tmp_path: Path) -> None:
    answer = knhk("pack", "decide", pack, "--payload", payload(tmp_path, b" " * ((1 << 20) + 1)), *TIME)
    assert answer.exit == 1
    assert "1 MiB" in answer.err["faults"][0]["must"]


@pytest.mark.parametrize(
    ("more", "told"),
    [
        (("--attr", "sub"), "NAME=VALUE"),
        (("--attr", "sub=a", "--attr", "sub=b"), "twice"),
        (("--time", "yesterday"), "RFC 3339"),
        (("--time", "2026-01-01T00:00:00"), "zone"),
        (("--route", "nowhere"), "orders"),
    ],
)
def test_wrong_arguments_exit_2(knhk: Any, pack: Path, tmp_path: Path, more: tuple[str, ...], told: str) -> None:
    answer = knhk("pack", "decide", pack, "--payload", payload(tmp_path, GOOD), *more)
    assert answer.exit == 2
    assert told in answer.err["error"]


def test_attributes_that_no_point_could_make_are_faults(knhk: Any, pack: Path) -> None:
    answer = knhk("pack", "decide", pack, "--attr", "UPPER=1", *TIME)
    assert answer.exit == 1
    assert answer.err["faults"][0]["where"].startswith("observation")


def test_a_missing_payload_file_exits_3(knhk: Any, pack: Path, tmp_path: Path) -> None:
    answer = knhk("pack", "decide", pack, "--payload", tmp_path / "absent.json")
    assert answer.exit == 3
    assert answer.err["faults"][0]["where"] == str(tmp_path / "absent.json")


def test_build_gives_one_digest_in_two_folders_and_decide_names_it(knhk: Any, pack: Path, tmp_path: Path, cache: Path) -> None:
    other = tmp_path / "somewhere" / "else"
    shutil.copytree(pack, other)
    one = knhk("pack", "build", pack, "--registry", tmp_path / "r1")
    shutil.rmtree(cache)
    two = knhk("pack", "build", other, "--registry", tmp_path / "r2")
    assert one.exit == two.exit == 0, one.error_text + two.error_text
    assert one.out["digest"] == two.out["digest"]
    assert one.out["tag"] == "erp/small:1.0.0"
    assert knhk("pack", "decide", pack, *TIME).out["pack"] == one.out["digest"]


def test_rebuild_from_the_named_materials_and_refusal_without_one(knhk: Any, pack: Path, tmp_path: Path, cache: Path) -> None:
    built = knhk("pack", "build", pack).out
    shutil.rmtree(cache)
    again = knhk("pack", "rebuild", built["tag"])
    assert again.exit == 0, again.error_text
    assert again.out == {"digest": built["digest"], "rebuilt": built["digest"], "same": True}
    out = tmp_path / "materials"
    told = knhk("pack", "materials", built["digest"], "--out", out).out["materials"]
    assert {"ziglang", "yyjson", "plan", "source/shapes", "source/order"} <= {m["name"] for m in told}
    assert knhk("pack", "rebuild", built["digest"], "--materials", out).exit == 0
    shapes = next(m for m in told if m["name"] == "source/shapes")
    (out / shapes["sha256"]).unlink()
    refused = knhk("pack", "rebuild", built["digest"], "--materials", out)
    assert refused.exit == 1
    assert [fault["where"] for fault in refused.err["faults"]] == ["material source/shapes"]


def test_a_faulty_pack_builds_nothing(knhk: Any, pack: Path, tmp_path: Path) -> None:
    file = pack / "pack.yaml"
    file.write_text(file.read_text().replace("sh:maxInclusive 1000", "sh:maxInclusive"))
    answer = knhk("pack", "build", pack)
    assert answer.exit == 1
    assert all(fault["where"].startswith(f"{file}:") for fault in answer.err["faults"])
    assert not (tmp_path / "home" / "registry" / "index.json").exists()


def test_a_damaged_cache_is_linked_again(knhk: Any, pack: Path, tmp_path: Path, cache: Path) -> None:
    one = knhk("pack", "build", pack, "--registry", tmp_path / "r1").out["digest"]
    for path in cache.iterdir():
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.write_bytes(bytes(data))
    assert knhk("pack", "build", pack, "--registry", tmp_path / "r2").out["digest"] == one


def test_a_bundle_that_is_no_text_is_refused_with_its_place(knhk: Any, pack: Path, tmp_path: Path) -> None:
    (tmp_path / "roles.ttl").write_bytes(b"# caf\xe9\n")
    answer = knhk("pack", "decide", pack, "--bundle", tmp_path / "roles.ttl", *TIME)
    assert answer.exit == 1
    assert (answer.err["faults"][0]["where"], answer.err["faults"][0]["value"]) == (f"{tmp_path / 'roles.ttl'} offset 5", "byte 0xe9")
