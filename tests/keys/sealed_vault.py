"""Records of an agent that seals by the key service."""

from __future__ import annotations

import shutil
import ssl
import time
from pathlib import Path

from agent_world import until
from delta_world import Yard
from keys_world import KeyWorld
from privacy_world import BOB, POINT, Vault, plain

from knhk_runtime.http1 import Https
from knhk_runtime.remote_keys import RemoteKeys
from knhk_runtime.sealing import CannotSeal, Sealer, Sealing


def sealed_vault(keys: KeyWorld, guard: str, folder: Path) -> Vault:
    """A vault whose keys are the service's, once it answers. `guard`: token of a guard's pod."""
    made = Vault(Yard(folder))
    made.shut()
    shutil.rmtree(made.folder)
    context = ssl.create_default_context(cafile=keys.ca_file)
    header = {"Authorization": f"Bearer {guard}"}
    made.sealer = Sealer(lambda point: RemoteKeys(Https.of(keys.url, lambda: context), lambda: header, point))
    until(lambda: _seals(made), "the service answers")
    return made


def _seals(vault: Vault) -> bool:
    try:
        vault.sealer.entries(plain(0, BOB, time.time_ns()), Sealing(POINT, vault.privacy))
    except CannotSeal:
        return False
    return True
