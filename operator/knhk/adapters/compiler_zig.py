"""Compiler by `zig cc` (PyPI ziglang), one process for each architecture; results cached by plan, text and materials.

knhk_hot.toolchain runs zig with an empty environment, rlimits and a time limit; this adapter adds the cache and the port's errors.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from knhk.model.arrows import CText, SharedObject
from knhk.model.canonical import canonical, sha256_hex
from knhk.model.faults import Stalled
from knhk.model.oci import ARCHES
from knhk.packaging.materials import Material

DIGEST_BYTES = 64
PYPI = frozenset({"ziglang", "yyjson", "astropy"})


class ZigCompiler:
    """knhk.ports.compiler.Compiler. `cache`: folder (made, mode 0700) for finished objects; a damaged entry is linked again."""

    def __init__(self, cache: Path) -> None:
        self._cache = cache

    def compile(self, text: CText, arches: Sequence[str] = ARCHES) -> tuple[SharedObject, ...]:
        tools = [[m.name, m.sha256] for m in self.materials()]
        key = sha256_hex(canonical([text.plan_digest, sha256_hex(text.text.encode()), tools]))
        with ThreadPoolExecutor(len(arches)) as pool:
            made = list(pool.map(lambda arch: self._one(text, arch, self._cache / f"{key}-{arch}.so"), arches))
        return tuple(SharedObject(arch, data) for arch, data in zip(arches, made, strict=True))

    def materials(self) -> tuple[Material, ...]:
        from knhk_hot import toolchain

        with _translated():
            found = toolchain.materials()
        return tuple(sorted(Material(name, sha256, _uri(name, version), version) for name, version, sha256 in found))

    def _one(self, text: CText, arch: str, path: Path) -> bytes:
        from knhk_hot import toolchain

        known = _recall(path)
        if known is not None:
            return known
        with _translated():
            data = toolchain.link_pack(text, arch)
        self._remember(path, data)
        return data

    def _remember(self, path: Path, data: bytes) -> None:
        self._cache.mkdir(mode=0o700, parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=self._cache)
        with os.fdopen(handle, "wb") as file:
            file.write(sha256_hex(data).encode() + data)
        os.replace(temporary, path)


def _recall(path: Path) -> bytes | None:
    """The cached object, or None when there is none or its digest does not fit."""
    try:
        stored = path.read_bytes()
    except FileNotFoundError:
        return None
    data = stored[DIGEST_BYTES:]
    return data if sha256_hex(data).encode() == stored[:DIGEST_BYTES] else None


@contextmanager
def _translated() -> Iterator[None]:
    """The toolchain's errors as the port's."""
    from knhk_hot import toolchain

    try:
        yield
    except toolchain.NotBuilt as error:
        raise Stalled("NotBuilt", str(error)) from error
    except toolchain.LinkError as error:
        raise Stalled("CompilerFailed", str(error)[-2000:]) from error


def _uri(name: str, version: str) -> str:
    return f"pkg:pypi/{name}@{version}" if name in PYPI else f"knhk:{name}"
