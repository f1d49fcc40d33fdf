"""`knhk log` and `knhk receipt` over a folder, with no server: what verifies, what does not, and where."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from knhk.adapters.log_sequencer import SequencerLog
from knhk.adapters.signer_local import establish
from knhk.model.faults import Waiting
from knhk.model.observation import Observation
from knhk.wiring.home import LOG_ORIGIN
from knhk_runtime.keyfile import raw_public
from knhk_runtime.record import entry_key, frame, scan_frames
from knhk_runtime.sequencer.__main__ import load_key
from knhk_runtime.sequencer.core import Log
from knhk_runtime.sequencer.files import Disk
from knhk_runtime.sequencer.wire import Append, item
from knhk_runtime.tlog.folder import log_entries
from knhk_runtime.tlog.notes import cosign, format_vkey
from knhk_verify.leaf import LEAF_SIZE
from knhk_verify.note import COSIGNATURE, Verifier

BASELINE = b"KNA1\x01\x00\x00\x00\x00\x00"


def flip(path: Path, at: int = -1) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(bytes(data))


def test_verify_counts_and_finds_nothing_bad(knhk: Any, log: Any) -> None:
    answer = knhk("log", "verify", log.dir)
    assert answer.exit == 0, answer.text
    assert answer.out["bad"] == []
    assert (answer.out["size"], answer.out["receipts"], answer.out["leaves"], answer.out["events"]) == (5, 4, 4, 1)
    assert len(answer.out["root"]) == 64


@pytest.mark.parametrize(
    "file", ["checkpoint", "tile/0/000.p/5", "tile/entries/000.p/5", "keys.json", "observations/erp.gate/0000000000000000.seg"]
)
def test_a_flipped_bit_is_reported_with_its_place(knhk: Any, log: Any, file: str) -> None:
    flip(log.dir / file, len((log.dir / file).read_bytes()) // 2)
    answer = knhk("log", "verify", log.dir)
    assert answer.exit == 1
    assert any(Path(file).parts[0] in row["where"] for row in answer.out["bad"]), answer.out["bad"]


def test_a_foreign_key_is_refused(knhk: Any, log: Any, tmp_path: Path) -> None:
    other = establish(tmp_path / "other", "knhk.dev/local", datetime(2026, 11, 23, tzinfo=UTC))
    answer = knhk("log", "verify", log.dir, "--vkey", other.vkey("knhk.dev/local"))
    assert answer.exit == 1
    assert any(row["where"].startswith("checkpoint") for row in answer.out["bad"])


def test_a_copy_without_keys_json_is_verified_by_one_that_is_given(knhk: Any, log: Any, tmp_path: Path) -> None:
    """As a mirror has none."""
    (log.dir / "keys.json").rename(tmp_path / "keys.json")
    at_home = knhk("log", "verify", log.dir)
    assert (at_home.exit, at_home.out["bad"]) == (0, []), "whose root is taken by itself, its keys.json is, too"
    (log.dir.parent / "keys" / "keys.json").unlink()
    alone = knhk("log", "verify", log.dir)
    assert (alone.exit, [row["what"] for row in alone.out["bad"]]) == (1, ["1 policy events cannot be checked without a good keys.json"])
    given = knhk("log", "verify", log.dir, "--keys", tmp_path / "keys.json")
    assert (given.exit, given.out["bad"]) == (0, []), given.text


def test_a_log_whose_key_nothing_vouches_for_is_refused(knhk: Any, log: Any, tmp_path: Path) -> None:
    """A forger's log: leaves alone, under a key that its own meta.json names, and no keys.json."""
    forger, forged = establish(tmp_path / "forger", LOG_ORIGIN, datetime.now(UTC)), tmp_path / "forged"
    made = Log(forged, load_key(forger.key_file("log"), LOG_ORIGIN), Disk())
    leaf = next(entry for entry in log_entries(log.dir) if len(entry) == LEAF_SIZE)
    made.commit([Append((entry_key(leaf),), (leaf,), item(entry_key(leaf), leaf))])
    made.integrate()
    made.close()
    answer = knhk("log", "verify", forged, "--root", log.dir / "root.pub")
    assert (answer.exit, [row["where"] for row in answer.out["bad"]]) == (1, ["keys.json"]), answer.text
    (told,) = answer.out["bad"]
    assert "--keys" in told["what"]
    (forged / "keys.json").write_bytes((log.dir / "keys.json").read_bytes())
    answer = knhk("log", "verify", forged, "--root", log.dir / "root.pub")
    assert (answer.exit, [row["where"] for row in answer.out["bad"]]) == (1, ["keys.json roles.log"])
    (forged / "keys.json").unlink()
    assert knhk("log", "verify", forged, "--vkey", forger.vkey(LOG_ORIGIN)).exit == 0  # whose it is, whoever asks has said


@pytest.mark.parametrize(
    ("need", "told"), [("1 us", []), ("2 us ap", ["is cosigned by witness/us: must be by a quorum of the policy's witnesses"])]
)
def test_a_quorum_of_witnesses_must_have_cosigned(knhk: Any, log: Any, tmp_path: Path, need: str, told: list[str]) -> None:
    keys = {name: Ed25519PrivateKey.generate() for name in ("us", "ap")}
    witnesses = {name: Verifier(f"witness/{name}", raw_public(key), COSIGNATURE) for name, key in keys.items()}
    note = (log.dir / "checkpoint").read_text()
    (log.dir / "checkpoint").write_text(note + cosign(note.split("\n\n")[0] + "\n", witnesses["us"], 1_800_000_000, keys["us"].sign))
    lines = [f"log {knhk('log', 'checkpoint').out['vkey']}", *(f"witness {name} {format_vkey(key)}" for name, key in witnesses.items())]
    policy = tmp_path / "policy"
    policy.write_text("\n".join([*lines, f"group q {need}", "quorum q\n"]))
    answer = knhk("log", "verify", log.dir, "--witnesses", policy)
    assert (answer.exit, [row["what"] for row in answer.out["bad"]]) == (len(told), told)


def test_replay_confirms_what_was_recorded(knhk: Any, log: Any) -> None:
    answer = knhk("log", "replay", log.dir)
    assert answer.exit == 0, answer.text
    assert (answer.out["replayed"], answer.out["erased"], answer.out["different"]) == (3, 0, 0)


def test_replay_tells_a_lost_record(knhk: Any, log: Any) -> None:
    (log.dir / "observations" / "erp.gate" / "0000000000000000.seg").unlink()
    answer = knhk("log", "replay", log.dir)
    assert answer.exit == 1
    assert (answer.out["different"], answer.out["unrecorded"]) == (0, 3)
    assert answer.out["differences"][0] == {"where": "log", "receipt": log.receipts[0], "reason": "no record of it is kept"}


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        (BASELINE, BASELINE.replace(b"\x01", b"\x02"), "A is not the one that was recorded"),
        (b"alice", b"alicf", "H(O) is not the one in the log"),
    ],
)
def test_replay_tells_a_record_that_was_written_anew(knhk: Any, log: Any, old: bytes, new: bytes, reason: str) -> None:
    """Whoever rewrites O or A with fitting checksums still cannot rewrite the log."""
    segment = log.dir / "observations" / "erp.gate" / "0000000000000000.seg"
    data = segment.read_bytes()
    payloads = [payload for _at, payload in scan_frames(data, 0, "segment")[0]]
    payloads[0] = payloads[0].replace(old, new)
    segment.write_bytes(data[:16] + b"".join(frame(payload) for payload in payloads))
    answer = knhk("log", "replay", log.dir)
    assert answer.exit == 1
    assert (answer.out["replayed"], answer.out["different"]) == (2, 1)
    (told,) = answer.out["differences"]
    assert (told["receipt"], told["reason"]) == (log.receipts[0], reason)


def test_replay_counts_no_record_that_the_log_does_not_hold(knhk: Any, log: Any, recorded: Any) -> None:
    segment = log.dir / "observations" / "erp.gate" / "0000000000000000.seg"
    seen = Observation(1_700_000_000_000_000_009, "orders", b"{}", {"sub": "alice"}, region="local").encode()
    segment.write_bytes(segment.read_bytes() + frame(recorded(9, seen, BASELINE).payload))
    answer = knhk("log", "replay", log.dir)
    assert answer.exit == 0, answer.text
    assert (answer.out["replayed"], answer.out["different"]) == (3, 0)


@pytest.mark.parametrize(("at", "value", "reason"), [(3, 2, "the verdict is not that of A"), (95, 7, "its time is not that of O")])
def test_replay_tells_a_leaf_that_says_something_else_than_o_and_a(
    knhk: Any, logged: Any, recorded: Any, at: int, value: int, reason: str
) -> None:
    """A leaf may carry the right hashes and yet a verdict or a time that are not those of its decision."""
    seen = Observation(1_700_000_000_000_000_000, "orders", b"{}", {"sub": "alice"}, region="local").encode()
    made = recorded(0, seen, BASELINE)
    leaf = made.leaf[:at] + bytes([value]) + made.leaf[at + 1 :]
    written = logged([replace(made, leaf=leaf, payload=made.payload.replace(made.leaf, leaf))])
    answer = knhk("log", "replay", written.dir)
    assert (answer.exit, answer.out["replayed"]) == (1, 0)
    assert [row["reason"] for row in answer.out["differences"]] == [reason]


def test_a_segment_that_has_just_begun_is_no_fault(knhk: Any, log: Any) -> None:
    (log.dir / "observations" / "erp.gate" / "0000000000000001.seg").write_bytes(b"")
    assert knhk("log", "replay", log.dir).exit == 0
    assert knhk("receipt", "verify", log.receipts[0], "--log", log.dir).exit == 0


def test_a_receipt_is_proven_under_a_partial_tile_that_has_gone(knhk: Any, log: Any) -> None:
    """A full tile takes the place of the partial ones, and an older checkpoint still stands on it."""
    for kind in ("0", "entries"):
        (partial,) = (log.dir / "tile" / kind / "000.p").iterdir()
        rest = b"".join([b"\0\x76" + bytes(118)] * 251) if kind == "entries" else bytes(251 * 32)
        (log.dir / "tile" / kind / "000").write_bytes(partial.read_bytes() + rest)
        partial.unlink()
    answer = knhk("receipt", "verify", log.receipts[0], "--log", log.dir)
    assert answer.exit == 0, answer.error_text
    assert answer.out["steps"][3]["detail"] == "entry 0 of 5"


def test_replay_counts_what_was_erased(knhk: Any, log: Any) -> None:
    segment = log.dir / "observations" / "erp.gate" / "0000000000000000.seg"
    data = segment.read_bytes()
    payloads = [payload for _at, payload in scan_frames(data, 0, "segment")[0]]
    payloads[1] = payloads[1][:3] + b"\x01" + payloads[1][4:12] + bytes(16) + payloads[1][28 : 28 + LEAF_SIZE] + bytes(8)
    segment.write_bytes(data[:16] + b"".join(frame(payload) for payload in payloads))
    answer = knhk("log", "replay", log.dir)
    assert answer.exit == 0, answer.text
    assert (answer.out["replayed"], answer.out["erased"], answer.out["different"]) == (2, 1, 0)


def test_checkpoint_is_shown_with_its_key(knhk: Any, log: Any) -> None:
    answer = knhk("log", "checkpoint", log.dir)
    assert answer.exit == 0
    assert (answer.out["origin"], answer.out["size"]) == ("knhk.dev/local", 5)
    assert answer.out["note"] == (log.dir / "checkpoint").read_text()
    flip(log.dir / "checkpoint")
    broken = knhk("log", "checkpoint", log.dir)
    assert broken.exit == 1
    assert broken.err["faults"][0]["where"].startswith("checkpoint")


def test_receipts_are_listed_and_filtered(knhk: Any, log: Any) -> None:
    everything = knhk("receipt", "list", "--log", log.dir).out
    assert everything["total"] == 5
    assert [row["kind"] for row in everything["receipts"]] == ["POLICY Promoted", "REFUSED", *["DECISION"] * 3]
    assert [row["index"] for row in knhk("receipt", "list", "--log", log.dir, "--kind", "POLICY").out["receipts"]] == [4]
    assert [row["index"] for row in knhk("receipt", "list", "--log", log.dir, "--verdict", "DENY").out["receipts"]] == [3]
    assert [row["index"] for row in knhk("receipt", "list", "--log", log.dir, "-n", "erp", "--pack", "small").out["receipts"]] == [4]
    page = knhk("receipt", "list", "--log", log.dir, "--limit", "2").out
    assert [row["index"] for row in page["receipts"]] == [4, 3]
    page = knhk("receipt", "list", "--log", log.dir, "--limit", "2", "--continue", page["continue"]).out
    assert [row["index"] for row in page["receipts"]] == [2, 1]
    assert page["continue"] == "1"


def test_a_selector_that_means_nothing_is_told_with_what_there_is(knhk: Any, log: Any) -> None:
    answer = knhk("receipt", "list", "--log", log.dir, "--field-selector", "verdict=DENY,colour=red")
    assert answer.exit == 1
    (fault,) = answer.err["faults"]
    assert (fault["where"], fault["value"]) == ("--field-selector", "colour")
    assert "packDigest" in fault["must"]


def test_a_receipt_shows_names_but_never_values(knhk: Any, log: Any) -> None:
    answer = knhk("receipt", "show", log.receipts[1], "--log", log.dir)
    (entry,) = answer.out["entries"]
    assert (entry["kind"], entry["verdict"], entry["receipt"]) == ("DECISION", "ADMIT", log.receipts[1])
    (kept,) = answer.out["observations"]
    assert (kept["route"], kept["attributes"], kept["body_bytes"]) == ("orders", ["sub"], 2)
    assert "alice" not in answer.text


def test_a_receipt_is_shown_with_the_name_of_its_pack_and_an_event_by_its_index(knhk: Any, log: Any) -> None:
    answer = knhk("receipt", "show", "4", "--log", log.dir)
    assert [(row["index"], row["kind"].split()[0]) for row in answer.out["entries"]] == [(4, "POLICY")]
    assert knhk("receipt", "show", "4", "--log", log.dir, "-n", "nowhere").exit == 1


def test_a_receipt_is_proven_and_a_wrong_tile_disproves_it(knhk: Any, log: Any) -> None:
    for receipt in (*log.receipts, "4"):
        answer = knhk("receipt", "verify", receipt, "--log", log.dir)
        assert answer.exit == 0, answer.error_text
        assert answer.out["verified"]
    flip(log.dir / "tile" / "0" / "000.p" / "5", 3 * 32)
    answer = knhk("receipt", "verify", log.receipts[0], "--log", log.dir)
    assert answer.exit == 1
    assert "does not lead from entry 0 to the root of size 5" in answer.out["steps"][-2]["detail"]


@pytest.mark.parametrize(("receipt", "told"), [("0" * 32, "no receipt"), ("xyz", "32 hexadecimal digits"), ("99", "no receipt")])
def test_an_unknown_receipt_is_told(knhk: Any, log: Any, receipt: str, told: str) -> None:
    answer = knhk("receipt", "show", receipt, "--log", log.dir)
    assert answer.exit == 1
    assert told in answer.error_text


@pytest.mark.server
def test_beside_a_folder_that_is_no_log_no_archive_is_made(knhk: Any, tmp_path: Path) -> None:
    answer = knhk("log", "archive", str(tmp_path / "typo"), "--to", str(tmp_path / "delta"))
    assert answer.exit == 1
    assert "is no log" in answer.err["error"]
    assert list(tmp_path.iterdir()) == []


def test_serve_answers_on_its_socket_and_stops_when_asked(log: Any, tmp_path: Path) -> None:
    socket = tmp_path / "s.sock"
    argv = [sys.executable, "-m", "knhk.cli", "log", "serve", str(log.dir), "--socket", str(socket), "--home", str(tmp_path / "home")]
    process = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        note = _checkpoint(process, socket)
    finally:
        process.terminate()
        process.communicate(timeout=120)
    assert note.startswith("knhk.dev/local\n5\n")
    assert process.returncode == 0
    assert not socket.exists()


def _checkpoint(process: subprocess.Popen[str], socket: Path) -> str:
    """The checkpoint as the server gives it, as soon as it serves."""
    deadline = time.monotonic() + 60
    while True:
        try:
            return SequencerLog(socket).checkpoint()
        except Waiting:
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.05)


def test_serve_without_a_usable_key_exits_3_and_says_why(log: Any, tmp_path: Path) -> None:
    argv = [
        sys.executable,
        "-m",
        "knhk.cli",
        "log",
        "serve",
        str(log.dir),
        "--key",
        str(tmp_path / "absent.key"),
        "--socket",
        str(tmp_path / "s"),
    ]
    ran = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert ran.returncode == 3
    assert "absent.key" in ran.stderr
    assert json.loads(ran.stdout) == {"exit": 1}
