"""regorus, the engine of Rego in Rust, built from bench/regorus by cargo: the two functions that it exports, for Python."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cffi

from knhk_hot.toolchain import cache_root

CRATE = Path(__file__).with_name("regorus")
SOURCES = ("Cargo.toml", "Cargo.lock", "lib.rs")
_ffi = cffi.FFI()
_ffi.cdef("void *regorus_open(const char *policy, const char *rule); int32_t regorus_decide(void *machine, const char *json);")


def _library() -> Path:
    """Where the library of this very crate lies once it is built."""
    digest = hashlib.sha256(b"".join((CRATE / name).read_bytes() for name in SOURCES)).hexdigest()[:16]
    return cache_root().parent / "bench" / f"regorus-{digest}.so"


def build_regorus() -> None:
    """The library into the cache, from the crates that Cargo.lock pins (about two minutes once). Raises OSError when cargo is missing or
    the crates cannot be had."""
    if _library().exists():
        return
    if shutil.which("cargo") is None:
        raise OSError("regorus is not built: it needs a recent cargo of Rust (https://rustup.rs)")
    _library().parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=_library().parent) as made:
        cargo = ["cargo", "build", "--release", "--locked", "--quiet", "--manifest-path", str(CRATE / "Cargo.toml"), "--target-dir", made]
        done = subprocess.run(cargo, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise OSError(f"regorus is not built: {done.stderr.strip()[-300:]}")
        (Path(made) / "release" / "libregorus_anchor.so").rename(_library())


def regorus(policy: str, rule: str) -> Callable[[bytes], bool]:
    """The decision of `rule` (as `data.access.allow`) over raw JSON. Raises ImportError when the library was not built, ValueError when
    the policy does not compile; the decision raises ValueError for what is no JSON."""
    if not _library().exists():
        raise ImportError("not built: `make bench` does where cargo is")
    library: Any = _ffi.dlopen(str(_library()))
    machine = library.regorus_open(policy.encode(), rule.encode())
    if machine == _ffi.NULL:
        raise ValueError(f"regorus does not compile {rule}")

    def decide(body: bytes) -> bool:
        answer = library.regorus_decide(machine, body)
        if answer < 0:
            raise ValueError("regorus cannot decide this input")
        return bool(answer)

    return decide


if __name__ == "__main__":
    try:
        build_regorus()
    except OSError as error:
        sys.exit(str(error))
