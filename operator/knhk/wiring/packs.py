"""Which adapters serve the pack and log commands in an embedded home."""

from __future__ import annotations

import hashlib
import os
import platform
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import knhk_gen
from knhk.adapters.compiler_zig import ZigCompiler
from knhk.adapters.prover_process import ProcessProver
from knhk.adapters.registry_layout import LayoutRegistry
from knhk.model.faults import Corrupt, Stalled
from knhk.ports.compiler import Compiler
from knhk.ports.prover import Budget
from knhk.ports.registry import Registry
from knhk.ports.store import Store
from knhk.wiring.home import LOG_ORIGIN, Home, cache
from knhk_runtime.packstore import PackStore
from knhk_verify.signed import Keys

if TYPE_CHECKING:
    from knhk.adapters.signer_roles import RoleSigner

PROOF = Budget(cases=150, seconds=10.0)
_ARCHES = {"x86_64": "amd64", "AMD64": "amd64", "aarch64": "arm64", "arm64": "arm64"}


def host_arch() -> str:
    """The architecture of this machine as OCI names it. Raises Stalled for one that packs are not built for."""
    machine = platform.machine()
    if machine not in _ARCHES:
        raise Stalled(
            "Architecture",
            f"{machine}: packs are built for {', '.join(sorted(set(_ARCHES.values())))}",
        )
    return _ARCHES[machine]


def proof_budget() -> Budget:
    """What the proof of each build may cost: KNHK_PROOF_CASES, KNHK_PROOF_SECONDS. It belongs to who runs the compiler, not to the
    author of a pack. Raises Stalled for what is no such number."""
    return Budget(int(_setting("KNHK_PROOF_CASES", PROOF.cases, 1, 1_000_000)), _setting("KNHK_PROOF_SECONDS", PROOF.seconds, 1, 3600))


def _setting(name: str, default: float, least: int, most: int) -> float:
    text = os.environ.get(name) or str(default)
    number = float(text) if re.fullmatch(r"[0-9]{1,9}(\.[0-9]{1,3})?", text) else -1.0
    if not least <= number <= most:
        raise Stalled("Settings", f"{name}={text}: must be a number from {least} to {most}")
    return number


def cache_folder() -> Path:
    """Where finished objects are kept, for all homes of this user."""
    return cache() / "objects"


def compiler() -> Compiler:
    """The compiler of this machine."""
    return ZigCompiler(cache_folder())


def prover() -> ProcessProver:
    """What proves builds, within the budget of this machine."""
    return ProcessProver((sys.executable, "-P", "-m", "knhk.wiring.prover"), host_arch(), proof_budget())


def generator() -> str:
    """SHA-256 of the compiler's sources: what was built by another is built again."""
    found = hashlib.sha256()
    for path in sorted(Path(knhk_gen.__file__).parent.rglob("*")):
        if path.suffix in (".py", ".tsv"):
            found.update(path.name.encode() + b"\0" + hashlib.sha256(path.read_bytes()).digest())
    return found.hexdigest()


def registry(folder: Path) -> Registry:
    """The registry in a folder."""
    return LayoutRegistry(folder)


def store(folder: Path) -> PackStore:
    """The verifying reader of a registry folder."""
    return PackStore(folder)


def signer(home: Home) -> RoleSigner:
    """The signer of a home; its keys are made on first use."""
    from knhk.wiring.signing import established

    home.prepare()
    return established(home.keys, LOG_ORIGIN, datetime.now(UTC))


def keys(folder: Path) -> Keys:
    """keys.json of a folder, verified against root.pub beside it. Raises Stalled when missing, Corrupt when altered."""
    from knhk.adapters.signer_local import read_root_pub

    return keys_under(folder, read_root_pub(folder / "root.pub"))


def keys_under(folder: Path, root_public: bytes) -> Keys:
    """keys.json of a folder, verified against a pinned root. Raises Stalled when missing, Corrupt when altered."""
    from knhk_verify.errors import Bad
    from knhk_verify.signed import verify_keys

    path = folder / "keys.json"
    try:
        return verify_keys(path.read_bytes(), root_public, where=str(path))
    except FileNotFoundError:
        raise Stalled("Keys", f"{path}: must be there; run: knhk up, or knhk pack build") from None
    except Bad as error:
        raise Corrupt(error.where, error.what) from error


@contextmanager
def resources(home: Home) -> Iterator[Store]:
    """The resources of a home. Raises Stalled when there is no home yet."""
    from knhk.adapters.store_sqlite import SqliteStore
    from knhk.adapters.system import SystemClock, SystemRandom

    if not home.store.exists():
        raise Stalled("NoHome", f"{home.store}: no resources yet; run: knhk up, or choose another --home")
    opened = SqliteStore(home.store, SystemClock(), SystemRandom())
    try:
        yield opened
    finally:
        opened.close()
