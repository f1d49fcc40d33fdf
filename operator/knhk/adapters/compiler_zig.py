"""Compiler by `zig cc` (PyPI ziglang): each architecture in a process of its own, results cached by plan and materials."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from knhk.model.arrows import CText, SharedObject
from knhk.model.canonical import canonical, sha256_hex
from knhk.model.faults import Stalled, Waiting
from knhk.model.oci import ARCHES
from knhk.packaging.materials import Material

TIMEOUT_S = 120.0
RETRY_AFTER_S = 30.0
DIGEST_BYTES = 64
START = "import sys, runpy; sys.path[:] = sys.argv.pop(1).split(':'); runpy.run_module('knhk.adapters.link_worker', run_name='__main__')"


class ZigCompiler:
    """knhk.ports.compiler.Compiler. `cache`: folder (made, mode 0700) for finished objects; a damaged entry is linked again."""

    def __init__(self, cache: Path) -> None:
        self._cache = cache

    def compile(self, text: CText) -> tuple[SharedObject, ...]:
        from knhk_hot import toolchain

        toolchain.prepare()
        with ThreadPoolExecutor(len(ARCHES)) as pool:
            made = list(pool.map(lambda arch: self._one(text, arch), ARCHES))
        return tuple(SharedObject(arch, data) for arch, data in zip(ARCHES, made, strict=True))

    def materials(self) -> tuple[Material, ...]:
        from knhk_hot import toolchain

        return tuple(sorted(_material(item) for item in toolchain.materials()))

    def _one(self, text: CText, arch: str) -> bytes:
        path = self._cache / f"{self._key(text, arch)}.so"
        known = _recall(path)
        if known is not None:
            return known
        data = _link(text, arch)
        self._remember(path, data)
        return data

    def _key(self, text: CText, arch: str) -> str:
        tools = [[m.name, m.sha256] for m in self.materials()]
        return sha256_hex(canonical([text.plan_digest, sha256_hex(text.text.encode()), arch, tools]))

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


def _link(text: CText, arch: str) -> bytes:
    asked = json.dumps({"text": text.text, "plan_digest": text.plan_digest, "arch": arch}).encode()
    argv = (sys.executable, "-I", "-c", START, ":".join(os.path.abspath(p) for p in sys.path if p))
    with tempfile.TemporaryDirectory() as folder:
        process = subprocess.Popen(
            argv,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=folder,
            env={},
            start_new_session=True,
        )
        try:
            made, told = process.communicate(asked, TIMEOUT_S)
        except subprocess.TimeoutExpired:
            raise Waiting("CompilerSlow", f"linking for {arch} took more than {TIMEOUT_S:g} s", RETRY_AFTER_S) from None
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.communicate()
    if process.returncode != 0:
        raise Stalled(
            "CompilerFailed",
            f"linking for {arch} ended with {process.returncode}: {told.decode(errors='replace')[-2000:]}",
        )
    return made


def _material(item: Mapping[str, str]) -> Material:
    return Material(**item)
