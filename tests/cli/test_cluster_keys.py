"""`knhk cluster keys`: each process gets its own keys, the root none of them."""

from __future__ import annotations

import base64
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
