"""Policy events, receipts and the local signer."""

from __future__ import annotations

import contextlib
import os
import stat
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from knhk.adapters.signer_local import LocalSigner, establish, read_root_pub, rotate
from knhk.lockchain import PolicyEvent, parse_event, receipt_spec, statement
from knhk.model.faults import Corrupt, Refused, Stalled
from knhk_runtime.sequencer.__main__ import load_key
from knhk_runtime.sequencer.core import Log
from knhk_runtime.sequencer.files import Disk
from knhk_runtime.sequencer.wire import parse_event as event_to_append
from knhk_verify.errors import Bad
from knhk_verify.evidence import Evidence
from knhk_verify.signed import verify_bundle, verify_envelope, verify_event, verify_keys

ORIGIN = "knhk.dev/test"
NOW = datetime(2026, 11, 23, tzinfo=UTC)
EVENT = PolicyEvent(
    "RolledBack",
    ("pack/erp/invoice-controls@1.1.0", "ab" * 32),
    "control-plane",
    "2026-11-23T10:00:00Z",
    pack={"name": "invoice-controls", "namespace": "erp", "version": "1.1.0"},
    point="erp/orders",
    step=2,
    weight=0,
    reason="maxNewDenials",
    evidence={"pairs": 212, "value": "0.31", "samples": ["00" * 16]},
)


def test_an_event_reads_back() -> None:
    assert parse_event(statement(EVENT)) == EVENT


@pytest.mark.parametrize(
    "change",
    [{"kind": ""}, {"actor": ""}, {"time": "yesterday"}, {"subject": ("x", "AB")}, {"step": "2"}],
)
def test_a_malformed_event_cannot_be_made(change: dict[str, Any]) -> None:
    with pytest.raises(Refused):
        statement(replace(EVENT, **change))


def test_members_that_no_page_names_are_refused() -> None:
    document = statement(EVENT)
    with pytest.raises(Refused, match="color"):
        parse_event(document | {"predicate": document["predicate"] | {"color": "red"}})
    with pytest.raises(Refused, match="subject"):
        parse_event(document | {"subject": []})


def test_numbers_that_are_not_integers_cannot_be_signed(signer: LocalSigner) -> None:
    with pytest.raises(TypeError, match="evidence"):
        signer.bundle("rollout", statement(replace(EVENT, evidence={"value": 0.31})))


def test_what_a_receipt_says_beside_its_signed_bundle(tmp_path: Path, signer: LocalSigner) -> None:
    log = Log(tmp_path / "log", load_key(signer.key_file("log"), ORIGIN), Disk())
    bundles = [signer.bundle("rollout", statement(replace(EVENT, step=step))) for step in range(5)]
    log.commit([event_to_append(bundle) for bundle in bundles])
    log.integrate()
    proof = log.proof(2)
    log.close()
    assert proof is not None
    spec = receipt_spec(bundles[2], statement(replace(EVENT, step=2)), 2, proof)
    assert (spec["event"], spec["pack"], spec["point"], spec["logIndex"]) == ("RolledBack", "invoice-controls", "orders", 2)
    evidence = Evidence(signer.root_public(), signer.keys_json(), NOW)
    evidence.receipt(spec)
    assert [step.ok for step in evidence.steps] == [True] * 4
    assert evidence.steps[1].detail == "RolledBack of pack/erp/invoice-controls@1.1.0 at 2026-11-23T10:00:00Z"


# ---- the signer ---------------------------------------------------------------------------------


def test_keys_are_made_once_private_and_named_by_the_root(tmp_path: Path, signer: LocalSigner) -> None:
    folder = tmp_path / "keys"
    for name in ("root", "build", "rollout", "log", "data"):
        assert stat.S_IMODE((folder / f"{name}.key").stat().st_mode) == 0o600
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    establish(folder, ORIGIN, NOW)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    keys = verify_keys(signer.keys_json(), read_root_pub(folder / "root.pub"), NOW)
    assert keys.serial == 1
    for role in ("build", "rollout", "data"):
        envelope = signer.sign(role, "text/plain", b"payload")
        assert verify_envelope(envelope, "text/plain", keys.of(role), "x") == b"payload"
        assert envelope["signatures"][0]["keyid"] == signer.keyid(role)
    with pytest.raises(Bad, match="not a key allowed here"):
        verify_bundle(signer.bundle("build", statement(EVENT)), keys.of("rollout"))


def test_a_rotated_key_signs_and_the_old_one_verifies_the_past(tmp_path: Path, signer: LocalSigner) -> None:
    old = signer.bundle("rollout", statement(EVENT))
    new_id = rotate(tmp_path / "keys", "rollout", ORIGIN, NOW + timedelta(days=1))
    keys = verify_keys(signer.keys_json(), signer.root_public(), NOW, min_serial=2)
    assert signer.keyid("rollout") == new_id
    assert verify_event(old, keys)[0]["predicate"]["kind"] == "RolledBack"
    later = replace(EVENT, time="2026-11-25T00:00:00Z")
    assert verify_event(signer.bundle("rollout", statement(later)), keys)
    assert keys.of("rollout", NOW + timedelta(days=2)) == {new_id: keys.of("rollout")[new_id]}


def test_rotation_needs_the_root_and_changes_nothing_without_it(tmp_path: Path, signer: LocalSigner) -> None:
    os.rename(tmp_path / "keys/root.key", tmp_path / "safe")
    before = signer.keyid("build")
    with pytest.raises(Stalled, match=r"root\.key"):
        rotate(tmp_path / "keys", "build", ORIGIN, NOW)
    assert signer.keyid("build") == before
    establish(tmp_path / "keys", ORIGIN, NOW)


def test_an_aging_keys_file_is_signed_again(tmp_path: Path, signer: LocalSigner) -> None:
    establish(tmp_path / "keys", ORIGIN, NOW + timedelta(days=300))
    keys = verify_keys(signer.keys_json(), signer.root_public(), NOW + timedelta(days=600))
    assert (keys.serial, keys.of("build")) == (2, {signer.keyid("build"): keys.of("build")[signer.keyid("build")]})


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660])
def test_a_key_file_that_others_may_read_is_refused(tmp_path: Path, signer: LocalSigner, mode: int) -> None:
    (tmp_path / "keys/build.key").chmod(mode)
    with pytest.raises(Stalled, match=f"{mode:04o}: must be 0600"):
        signer.sign("build", "t", b"")


@pytest.mark.parametrize(("owner", "mode", "taken"), [(0, 0o440, True), (0, 0o444, False), (0, 0o460, False), (65_533, 0o440, False)])
def test_a_mounted_secret_is_of_root_and_read_by_our_group(
    tmp_path: Path, signer: LocalSigner, monkeypatch: pytest.MonkeyPatch, owner: int, mode: int, taken: bool
) -> None:
    fields = list(os.stat(tmp_path / "keys/build.key"))
    fields[0], fields[4] = 0o100000 | mode, owner
    monkeypatch.setattr(os, "fstat", lambda _: os.stat_result(fields))
    monkeypatch.setattr(os, "geteuid", lambda: 65_532)
    with contextlib.nullcontext() if taken else pytest.raises(Stalled, match=f"{mode:04o}: must be"):
        signer.sign("build", "t", b"")


def test_malformed_key_files_are_refused_without_their_bytes(tmp_path: Path, signer: LocalSigner) -> None:
    secret = "c2VjcmV0"
    (tmp_path / "keys/build.key").write_text(secret)
    with pytest.raises(Stalled) as refusal:
        signer.sign("build", "t", b"")
    assert secret not in str(refusal.value)
    (tmp_path / "keys/root.pub").write_text("AAAA\n")
    with pytest.raises(Corrupt, match=r"root\.pub"):
        signer.root_public()
    with pytest.raises(Stalled, match="one of build"):
        signer.sign("admin", "t", b"")


def test_altered_keys_json_is_not_taken_over(tmp_path: Path, signer: LocalSigner) -> None:
    path = tmp_path / "keys/keys.json"
    path.write_bytes(path.read_bytes().replace(b'"payload":"e', b'"payload":"f'))
    with pytest.raises(Corrupt, match=r"keys\.json"):
        establish(tmp_path / "keys", ORIGIN, NOW)


def test_keys_made_by_many_at_once_fit_together(tmp_path: Path) -> None:
    """`up` and `pack build` on a fresh home: whoever comes second takes the keys of the first."""
    for number in range(6):
        folder = tmp_path / f"keys{number}"
        with ThreadPoolExecutor(6) as pool:
            signers = list(pool.map(lambda _, folder=folder: establish(folder, ORIGIN, NOW), range(6)))  # type: ignore[misc]
        keys = verify_keys(signers[0].keys_json(), signers[0].root_public(), NOW)
        assert keys.serial == 1
        assert all(set(keys.of(role)) == {signers[0].keyid(role)} for role in ("build", "rollout", "log", "data"))
