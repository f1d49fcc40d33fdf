"""Folders of keys of both kinds: files, and a token of SoftHSM."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent))

from soft_hsm import PIN, TOKEN, SoftHsm


@pytest.fixture(scope="session")
def softhsm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SoftHsm]:
    module = next((path for path in Path("/usr/lib").glob("**/softhsm/libsofthsm2.so")), None)
    program = shutil.which("softhsm2-util")
    if module is None or program is None:
        pytest.skip("no SoftHSM: apt-get install softhsm2")
    base = tmp_path_factory.mktemp("softhsm")
    (base / "tokens").mkdir()
    (base / "conf").write_text(f"directories.tokendir = {base}/tokens\nobjectstore.backend = file\nlog.level = ERROR\n")
    before = os.environ.get("SOFTHSM2_CONF")
    os.environ["SOFTHSM2_CONF"] = str(base / "conf")
    command = [program, "--init-token", "--free", "--label", TOKEN, "--pin", PIN, "--so-pin", "2718-2818"]
    subprocess.run(command, check=True, capture_output=True)
    yield SoftHsm(module)
    os.environ.pop("SOFTHSM2_CONF")
    if before is not None:
        os.environ["SOFTHSM2_CONF"] = before


@pytest.fixture(params=["files", "token", "token with the root"])
def keys(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A folder in which keys can be made."""
    folder = tmp_path / "keys"
    if request.param == "files":
        return folder
    put: Callable[..., Path] = request.getfixturevalue("softhsm").put
    return put(folder, root=request.param == "token with the root")
