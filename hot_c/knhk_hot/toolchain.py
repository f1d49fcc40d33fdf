"""Where native output lies, and the linker of packs. Standard library only; building is in knhk_hot.build.

Native output lives outside the repository, in ``$KNHK_CACHE`` or ``~/.cache/knhk``, under ``native/<component>-<digest>``: the digest
covers sources, flags and tool versions. A pointer file named by the sources alone says which folder serves them.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from knhk.model.arrows import CText

HERE = Path(__file__).resolve().parent
SOURCE = HERE if (HERE / "include").is_dir() else HERE.parent  # in a wheel C lies inside the package
PREBUILT = HERE / "prebuilt"  # in a container image the native parts lie beside the binding
TARGETS = {"amd64": "x86_64-linux-gnu.2.28", "arm64": "aarch64-linux-gnu.2.28"}
HOST = "arm64" if platform.machine() in {"aarch64", "arm64"} else "amd64"
ENGINE = (
    "observe", "terms", "bundle", "delta", "items", "functions", "plain", "json", "xml", "ntriples", "extract", "eval", "pack", "report",
)  # fmt: skip
PER_ISA = ("eval", "plain")  # of these, compiled once more for each instruction set
ISAS: dict[str, dict[str, tuple[str, ...]]] = {  # beside plain C: flags of the instruction set, and the macro that picks it
    "amd64": {
        "avx2": ("-mavx2", "-mpopcnt", "-mbmi"),
        "avx512": ("-mavx512f", "-mavx512dq", "-mavx512bw", "-mavx512vl", "-mavx512cd", "-mavx2", "-mpopcnt", "-mbmi", "-mbmi2"),
    },
    "arm64": {"neon": ("-DKNHK_NEON",)},
}
BASELINE = {"amd64": ("-march=x86_64_v2",), "arm64": ()}  # what the engine may use without asking the processor
COMPILE = (
    "-std=c11", "-O2", "-fPIC", "-fvisibility=hidden", "-ffp-contract=off", "-fno-stack-protector",
    "-ffunction-sections", "-fdata-sections", "-fno-sanitize=all", "-g0", "-Wall", "-Wextra",
)  # fmt: skip
LINK = (
    "-shared", "-nostdlib", "-Wl,-Bsymbolic", "-Wl,--gc-sections", "-Wl,--build-id=none", "-Wl,-z,noexecstack",
    "-Wl,-z,relro", "-Wl,-z,now", "-s",
)  # fmt: skip
LINK_SECONDS = 120
LINK_MEMORY_KIB = 16 * 1024 * 1024  # address space, of which zig reserves much and uses little
LINK_FILE_BLOCKS = 256 * 1024 * 2  # of 512 bytes: the largest file it may write


class NotBuilt(RuntimeError):
    """Native parts are missing; the message says what to run."""


class LinkError(RuntimeError):
    """The compiler refused generated C, or took too long. Holds its output."""


@dataclass(frozen=True)
class Artifacts:
    """Paths of native output. `engine` and `yyjson` are objects; `shim` is None when hot_c/envoy has no C."""

    folder: Path
    include: Path
    engine: dict[str, tuple[Path, ...]]
    yyjson: Path
    yyjson_include: Path
    expat_include: Path
    native: Path
    kernels: Path
    zig: tuple[str, ...]
    manifest: dict[str, Any]
    shim: Path | None


def cache_root() -> Path:
    """Folder of native output, outside the repository."""
    base = os.environ.get("KNHK_CACHE")
    return (Path(base) if base else Path.home() / ".cache" / "knhk") / "native"


@cache
def zig() -> Path:
    """The zig executable of the PyPI package ziglang."""
    spec = importlib.util.find_spec("ziglang")
    if spec is None or not spec.submodule_search_locations:
        raise NotBuilt("the Python package ziglang is missing: run `make setup`")
    return Path(next(iter(spec.submodule_search_locations))) / "zig"


def _digest(parts: Iterable[bytes]) -> str:
    h = hashlib.sha256()
    for part in parts:
        h.update(len(part).to_bytes(8, "big") + part)
    return h.hexdigest()


def sources(component: str) -> list[Path]:
    """Files that a component is made of, in a fixed order."""
    folders = {"engine": ("include", "src"), "shim": ("include", "envoy")}[component]
    found = [p for folder in folders for p in sorted((SOURCE / folder).glob("*.*")) if p.suffix in {".c", ".h", ".zig"}]
    extra = [SOURCE / "yyjson.lock", SOURCE / "expat.lock", HERE / "native.cdef", HERE / "toolchain.py", HERE / "build.py"]
    return found + (extra if component == "engine" else [HERE / "build.py"])


def source_digest(component: str) -> str:
    """Digest of the sources of a component and, for the extension module, of the Python that loads it."""
    abi = f"{sys.implementation.cache_tag} {platform.machine()}".encode()
    return _digest([abi, *(p.name.encode() + b"\0" + p.read_bytes() for p in sources(component))])


def pointer(component: str) -> Path:
    """File that names the folder built for the present sources."""
    return cache_root() / f"{component}-{source_digest(component)[:24]}.pointer"


def built(component: str) -> Path | None:
    """Folder of a component for the present sources, or None."""
    if PREBUILT.is_dir():
        return PREBUILT / component
    try:
        folder = cache_root() / pointer(component).read_text().strip()
    except FileNotFoundError:
        return None
    return folder if (folder / "manifest.json").is_file() else None


@cache
def artifacts() -> Artifacts:
    """Paths of what `python -m knhk_hot.build` made. Raises NotBuilt when sources changed since."""
    folder = built("engine")
    shim = built("shim")
    wants_shim = any((SOURCE / "envoy").glob("*.c"))
    if folder is None or (wants_shim and shim is None):
        raise NotBuilt("native parts are missing or older than their sources: run `make setup` or `python -m knhk_hot.build`")
    names = {arch: tuple(sorted((folder / "engine" / arch).glob("*.o"))) for arch in TARGETS}
    return Artifacts(
        folder=folder,
        include=SOURCE / "include",
        engine=names,
        yyjson=folder / "yyjson.o",
        yyjson_include=folder / "yyjson",
        expat_include=folder / "expat",
        native=next(folder.glob("_native.*.so")),
        kernels=folder / "knhk_kernels.so",
        zig=(str(zig()), "cc"),
        manifest=json.loads((folder / "manifest.json").read_text()),
        shim=shim / "knhk_shim.so" if shim is not None else None,
    )


def run_zig(arguments: Sequence[str], cwd: Path, seconds: int = LINK_SECONDS) -> None:
    """Runs zig with an empty environment but for its cache, bounded in time, memory and file size. Raises LinkError."""
    store = str(cache_root() / "zig")
    env = {"ZIG_GLOBAL_CACHE_DIR": store, "ZIG_LOCAL_CACHE_DIR": store}
    limits = f'ulimit -t {seconds} && ulimit -v {LINK_MEMORY_KIB} && ulimit -f {LINK_FILE_BLOCKS} && exec "$@"'
    command = ["/bin/sh", "-c", limits, "sh", str(zig()), *arguments]
    try:
        done = subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, timeout=seconds, stdin=subprocess.DEVNULL)
    except subprocess.TimeoutExpired as late:
        raise LinkError(f"zig {arguments[0]} took more than {seconds} s") from late
    if done.returncode != 0:
        raise LinkError(f"zig {' '.join(arguments)}\n{done.stderr.strip()}")


def link_pack(ctext: CText, arch: str) -> bytes:
    """The shared object of a pack for `arch` ("amd64", "arm64"). Same text, same engine, same bytes, in any folder."""
    made = artifacts()
    with tempfile.TemporaryDirectory(prefix="knhk-link-") as name:
        folder = Path(name)
        (folder / "pack.c").write_text(ctext.text)
        objects = [str(p) for p in made.engine[arch]]
        flags = [*COMPILE, "-Wno-unused", f"-I{made.include}", f"-ffile-prefix-map={folder}=."]
        run_zig(["cc", "-target", TARGETS[arch], *flags, "-c", "pack.c", "-o", "pack.o"], folder)
        run_zig(["cc", "-target", TARGETS[arch], *LINK, "pack.o", *objects, "-o", "pack.so"], folder)
        return (folder / "pack.so").read_bytes()


def materials() -> tuple[tuple[str, str, str], ...]:
    """(name, version, SHA-256) of all that goes into a pack beside its sources: compiler, parsers, engine sources and objects."""
    return tuple((m["name"], m["version"], m["sha256"]) for m in artifacts().manifest["materials"])
