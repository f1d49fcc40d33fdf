"""A small pack, a compiler that follows the ABI without the engine, and a signer with keys made for the test."""

from __future__ import annotations

import subprocess
import sys
from base64 import b64encode
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from knhk.model.arrows import CText, GuardPlan, PackSources, SharedObject, Source
from knhk.model.canonical import canonical, sha256_hex
from knhk.model.oci import ARCHES
from knhk.packaging.materials import Material
from knhk_verify.signed import Key, Keys, keyid, pae

sys.path[:0] = [str(Path(__file__).resolve().parent), str(Path(__file__).resolve().parents[1] / "registry")]
HEADER = Path(__file__).parents[2] / "hot_c" / "include"
TARGETS = {"amd64": "x86_64-linux-gnu", "arm64": "aarch64-linux-gnu"}


@pytest.fixture(scope="session")
def plan() -> GuardPlan:
    guard = {
        "id": "payload",
        "kind": "payload",
        "class": "R1",
        "why": "",
        "source": "shapes:1",
        "shape": "",
        "component": "",
        "path": "",
    }
    pack = {"namespace": "erp", "name": "invoices", "version": "1.0.0"}
    return GuardPlan(
        {
            "version": 1,
            "tool": "knhk_gen test",
            "pack": pack,
            "guards": [guard],
            "routes": {"orders": None},
        }
    )


@pytest.fixture(scope="session")
def sources() -> PackSources:
    shapes = Source("shapes", "shapes", "# shapes\n", "shapes")
    return PackSources("erp", "invoices", "1.0.0", (shapes,), {"orders": None})


@pytest.fixture(scope="session")
def objects(plan: GuardPlan, tmp_path_factory: pytest.TempPathFactory) -> tuple[SharedObject, ...]:
    """Shared objects that state ABI and plan as knhk_pack.h says, by the real compiler, for both architectures."""
    folder = tmp_path_factory.mktemp("objects")
    digest = ",".join(f"0x{plan.digest[i : i + 2]}" for i in range(0, 64, 2))
    text = f"""#define KNHK_BUILDING_PACK
#include <knhk_pack.h>
const knhk_pack knhk_pack_v1 = {{.abi = KNHK_ABI_VERSION, .nguards = 1, .name = "erp/invoices", .plan_sha256 = {{{digest}}}}};
"""
    (folder / "pack.c").write_text(text)
    made = []
    for arch, target in TARGETS.items():
        out = folder / f"{arch}.so"
        argv = [
            sys.executable,
            "-m",
            "ziglang",
            "cc",
            "-target",
            target,
            "-shared",
            "-fPIC",
            "-nostdlib",
            f"-I{HEADER}",
        ]
        subprocess.run([*argv, "-o", str(out), str(folder / "pack.c")], check=True, capture_output=True)
        made.append(SharedObject(arch, out.read_bytes()))
    return tuple(made)


class Signer:
    """Role-bound Ed25519 keys from fixed seeds."""

    def __init__(self, seed: int = 1) -> None:
        self._keys = {role: Ed25519PrivateKey.from_private_bytes(bytes([seed + i]) * 32) for i, role in enumerate(("build", "data"))}

    def public(self, role: str) -> bytes:
        return self._keys[role].public_key().public_bytes_raw()

    def keyid(self, role: str) -> str:
        return keyid(self.public(role))

    def bundle(self, role: str, statement: Mapping[str, Any]) -> bytes:
        payload, kind = canonical(statement), "application/vnd.in-toto+json"
        signature = self._keys[role].sign(pae(kind, payload))
        return canonical(
            {
                "mediaType": "application/vnd.dev.sigstore.bundle.v0.3+json",
                "verificationMaterial": {
                    "publicKey": {"hint": self.keyid(role)},
                    "tlogEntries": [],
                },
                "dsseEnvelope": {
                    "payload": b64encode(payload).decode(),
                    "payloadType": kind,
                    "signatures": [{"keyid": self.keyid(role), "sig": b64encode(signature).decode()}],
                },
            },
        )

    def keys(self) -> Keys:
        roles = {role: {self.keyid(role): Key(self.public(role))} for role in self._keys}
        return Keys(1, datetime(2100, 1, 1, tzinfo=UTC), roles)


class Compiler:
    """Gives the objects of the fixture for their plan; `tools` are what it says it is made of."""

    def __init__(self, objects: tuple[SharedObject, ...], tools: Mapping[str, bytes]) -> None:
        self._objects = objects
        self.tools = dict(tools)

    def compile(self, text: CText, arches: Sequence[str] = ARCHES) -> tuple[SharedObject, ...]:
        return self._objects

    def materials(self) -> tuple[Material, ...]:
        return tuple(Material(name, sha256_hex(data), f"knhk:{name}", "1") for name, data in sorted(self.tools.items()))


@pytest.fixture
def signer() -> Signer:
    return Signer()


@pytest.fixture
def stranger() -> Signer:
    """Somebody whose keys are in no keys.json."""
    return Signer(seed=100)


@pytest.fixture
def compiler(objects: tuple[SharedObject, ...]) -> Compiler:
    return Compiler(objects, {"ziglang": b"zig", "engine/decide.c": b"int x;", "yyjson": b"sdist"})
