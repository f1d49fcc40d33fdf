"""Builds the native parts: ``python -m knhk_hot.build [--check-warnings] [--sanitize] [--force]``.

Engine objects for both architectures, the cffi extension, the library of kernels for tests, the Envoy shim. A repeat with the same
sources and tools does nothing.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import hashlib
import importlib.metadata
import io
import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from knhk_hot import toolchain as t

STRICT = (
    "-Werror", "-Wconversion", "-Wshadow", "-Wstrict-prototypes", "-Wmissing-prototypes", "-Wcast-align",
    "-Wpointer-arith", "-Wvla", "-Wundef", "-Wformat=2", "-Wwrite-strings", "-Wswitch-enum",
)  # fmt: skip
YYJSON_OFF = ("-Dyyjson_api=", *(f"-DYYJSON_DISABLE_{name}" for name in ("WRITER", "UTILS", "FILE", "NON_STANDARD")))
EXPAT_FLAGS = (
    "-DNDEBUG",
    "-DXML_STATIC",
    "-DKNHK_BUILDING_EXPAT",
    "-include",
    str(t.SOURCE / "src" / "expat_memory.h"),
    "-Wno-incompatible-pointer-types",
    "-Wno-incompatible-function-pointer-types",
    "-Wno-unused",
)
EXPAT_SOURCES = ("xmlparse", "xmlrole", "xmltok")
EXPAT_CONFIG = "#define BYTEORDER 1234\n#define XML_NS 1\n#define XML_GE 0\n#define XML_CONTEXT_BYTES 0\n#define XML_POOR_ENTROPY 1\n"
EXPAT_EDITS = {  # memory functions get the parser as their first argument (src/expat_memory.h)
    "expat.h": (
        ("(*malloc_fcn)(size_t size)", "(*malloc_fcn)(void *parser, size_t size)"),
        ("(*realloc_fcn)(void *ptr, size_t size)", "(*realloc_fcn)(void *parser, void *ptr, size_t size)"),
        ("(*free_fcn)(void *ptr)", "(*free_fcn)(void *parser, void *ptr)"),
    ),
    "xmlparse.c": (
        ("(parser->m_mem.malloc_fcn((s)))", "((parser->m_mem.malloc_fcn)((parser), (s)))"),
        ("(parser->m_mem.realloc_fcn((p), (s)))", "((parser->m_mem.realloc_fcn)((parser), (p), (s)))"),
        ("(parser->m_mem.free_fcn((p)))", "((parser->m_mem.free_fcn)((parser), (p)))"),
        (
            "parser = memsuite->malloc_fcn(sizeof(struct XML_ParserStruct));",
            "parser = knhk_expat_first(memsuite, sizeof(struct XML_ParserStruct));",
        ),
    ),
}


@dataclass(frozen=True)
class Sdist:
    """C sources inside an sdist of the package index; `lock` pins version and SHA-256, `files` are what is taken."""

    name: str
    package: str
    files: tuple[str, ...]

    @property
    def lock(self) -> Path:
        return t.SOURCE / f"{self.name}.lock"


YYJSON = Sdist("yyjson", "yyjson", ("yyjson/yyjson.c", "yyjson/yyjson.h", "LICENSE"))
EXPAT = Sdist(
    "expat",
    "astropy",
    (
        "cextern/expat/COPYING",
        *(f"cextern/expat/lib/{name}.c" for name in (*EXPAT_SOURCES, "xmltok_impl", "xmltok_ns")),
        *(
            f"cextern/expat/lib/{name}.h"
            for name in (
                "ascii", "asciitab", "expat", "expat_external", "iasciitab", "internal", "latin1tab", "nametab", "siphash", "utf8tab",
                "xmlrole", "xmltok", "xmltok_impl", "winconfig",
            )
        ),
    ),
)  # fmt: skip
NATIVE_SOURCES = ("native", "crc", "leaves", "drain", "perfect", "records")
NATIVE_BESIDE = ("observe",)  # what they call of the engine
ZIG_OBJECT = ("-OReleaseFast", "-fPIC", "-fstrip", "-fno-stack-check")
WORKERS = 2


class BuildError(RuntimeError):
    """The build cannot go on; the message says what a person must do."""


def say(text: str) -> None:
    print(f"native: {text}", flush=True)


def sha256_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def locked(sdist: Sdist) -> tuple[str, str]:
    """Version and SHA-256 of an sdist."""
    for line in sdist.lock.read_text().splitlines():
        if line.startswith(f"{sdist.package}=="):
            name, digest = line.split()
            return name.removeprefix(f"{sdist.package}=="), digest.removeprefix("--hash=sha256:")
    raise BuildError(f"hot_c/{sdist.lock.name} names no {sdist.package}")


def fetch(sdist: Sdist) -> Path:
    """The sdist in the cache, fetched by pip when it is not there; its digest is checked either way."""
    version, digest = locked(sdist)
    folder = t.cache_root() / "sdist"
    path = folder / f"{sdist.package}-{version}.tar.gz"
    if not path.is_file():
        say(f"fetching {sdist.package} {version} from the package index")
        folder.mkdir(parents=True, exist_ok=True)
        source = ["--only-binary", ":all:", "--no-binary", sdist.package]  # what pip needs to read the sdist it takes as wheels
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--require-hashes", *source]
        done = subprocess.run([*pip, "-d", str(folder), "-r", str(sdist.lock)], capture_output=True, text=True)
        if done.returncode != 0 or not path.is_file():
            raise BuildError(f"cannot fetch {sdist.package} {version}: is the package index reachable?\n{done.stderr.strip()}")
    if sha256_of(path) != digest:
        path.unlink()
        raise BuildError(f"{path} was not what hot_c/{sdist.lock.name} pins, and was removed: run this again")
    return path


def unpack(sdist: Sdist, path: Path) -> Path:
    """Folder with the C files. It stays in one place, so that zig's own cache knows what it compiled."""
    version = locked(sdist)[0]
    folder = t.cache_root() / f"{sdist.name}-{version}"
    folder.mkdir(exist_ok=True)
    with tarfile.open(path) as tar:
        for name in sdist.files:
            member = tar.extractfile(f"{sdist.package}-{version}/{name}")
            if member is None:
                raise BuildError(f"{path} holds no {name}")
            (folder / Path(name).name).write_bytes(member.read())
    return folder


def prepare_expat(folder: Path) -> None:
    """Writes its configuration and gives its memory functions their argument. Raises BuildError for sources that are not known."""
    (folder / "expat_config.h").write_text(EXPAT_CONFIG)
    for name, edits in EXPAT_EDITS.items():
        text = (folder / name).read_text()
        for old, new in edits:
            if text.count(old) != 1:
                raise BuildError(f"expat's {name} must hold {old!r} once")
            text = text.replace(old, new)
        (folder / name).write_text(text)


def python_flags() -> list[str]:
    """Include paths of the running Python. Debian keeps part of pyconfig.h in the multi-arch folder below /usr/include."""
    found = {sysconfig.get_path("include"), sysconfig.get_path("platinclude")}
    if not any((Path(p) / "Python.h").is_file() for p in found):
        raise BuildError("the Python headers are missing (Debian: apt-get install python3-dev)")
    return [*(f"-I{p}" for p in sorted(found)), "-idirafter", "/usr/include"]


def compile_object(arch: str, source: str, out: Path, *flags: str) -> None:
    """One C file below the source folder (relative, so that no path of this machine gets into the object)."""
    flags = (*t.COMPILE, *t.BASELINE[arch], "-Iinclude", "-Isrc", *flags)
    t.run_zig(["cc", "-target", t.TARGETS[arch], *flags, "-c", source, "-o", str(out)], t.SOURCE)


def compile_yyjson(arch: str, folder: Path, out: Path, *flags: str) -> None:
    flags = (*t.COMPILE, *t.BASELINE[arch], *YYJSON_OFF, *flags)
    t.run_zig(["cc", "-target", t.TARGETS[arch], *flags, "-c", "yyjson.c", "-o", str(out)], folder)


def compile_expat(arch: str, folder: Path, name: str, out: Path) -> None:
    flags = (*t.COMPILE, *EXPAT_FLAGS)
    t.run_zig(["cc", "-target", t.TARGETS[arch], *flags, "-c", f"{name}.c", "-o", str(out)], folder)


def engine_jobs(folder: Path, yyjson_folder: Path, expat_folder: Path, arch: str) -> Iterator[tuple[Any, ...]]:
    """Calls that compile the engine of one architecture."""
    out = folder / "engine" / arch
    out.mkdir(parents=True)
    parsers = (f"-isystem{yyjson_folder}", f"-isystem{expat_folder}")
    for name in t.ENGINE:
        yield (compile_object, arch, f"src/{name}.c", out / f"{name}.o", *parsers)
    for name in EXPAT_SOURCES:
        yield (compile_expat, arch, expat_folder, name, out / f"expat_{name}.o")
    for isa, flags in t.ISAS[arch].items():
        for name in t.PER_ISA:
            yield (compile_object, arch, f"src/{name}.c", out / f"{name}_{isa}.o", *flags)
    no_libc = str(t.SOURCE / "src" / "yyjson_nolibc.h")
    yield (compile_yyjson, arch, yyjson_folder, out / "yyjson.o", "-include", no_libc)


def build_native(folder: Path, arch: str = t.HOST, python: Sequence[str] | None = None) -> None:
    """The cffi extension knhk_hot._native, for the running Python, or for one whose headers `python` names as flags of the compiler."""
    import cffi

    ffi = cffi.FFI()
    ffi.cdef((t.HERE / "native.cdef").read_text())
    headers = "".join(f'#include "{name}.h"\n' for name in NATIVE_SOURCES)
    ffi.set_source("knhk_hot._native", headers)
    with contextlib.redirect_stdout(io.StringIO()):  # it prints the name of the file
        ffi.emit_c_code(str(folder / "_native.c"))
    suffix = sysconfig.get_config_var("EXT_SUFFIX") if python is None else f".{arch}.so"
    include = [f"-I{t.SOURCE / 'include'}", f"-I{t.SOURCE / 'src'}", *(python_flags() if python is None else python)]
    flags = [*t.COMPILE, *include, "-Wno-unused", "-Wno-missing-field-initializers"]
    files = [str(folder / "_native.c"), *(str(t.SOURCE / "src" / f"{name}.c") for name in (*NATIVE_SOURCES, *NATIVE_BESIDE))]
    link = ["-shared", "-Wl,-z,relro", "-Wl,-z,now", "-ldl"]
    t.run_zig(["cc", "-target", t.TARGETS[arch], *flags, *files, *link, "-o", str(folder / f"_native{suffix}")], folder)


def build_kernels(folder: Path) -> None:
    """The kernels as a library of their own, for tests and benchmarks."""
    objects = []
    for isa, flags in {"scalar": (), **t.ISAS[t.HOST]}.items():
        objects.append(str(folder / f"kernels_{isa}.o"))
        t.run_zig(["cc", "-target", t.TARGETS[t.HOST], *t.COMPILE, "-Iinclude", *flags, "-c", "src/kernels.c", "-o", objects[-1]], t.SOURCE)
    t.run_zig(["cc", "-target", t.TARGETS[t.HOST], "-shared", *objects, "-o", str(folder / "knhk_kernels.so")], t.SOURCE)


def zig_material() -> dict[str, str]:
    """The compiler, named by the RECORD of its wheel, which holds a digest of every file of it."""
    dist = importlib.metadata.distribution("ziglang")
    record = dist.read_text("RECORD")
    if record is None:
        raise BuildError("the package ziglang has no RECORD: install it from a wheel")
    kept = "\n".join(sorted(line for line in record.splitlines() if line.startswith("ziglang/") and ".pyc" not in line))
    return {"name": "ziglang", "version": dist.version, "sha256": hashlib.sha256(kept.encode()).hexdigest()}


def materials(folder: Path) -> list[dict[str, str]]:
    found = [zig_material()]
    for sdist in (YYJSON, EXPAT):
        version, digest = locked(sdist)
        found.append({"name": sdist.package, "version": version, "sha256": digest})
    for path in t.sources("engine"):
        if path.suffix in {".c", ".h"}:
            found.append({"name": f"hot_c/{path.parent.name}/{path.name}", "version": "", "sha256": sha256_of(path)})
    for path in sorted((folder / "engine").glob("*/*.o")):
        found.append({"name": f"engine/{path.parent.name}/{path.name}", "version": "", "sha256": sha256_of(path)})
    return found


def build_engine(folder: Path) -> None:
    with ThreadPoolExecutor(WORKERS) as pool:
        yyjson, expat = (unpack(sdist, path) for sdist, path in zip((YYJSON, EXPAT), pool.map(fetch, (YYJSON, EXPAT)), strict=True))
    prepare_expat(expat)
    shutil.copytree(yyjson, folder / "yyjson")
    shutil.copytree(expat, folder / "expat")
    jobs = [job for arch in t.TARGETS for job in engine_jobs(folder, yyjson, expat, arch)]
    jobs.append((compile_yyjson, t.HOST, yyjson, folder / "yyjson.o"))
    jobs += [(build_native, folder), (build_kernels, folder)]
    with ThreadPoolExecutor(WORKERS) as pool:
        for i, _ in enumerate(pool.map(lambda job: job[0](*job[1:]), jobs), 1):
            if i % 8 == 0 or i == len(jobs):
                say(f"engine {i}/{len(jobs)}")


def build_shim(folder: Path, arch: str | None = None) -> None:
    """hot_c/envoy/*.c with yyjson; Envoy's callbacks stay undefined, for the process that loads it has them. For this machine, or for
    any of an architecture."""
    engine = t.built("engine")
    assert engine is not None
    cpu = () if arch is None else ("-target", t.TARGETS[arch])
    arch, yyjson = (t.HOST, engine / "yyjson.o") if arch is None else (arch, folder / "yyjson.o")
    if not yyjson.exists():
        compile_yyjson(arch, engine / "yyjson", yyjson)
    files = [f"envoy/{p.name}" for p in sorted((t.SOURCE / "envoy").glob("*.c"))]
    for path in sorted((t.SOURCE / "envoy").glob("*.zig")):
        made = folder / f"{path.stem}.o"
        t.run_zig(["build-obj", f"envoy/{path.name}", *ZIG_OBJECT, *cpu, f"-femit-bin={made}"], t.SOURCE)
        files.append(str(made))
    flags = [*t.COMPILE, "-D_GNU_SOURCE", "-Iinclude", "-Ienvoy", f"-isystem{engine / 'yyjson'}", "-pthread"]
    link = ["-shared", "-Wl,-Bsymbolic", "-Wl,-z,relro", "-Wl,-z,now", "-Wl,-z,undefs", "-ldl", "-lpthread", str(yyjson)]
    say(f"shim from {len(files)} files")
    t.run_zig(["cc", "-target", t.TARGETS[arch], *flags, *files, *link, "-o", str(folder / "knhk_shim.so")], t.SOURCE)


BUILDERS = {"engine": build_engine, "shim": build_shim}


@contextlib.contextmanager
def one_builder() -> Iterator[None]:
    """Only one process builds; others wait and then find the work done."""
    t.cache_root().mkdir(parents=True, exist_ok=True)
    with (t.cache_root() / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def build(component: str, force: bool) -> None:
    """Builds a component into a new folder and points to it."""
    version = importlib.metadata.version("ziglang")
    ready = t.built(component)
    if ready is not None and not force and json.loads((ready / "manifest.json").read_text())["zig"] == version:
        say(f"{component} is up to date")
        return
    begun = time.monotonic()
    work = Path(tempfile.mkdtemp(prefix=f"{component}-", dir=t.cache_root()))
    try:
        BUILDERS[component](work)
        manifest: dict[str, Any] = {"zig": version}
        if component == "engine":
            manifest["materials"] = materials(work)
        (work / "manifest.json").write_text(json.dumps(manifest, indent=1, sort_keys=True))
        key = hashlib.sha256(f"{t.source_digest(component)} {version}".encode()).hexdigest()[:24]
        place = t.cache_root() / f"{component}-{key}"
        if place.exists():
            place.rename(work / "replaced")
        work.rename(place)
        shutil.rmtree(place / "replaced", ignore_errors=True)
    except BaseException:
        shutil.rmtree(work, ignore_errors=True)
        raise
    temporary = t.pointer(component).with_suffix(f".{os.getpid()}")
    temporary.write_text(place.name)
    temporary.replace(t.pointer(component))
    say(f"{component} built in {time.monotonic() - begun:.1f} s in {place}")


def check_warnings() -> None:
    """All C of this repository with every warning as an error."""
    engine = t.built("engine")
    assert engine is not None
    parsers = [f"-isystem{engine / name}" for name in ("yyjson", "expat")]
    files = [p for folder in ("src", "envoy", "fuzz") for p in sorted((t.SOURCE / folder).glob("*.c"))]
    with tempfile.TemporaryDirectory(prefix="knhk-warnings-") as place:
        for path in files:
            flags = ["-D_GNU_SOURCE", "-Iinclude", "-Isrc", "-Ienvoy", *parsers, *STRICT, "-o", f"{place}/out.o"]
            variants: list[tuple[str, tuple[str, ...]]] = [("amd64", ()), ("arm64", ())]
            if path.stem in {"kernels", *t.PER_ISA}:
                variants += [(arch, flags) for arch, isas in t.ISAS.items() for flags in isas.values()]
            for arch, more in variants:
                every = (*t.COMPILE, *t.BASELINE[arch], *flags, *more)
                t.run_zig(["cc", "-target", t.TARGETS[arch], *every, "-c", f"{path.parent.name}/{path.name}"], t.SOURCE)
    say(f"no warnings in {len(files)} files")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m knhk_hot.build", description="Builds the native parts.")
    parser.add_argument("--check-warnings", action="store_true", help="compile all C with warnings as errors")
    parser.add_argument("--sanitize", action="store_true", help="build the fuzz drivers with ASan and UBSan (needs gcc or clang)")
    parser.add_argument("--force", action="store_true", help="build again")
    options = parser.parse_args()
    try:
        with one_builder():
            build("engine", options.force)
            if any((t.SOURCE / "envoy").glob("*.c")):
                build("shim", options.force)
        if options.check_warnings:
            check_warnings()
        if options.sanitize:
            from knhk_hot.fuzz import build_drivers

            for path in build_drivers():
                say(f"sanitized {path}")
    except (BuildError, t.LinkError, t.NotBuilt) as error:
        print(f"native: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
