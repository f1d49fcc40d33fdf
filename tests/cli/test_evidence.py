"""`knhk receipt verify`, `knhk log prove` and `knhk log diff`: from everywhere a receipt may come from, and what is told of a fork."""

from __future__ import annotations

import io
import json
import os
import shutil
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml

from folder_served import served
from knhk.adapters.signer_local import establish
from knhk.adapters.signer_roles import trust
from knhk.lockchain.events import PolicyEvent, statement
from knhk.model.resource import Resource
from knhk.wiring.home import LOG_ORIGIN, Home
from knhk.wiring.resources import open_store
from knhk.wiring.signing import keys_in
from knhk_runtime.record import encode_leaf, entry_key, frame, scan_frames
from knhk_runtime.sequencer.__main__ import load_key
from knhk_runtime.sequencer.core import Log, lock
from knhk_runtime.sequencer.files import Disk
from knhk_runtime.sequencer.wire import Append, item
from knhk_runtime.tlog.folder import log_entries
from knhk_verify.__main__ import main as knhk_verify
from knhk_verify.leaf import Leaf

EVENT = 4  # the policy event of the log


def grow(folder: Path, home: Path, entries: list[bytes]) -> None:
    """Appends to a log folder, and covers it with a checkpoint."""
    held = lock(folder)
    log = Log(folder, load_key(home / "keys" / "log.key", LOG_ORIGIN), Disk())
    keys = tuple(entry_key(entry) for entry in entries)
    log.commit([Append(keys, tuple(entries), b"".join(item(k, e) for k, e in zip(keys, entries, strict=True)))])
    log.integrate()
    log.close()
    os.close(held)


def more(number: int) -> bytes:
    """A leaf that no log has yet."""
    return encode_leaf(Leaf(1, 1, 1, 1, 0, 0, bytes(32), bytes(32), bytes(20), number, b"RING0002" + number.to_bytes(8, "big")))


@pytest.fixture
def proven(knhk: Any, log: Any, tmp_path: Path) -> Path:
    """An audit bundle of a decision and the policy event."""
    answer = knhk("log", "prove", log.receipts[0], EVENT, "--log", log.dir, "--out", tmp_path / "evidence")
    assert answer.exit == 0, answer.text
    assert answer.out["not_judged"] == []
    return tmp_path / "evidence"


def test_a_proof_names_what_could_not_be_judged(knhk: Any, log: Any, tmp_path: Path) -> None:
    """keys.json names a sigstore, and nobody has borne witness to this event: that is neither ok nor bad."""
    keys = tmp_path / "home" / "keys"
    trust(keys, keys_in(keys), b"a trusted root", LOG_ORIGIN, datetime.now(UTC))
    shutil.copy(keys / "keys.json", log.dir)
    answer = knhk("log", "prove", EVENT, "--log", log.dir, "--out", tmp_path / "evidence")
    assert answer.exit == 0, answer.text
    apart = [step["what"] for step in answer.out["steps"] if step["ok"] is None]
    assert answer.out["not_judged"] == apart == [f"receipts/{EVENT}.json: others bear witness"]
    assert knhk("log", "prove", log.receipts[0], "--log", log.dir, "--out", tmp_path / "other").out["not_judged"] == []


def trusted(log: Any) -> tuple[str, str, str, str]:
    return ("--root", str(log.dir / "root.pub"), "--keys", str(log.dir / "keys.json"))


def spec_of(proven: Path) -> dict[str, Any]:
    return dict(json.loads((proven / "receipts" / f"{EVENT}.json").read_text()))


def test_what_prove_writes_verifies_without_the_product_and_says_what_it_is(proven: Path, log: Any, capsys: Any) -> None:
    assert sorted(p.name for p in proven.iterdir()) == ["index.html", "keys.json", "receipts", "verifier"]
    assert knhk_verify(["--root", str(log.dir / "root.pub"), str(proven)]) == 0
    assert "DECISION ADMIT" in capsys.readouterr().out
    index = (proven / "index.html").read_text()
    assert f'<a href="receipts/{EVENT}.json">receipts/{EVENT}.json</a></td><td>{EVENT}</td><td>POLICY Promoted</td>' in index
    assert log.receipts[0] in index
    assert (proven / "verifier" / "knhk_verify" / "__main__.py").exists()


def test_prove_writes_nothing_when_something_does_not_verify(knhk: Any, log: Any, tmp_path: Path) -> None:
    tile = log.dir / "tile" / "0" / "000.p" / "5"
    tile.write_bytes(tile.read_bytes()[:-1] + b"\0")
    answer = knhk("log", "prove", log.receipts[0], "--log", log.dir, "--out", tmp_path / "evidence")
    assert answer.exit == 1
    assert not (tmp_path / "evidence").exists()
    assert not answer.out["steps"][-1]["ok"]


def test_prove_shows_that_a_log_only_grew(knhk: Any, log: Any, tmp_path: Path) -> None:
    old = tmp_path / "old"
    shutil.copy(log.dir / "checkpoint", old)
    grow(log.dir, tmp_path / "home", [more(number) for number in range(10, 310)])
    answer = knhk("log", "prove", "300", "--log", log.dir, "--since", old, "--out", tmp_path / "evidence")
    assert answer.exit == 0, answer.text
    assert answer.out["files"] == ["checkpoints/5", "consistency/5-305", "receipts/300.json"]
    assert knhk_verify(["--root", str(log.dir / "root.pub"), str(tmp_path / "evidence")]) == 0
    again = knhk("log", "prove", "300", "--log", log.dir, "--out", tmp_path / "evidence")
    assert "must be a new or an empty folder" in again.error_text
    for text in (b"no checkpoint", b"\xff\xfe", (log.dir / "checkpoint").read_bytes().replace(b"\n305\n", b"\n999\n")):
        old.write_bytes(text)
        wrong = knhk("log", "prove", "300", "--log", log.dir, "--since", old, "--out", tmp_path / "none")
        assert (wrong.exit, wrong.err["faults"][0]["where"].startswith(f"--since {old}")) == (1, True), wrong.error_text
        assert not (tmp_path / "none").exists()


def test_the_state_shows_what_points_run_their_data_and_what_is_denied(knhk: Any, log: Any, tmp_path: Path) -> None:
    """The point said nothing itself since its pack was signed for it."""
    one, two, at = f"sha256:{'1' * 64}", f"sha256:{'2' * 64}", "2026-11-26T10:00:00Z"

    def of_pack(kind: str, digest: str, **said: Any) -> PolicyEvent:
        named = {"namespace": "erp", "name": "orders", "version": "1.0.0", "digest": digest}
        return PolicyEvent(kind, ("pack/erp/orders@1.0.0", digest[7:]), "knhk", at, pack=named, reason="new denials", evidence=said)

    events = [
        PolicyEvent("DataPublished", ("data/erp/limits@1.0.0", "d" * 64), "knhk", at, evidence={"image": "sha256:image"}),
        of_pack("Signed", one, stages=[{"name": "production", "points": ["gate"]}], data="limits"),
        of_pack("Promoted", one),
        of_pack("RolledBack", two),
    ]
    grow(log.dir, tmp_path / "home", [log.signer.bundle("rollout", statement(event)) for event in events])
    told = knhk("log", "state").out
    assert told["points"]["erp/gate"] == {
        "index": 7, "mode": "Stable", "stable": one, "candidate": "", "data": "sha256:image", "flags": {}
    }  # fmt: skip
    assert set(told["packs"]["erp/orders"]) == {"version", "digest", "index", "rolling", "denied"}
    assert set(told) == {"at", "events", "last", "packs", "points", "data"}
    shown = knhk("log", "state", "-o", "table").text
    assert [word for word in (one[:19], "sha256:image", two[:19], "RolledBack: new", "erp/limits@1.0.0") if word not in shown] == []


@pytest.mark.parametrize("form", ["spec", "resource", "yaml", "list", "items", "-"])
def test_a_receipt_is_verified_from_a_file(knhk: Any, log: Any, proven: Path, tmp_path: Path, form: str, monkeypatch: Any) -> None:
    spec = spec_of(proven)
    resource = {"apiVersion": "knhk.dev/v1alpha1", "kind": "Receipt", "metadata": {"name": "r", "namespace": "erp"}, "spec": spec}
    text = {
        "spec": json.dumps(spec),
        "resource": json.dumps(resource),
        "yaml": yaml.safe_dump(resource),
        "list": json.dumps({"apiVersion": "v1", "kind": "List", "items": [resource, resource]}),
        "items": json.dumps({"items": [resource, resource]}),
        "-": yaml.safe_dump_all([resource, spec]),
    }[form]
    source = tmp_path / "given"
    source.write_text(text)
    if form == "-":
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text.encode())))
    answer = knhk("receipt", "verify", "-" if form == "-" else source, *trusted(log))
    assert answer.exit == 0, answer.text + answer.error_text
    assert [step["key"].partition(" ")[0] for step in answer.out["steps"][:4]] == ["root", "rollout", "log", "none"]
    assert len(answer.out["steps"]) == (7 if form in ("list", "items", "-") else 4)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "holds no evidence"),
        ("# nothing\n", "holds no evidence"),
        ('{"apiVersion": "v1", "kind": "List", "items": []}', "holds no evidence"),
        ("kind: ReceiptList\nitems: []\n", "holds no evidence"),
    ],
)
def test_where_nothing_was_verified_that_is_said(knhk: Any, log: Any, tmp_path: Path, text: str, told: str) -> None:
    source = tmp_path / "given"
    source.write_text(text)
    answer = knhk("receipt", "verify", source, *trusted(log))
    assert (answer.exit, told in answer.error_text) == (1, True), answer.text + answer.error_text


@pytest.mark.parametrize("form", ["json", "yaml"])
@pytest.mark.parametrize("hidden", ["no items", "an item that is good", "a list"])
def test_a_forged_receipt_does_not_hide_behind_items(knhk: Any, log: Any, proven: Path, tmp_path: Path, form: str, hidden: str) -> None:
    """Only a list has items; what says something beside them is judged itself."""
    good = spec_of(proven)
    forged = (
        good | {"event": "RolledBack", "items": [] if hidden == "no items" else [good]} | ({"kind": "List"} if hidden == "a list" else {})
    )
    source = tmp_path / "given"
    source.write_text(json.dumps(forged) if form == "json" else yaml.safe_dump(forged))
    answer = knhk("receipt", "verify", source, *trusted(log))
    assert (answer.exit, answer.out["verified"]) == (1, False), answer.text


def test_a_decision_in_a_resource_is_held_against_what_is_kept(knhk: Any, log: Any, proven: Path, tmp_path: Path) -> None:
    """As `kubectl get decisionreceipt -o json` writes it, where a log is at hand."""
    source = tmp_path / "given"
    source.write_text(json.dumps({"kind": "DecisionReceipt", "spec": json.loads((proven / "receipts" / "0.json").read_text())}))
    answer = knhk("receipt", "verify", source)
    assert answer.exit == 0, answer.text
    assert answer.out["steps"][-1]["what"].endswith("O and A are what the leaf commits to")


def test_a_receipt_is_verified_by_its_name_in_the_home(knhk: Any, log: Any, proven: Path, tmp_path: Path) -> None:
    spec = spec_of(proven)
    with open_store(Home(tmp_path / "home"), must_exist=False) as store:
        store.create(Resource("Receipt", "erp", "whole", spec))
        store.create(Resource("Receipt", "erp", "bare", {name: spec[name] for name in ("event", "bundle", "logIndex")}))
        store.create(Resource("Receipt", "erp", "wrong", spec | {"event": "RolledBack"}))
    for name in ("erp/whole", "erp/bare"):  # the second gets its proof from the home's log
        answer = knhk("receipt", "verify", name)
        assert answer.exit == 0, answer.text + answer.error_text
    wrong = knhk("receipt", "verify", "erp/wrong")
    assert wrong.exit == 1
    assert wrong.out["steps"][-1]["detail"] == "erp/wrong event: must be 'Promoted', as what is signed says"
    assert knhk("receipt", "verify", "erp/absent").exit == 1


def test_a_file_is_verified_whatever_a_kubeconfig_leads_to(knhk: Any, log: Any, proven: Path, tmp_path: Path) -> None:
    file = next((proven / "receipts").glob("*.json"))
    answer = knhk("receipt", "verify", file, *trusted(log), "--kubeconfig", tmp_path / "none.conf")
    assert answer.exit == 0, answer.error_text
    asks = knhk("receipt", "verify", log.receipts[0], *trusted(log), "--kubeconfig", tmp_path / "none.conf")
    assert (asks.exit, "must lead to a cluster" in asks.error_text) == (3, True)


def test_a_namespace_that_nothing_would_look_at_is_refused(knhk: Any, log: Any) -> None:
    for word in (log.receipts[0], str(EVENT)):
        answer = knhk("receipt", "verify", word, "-n", "crm", "--log", log.dir, *trusted(log))
        assert (answer.exit, "a log: that is of all namespaces" in answer.error_text) == (2, True), answer.error_text


def test_a_foreign_root_is_told_and_none_at_hand_too(knhk: Any, log: Any, proven: Path, tmp_path: Path) -> None:
    other = establish(tmp_path / "other", LOG_ORIGIN, datetime(2026, 11, 23, tzinfo=UTC))
    assert other.root_public()
    foreign = knhk("receipt", "verify", proven, "--root", tmp_path / "other" / "root.pub")
    assert foreign.exit == 1
    assert not foreign.out["steps"][0]["ok"]
    shutil.rmtree(tmp_path / "home" / "keys")
    for file in ("keys.json", "root.pub"):
        (log.dir / file).unlink()
    lost = knhk("receipt", "verify", proven)
    assert lost.exit == 3
    assert "give --root" in lost.error_text


def test_the_own_root_of_a_folder_is_said_to_show_damage_only(knhk: Any, log: Any, tmp_path: Path) -> None:
    copy = tmp_path / "elsewhere" / "log"
    shutil.copytree(log.dir, copy)
    shutil.rmtree(tmp_path / "home" / "keys")
    answer = knhk("receipt", "verify", log.receipts[0], "--log", copy)
    assert answer.exit == 0, answer.text + answer.error_text
    assert "no forger" in answer.out["steps"][0]["detail"]


def test_a_root_that_came_with_the_evidence_is_never_taken_for_the_pinned_one(knhk: Any, log: Any, proven: Path, tmp_path: Path) -> None:
    """A forger's archive: evidence, and keys/root.pub beside it, all of his own making."""
    forged = tmp_path / "archive"
    other = establish(forged / "keys", LOG_ORIGIN, datetime.now(UTC))
    shutil.copytree(proven, forged / "evidence")
    (forged / "evidence" / "keys.json").write_bytes(other.keys_json())
    answer = knhk("receipt", "verify", forged / "evidence")
    assert answer.exit == 1
    assert answer.out["steps"][0]["detail"].startswith("keys.json signatures")


def test_an_altered_record_beside_the_log_fails_its_step(knhk: Any, log: Any) -> None:
    good = knhk("receipt", "verify", log.receipts[0])
    assert good.out["steps"][-1]["what"].endswith("O and A are what the leaf commits to")
    segment = log.dir / "observations" / "erp.gate" / "0000000000000000.seg"
    data = segment.read_bytes()
    payloads = [payload.replace(b"alice", b"alicf") for _at, payload in scan_frames(data, 0, "segment")[0]]
    segment.write_bytes(data[:16] + b"".join(frame(payload) for payload in payloads))
    bad = knhk("receipt", "verify", log.receipts[0])
    assert bad.exit == 1
    assert [step["ok"] for step in bad.out["steps"]] == [True, True, True, True, False]
    assert "H(O) is not that of salt and O beside it" in bad.out["steps"][-1]["detail"]


@pytest.fixture
def url(log: Any) -> Iterator[str]:
    """The log's folder as static files, on a free port of loopback."""
    with served(log.dir) as found:
        yield found


@pytest.mark.server
def test_a_log_behind_a_url_proves_and_compares(knhk: Any, log: Any, url: str, tmp_path: Path) -> None:
    answer = knhk("receipt", "verify", "0", "--log", url, *trusted(log))
    assert answer.exit == 0, answer.text + answer.error_text
    assert knhk("log", "prove", EVENT, "--log", url, "--out", tmp_path / "evidence", *trusted(log)).exit == 0
    same = knhk("log", "diff", url, log.dir, *trusted(log))
    assert (same.exit, same.out["relation"]) == (0, "equal")
    unknown = knhk("receipt", "verify", log.receipts[0], "--log", url, *trusted(log))
    assert "a static copy of a log has no index" in unknown.error_text
    (log.dir / "checkpoint").unlink()
    assert "has no checkpoint" in knhk("receipt", "verify", "0", "--log", url, *trusted(log)).error_text


@pytest.mark.server
def test_a_log_that_tells_another_request_than_was_asked_for_is_not_believed(knhk: Any, log: Any, url: str, tmp_path: Path) -> None:
    """Who serves a log says where a receipt is: the entry there must be of this receipt."""
    asked, other = log.receipts[0], log.receipts[1]
    index = log.dir / "index" / f"{asked}00"
    index.parent.mkdir()
    index.write_text('{"index": 0}')
    assert knhk("receipt", "verify", asked, "--log", url, *trusted(log)).exit == 0
    index.write_text('{"index": 1}')
    answer = knhk("receipt", "verify", asked, "--log", url, *trusted(log))
    assert answer.exit == 1, answer.text
    assert f"receipt: must be '{other}', as what is signed says" in answer.out["steps"][-1]["detail"]
    assert knhk("log", "prove", asked, "--log", url, "--out", tmp_path / "evidence", *trusted(log)).exit == 1
    assert not (tmp_path / "evidence").exists()


def test_diff_tells_ahead_and_behind_with_a_proof(knhk: Any, log: Any, tmp_path: Path) -> None:
    mirror = tmp_path / "mirror"
    shutil.copytree(log.dir, mirror)
    grow(log.dir, tmp_path / "home", [more(number) for number in range(10, 310)])
    ahead = knhk("log", "diff", log.dir, mirror, "--out", tmp_path / "evidence")
    assert (ahead.exit, ahead.out["relation"], ahead.out["a_size"], ahead.out["b_size"]) == (0, "ahead", 305, 5)
    assert knhk_verify(["--root", str(log.dir / "root.pub"), str(tmp_path / "evidence")]) == 0
    behind = knhk("log", "diff", mirror / "checkpoint", log.dir)
    assert (behind.exit, behind.out["relation"]) == (0, "behind")
    alone = knhk("log", "diff", mirror / "checkpoint", log.dir / "checkpoint")
    assert alone.exit == 1
    assert "give the folder or URL of the larger log" in alone.error_text


@pytest.mark.parametrize("longer", [0, 40])
def test_diff_proves_a_split_view_with_the_first_entry_that_differs(knhk: Any, log: Any, tmp_path: Path, longer: int, capsys: Any) -> None:
    """Two logs of one key: they share 5 entries and 290 more; the next differs. Both tellings verify, together they do not."""
    other, home = tmp_path / "other" / "log", tmp_path / "home"
    shared = [more(number) for number in range(10, 300)]
    grow(log.dir, home, shared)
    shutil.copytree(log.dir, other)
    grow(log.dir, home, [more(1000 + number) for number in range(8)])
    grow(other, home, [more(2000 + number) for number in range(8 + longer)])
    answer = knhk("log", "diff", log.dir, other, "--out", tmp_path / "evidence")
    assert answer.exit == 1
    assert (answer.out["relation"], answer.out["first"]) == ("fork", 295)
    assert [e["receipt"] for e in answer.out["entries"]] == [list(log_entries(f))[295][100:116].hex() for f in (log.dir, other)]
    assert any("split view" in step["detail"] for step in answer.out["steps"] if not step["ok"])
    root = str(log.dir / "root.pub")
    for letter in "ab":
        files = [str(tmp_path / "evidence" / f"receipts/{letter}-295.json"), str(tmp_path / f"evidence/checkpoints/{letter}")]
        assert knhk_verify(["--root", root, "--keys", str(log.dir / "keys.json"), *files]) == 0
    assert knhk_verify(["--root", root, str(tmp_path / "evidence")]) == 1
    assert "split view" in capsys.readouterr().out


def test_diff_refuses_what_cannot_be_compared(knhk: Any, log: Any, tmp_path: Path) -> None:
    mirror = tmp_path / "mirror"
    shutil.copytree(log.dir, mirror)
    tile = mirror / "tile" / "0" / "000.p" / "5"
    tile.write_bytes(bytes(32) + tile.read_bytes()[32:])
    damaged = knhk("log", "diff", log.dir, mirror)
    assert damaged.exit == 1
    assert "its tiles do not give the root of its checkpoint" in damaged.error_text
    note = (mirror / "checkpoint").read_text()
    (mirror / "checkpoint").write_text(note.replace("\n5\n", "\n6\n"))
    forged = knhk("log", "diff", log.dir, mirror)
    assert (forged.exit, forged.out["relation"]) == (1, "unverified")


@pytest.mark.parametrize(
    "words", [("receipt", "show", "0"), ("receipt", "list"), ("receipt", "lineage", "anna"), ("receipt", "verify", "0")]
)
def test_where_no_log_is_that_is_said(knhk: Any, log: Any, tmp_path: Path, words: tuple[str, ...]) -> None:
    with_trust = trusted(log) if words[1] == "verify" else []
    answer = knhk(*words, "--log", tmp_path / "nowhere", *with_trust)
    assert answer.exit == 3
    assert "nowhere: has no checkpoint: must be a log folder" in answer.error_text


@pytest.mark.parametrize("verb", ["verify", "fsck", "checkpoint"])
def test_a_place_without_a_log_is_no_log_that_is_damaged(knhk: Any, log: Any, tmp_path: Path, verb: str) -> None:
    """Exit status 1 would say that a log was looked at, and that it does not fit."""
    answer = knhk("log", verb, tmp_path / "nowhere")
    assert answer.exit == 3
    assert "nowhere: has no checkpoint: must be a log folder" in answer.error_text
    assert not (tmp_path / "nowhere").exists()


@pytest.mark.parametrize("words", [("log", "prove", "--out", "evidence"), ("receipt", "verify")])
@pytest.mark.parametrize(("named", "told"), [("99", "no entry 99 in this log"), ("ab" * 16, "no receipt abab")])
def test_an_entry_that_the_log_has_not_is_told_apart_from_one_that_does_not_verify(
    knhk: Any, log: Any, words: tuple[str, ...], named: str, told: str
) -> None:
    answer = knhk(*words, named, "--log", log.dir, *trusted(log))
    assert answer.exit == 1
    assert told in answer.err["error"]
    assert answer.out is None


def test_a_word_that_names_no_entry_is_refused(knhk: Any, log: Any, tmp_path: Path) -> None:
    answer = knhk("log", "prove", "promoted", "--log", log.dir, "--out", tmp_path / "evidence", *trusted(log))
    assert (answer.exit, answer.err["error"]) == (1, "refused")
    assert answer.err["faults"] == [
        {"where": "receipt", "value": "promoted", "must": "must be 32 hexadecimal digits, or the index of an entry"}
    ]


def test_lineage_of_what_the_log_does_not_know_says_so(knhk: Any, log: Any) -> None:
    nobody = knhk("receipt", "lineage", "nobody", "--log", log.dir)
    assert (nobody.exit, nobody.out["rows"]) == (0, [])
    assert "nobody: nothing was found about it: a subject is named as attributes hold it" in nobody.err["note"]
    absent = knhk("receipt", "lineage", "ab" * 16, "--log", log.dir)
    assert absent.exit == 1
    assert f"no receipt {'ab' * 16} in this log" in absent.err["error"]


def test_a_folder_that_is_not_there_is_named_and_no_file_that_nobody_gave(knhk: Any, log: Any, tmp_path: Path) -> None:
    answer = knhk("receipt", "query", "SELECT 1", "--log", log.dir, "--out", tmp_path / "nowhere" / "answer.csv")
    assert answer.exit == 3
    assert answer.err["error"] == f"{tmp_path / 'nowhere'}: there is no such folder"


@pytest.mark.parametrize("root", ["no.pub", "AAAA"])
@pytest.mark.parametrize("words", [("receipt", "verify"), ("log", "verify"), ("log", "state")])
def test_a_root_that_is_no_key_is_said(knhk: Any, log: Any, words: tuple[str, ...], root: str) -> None:
    place = (log.dir,) if words == ("log", "verify") else ("--log", log.dir)
    answer = knhk(*words, *(("0",) if words[0] == "receipt" else ()), *place, "--root", root)
    assert answer.exit == 3
    assert f"--root {root}: must be a file that is there, or the key itself: base64 of 32 bytes" in answer.error_text


def test_an_archive_that_is_not_there_is_not_taken_for_an_empty_one(knhk: Any, log: Any, tmp_path: Path) -> None:
    answer = knhk("receipt", "lineage", "anna", "--log", log.dir, "--archive", tmp_path / "nowhere")
    assert answer.exit == 3
    assert "nowhere: has no commit: must be the archive of a log" in answer.error_text
    assert not (tmp_path / "nowhere").exists()


def test_a_file_that_is_not_there_is_told_apart_from_a_receipt(knhk: Any, log: Any, tmp_path: Path) -> None:
    with open_store(Home(tmp_path / "home"), must_exist=False):
        pass
    answer = knhk("receipt", "verify", "evidence.json", "--log", log.dir, *trusted(log))
    assert answer.exit == 1
    assert "evidence.json is no file: must be a file, a receipt id" in answer.error_text
