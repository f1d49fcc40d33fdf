"""Fuzzing of the C parts under ASan and UBSan: ``python -m knhk_hot.fuzz [--seconds N] [--minimise] [--coverage] [DRIVER …]``.

Drivers are in hot_c/fuzz, each with its invariant, and their inputs in hot_c/fuzz/corpus. A driver is built in three ways: ``replay`` by
gcc or clang, to run the corpus and a fixed number of mutants of it (the tests do); ``guided`` by clang with libFuzzer, to search (this
command does); ``coverage`` by clang, to see which lines the corpus reaches. zig brings no runtime for any of them.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import secrets
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from dataclasses import astuple, dataclass
from functools import cache
from pathlib import Path

from knhk_hot import toolchain as t
from knhk_hot.build import EXPAT_FLAGS, EXPAT_SOURCES
from knhk_hot.fuzz_seeds import SEEDS

BASE = ("-std=gnu11", "-D_GNU_SOURCE", "-O1", "-g", "-fno-omit-frame-pointer")
SANITIZERS = ("-fsanitize=address,undefined", "-fno-sanitize-recover=all")
NOT_OURS = ("-fno-sanitize=undefined", "-w")  # the parsers; yyjson is slow under UBSan
PROFILE = ("-fprofile-instr-generate", "-fcoverage-mapping")
CORPUS = t.SOURCE / "fuzz" / "corpus"
INPUT_MAX = 1 << 16  # of fuzz_main.c
KEPT_MAX = 4096  # bytes of an input that is kept in the repository
MEMORY_MIB, INPUT_SECONDS = 2048, 20


class NoSanitizer(RuntimeError):
    """A compiler that brings the runtime is not here; the message says which."""


@dataclass(frozen=True)
class Driver:
    """hot_c/fuzz/fuzz_SOURCE.c, the parts it is linked with, a dictionary for libFuzzer, the bytes of its longest input, and flags
    of the link. `tables`: hot_c/fuzz/TABLES.c, those of a pack."""

    source: str
    parts: tuple[str, ...] = tuple(f"src/{part}" for part in t.ENGINE)
    tables: str = "pack"
    words: str = ""
    longest: int = INPUT_MAX
    link: tuple[str, ...] = ()


SHIM = tuple(f"envoy/{path.stem}" for path in sorted((t.SOURCE / "envoy").glob("*.c")))
DRIVERS = {
    "decide": Driver("decide", words="json"),
    "batch": Driver("decide", tables="batch", words="json"),
    "xml": Driver("decide", words="xml"),
    "ntriples": Driver("decide", words="ntriples"),
    "bundle": Driver("bundle"),
    "ring": Driver("ring", ("src/crc", "src/drain"), tables=""),
    "records": Driver("records", ("src/records", "src/crc", "src/drain", "src/observe"), tables=""),
    "host": Driver("host", SHIM, tables="", longest=4096, link=("-Wl,--wrap=mmap,--wrap=posix_fallocate,--wrap=shim_now_ns",)),
}


@dataclass(frozen=True)
class Way:
    """How a driver is built: compiler, flags of each object and of the link. `main`: with fuzz_main.c."""

    name: str
    compilers: tuple[str, ...]
    objects: tuple[str, ...]
    link: tuple[str, ...]
    main: bool


REPLAY = Way("replay", ("gcc", "clang"), SANITIZERS, SANITIZERS, main=True)
GUIDED = Way("guided", ("clang",), (*SANITIZERS, "-fsanitize=fuzzer-no-link"), (*SANITIZERS, "-fsanitize=fuzzer"), main=False)
COVERED = Way("coverage", ("clang",), PROFILE, PROFILE, main=True)


def compiler(way: Way) -> str:
    """Path of a compiler that can build this way. Raises NoSanitizer."""
    path = next(filter(None, map(shutil.which, way.compilers)), None)
    if path is None:
        raise NoSanitizer(
            f"{way.name} builds need {' or '.join(way.compilers)} (Debian: apt-get install {way.compilers[0]} libclang-rt-dev)"
        )
    return path


@cache
def _key() -> str:
    parts = [p.read_bytes() for p in sorted((t.SOURCE / "fuzz").glob("*.[ch]"))]
    made_of = (t.source_digest("engine"), t.source_digest("shim"), repr((BASE, SANITIZERS, NOT_OURS)))
    return hashlib.sha256(b"\0".join([*(part.encode() for part in made_of), *parts])).hexdigest()[:24]


def folder(way: Way, driver: str) -> Path:
    return t.cache_root() / f"fuzz-{_key()}" / way.name / driver


def found(name: str) -> Path:
    """Folder of what searches found, of all versions of the sources."""
    return t.cache_root() / "fuzz-found" / name


def _compile(way: Way, out: Path, source: str, *flags: str) -> Path:
    """One object, made when it is not there."""
    if not out.exists():
        out.parent.mkdir(parents=True, exist_ok=True)
        made = out.with_suffix(f".{os.getpid()}")
        subprocess.run([compiler(way), *BASE, *way.objects, *flags, "-c", source, "-o", str(made)], cwd=t.SOURCE, check=True)
        made.rename(out)
    return out


def _includes() -> tuple[str, ...]:
    made = t.artifacts()
    return ("-Iinclude", "-Isrc", "-Ienvoy", f"-isystem{made.yyjson_include}", f"-isystem{made.expat_include}")


def _yyjson(way: Way) -> Path:
    return _compile(way, folder(way, "common") / "yyjson.o", str(t.artifacts().yyjson_include / "yyjson.c"), *NOT_OURS)


def _expat(way: Way) -> list[Path]:
    common, sources = folder(way, "common"), t.artifacts().expat_include
    return [_compile(way, common / f"expat_{n}.o", str(sources / f"{n}.c"), *EXPAT_FLAGS, *NOT_OURS) for n in EXPAT_SOURCES]


def _sha256(way: Way) -> Path:
    out = folder(way, "common") / "sha256.o"
    if not out.exists():
        out.parent.mkdir(parents=True, exist_ok=True)
        t.run_zig(["build-obj", "envoy/sha256.zig", "-OReleaseFast", "-fPIC", "-fstrip", "-fno-stack-check", f"-femit-bin={out}"], t.SOURCE)
    return out


def part_objects(way: Way, driver: Driver) -> list[Path]:
    """What a driver is linked with, but for a pack's tables; drivers share them."""
    common, flags = folder(way, "common"), _includes()
    made = [_compile(way, common / f"{Path(part).name}-{Path(part).parent}.o", f"{part}.c", *flags) for part in driver.parts]
    for isa, more in t.ISAS[t.HOST].items() if driver.tables else ():
        made += [_compile(way, common / f"{name}_{isa}.o", f"src/{name}.c", *flags, *more) for name in t.PER_ISA]
    if driver.tables:
        return [*made, _yyjson(way), *_expat(way)]
    return [*made, _yyjson(way), _sha256(way)] if driver.parts == SHIM else made


def _host_files(way: Way, place: Path) -> None:
    """What the host's configurations name: packs and a bundle, and files that must be refused: altered, empty, no shared object, no pack, a
    link, one that others may write."""
    if (place / "broken").exists():
        return
    packs, broken = (place / f"{name}.{os.getpid()}" for name in ("packs", "broken"))
    for made in (packs, broken):
        made.mkdir(mode=0o700, parents=True)
    good = [_host_pack(way, place, deny) for deny in ("bad", "bad,foreign")]
    for data in good:
        _named(packs, data, ".so")
    _named(packs, b"KNHKBND2", ".bnd")
    _named(broken, good[0][:-1], ".so", of=good[0])
    for data in (b"", b"no object", _host_pack(way, place, "", "-DFAKE_ABI=9")):
        _named(broken, data, ".so")
    _named(broken, good[0] + b"1", ".so").chmod(0o722)
    linked = _named(broken, good[0] + b"2", ".so")
    linked.rename(broken / ".linked")
    linked.symlink_to(".linked")
    for made in (packs, broken):
        if not (place / made.stem).exists():
            made.rename(place / made.stem)


def _named(where: Path, data: bytes, suffix: str, of: bytes | None = None) -> Path:
    """A file named by the digest of its bytes, or of others."""
    path = where / f"{hashlib.sha256(data if of is None else of).hexdigest()}{suffix}"
    path.write_bytes(data)
    path.chmod(0o500)
    return path


def _host_pack(way: Way, place: Path, deny: str, *more: str) -> bytes:
    out = place / f"pack-{os.getpid()}.so"
    flags = ("-shared", "-fPIC", "-Iinclude", f'-DFAKE_DENY="{deny}"', *more, *(() if way is COVERED else SANITIZERS))
    subprocess.run([compiler(way), *BASE, *flags, "fuzz/fakepack.c", "-o", str(out)], cwd=t.SOURCE, check=True)
    data = out.read_bytes()
    out.unlink()
    return data


def link(way: Way, objects: list[Path], out: Path, *flags: str) -> Path:
    """An executable, made when it is not there."""
    if not out.exists():
        out.parent.mkdir(parents=True, exist_ok=True)
        made = f"{out}.{os.getpid()}"
        subprocess.run([compiler(way), *way.link, *flags, *map(str, objects), "-ldl", "-lpthread", "-o", made], check=True)
        Path(made).rename(out)
    return out


def build_driver(way: Way, name: str, tables: Path | None = None, place: Path | None = None) -> Path:
    """The driver; `tables`: C of another pack than hot_c/fuzz/pack.c, built in the folder `place`."""
    driver, common = DRIVERS[name], folder(way, "common")
    here = place or folder(way, name)
    objects = [
        _compile(way, common / f"fuzz_{driver.source}.o", f"fuzz/fuzz_{driver.source}.c", *_includes()),
        *part_objects(way, driver),
    ]
    if way.main:
        objects.append(_compile(way, common / "main.o", "fuzz/fuzz_main.c", *_includes()))
    if driver.parts == SHIM:
        _host_files(way, here)
    if driver.tables:
        objects.append(
            _compile(way, (here if tables else common) / f"{driver.tables}.o", str(tables or f"fuzz/{driver.tables}.c"), *_includes(), "-w")
        )
    return link(way, objects, here / "driver", *driver.link)


def build_drivers() -> tuple[Path, ...]:
    """All drivers that the tests run, built when they are not there."""
    return tuple(build_driver(REPLAY, name) for name in DRIVERS)


def kept(name: str) -> list[Path]:
    """Inputs of a driver that the repository keeps."""
    return sorted((CORPUS / name).iterdir())


def _there(*folders: Path) -> list[Path]:
    return [folder for folder in folders if folder.is_dir()]


def seeded(way: Way, name: str) -> Path:
    """Folder with the seeds of a driver, written anew."""
    place = folder(way, name) / "seeds"
    place.mkdir(parents=True, exist_ok=True)
    for i, seed in enumerate(SEEDS[name]()):
        (place / f"{i:03}").write_bytes(seed)
    return place


def replay(name: str, mutants: int = 0, seed: int = 1, driver: Path | None = None, inputs: list[Path] | None = None) -> int:
    """Runs every seed, every kept input and a number of mutants of them; returns how many runs there were. Raises CalledProcessError with
    the sanitizer's report when the invariant breaks; the input is then `last-input` of the driver's folder."""
    here = folder(REPLAY, name)
    here.mkdir(parents=True, exist_ok=True)
    paths = inputs if inputs is not None else [*sorted(seeded(REPLAY, name).iterdir()), *kept(name)]
    with tempfile.NamedTemporaryFile("w", suffix=".list") as listed:
        listed.write("\n".join(map(str, paths)))
        listed.flush()
        command = [str(driver or build_driver(REPLAY, name)), str(seed), str(mutants), listed.name]
        done = subprocess.run(command, cwd=here, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise subprocess.CalledProcessError(done.returncode, command, done.stdout, done.stderr)
    return int(done.stdout.split()[0])


@dataclass(frozen=True)
class Search:
    """What libFuzzer counted: inputs run, edges and features reached, inputs kept in its working corpus, seconds."""

    runs: int
    edges: int
    features: int
    inputs: int
    seconds: int

    def __str__(self) -> str:
        return f"{self.runs} runs in {self.seconds} s, {self.edges} edges, {self.features} features, {self.inputs} inputs"

    @staticmethod
    def read(text: str) -> Search | None:
        """The last one that a text names as `str` does."""
        found = re.findall(r"(\d+) runs in (\d+) s, (\d+) edges, (\d+) features, (\d+) inputs", text)
        if not found:
            return None
        runs, seconds, edges, features, inputs = map(int, found[-1])
        return Search(runs, edges, features, inputs, seconds)


def libfuzzer_options(seconds: int, seed: int, artifacts: Path, longest: int = INPUT_MAX) -> list[str]:
    """Options of every search; what breaks something is written to `artifacts` as `crash-…`, `timeout-…` or `oom-…`."""
    bounds = [f"-max_total_time={seconds}", f"-max_len={longest}", f"-timeout={INPUT_SECONDS}", f"-rss_limit_mb={MEMORY_MIB}"]
    return [*bounds, f"-seed={seed}", f"-artifact_prefix={artifacts}/", "-reload=0", "-print_final_stats=1"]


def command(name: str, seconds: int, seed: int, artifacts: Path, driver: Path | None = None, inputs: Path | None = None) -> list[str]:
    """A search with libFuzzer, from the kept inputs and what earlier searches found, or from the folder `inputs` alone."""
    work = inputs or found(name)
    work.mkdir(parents=True, exist_ok=True)
    artifacts.mkdir(parents=True, exist_ok=True)
    begins = [work, *([] if inputs else [seeded(GUIDED, name), *_there(CORPUS / name)])]
    words = [f"-dict={t.SOURCE}/fuzz/{DRIVERS[name].words}.dict"] if DRIVERS[name].words else []
    made = driver or build_driver(GUIDED, name)
    return [str(made), *libfuzzer_options(seconds, seed, artifacts, DRIVERS[name].longest), *words, *map(str, begins)]


def search(name: str, seconds: int, seed: int, driver: Path | None = None, inputs: Path | None = None) -> Search:
    """Runs `command`. Raises CalledProcessError with the sanitizer's report; the input is then in the driver's folder."""
    here = folder(GUIDED, name)
    line = command(name, seconds, seed, here, driver, inputs)
    done = subprocess.run(line, cwd=here, capture_output=True, text=True, errors="replace", check=False)
    if done.returncode != 0:
        raise subprocess.CalledProcessError(done.returncode, line, done.stdout, done.stderr)
    return search_of(done.stderr)


def search_of(said: str) -> Search:
    """What libFuzzer said last of a search, be it that it ended early."""
    progress = re.findall(r"^#(\d+)\s.*?cov: (\d+) ft: (\d+)(?: corp: (\d+)/)?", said, re.MULTILINE)
    runs, edges, features, inputs = map(int, (n or 0 for n in progress[-1])) if progress else (0, 0, 0, 0)
    done = re.findall(r"Done (\d+) runs in (\d+) second", said)
    return Search(int(done[-1][0]) if done else runs, edges, features, inputs, int(done[-1][1]) if done else 0)


def minimise(name: str) -> int:
    """Makes the kept corpus anew: the fewest and shortest of all inputs that together reach all that was reached. Returns their number."""
    own = CORPUS / name
    own.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=CORPUS) as place:
        begins = [own, seeded(GUIDED, name), found(name)]
        options = ["-set_cover_merge=1", "-use_counters=0", f"-max_len={KEPT_MAX}", f"-timeout={INPUT_SECONDS}"]
        subprocess.run([str(build_driver(GUIDED, name)), *options, place, *map(str, _there(*begins))], check=True, capture_output=True)
        crashes = {p.name: p.read_bytes() for p in own.iterdir() if p.name.startswith("was-")}
        shutil.rmtree(own)
        own.mkdir()
        for path in sorted(Path(place).iterdir()):
            shutil.copyfile(path, own / path.name[:16])
        for crash, data in crashes.items():  # inputs that once broke something stay by their name
            (own / crash).write_bytes(data)
    return len(kept(name))


@dataclass(frozen=True)
class Reached:
    """Of a source file: lines and branches, reached and all."""

    lines: int
    all_lines: int
    branches: int
    all_branches: int


def _profile(name: str) -> tuple[Path, Path]:
    """The driver and what its seeds and kept inputs run through."""
    driver, here = build_driver(COVERED, name), folder(COVERED, name)
    with tempfile.NamedTemporaryFile("w", suffix=".list") as listed:
        listed.write("\n".join(map(str, [*sorted(seeded(COVERED, name).iterdir()), *kept(name)])))
        listed.flush()
        env = {**os.environ, "LLVM_PROFILE_FILE": str(here / "raw")}
        subprocess.run([driver, "1", "0", listed.name], cwd=here, env=env, check=True, capture_output=True)
    return driver, here / "raw"


def coverage(names: Iterable[str]) -> dict[str, Reached]:
    """Of each of our source files, what the seeds and kept inputs of these drivers reach together. `llvm-cov show` reads what this leaves
    in the folder of the first for a look at lines."""
    drivers, raws = zip(*map(_profile, names), strict=True)
    made = drivers[0].with_name("profile")
    subprocess.run(["llvm-profdata", "merge", "-sparse", *map(str, raws), "-o", str(made)], check=True)
    objects = [flag for driver in drivers[1:] for flag in ("-object", str(driver))]
    line = ["llvm-cov", "export", "-summary-only", str(drivers[0]), *objects, f"-instr-profile={made}"]
    shown = subprocess.run(line, check=True, capture_output=True, text=True, cwd=t.SOURCE)
    found = {Path(f["filename"]): f["summary"] for f in json.loads(shown.stdout)["data"][0]["files"]}
    ours = {f"{path.parent.name}/{path.name}": s for path, s in found.items() if path.parent.name in ("src", "include", "envoy")}
    counted = {
        file: Reached(s["lines"]["covered"], s["lines"]["count"], s["branches"]["covered"], s["branches"]["count"])
        for file, s in sorted(ours.items())
    }
    return {file: reached for file, reached in counted.items() if reached.all_lines}


def _say(text: str) -> None:
    print(f"fuzz: {text}", flush=True)


def _share(part: int, whole: int) -> str:
    return f"{part:,} of {whole:,} ({100 * part / whole:.0f} %)" if whole else "–"


def _show_coverage(names: Iterable[str]) -> None:
    print("| file | lines reached | branches reached |\n|---|---|---|")
    counted = coverage(names)
    whole = Reached(*map(sum, zip(*map(astuple, counted.values()), strict=True)))
    for file, r in (*counted.items(), ("**all**", whole)):
        print(f"| {file} | {_share(r.lines, r.all_lines)} | {_share(r.branches, r.all_branches)} |", flush=True)


def _run(name: str, seconds: int, seed: int) -> None:
    _say(f"{name}, seed {seed}, {seconds} s")
    _say(f"{name}: {search(name, seconds, seed)}")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m knhk_hot.fuzz", description="Fuzzes the C parts under ASan and UBSan.")
    parser.add_argument("drivers", nargs="*", choices=[[], *DRIVERS], help="all when none is named")
    parser.add_argument("--seconds", type=int, default=60, help="for each driver")
    parser.add_argument("--seed", type=int, default=secrets.randbits(31), help="of libFuzzer")
    parser.add_argument("--minimise", action="store_true", help="make the kept corpus anew from what searches found")
    parser.add_argument("--coverage", action="store_true", help="lines and branches that the kept inputs reach, as Markdown")
    options = parser.parse_args()
    if options.coverage:
        _show_coverage(options.drivers or DRIVERS)
        return 0
    for name in options.drivers or DRIVERS:
        try:
            if options.minimise:
                _say(f"{name}: {minimise(name)} inputs kept")
            else:
                _run(name, options.seconds, options.seed)
        except subprocess.CalledProcessError as error:
            print(error.stderr, file=sys.stderr)
            _say(f"{name} failed; its input is in {folder(GUIDED, name)}")
            return 1
        except NoSanitizer as error:
            _say(str(error))
            return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
