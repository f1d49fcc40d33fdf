"""Every signer keeps the promises of its port, wherever its keys lie; and what is peculiar to those in a token."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import yaml
from sequencing import sequencer

from knhk.adapters.key_secrets import write_secrets
from knhk.adapters.signer_roles import rotate
from knhk.cli import main
from knhk.lockchain import PolicyEvent, statement
from knhk.model.faults import Stalled, Waiting
from knhk.wiring.signing import established, keys_in, signer_in
from knhk_runtime.hsm import read_token_file
from knhk_runtime.sequencer.__main__ import load_key
from knhk_verify.errors import Bad
from knhk_verify.evidence import Evidence
from knhk_verify.note import open_checkpoint, parse_vkey
from knhk_verify.signed import ROLES, keyid, verify_bundle, verify_envelope, verify_event, verify_keys
from soft_hsm import PIN, TOKEN, SoftHsm

ORIGIN = "knhk.dev/test"
NOW = datetime(2026, 11, 23, tzinfo=UTC)


def event(at: str) -> PolicyEvent:
    return PolicyEvent("Promoted", ("pack/erp/orders@1.0.0", "ab" * 32), "control-plane", at, point="erp/orders")


# ---- the port -----------------------------------------------------------------------------------


def test_each_role_signs_as_keys_json_says_and_for_no_other(keys: Path) -> None:
    signer = established(keys, ORIGIN, NOW)
    named = verify_keys(signer.keys_json(), signer.root_public(), NOW)
    assert (named.serial, signer.log_origin(), parse_vkey(signer.vkey(ORIGIN)).public) == (1, ORIGIN, signer.public("log"))
    for role in ROLES:
        envelope = signer.sign(role, "text/plain", b"payload")
        assert verify_envelope(envelope, "text/plain", named.of(role, NOW), "x") == b"payload"
        assert envelope["signatures"][0]["keyid"] == signer.keyid(role) == keyid(signer.public(role))
    bundle = signer.bundle("build", statement(event("2026-11-23T10:00:00Z")))
    assert verify_bundle(bundle, named.of("build"))["subject"][0]["name"] == "pack/erp/orders@1.0.0"
    with pytest.raises(Bad, match="not a key allowed here"):
        verify_bundle(bundle, named.of("rollout"))
    for role in ("admin", "root", ""):
        with pytest.raises(Stalled, match="one of build"):
            signer.sign(role, "t", b"")


def test_making_keys_again_changes_nothing(keys: Path) -> None:
    ids = {role: established(keys, ORIGIN, NOW).keyid(role) for role in ROLES}
    before = {path.name: path.read_bytes() for path in keys.iterdir()}
    again = established(keys, ORIGIN, NOW)
    assert {path.name: path.read_bytes() for path in keys.iterdir()} == before
    assert {role: signer_in(keys).keyid(role) for role in ROLES} == ids == {role: again.keyid(role) for role in ROLES}


def test_a_new_key_signs_and_the_old_one_verifies_the_past_only(keys: Path) -> None:
    signer = established(keys, ORIGIN, NOW)
    old, old_id = signer.bundle("rollout", statement(event("2026-11-23T10:00:00Z"))), signer.keyid("rollout")
    new_id = rotate(keys, keys_in(keys), "rollout", ORIGIN, NOW + timedelta(days=1)).new
    named = verify_keys(signer.keys_json(), signer.root_public(), NOW, min_serial=2)
    assert signer.keyid("rollout") == signer_in(keys).keyid("rollout") == new_id != old_id
    assert verify_event(old, named)[1] == old_id
    assert verify_event(signer.bundle("rollout", statement(event("2026-11-25T00:00:00Z"))), named)[1] == new_id
    assert set(named.of("rollout", NOW + timedelta(days=2))) == {new_id}


def test_any_thread_signs(keys: Path) -> None:
    signer = established(keys, ORIGIN, NOW)
    named = verify_keys(signer.keys_json(), signer.root_public(), NOW)
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda n: (n, signer.sign(ROLES[n % 4], "text/plain", b"%d" % n)), range(64)))
    for n, envelope in made:
        assert verify_envelope(envelope, "text/plain", named.of(ROLES[n % 4]), "x") == b"%d" % n


def test_the_sequencer_signs_checkpoints_with_it(keys: Path, tmp_path: Path) -> None:
    """As a process of its own, with nothing but the key of role log."""
    signer = established(keys, ORIGIN, datetime.now(UTC))
    with sequencer(tmp_path / "log", tmp_path / "s.sock", ORIGIN, signer.key_file("log")) as log:
        note = log.checkpoint()
    assert open_checkpoint(note, parse_vkey(signer.vkey(ORIGIN))).size == 0
    evidence = Evidence(signer.root_public(), signer.keys_json(), datetime.now(UTC))
    evidence.add(note.encode(), "checkpoint")
    assert [step.ok for step in evidence.steps] == [True, True]


# ---- tokens -------------------------------------------------------------------------------------


def test_no_private_key_leaves_the_token(softhsm: SoftHsm, tmp_path: Path) -> None:
    """None in a file; and the token gives none away, nor can it be told to."""
    import pkcs11
    from pkcs11 import Attribute, ObjectClass

    folder = softhsm.put(tmp_path / "keys", root=True)
    established(folder, ORIGIN, NOW)
    assert {path.name for path in folder.iterdir()} == {"token.json", "pin", "keys.json", "root.pub"}
    prefix = json.loads((folder / "token.json").read_text())["prefix"]

    def read(session: pkcs11.Session) -> int:
        keys = [
            key for key in session.get_objects({Attribute.CLASS: ObjectClass.PRIVATE_KEY}) if str(key[Attribute.LABEL]).startswith(prefix)
        ]
        for key in keys:
            assert (key[Attribute.SENSITIVE], key[Attribute.ALWAYS_SENSITIVE], key[Attribute.LOCAL]) == (True, True, True)
            assert (key[Attribute.EXTRACTABLE], key[Attribute.NEVER_EXTRACTABLE]) == (False, True)
            with pytest.raises(pkcs11.exceptions.AttributeSensitive):
                _ = key[Attribute.VALUE]
        return len(keys)

    assert read_token_file(folder / "token.json").open()._ask(read) == 5


def test_the_root_may_be_taken_away_from_a_token(softhsm: SoftHsm, tmp_path: Path) -> None:
    folder = softhsm.put(tmp_path / "keys")
    signer = established(folder, ORIGIN, NOW)
    (folder / "root.key").rename(tmp_path / "safe")
    before = signer.keyid("build")
    with pytest.raises(Stalled, match=r"root\.key"):
        rotate(folder, keys_in(folder), "build", ORIGIN, NOW)
    assert signer.keyid("build") == before


def test_a_wrong_pin_is_told_without_it_and_a_right_one_is_taken(softhsm: SoftHsm, tmp_path: Path) -> None:
    """In a process of its own, for a token is logged into once for each process."""
    folder = softhsm.put(tmp_path / "keys")
    probe = f"""if 1:
        from pathlib import Path
        from knhk.model.faults import Stalled
        from knhk.wiring.signing import keys_in
        keys, pin = keys_in(Path({str(folder)!r})), Path({str(folder / "pin")!r})
        def has():
            try: return keys.has("build")
            except Stalled as error: return str(error)
        pin.write_text("not-the-pin")
        first, second = has(), has()
        pin.write_text({PIN!r})
        print(first, second, has(), sep="\\n")
    """
    said = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True)
    first, second, third = said.stdout.splitlines()
    assert "is not the PIN of token" in first
    assert (second, third) == (first, "False")
    assert "not-the-pin" not in said.stdout + said.stderr


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"module": "/nowhere/module.so"}, "must be the PKCS#11 module"),
        ({"token": "another"}, "must have one token labelled 'another'"),
        ({"pin": "absent"}, "No such file"),
        ({"color": "red"}, "color"),
        ({"token": 7}, "of type str"),
        ({"roles": "build"}, "roles: must be there, of type list"),
        ({"roles": ["build", "root"]}, r"roles: \['build', 'root'\]: must name each role that the token holds once, of build, rollout"),
        ({"roles": ["build", "build"]}, "must name each role that the token holds once"),
    ],
)
def test_what_a_person_must_mend_is_said(softhsm: SoftHsm, tmp_path: Path, change: dict[str, object], says: str) -> None:
    folder = softhsm.put(tmp_path / "keys", **change)
    with pytest.raises(Stalled, match=says):
        keys_in(folder).has("build")


def test_a_pin_that_others_may_read_is_refused(softhsm: SoftHsm, tmp_path: Path) -> None:
    folder = softhsm.put(tmp_path / "keys", prefix="open/")
    (folder / "pin").chmod(0o644)
    (folder / "token.json").write_text(json.dumps(json.loads((folder / "token.json").read_text()) | {"prefix": "other/"}))
    with pytest.raises(Stalled, match="0644: must be 0600"):
        keys_in(folder).has("build")


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # python-pkcs11 ends a search of the session that is gone
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # python-pkcs11 ends a search of the session that is gone
def test_a_session_that_the_token_ended_is_opened_again(softhsm: SoftHsm, tmp_path: Path) -> None:
    folder = softhsm.put(tmp_path / "keys")
    signer = established(folder, ORIGIN, NOW)
    token = read_token_file(folder / "token.json").open()
    token._ask(lambda session: session.close())
    named = verify_keys(signer.keys_json(), signer.root_public(), NOW)
    assert verify_envelope(signer.sign("data", "text/plain", b"x"), "text/plain", named.of("data"), "x") == b"x"


def test_a_key_that_the_token_has_lost_is_missed(softhsm: SoftHsm, tmp_path: Path) -> None:
    """keys.json names keys of another token."""
    signer = established(softhsm.put(tmp_path / "keys"), ORIGIN, NOW)
    kept = (tmp_path / "keys/keys.json").read_bytes()
    softhsm.put(tmp_path / "keys")
    assert (tmp_path / "keys/keys.json").read_bytes() == kept
    with pytest.raises(Stalled, match="holds of role build none"):
        signer_in(tmp_path / "keys").sign("build", "t", b"")
    assert signer.keyid("build")


def test_secrets_carry_the_way_to_the_token_and_no_key(softhsm: SoftHsm, tmp_path: Path) -> None:
    folder = softhsm.put(tmp_path / "keys", root=True)
    established(folder, ORIGIN, NOW)
    found = list(yaml.safe_load_all(write_secrets(folder, "knhk-system").read_text()))
    names = {f"knhk-keys-{who}" for who in ("rollout", "build", "log", "subjects")}
    assert {secret["metadata"]["name"] for secret in found} == names
    for secret in found:
        signs = {"keys.json", "root.pub"} if secret["metadata"]["name"] != "knhk-keys-subjects" else set()
        assert set(secret["data"]) == {"token.json", "pin"} | signs
        assert json.loads(base64.b64decode(secret["data"]["token.json"]))["token"] == TOKEN


# ---- some roles in a token, the others in files ---------------------------------------------------


def test_what_the_token_does_not_hold_is_a_file_and_signs_while_the_token_is_away(softhsm: SoftHsm, tmp_path: Path) -> None:
    folder = softhsm.put(tmp_path / "keys", root=True, roles=["build", "log"])
    signer = established(folder, ORIGIN, NOW)
    public = {"token.json", "pin", "keys.json", "root.pub"}
    assert {path.name for path in folder.iterdir()} == public | {"rollout.key", "data.key"}
    named = verify_keys(signer.keys_json(), signer.root_public(), NOW)
    with softhsm.away(folder):
        for role in ("rollout", "data"):
            assert verify_envelope(signer_in(folder).sign(role, "text/plain", b"x"), "text/plain", named.of(role, NOW), "x") == b"x"
        with pytest.raises(Waiting, match=r"token 'knhk-tests' of .*DeviceRemoved"):
            signer.sign("build", "text/plain", b"x")
        with pytest.raises(Waiting, match="DeviceRemoved"):
            rotate(folder, keys_in(folder), "rollout", ORIGIN, NOW)
        assert verify_keys(signer.keys_json(), signer.root_public(), NOW).serial == 1
    assert verify_envelope(signer.sign("build", "text/plain", b"x"), "text/plain", named.of("build", NOW), "x") == b"x"


def test_a_log_is_told_the_key_that_it_signs_with(softhsm: SoftHsm, tmp_path: Path) -> None:
    folder = softhsm.put(tmp_path / "keys", roles=["build"])
    signer = established(folder, ORIGIN, NOW)
    assert load_key(signer.key_file("log"), ORIGIN).verifier.public == signer.public("log")
    with pytest.raises(Stalled, match=r"token.json roles: the token does not hold role log: must be the file of its key, .*log\.key"):
        load_key(folder / "token.json", ORIGIN)


def test_each_process_has_its_keys_and_who_has_none_in_the_token_no_way_to_it(softhsm: SoftHsm, tmp_path: Path) -> None:
    """The PIN is that of all keys of a token: with the rollout role at hand the control plane has none."""
    folder = softhsm.put(tmp_path / "keys", root=True, roles=["build", "log"])
    named = verify_keys(established(folder, ORIGIN, NOW).keys_json(), signer_in(folder).root_public(), NOW)
    (folder / "rollout.sigstore.key").write_bytes(b"a key")
    (folder / "build.sigstore.key").write_bytes(b"one from before the token")
    held = {secret["metadata"]["name"]: secret["data"] for secret in yaml.safe_load_all(write_secrets(folder, "knhk-system").read_text())}
    way, public = {"token.json", "pin"}, {"keys.json", "root.pub"}
    assert {name: set(files) for name, files in held.items()} == {
        "knhk-keys-rollout": {"rollout.key", "rollout.sigstore.key"} | public,
        "knhk-keys-build": {"data.key"} | way | public,
        "knhk-keys-log": way | public,
        "knhk-keys-subjects": way,
    }
    for name, roles in (("knhk-keys-rollout", ("rollout",)), ("knhk-keys-build", ("build", "data")), ("knhk-keys-log", ("log",))):
        pod = tmp_path / name
        pod.mkdir()
        for file, data in held[name].items():
            (pod / file).write_bytes(base64.b64decode(data))
            (pod / file).chmod(0o600)
        for role in roles:
            assert verify_envelope(signer_in(pod).sign(role, "t", b"x"), "t", named.of(role, NOW), "x") == b"x"


def test_a_file_beside_a_token_is_never_made_anew_unasked(softhsm: SoftHsm, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`knhk cluster keys` says which is missing; with --anew it makes that one, and the token's stay."""
    folder = softhsm.put(tmp_path / "keys", roles=["build", "log"])
    command = ["cluster", "keys", str(folder), "--origin", ORIGIN]
    assert main(command) == 0
    before = {role: signer_in(folder).keyid(role) for role in ROLES}
    (folder / "rollout.key").unlink()
    capsys.readouterr()
    assert main(command) == 1
    (fault,) = json.loads(capsys.readouterr().err)["faults"]
    assert (fault["where"], fault["value"]) == (str(folder / "rollout.key"), "is missing")
    assert "knhk-keys-rollout" in fault["must"]
    assert not (folder / "rollout.key").exists()
    assert main([*command, "--anew"]) == 0
    assert {role for role in ROLES if signer_in(folder).keyid(role) != before[role]} == {"rollout"}
