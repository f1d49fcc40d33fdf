"""The native parts of container images: the binding and the shim for each architecture, compiled against the images' Python."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from functools import cache
from pathlib import Path

from image_sources import HEADERS, debian
from image_trees import PACKAGES, deb_tree

from knhk.packaging.container import File
from knhk.packaging.materials import Material
from knhk_hot import build, toolchain

PLACE = f"{PACKAGES}/knhk_hot/prebuilt"
_TRIPLES = {"amd64": "x86_64-linux-gnu", "arm64": "aarch64-linux-gnu"}


@cache
def runtime(arch: str) -> Mapping[str, File]:
    """What the agent needs: the cffi extension and Envoy's module. Every image has them; compiled once."""
    with tempfile.TemporaryDirectory(prefix="knhk-image-") as name:
        folder = Path(name)
        _headers(folder, arch)
        python = [f"-I{folder}/usr/include/python3.11", "-idirafter", f"{folder}/usr/include"]
        (folder / "engine").mkdir()
        (folder / "shim").mkdir()
        build.build_native(folder / "engine", arch, python)
        build.build_shim(folder / "shim", arch)
        native = (folder / "engine" / f"_native.{arch}.so").read_bytes()
        shim = (folder / "shim" / "knhk_shim.so").read_bytes()
    manifest = File(json.dumps({"zig": toolchain.artifacts().manifest["zig"]}).encode())
    return {
        f"{PLACE}/engine/_native.{arch}.so": File(native),
        f"{PLACE}/engine/manifest.json": manifest,
        f"{PLACE}/shim/knhk_shim.so": File(shim),
        f"{PLACE}/shim/manifest.json": manifest,
    }


def engine() -> dict[str, File]:
    """What a builder of packs links, for every architecture, with its materials: the same as here, so that packs have the same bytes."""
    made = toolchain.artifacts()
    objects = [(f"engine/engine/{arch}/{path.name}", path) for arch, paths in made.engine.items() for path in paths]
    objects.append(("engine/manifest.json", made.folder / "manifest.json"))
    found = {f"{PLACE}/{name}": File(path.read_bytes()) for name, path in objects}
    return found | {f"{PACKAGES}/knhk_hot/include/{path.name}": File(path.read_bytes()) for path in sorted(made.include.glob("*.h"))}


def materials() -> list[Material]:
    """Compiler and parsers, which no list of packages of the image shows."""
    names = {"ziglang": "ziglang", "yyjson": "yyjson", "astropy": "expat"}
    return [
        Material(names[name], digest, f"pkg:pypi/{name}@{version}", version)
        for name, version, digest in toolchain.materials()
        if name in names
    ]


def _headers(folder: Path, arch: str) -> None:
    for part in debian(HEADERS, arch):
        for path, item in deb_tree(part.data).items():
            if path.startswith("usr/include/") and isinstance(item, File):
                (folder / path).parent.mkdir(parents=True, exist_ok=True)
                (folder / path).write_bytes(item.data)
    if not (folder / "usr/include" / _TRIPLES[arch] / "python3.11" / "pyconfig.h").exists():
        raise build.BuildError(f"{HEADERS[0]} must hold pyconfig.h of {arch}")
