"""A key is replaced: what was signed before and after verifies offline, what the old key signs after its end does not."""

from __future__ import annotations

import asyncio
import base64
import json
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
from sequencing import sequencer
from trusted_roots import trusted_root

from knhk.adapters.key_secrets import secrets_of
from knhk.adapters.rotation_receipts import receipts_in
from knhk.adapters.signer_roles import rotate
from knhk.lockchain import PolicyEvent, receipt_spec, statement
from knhk.model.faults import Waiting
from knhk.wiring import daemon
from knhk.wiring.home import LOG_ORIGIN, Home
from knhk.wiring.signing import established, keys_in
from knhk_runtime.hsm import Token
from knhk_runtime.sequencer.__main__ import load_key
from knhk_runtime.sequencer.core import Log
from knhk_runtime.sequencer.files import Disk
from knhk_runtime.sequencer.server import Sequencer
from knhk_runtime.sequencer.wire import parse_event
from knhk_runtime.tlog.folder import log_entries
from knhk_verify.errors import Bad
from knhk_verify.evidence import Evidence
from knhk_verify.signed import verify_event, verify_keys
from soft_hsm import SoftHsm

ORIGIN = "knhk.dev/test"
NOW = datetime(2026, 11, 23, 10, tzinfo=UTC)
OVERLAP = timedelta(hours=24)


def promoted(after: timedelta) -> dict[str, Any]:
    at = f"{NOW + after:%Y-%m-%dT%H:%M:%SZ}"
    return statement(PolicyEvent("Promoted", ("pack/erp/orders@1.0.0", "ab" * 32), "control-plane", at, point="erp/orders"))


def test_receipts_on_both_sides_of_a_rotation_verify_and_late_ones_of_the_old_key_do_not(keys: Path, tmp_path: Path) -> None:
    signer, hour = established(keys, ORIGIN, NOW), timedelta(hours=1)
    first = (signer.bundle("rollout", promoted(-hour)), promoted(-hour))
    made = rotate(keys, keys_in(keys), "rollout", ORIGIN, NOW, OVERLAP)
    assert made.new == signer.keyid("rollout") != made.old
    told = statement(PolicyEvent("KeyRotated", ("keys/rollout", made.new), "local:me", "2026-11-23T10:00:00Z", evidence={"old": made.old}))
    entries = [first, (made.by_old(told), told)]
    entries += [(made.by_old(promoted(OVERLAP)), promoted(OVERLAP))]  # the last second of the overlap
    entries += [(signer.bundle("rollout", promoted(after)), promoted(after)) for after in (hour, 30 * hour)]
    entries += [(made.by_old(promoted(OVERLAP + hour)), promoted(OVERLAP + hour))]
    log = Log(tmp_path / "log", load_key(signer.key_file("log"), ORIGIN), Disk())
    log.commit([parse_event(bundle) for bundle, _ in entries])
    log.integrate()
    proofs = [log.proof(index) for index in range(len(entries))]
    log.close()
    specs = [receipt_spec(*entry, index, proof) for index, (entry, proof) in enumerate(zip(entries, proofs, strict=True)) if proof]
    assert len(specs) == len(entries)
    *good, late = specs
    evidence = Evidence(signer.root_public(), signer.keys_json(), NOW + 40 * hour)
    for spec in good:
        evidence.receipt(spec)
    assert all(step.ok for step in evidence.steps)
    with pytest.raises(Bad, match="after its key was replaced"):
        evidence.receipt(late)


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not holds():  # noqa: ASYNC110  what is waited for is told by no event
            await asyncio.sleep(0.01)


@pytest.mark.failure("signer", "receipts")
def test_a_log_whose_token_does_not_answer_acknowledges_and_publishes_later(
    softhsm: SoftHsm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = softhsm.put(tmp_path / "keys")
    signer = established(folder, ORIGIN, NOW)
    log = Log(tmp_path / "log", load_key(signer.key_file("log"), ORIGIN), Disk())

    async def story() -> None:
        sequencer = Sequencer(log, 0.02)
        running = asyncio.create_task(sequencer.run())
        with monkeypatch.context() as away:
            away.setattr(Token, "sign", Mock(side_effect=Waiting("Token", "does not answer", 5.0)))
            assert await sequencer.append(event) == [0]
            await until(lambda: "integrate" in sequencer.failure or running.done())
            assert "does not answer" in sequencer.failure.get("integrate", "the log ended")
        await until(lambda: log.published == 1)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        await sequencer.finish()

    event = parse_event(signer.bundle("rollout", promoted(timedelta())))
    asyncio.run(story())


def test_in_the_overlap_both_keys_count_and_afterwards_the_new_one(keys: Path) -> None:
    signer = established(keys, ORIGIN, NOW)
    made = rotate(keys, keys_in(keys), "build", ORIGIN, NOW, OVERLAP)
    named = verify_keys(signer.keys_json(), signer.root_public(), NOW)
    assert set(named.of("build", NOW + OVERLAP)) == {made.old, made.new}
    assert set(named.of("build", NOW + OVERLAP + timedelta(seconds=1))) == {made.new}


def knhk(home: Path, *words: str) -> tuple[int, Any]:
    command = [sys.executable, "-m", "knhk.cli", *words, "--home", str(home), "-o", "json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    return done.returncode, json.loads(done.stdout) if done.returncode == 0 else done.stderr


def test_the_command_rotates_a_folder_and_a_dry_run_does_not(tmp_path: Path) -> None:
    folder = tmp_path / "keys"
    signer = established(folder, ORIGIN, datetime.now(UTC))
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    code, would = knhk(tmp_path / "home", "keys", "rotate", "data", "--folder", str(folder), "--overlap-hours", "24", "--dry-run")
    assert (code, would["old"], would["new"], would["serial"]) == (0, signer.keyid("data"), None, 2)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    code, did = knhk(tmp_path / "home", "keys", "rotate", "data", "--folder", str(folder), "--overlap-hours", "24")
    assert (code, did["old"], did["new"], did["receipt"]) == (0, would["old"], signer.keyid("data"), None)
    code, shown = knhk(tmp_path / "home", "keys", "show", "--folder", str(folder))
    states = {row["keyid"]: row["state"] for row in shown["keys"] if row["role"] == "data"}
    assert (shown["serial"], states) == (2, {did["old"]: "verifies", did["new"]: "signs"})
    code, said = knhk(tmp_path / "home", "keys", "rotate", "log", "--folder", str(folder))
    assert code != 0
    assert "must be 1 or more for a log" in said
    (folder / "root.key").unlink()
    code, said = knhk(tmp_path / "home", "keys", "rotate", "data", "--folder", str(folder), "--dry-run")
    assert code != 0
    assert "root.key" in said


def mounted(keys: Path, folder: Path) -> Path:
    """What the log's pod finds of Secret knhk-keys-log; its key."""
    folder.mkdir()
    (secret,) = (one for one in secrets_of(keys, "knhk-system") if one["metadata"]["name"] == "knhk-keys-log")
    for name, data in secret["data"].items():
        (folder / name).write_bytes(base64.b64decode(data))
        (folder / name).chmod(0o600)
    return folder / "log.key"


def test_the_log_of_a_cluster_goes_on_from_its_new_secret_and_its_key_turns_again_only_then(tmp_path: Path) -> None:
    folder, log = tmp_path / "keys", tmp_path / "log"
    established(folder, ORIGIN, datetime.now(UTC))
    turn = ("keys", "rotate", "log", "--folder", str(folder), "--overlap-hours", "24")

    def signed_by(key: Path, name: str) -> Path:
        with sequencer(log, tmp_path / "s", ORIGIN, key) as running:
            (tmp_path / name).write_text(running.checkpoint())
        return tmp_path / name

    old = signed_by(mounted(folder, tmp_path / "first"), "old")
    assert knhk(tmp_path / "home", *turn)[0] == 0
    before = (folder / "keys.json").read_bytes()
    code, said = knhk(tmp_path / "home", *turn)
    assert code != 0
    assert "--checkpoint must be a file" in said
    code, said = knhk(tmp_path / "home", *turn, "--checkpoint", str(old), "--dry-run")
    assert code != 0
    assert "start the log anew" in said
    assert (folder / "keys.json").read_bytes() == before
    new = signed_by(mounted(folder, tmp_path / "second"), "new")
    assert knhk(tmp_path / "home", *turn, "--checkpoint", str(new))[0] == 0
    signed_by(mounted(folder, tmp_path / "third"), "newest")


def test_a_home_leaves_a_receipt_by_the_old_key_and_changes_nothing_without_its_log(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    home = Home(tmp_path / "home")
    home.prepare_to_run()
    request.addfinalizer(lambda: daemon.clean(home))
    signer = established(home.keys, LOG_ORIGIN, datetime.now(UTC))
    old = signer.keyid("rollout")
    assert knhk(home.root, "keys", "rotate", "rollout")[0] != 0
    assert signer.keyid("rollout") == old
    with sequencer(home.log, home.sequencer_socket, LOG_ORIGIN, signer.key_file("log")) as log:
        code, did = knhk(home.root, "keys", "rotate", "rollout")
        assert (code, did["receipt"]) == (0, 0), did
        deadline = time.monotonic() + 60
        while True:
            try:
                proof = log.proof(0)
                break
            except Waiting:
                assert time.monotonic() < deadline
                time.sleep(0.02)
    (bundle,) = log_entries(home.log)
    assert verify_event(bundle, verify_keys(signer.keys_json(), signer.root_public()))[1] == old == did["old"]
    evidence = Evidence(signer.root_public(), (home.log / "keys.json").read_bytes(), datetime.now(UTC))
    evidence.receipt({"bundle": bundle.decode(), "proof": proof})
    assert [step.ok for step in evidence.steps] == [True] * 4


def test_the_command_pins_a_trusted_root_and_the_log_tells_who_did(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    """Without its log a home pins none; a folder keeps the receipt for who has a log."""
    home = Home(tmp_path / "home")
    home.prepare_to_run()
    request.addfinalizer(lambda: daemon.clean(home))
    signer = established(home.keys, LOG_ORIGIN, datetime.now(UTC))
    root = trusted_root(tmp_path / "trusted_root.json", "rekor.example")
    digest = sha256(root.read_bytes()).hexdigest()
    assert knhk(home.root, "keys", "trust", str(root))[0] != 0
    assert signer.outside_named().trusted_root is None
    with sequencer(home.log, home.sequencer_socket, LOG_ORIGIN, signer.key_file("log")):
        code, did = knhk(home.root, "keys", "trust", str(root))
        assert (code, did["digest"], did["receipt"], did["waits"]) == (0, digest, 0, None), did
        assert knhk(home.root, "keys", "trust", str(root))[1]["receipt"] is None
    (bundle,) = log_entries(home.log)
    told, _ = verify_event(bundle, verify_keys(signer.keys_json(), signer.root_public()))
    assert told["subject"] == [{"name": "keys/sigstore", "digest": {"sha256": digest}}]
    assert told["predicate"]["evidence"] == {"serial": did["serial"]}
    code, did = knhk(tmp_path / "other", "keys", "trust", str(trusted_root(root, "another.example")), "--folder", str(home.keys))
    assert (code, did["receipt"], did["waits"]) == (0, None, str(home.keys / "rotated.json"))
    (waits,) = receipts_in(home.keys)
    told, _ = verify_event(waits, verify_keys(signer.keys_json(), signer.root_public()))
    assert told["predicate"]["evidence"]["old"] == digest
