"""`knhk cluster keys`: each process gets its own keys, the root none of them."""

from __future__ import annotations

import base64
import json
import stat
from pathlib import Path
from typing import Any

import pytest
import yaml

from knhk.adapters.signer_local import LocalSigner
from knhk.cli import main
from knhk_verify.signed import verify_keys

ORIGIN = "log.example.com/eu"


@pytest.fixture
def made(tmp_path: Path) -> Path:
    assert main(["cluster", "keys", str(tmp_path / "keys"), "--origin", ORIGIN]) == 0
    return tmp_path / "keys"


def secrets(folder: Path) -> dict[str, dict[str, bytes]]:
    rows: list[Any] = list(yaml.safe_load_all((folder / "secrets.yaml").read_text()))
    return {row["metadata"]["name"]: {name: base64.b64decode(data) for name, data in row["data"].items()} for row in rows}


def test_each_process_gets_its_own_keys_and_nobody_the_root(made: Path) -> None:
    found = secrets(made)
    private = {name: {file for file in files if file.endswith(".key")} for name, files in found.items()}
    assert private == {
        "knhk-keys-rollout": {"rollout.key"},
        "knhk-keys-build": {"build.key", "data.key"},
        "knhk-keys-log": {"log.key"},
        "knhk-keys-subjects": {"subjects.key"},
    }
    assert stat.S_IMODE((made / "secrets.yaml").stat().st_mode) == 0o600
    root = (made / "root.key").read_bytes()
    assert not any(root in data for files in found.values() for data in files.values())


def test_a_mounted_secret_is_a_signer_of_its_role_that_the_root_vouches_for(made: Path, tmp_path: Path) -> None:
    mounted = tmp_path / "mounted"
    mounted.mkdir()
    for name, data in secrets(made)["knhk-keys-rollout"].items():
        (mounted / name).write_bytes(data)
        (mounted / name).chmod(0o600)
    signer = LocalSigner(mounted)
    keys = verify_keys(signer.keys_json(), signer.root_public(), where="keys.json")
    assert signer.keyid("rollout") in keys.of("rollout")
    assert [key.name for key in keys.roles["log"].values()] == [ORIGIN]


def test_repeating_it_changes_nothing(made: Path) -> None:
    before = (made / "secrets.yaml").read_bytes()
    assert main(["cluster", "keys", str(made), "--origin", ORIGIN]) == 0
    assert (made / "secrets.yaml").read_bytes() == before


def test_the_key_of_subjects_is_never_made_anew_for_an_installation_that_may_have_one(
    made: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Another in its place would open none of the keys that the cluster keeps."""
    (made / "subjects.key").unlink()
    capsys.readouterr()
    assert main(["cluster", "keys", str(made), "--origin", ORIGIN]) == 0
    assert not (made / "subjects.key").exists()
    assert set(secrets(made)) == {"knhk-keys-rollout", "knhk-keys-build", "knhk-keys-log"}
    assert "knhk-keys-subjects is left as it is" in capsys.readouterr().out
    (made / "subjects.key").write_bytes(bytes(32))
    assert main(["cluster", "keys", str(made), "--origin", ORIGIN]) == 0
    assert secrets(made)["knhk-keys-subjects"] == {"subjects.key": bytes(32)}


def test_an_origin_with_a_scheme_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["cluster", "keys", str(tmp_path / "keys"), "--origin", "https://log.example.com"]) == 2
    assert "must be a name without a scheme" in capsys.readouterr().err
    assert not (tmp_path / "keys").exists()


@pytest.mark.parametrize("gone", ["rollout.key", "log.key", "keys.json", "root.pub"])
def test_what_is_missing_beside_the_root_is_asked_for_and_never_made_anew_unasked(
    made: Path, capsys: pytest.CaptureFixture[str], gone: str
) -> None:
    """A new role key would end the former without an overlap, a new keys.json begin with an old serial."""
    kept = (made / gone).read_bytes()
    (made / gone).unlink()
    before = {path.name: path.read_bytes() for path in made.iterdir()}
    capsys.readouterr()
    assert main(["cluster", "keys", str(made), "--origin", ORIGIN]) == 1
    (fault,) = json.loads(capsys.readouterr().err)["faults"]
    secret = {"log.key": "knhk-keys-log"}.get(gone, "knhk-keys-rollout")
    data = gone.replace(".", "\\.")
    assert f"kubectl get secret -n knhk-system {secret} -o jsonpath='{{.data.{data}}}' | base64 -d > {made / gone}" in fault["must"]
    assert {path.name: path.read_bytes() for path in made.iterdir()} == before
    (made / gone).write_bytes(kept)
    (made / gone).chmod(0o600)
    assert main(["cluster", "keys", str(made), "--origin", ORIGIN]) == 0
    assert (made / "keys.json").read_bytes() == before.get("keys.json", kept)


def test_an_older_role_key_brought_back_is_refused(made: Path, capsys: pytest.CaptureFixture[str]) -> None:
    old = (made / "build.key").read_bytes()
    assert main(["keys", "rotate", "build", "--folder", str(made)]) == 0
    (made / "build.key").write_bytes(old)
    (made / "build.next.key").unlink(missing_ok=True)
    before = (made / "keys.json").read_bytes()
    assert main(["cluster", "keys", str(made), "--origin", ORIGIN]) == 1
    (fault,) = json.loads(capsys.readouterr().err.splitlines()[-1])["faults"]
    assert (fault["where"], fault["value"]) == (str(made / "build.key"), "is no key that keys.json names as in use")
    assert (made / "keys.json").read_bytes() == before


def test_role_keys_are_made_anew_for_who_says_so(made: Path) -> None:
    signer = LocalSigner(made)
    before = signer.keyid("rollout")
    (made / "rollout.key").unlink()
    assert main(["cluster", "keys", str(made), "--origin", ORIGIN, "--anew"]) == 0
    named = verify_keys(signer.keys_json(), signer.root_public())
    assert named.serial == 2
    assert named.roles["rollout"][before].until is not None
    assert named.roles["rollout"][signer.keyid("rollout")].until is None


def test_authorities_that_sigstore_json_names_come_with_it(made: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = {"rekor": "https://rekor.example", "timestamp": "https://tsa.example", "ca": "ca.pem"}
    (made / "sigstore.json").write_text(json.dumps(said))
    assert main(["cluster", "keys", str(made), "--origin", ORIGIN]) == 1
    assert "must be a file beside it" in capsys.readouterr().err
    (made / "ca.pem").write_bytes(b"authorities")
    assert main(["cluster", "keys", str(made), "--origin", ORIGIN]) == 0
    found = secrets(made)
    assert {name for name, files in found.items() if files.get("ca.pem") == b"authorities"} == {"knhk-keys-rollout", "knhk-keys-build"}
    (made / "sigstore.json").write_text(json.dumps(said | {"ca": "/etc/ssl/ours/ca.pem"}))  # an overlay mounts it
    assert main(["cluster", "keys", str(made), "--origin", ORIGIN]) == 0
    assert "ca.pem" not in secrets(made)["knhk-keys-rollout"]
