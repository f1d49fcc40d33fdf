"""A token of SoftHSM, and folders of keys that lie in it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from itertools import count
from pathlib import Path

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
