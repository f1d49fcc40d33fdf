"""No byte of an image runs before its signature is checked: a shared object that leaves a mark when it is loaded, in images that are not
signed, wrongly signed or altered. The agent's own steps, with its own opener of packs."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from agent_process import GUARDS
from agent_world import HEADERS, ORIGIN, Packs, World, plan_of

from knhk.adapters.registry_layout import LayoutRegistry
from knhk.adapters.signer_local import LocalSigner, establish
from knhk.model.arrows import SharedObject
from knhk.model.oci import SIGNATURE_PREDICATE, Artifact
from knhk.packaging import signed
from knhk.packaging.image import pack_image
from knhk_hot.pack import Pack, PackError
from knhk_runtime.exchange.loaded import LoadedPacks
from knhk_runtime.exchange.watch import Exchange, Folders
from knhk_runtime.packstore import PackStore
from knhk_runtime.wiring import hot_library, root_key

PLAN = plan_of("1.0.0")


class NoTier:
    """The cold tier, which this test does not reach."""

    def load(self, digest: str, plan: Mapping[str, Any]) -> None: ...

    def forget(self, digest: str) -> None: ...


PLACE = "@" * 200  # of the path, in the compiled object


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """States ABI, guards and plan as a pack does, and makes a file as soon as it is loaded."""
    folder = tmp_path_factory.mktemp("marks")
    digest = ",".join(f"0x{PLAN.digest[i : i + 2]}" for i in range(0, 64, 2))
    text = f"""#define KNHK_BUILDING_PACK
#include <fcntl.h>
#include <knhk_pack.h>
KNHK_EXPORT const knhk_pack knhk_pack_v1 = {{.abi = KNHK_ABI_VERSION, .nguards = {len(GUARDS)}, .name = "x", .plan_sha256 = {{{digest}}}}};
__attribute__((constructor)) static void loaded(void) {{ open("{PLACE}", O_CREAT | O_WRONLY, 0600); }}
"""
    (folder / "pack.c").write_text(text)
    compiler = [sys.executable, "-m", "ziglang", "cc", "-target", "x86_64-linux-gnu", "-shared", "-fPIC", f"-I{HEADERS}"]
    subprocess.run([*compiler, "-o", str(folder / "pack.so"), str(folder / "pack.c")], check=True, capture_output=True)
    return (folder / "pack.so").read_bytes()


@pytest.fixture
def mark(tmp_path: Path) -> Path:
    return tmp_path / "loaded"


@pytest.fixture
def shared(compiled: bytes, mark: Path) -> SharedObject:
    """Makes the file `mark`."""
    assert compiled.count(PLACE.encode()) == 1
    return SharedObject("amd64", compiled.replace(PLACE.encode(), str(mark).encode().ljust(len(PLACE), b"\0")))


def attached(signer: LocalSigner, role: str, image: Artifact, of: Artifact | None = None) -> Artifact:
    statement = signed.signature_statement(of or image, "pack/erp/invoices@1.0.0")
    return signed.attached(image, signer.bundle(role, statement), SIGNATURE_PREDICATE)


def alter(media_type: str) -> Callable[[Path, Artifact], None]:
    """One bit in the middle of the blob of this type."""

    def change(registry: Path, image: Artifact) -> None:
        blob = next(blob for blob in (image.root, *image.blobs) if blob.media_type == media_type)
        path = registry / "blobs" / "sha256" / blob.digest[7:]
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.chmod(0o600)
        path.write_bytes(data)

    return change


def leave(registry: Path, image: Artifact) -> None: ...


OTHER = pack_image(plan_of("1.1.0"), [])
SIGNED: dict[str, tuple[str | None, Artifact | None, Callable[[Path, Artifact], None]]] = {
    "not signed": (None, None, leave),
    "by the key of data": ("data", None, leave),
    "by the key of rollouts": ("rollout", None, leave),
    "of another image": ("build", OTHER, leave),
    "object altered": ("build", None, alter("application/vnd.knhk.pack.so.v1")),
    "plan altered": ("build", None, alter("application/vnd.knhk.pack.plan.v1+json")),
    "manifest altered": ("build", None, alter("application/vnd.oci.image.manifest.v1+json")),
    "index altered": ("build", None, alter("application/vnd.oci.image.index.v1+json")),
}


Spoil = Callable[[Path, Artifact], None]


def exchange(tmp_path: Path, image: Artifact, beside: list[Artifact], signer: LocalSigner, spoil: Spoil) -> Exchange:
    """The agent's exchange, of which a document by the right key asks for the image."""
    LayoutRegistry(tmp_path / "registry").publish((image, *beside), "erp/invoices:1.0.0")
    world = World.make(tmp_path / "world", Packs(tmp_path / "registry", signer, tmp_path / "keys", {"1.0.0": image.digest}, ""))
    spoil(world.registry, image)
    world.desire(world.sign(world.rollout()))
    loaded = LoadedPacks(NoTier(), hot_library().open_pack)  # type: ignore[arg-type]
    store, folders = PackStore(world.registry), Folders(world.point)
    root = root_key(world.root_pub)
    return Exchange(folders, root, store, loaded, "amd64", world.rings, Path("/module.so"), lambda: (0, 0), lambda *_: ())


@pytest.mark.parametrize("case", SIGNED)
def test_an_image_that_the_build_key_did_not_sign_never_runs(case: str, shared: SharedObject, mark: Path, tmp_path: Path) -> None:
    role, of, spoil = SIGNED[case]
    signer, image = establish(tmp_path / "keys", ORIGIN, datetime.now(UTC)), pack_image(PLAN, [shared])
    agent = exchange(tmp_path, image, [attached(signer, role, image, of)] if role else [], signer, spoil)
    assert not agent.look(0)
    assert not agent.look(100)
    assert agent.refused
    assert not mark.exists()
    assert not list((tmp_path / "world" / "point" / "private").iterdir())


def test_the_mark_is_left_by_an_image_that_the_build_key_signed(shared: SharedObject, mark: Path, tmp_path: Path) -> None:
    """So its absence says that nothing was loaded. (The object holds no kernels: it is refused after that.)"""
    signer, image = establish(tmp_path / "keys", ORIGIN, datetime.now(UTC)), pack_image(PLAN, [shared])
    agent = exchange(tmp_path, image, [attached(signer, "build", image)], signer, leave)
    agent.look(0)
    assert mark.exists()


def test_a_file_with_other_bytes_than_its_digest_is_not_loaded(shared: SharedObject, mark: Path, tmp_path: Path) -> None:
    (tmp_path / "pack.so").write_bytes(shared.data)
    with pytest.raises(PackError, match="SHA-256"):
        Pack.open(tmp_path / "pack.so", "00" * 32)
    assert not mark.exists()
