"""`knhk log replay` with a real pack and its data: from the bytes of O through the recorded image to the same bytes of A."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from knhk.model.observation import Observation
from knhk.reconcilers.evaluators import Evaluator, load
from knhk.wiring import packs
from knhk_runtime.tiers.decide import decide
from knhk_runtime.tiers.digest import evaluator_digest
from knhk_runtime.tlog.tree import parse_bundle_of_entries
from knhk_verify.tree import leaf_hash

ROLES = """apiVersion: knhk.dev/v1alpha1
kind: DataBundle
metadata: {name: roles, namespace: erp}
spec:
  version: 1.0.0
  callerTemplate: https://example.com/users/{}
  source:
    inline: |
      @prefix ex: <https://example.com/ns#> .
      <https://example.com/users/alice> ex:limit 500 .
"""
BODIES = (
    b'{"id": "1", "currency": "EUR", "total": 7}',
    b'{"id": "1", "total": 7}',
    b'{"id": "1", "currency": "EUR", "total": 5000}',
    b"no JSON",
)
PATTERN = 'sh:property [ sh:path ex:currency ; sh:pattern "^[A-Z]{3}$" ] ;\n          '


@pytest.fixture
def cold_pack(pack: Path) -> Path:
    """The pack with a guard that the tables leave to a slower tier, and with data."""
    file = pack / "pack.yaml"
    text = file.read_text().replace(
        "sh:property [ sh:path ex:currency ; sh:minCount 1", PATTERN + "sh:property [ sh:path ex:currency ; sh:minCount 1"
    )
    file.write_text(text.replace("  targets:", "  dataBundles: [{name: roles}]\n  targets:"))
    (pack / "roles.yaml").write_text(ROLES)
    return pack


@pytest.fixture
def story(knhk: Any, cold_pack: Path, tmp_path: Path, recorded: Any, logged: Any) -> Any:
    """Four bodies decided by the built pack with its data, recorded and logged; the built pack and the log."""
    built = knhk("pack", "build", cold_pack)
    assert built.exit == 0, built.error_text
    store = packs.store(tmp_path / "home" / "registry")
    keys = packs.keys(tmp_path / "home" / "keys")
    fetched = store.fetch_pack(built.out["digest"], packs.host_arch(), keys)
    evaluator = load(fetched.so, fetched.plan, store.fetch_bundle(built.out["bundle"]["digest"], keys))
    digest = bytes.fromhex(built.out["bundle"]["file"].removeprefix("sha256:"))
    made = [
        recorded(n, *_decided(evaluator, n, body, digest), pack=bytes.fromhex(built.out["digest"][7:47]), klass=1)
        for n, body in enumerate(BODIES)
    ]
    return built.out, logged(made), evaluator


def _decided(evaluator: Evaluator, number: int, body: bytes, bundle: bytes) -> tuple[bytes, bytes]:
    seen = Observation(1_700_000_000_000_000_000 + number, "orders", body, {"sub": "alice"}, "local", bundle, evaluator_digest())
    o = seen.encode()
    return o, decide(evaluator, evaluator.judge, o).a


def test_every_decision_comes_out_again(knhk: Any, story: Any) -> None:
    answer, checkpoint = knhk("log", "replay"), knhk("log", "checkpoint").out
    assert answer.exit == 0, answer.text
    assert answer.out == {
        "replayed": 4,
        "erased": 0,
        "sealed": 0,
        "different": 0,
        "unrecorded": 0,
        "entries": checkpoint["size"],
        "root": checkpoint["root"],
        "size": checkpoint["size"],
        "shard": "",
        "differences": [],
    }


def test_the_slower_tier_took_part(story: Any) -> None:
    """Else the test above would show less than it says."""
    _built, _log, evaluator = story
    assert {guard["class"] for guard in evaluator.plan["guards"]} > {"R1"}


def test_a_log_alone_with_its_registry_is_enough(knhk: Any, story: Any, tmp_path: Path) -> None:
    _built, log, _evaluator = story
    shutil.copytree(log.dir, tmp_path / "copy" / "log")
    shutil.copytree(tmp_path / "home" / "registry", tmp_path / "elsewhere")
    answer = knhk("log", "replay", tmp_path / "copy" / "log", "--registry", tmp_path / "elsewhere")
    assert (answer.exit, answer.out["replayed"]) == (0, 4)


def test_without_the_pack_nothing_is_confirmed(knhk: Any, story: Any, tmp_path: Path) -> None:
    shutil.rmtree(tmp_path / "home" / "registry")
    answer = knhk("log", "replay")
    assert answer.exit == 1
    assert (answer.out["replayed"], answer.out["different"]) == (0, 4)
    assert all("pack missing" in row["reason"] for row in answer.out["differences"])


def test_a_damaged_pack_confirms_nothing_and_is_named(knhk: Any, story: Any, tmp_path: Path) -> None:
    blobs = tmp_path / "home" / "registry" / "blobs" / "sha256"
    for path in blobs.iterdir():
        if path.read_bytes()[:4] == b"\x7fELF":
            path.write_bytes(path.read_bytes()[:-1] + b"?")
    answer = knhk("log", "replay")
    assert answer.exit == 1
    assert answer.out["replayed"] == 0
    assert all("digest is sha256:" in row["reason"] for row in answer.out["differences"])


def test_decisions_of_another_evaluator_are_told_apart(knhk: Any, story: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the tables decide alone needs no evaluator; the rest is not guessed."""
    monkeypatch.setattr("knhk_runtime.tiers.digest.evaluator_digest", lambda: bytes(32))
    answer = knhk("log", "replay")
    assert answer.exit == 1
    assert answer.out["replayed"] + answer.out["different"] == 4
    assert 1 <= answer.out["different"] < 4
    assert {row["reason"] for row in answer.out["differences"]} == {"evaluator missing: another one decided it"}


def test_decide_and_replay_agree_on_the_pack(knhk: Any, story: Any, cold_pack: Path, tmp_path: Path) -> None:
    built, _log, _evaluator = story
    (tmp_path / "body").write_bytes(b'{"id": "1", "currency": "euro", "total": 7}')
    answer = knhk("pack", "decide", cold_pack, "--payload", tmp_path / "body", "--attr", "sub=alice").out
    assert answer["pack"] == built["digest"]
    assert (answer["verdict"], answer["class"] in ("W1", "C1")) == ("DENY", True)
    assert [row["guard"] for row in answer["failing"]] == ["shapes.OrderShape.currency.pattern"]


def test_an_archive_of_the_log_says_the_same_in_parts(knhk: Any, story: Any, tmp_path: Path) -> None:
    archive = str(tmp_path / "delta")
    made = knhk("log", "archive", "--to", archive)
    assert (made.exit, made.out["rows"], made.out["waiting_bytes"]) == (0, 4, 0), made.text
    whole = knhk("log", "replay", archive)
    assert whole.exit == 0, whole.text
    assert (whole.out["replayed"], whole.out["unrecorded"], len(whole.out["root"])) == (4, 0, 64)
    parts = [knhk("log", "replay", archive, "--shard", f"{number}/2").out for number in (0, 1)]
    assert sum(part["replayed"] for part in parts) == 4
    few = knhk("log", "compact", archive, "--open-hours")
    assert (few.exit, few.out["after"] <= few.out["before"]) == (0, True), few.text
    assert knhk("log", "compact", archive, "--target-mib", "0").exit == 2
    nothing = knhk("log", "compact", f"{archive}-of-others")
    assert (nothing.exit, "is no archive" in nothing.error_text) == (1, True), nothing.error_text
    assert knhk("log", "replay", archive).out == whole.out
    assert knhk("log", "replay", archive, "--shard", "2/2").exit == 2
    assert knhk("log", "replay", "--shard", "0/2").exit == 2


def test_what_pods_said_of_their_shards_is_gathered(knhk: Any, story: Any, tmp_path: Path) -> None:
    """As `kubectl logs` shows it: with what else they said, tries that failed, and one after another."""
    archive = str(tmp_path / "delta")
    assert knhk("log", "archive", "--to", archive).exit == 0
    whole = knhk("log", "replay", archive).out
    lines = [json.dumps(knhk("log", "replay", archive, "--shard", f"{number}/3").out) for number in range(3)]
    failed = json.dumps({**json.loads(lines[0]), "replayed": 0, "different": 4, "entries": 0, "root": ""})
    noise = ["pack sha256:0123…", '{"error": "no answer", "faults": []}', '{"replayed": 1, "sh']
    said = tmp_path / "said"
    said.write_text("\n".join([failed, *noise, *lines]))
    answer = knhk("log", "gather", said)
    assert answer.exit == 0, answer.text
    assert answer.out == {"shards": 3, "missing": [], **whole}
    said.write_text("\n".join(lines[::2]))
    answer = knhk("log", "gather", said)
    assert (answer.exit, answer.out["missing"]) == (1, [1])
    said.write_text("\n".join([*lines[:2], failed.replace("0/3", "2/3")]))
    answer = knhk("log", "gather", said)
    assert (answer.exit, answer.out["missing"], answer.out["different"]) == (1, [], 4)
    for wrong, told in ((lines[1].replace("1/3", "1/4"), "the same N"), (lines[1].replace('"size": 5', '"size": 6'), "--size")):
        said.write_text("\n".join([lines[0], wrong]))
        answer = knhk("log", "gather", said)
        assert (answer.exit, told in answer.error_text) == (1, True), answer.text
    said.write_text("\n".join(noise))
    assert knhk("log", "gather", said).exit == 2


def test_an_archive_is_replayed_as_the_log_was(knhk: Any, story: Any, tmp_path: Path) -> None:
    """What came since, with a record or on its way to one, is none of it."""
    archive = str(tmp_path / "delta")
    assert knhk("log", "archive", "--to", archive).exit == 0
    now = knhk("log", "replay", archive).out
    then = knhk("log", "replay", archive, "--size", "3")
    assert then.exit == 0, then.text
    assert (then.out["replayed"], then.out["unrecorded"], then.out["entries"], then.out["size"]) == (3, 0, 3, 3)
    assert then.out["root"] != now["root"]
    assert [knhk("log", "replay", archive, "--size", size).exit for size in ("0", str(now["size"] + 1))] == [2, 2]
    assert knhk("log", "replay", "--size", "3").exit == 2


def test_an_archive_within_a_published_log_is_refused(knhk: Any, story: Any, tmp_path: Path) -> None:
    """Nobody told this command where the log is published; what lies there does."""
    _built, log, _evaluator = story
    published = tmp_path / "published"
    assert knhk("log", "follow", log.dir, published, "--once").exit == 0
    refused = knhk("log", "archive", "--to", published / "erp" / "delta")
    assert (refused.exit, f"is within {published}, where a log is published" in refused.error_text) == (3, True), refused.text
    assert not (published / "erp").exists()
    assert knhk("log", "archive", "--to", tmp_path / "beside").exit == 0


def test_what_was_admitted_is_judged_again_by_the_sources_that_made_the_pack(knhk: Any, story: Any, cold_pack: Path) -> None:
    found = knhk("log", "audit", "--pack", cold_pack)
    assert found.exit == 0, found.text
    judged = found.out["kinds"]["judged"]
    assert (judged["judged"], judged["violations"], found.out["unjudged"]) == (1, 0, {})
    assert knhk("log", "audit", "--pack", cold_pack, "--jobs", "2").out == found.out
    assert knhk("log", "audit", "--pack", cold_pack, "--jobs", "0").exit == 2
    file = cold_pack / "pack.yaml"
    file.write_text(file.read_text().replace(PATTERN, ""))  # other sources judge nothing
    other = knhk("log", "audit", "--pack", cold_pack)
    assert (other.exit, other.out["kinds"]["judged"]["judged"]) == (1, 0), "who judged nothing has not found it good"
    assert ["no sources given whose plan" in why for why in other.out["unjudged"]] == [True]


def test_an_audit_tells_what_was_admitted_and_has_no_record(knhk: Any, story: Any, cold_pack: Path, tmp_path: Path) -> None:
    _built, log, _evaluator = story
    assert knhk("log", "audit", "--pack", cold_pack).out["unrecorded"] == 0
    (log.dir / "observations").rename(tmp_path / "observations")
    lost = knhk("log", "audit", "--pack", cold_pack)
    assert (lost.exit, lost.out["unrecorded"], lost.out["kinds"]["judged"]["unrecorded"]) == (1, 1, 1)
    assert (lost.out["kinds"]["judged"]["low_ppm"], lost.out["kinds"]["judged"]["high_ppm"]) == (0, 1e6)


def test_an_archive_is_audited_as_the_log_was(knhk: Any, story: Any, cold_pack: Path, tmp_path: Path) -> None:
    archive = str(tmp_path / "delta")
    assert knhk("log", "archive", "--to", archive).exit == 0
    for size in (("--size", "1"), ("--size", "3"), ()):
        found = knhk("log", "audit", archive, "--pack", cold_pack, *size)
        assert (found.exit, found.out["unrecorded"]) == (0, 0), found.text
    assert knhk("log", "audit", archive, "--pack", cold_pack, "--size", "99").exit == 2
    assert knhk("log", "audit", "--pack", cold_pack, "--size", "3").exit == 2


def test_a_question_sees_an_archive_as_it_was_written(knhk: Any, story: Any, tmp_path: Path) -> None:
    assert knhk("log", "archive", "--to", tmp_path / "delta").exit == 0
    asked = "SELECT receipt, verdict, hour(time AT TIME ZONE 'UTC') = hour AS at, region, sealed, octet_length(leaf) FROM observations"
    found = knhk("receipt", "query", asked, "--archive", tmp_path / "delta")
    assert found.exit == 0, found.error_text
    assert {tuple(row[2:]) for row in found.out["rows"]} == {(True, "local", False, 118)}
    assert {row[1] for row in found.out["rows"]} == {"ADMIT", "DENY"}


def _altered_entry(log: Path) -> None:
    """The third, which a log of three entries has, too."""
    path = next(path for path in (log / "tile" / "entries").rglob("*") if path.is_file())
    entries = [entry for _, entry in parse_bundle_of_entries(path.read_bytes(), path.name)]
    entries[2] = entries[2][:50] + bytes([entries[2][50] ^ 1]) + entries[2][51:]
    path.write_bytes(b"".join(len(entry).to_bytes(2, "big") + entry for entry in entries))


def _forged_entry(log: Path) -> None:
    """By who can write the log and has no key: the hash in its tile, too."""
    _altered_entry(log)
    bundle, tile = (next(path for path in (log / "tile" / level).rglob("*") if path.is_file()) for level in ("entries", "0"))
    tile.write_bytes(b"".join(leaf_hash(entry) for _, entry in parse_bundle_of_entries(bundle.read_bytes(), bundle.name)))


def _altered_checkpoint(log: Path) -> None:
    path = log / "checkpoint"
    origin, size, *rest = path.read_text().split("\n")
    path.write_text("\n".join([origin, str(int(size) - 1), *rest]))


def _of_another_log(log: Path) -> None:
    path = log / "checkpoint"
    path.write_text(f"example.com/other\n{path.read_text().partition(chr(10))[2]}")


@pytest.mark.parametrize(
    ("alter", "told"),
    [
        (_forged_entry, "altered"),
        (_altered_entry, "altered"),
        (_altered_checkpoint, "checkpoint"),
        (_of_another_log, "example.com/other"),
    ],
)
def test_nothing_is_told_of_a_log_that_its_checkpoint_does_not_sign(
    knhk: Any, story: Any, cold_pack: Path, tmp_path: Path, alter: Callable[[Path], None], told: str
) -> None:
    """Whoever can write where a log lies cannot have decisions confirmed, judged, or states told, that the log's key never signed."""
    _built, log, _evaluator = story
    archive = str(tmp_path / "delta")
    assert knhk("log", "archive", "--to", archive).exit == 0
    asked = [("replay",), ("replay", archive), ("replay", archive, "--size", "3"), ("state",)]
    asked += [("audit", "--pack", str(cold_pack)), ("audit", archive, "--pack", str(cold_pack))]
    assert [knhk("log", *words).exit for words in asked] == [0] * 6
    alter(log.dir)
    for words in asked:
        answer = knhk("log", *words)
        assert (answer.exit, answer.out) == (1, None), (words, answer.text)
        assert told in answer.error_text, (words, answer.error_text)


def test_a_checkpoint_of_no_text_is_refused_in_words(knhk: Any, story: Any) -> None:
    _built, log, _evaluator = story
    (log.dir / "checkpoint").write_bytes(b"\xb4\x00" * 200)
    for words in (("checkpoint",), ("replay",), ("state",)):
        answer = knhk("log", *words)
        assert (answer.exit, "checkpoint" in answer.error_text) == (1, True), answer.text
        assert len(answer.error_text) < 1000


@pytest.mark.parametrize(
    ("source", "changed", "named"),
    [
        ("./delta", (), "SOURCE"),
        ("/var/lib/knhk/delta", (), "SOURCE"),
        ("s3://audit/delta", ("--log=/home/me/log", "--claim=data-knhk-log-0"), "--log"),
        ("s3://audit/delta", ("--pull=registry.example.com/knhk",), "--pull"),
        ("s3://audit/delta", ("--pull=https://registry.example.com:knhk",), "--pull"),
    ],
)
def test_a_job_is_not_written_for_what_its_pods_cannot_reach(knhk: Any, source: str, changed: tuple[str, ...], named: str) -> None:
    place = ("--log=s3://audit/log", "--pull=https://registry.example.com/knhk", "--image=knhk-operator@sha256:0")
    assert knhk("log", "job", source, *place).exit == (0 if changed else 2)
    refused = knhk("log", "job", source, *place, *changed)
    assert (refused.exit, f"{named}: must be" in refused.error_text) == (2, True), refused.text
