"""A token of SoftHSM, and folders of keys that lie in it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from unittest.mock import patch

import pytest

from knhk_runtime.hsm import Token, read_token_file

PIN, TOKEN = "3141-5926-5358", "knhk-tests"
_prefixes = count()


@dataclass(frozen=True)
class SoftHsm:
    """One token of one process: the module reads its configuration once. Tests differ by the prefix of their labels."""

    module: Path

    def put(self, folder: Path, *, root: bool = False, **other: object) -> Path:
        """token.json, of a prefix of its own, and the PIN beside it."""
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        pin = folder / "pin"
        pin.write_text(PIN + "\n")
        pin.chmod(0o600)
        said = {"module": str(self.module), "token": TOKEN, "pin": "pin", "prefix": f"t{next(_prefixes)}/", "root": root}
        (folder / "token.json").write_text(json.dumps(said | other))
        return folder

    @contextmanager
    def away(self, folder: Path) -> Iterator[None]:
        """The token of a folder's token.json, which was used before, ends its session and opens none, as one does whose network is gone."""
        from pkcs11.exceptions import DeviceRemoved

        token = read_token_file(folder / "token.json").open()
        with patch.object(Token, "_token", side_effect=DeviceRemoved("away")):
            token._ask(lambda _: token._forget())
            yield


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
