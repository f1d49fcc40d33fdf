"""Where the parts of container images come from: pinned Debian packages by apt, pinned wheels by pip. Both are kept in the cache.

`tools/debian.lock` names each Debian package with version and SHA-256; `requirements.lock` does so for wheels. Debian takes a version
away when a newer one replaces it; then `python tools/images.py lock` pins the newer one.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from importlib.metadata import requires
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parent.parent
DEBIAN_LOCK = ROOT / "tools" / "debian.lock"
WHEEL_LOCK = ROOT / "requirements.lock"
ARCHES = ("amd64", "arm64")
RUNTIME = (
    "ca-certificates", "dash", "gcc-12-base",
    "libbz2-1.0", "libc6", "libcrypt1", "libexpat1", "libffi8", "libgcc-s1", "liblzma5", "libncursesw6",
    "libpython3.11-minimal", "libpython3.11-stdlib", "libreadline8", "libsqlite3-0", "libssl3", "libstdc++6", "libtinfo6", "libuuid1",
    "media-types", "netbase", "python3.11", "python3.11-minimal", "tzdata", "zlib1g",
)  # fmt: skip
HEADERS = ("libpython3.11-dev",)  # to compile against the images' Python, whatever runs here
_MACHINES = {"amd64": "x86_64", "arm64": "aarch64"}
_GLIBC = (5, 12, 17, 24, 26, 27, 28, 31, 34, 35, 36)  # 2.36 is Debian 12's
_KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"
_SUITES = ("debian bookworm", "debian bookworm-updates", "debian-security bookworm-security")
_APT = """Dir::State "{folder}/state";
Dir::State::status "{folder}/state/status";
Dir::Cache "{folder}/cache";
Dir::Etc::sourcelist "{folder}/sources.list";
Dir::Etc::sourceparts "-";
APT::Architecture "amd64";
APT::Architectures {{ "amd64"; "arm64"; }};
APT::Sandbox::User "root";
Acquire::Languages "none";
Acquire::Retries "3";
"""

_fetching = threading.Lock()


class CannotFetch(Exception):
    """A part that cannot be had, in words for people."""


@dataclass(frozen=True, order=True)
class Part:
    """A package as it was published."""

    name: str
    version: str
    arch: str  # "all" for those of every machine
    sha256: str
    path: Path

    @property
    def data(self) -> bytes:
        return self.path.read_bytes()


def cache() -> Path:
    """Folder of what was fetched and made."""
    base = os.environ.get("KNHK_CACHE")
    return (Path(base) if base else Path.home() / ".cache" / "knhk") / "images"


# ---- Debian --------------------------------------------------------------------------------------


def debian(names: Iterable[str], arch: str) -> list[Part]:
    """Packages of the lock for an architecture, fetched when they are not there. Raises CannotFetch."""
    pins = _pins()
    parts = [pins.get((name, arch)) or pins.get((name, "all")) for name in sorted(names)]
    if None in parts:
        raise CannotFetch(f"{DEBIAN_LOCK.name} must name {', '.join(sorted(names))} for {arch}: run: python tools/images.py lock")
    with _fetching:
        missing = [part for part in pins.values() if not part.path.exists()]
        if missing:
            _fetch_debian(missing)
    return [part for part in parts if part is not None]


def _pins() -> dict[tuple[str, str], Part]:
    """Name and architecture → package."""
    folder = cache() / "deb"
    rows = (line.split() for line in DEBIAN_LOCK.read_text().splitlines() if not line.startswith("#"))
    return {(name, arch): Part(name, version, arch, digest, folder / f"{digest}.deb") for name, arch, version, digest in rows}


def _fetch_debian(parts: Sequence[Part]) -> None:
    folder = cache() / "deb"
    folder.mkdir(parents=True, exist_ok=True)
    wanted = [f"{part.name}:{part.arch}={part.version}" if part.arch != "all" else f"{part.name}={part.version}" for part in parts]
    with tempfile.TemporaryDirectory(dir=folder) as downloads:
        _apt("download", "-qq", *wanted, cwd=Path(downloads))
        found = {sha256(path.read_bytes()).hexdigest(): path for path in Path(downloads).glob("*.deb")}
        for part in parts:
            if part.sha256 not in found:
                raise CannotFetch(f"{part.name} {part.version} for {part.arch} must have SHA-256 {part.sha256}: the archive has another")
            found[part.sha256].rename(part.path)


def lock_debian() -> str:
    """The text of the lock for what the archive has now."""
    names = (*RUNTIME, *HEADERS)
    rows = _newest(names)
    rows += _newest([f"{name}:arm64" for name, arch, *_ in rows if arch != "all"])
    head = "# Debian packages of the container images: name, architecture, version, SHA-256. Written by: python tools/images.py lock\n"
    return head + "".join(f"{' '.join(row)}\n" for row in sorted(rows))


def _newest(names: Iterable[str]) -> list[tuple[str, ...]]:
    """Name, architecture, version and SHA-256 of each."""
    shown = _apt("show", "--no-all-versions", *names, program="apt-cache").strip().split("\n\n")
    fields = (dict(re.findall(r"^(Package|Architecture|Version|SHA256): (\S+)$", text, re.MULTILINE)) for text in shown)
    return [tuple(row[name] for name in ("Package", "Architecture", "Version", "SHA256")) for row in fields]


def _apt(*arguments: str, program: str = "apt-get", cwd: Path | None = None) -> str:
    """apt with lists of its own for both architectures, so that the machine's stay as they are."""
    folder = cache() / "apt"
    conf = folder / "apt.conf"
    if not conf.exists():
        _prepare_apt(folder, conf)
    return _run([program, *arguments], {"APT_CONFIG": str(conf)}, cwd)


def refresh() -> None:
    """Forgets apt's lists, so that they are fetched anew."""
    (cache() / "apt" / "apt.conf").unlink(missing_ok=True)


def _prepare_apt(folder: Path, conf: Path) -> None:
    if not Path(_KEYRING).exists():
        raise CannotFetch(f"{_KEYRING} must be there (Debian and Ubuntu: the package debian-archive-keyring)")
    for name in ("state/lists/partial", "cache/archives/partial"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    (folder / "state" / "status").touch()
    lines = (f"deb [signed-by={_KEYRING}] http://deb.debian.org/{suite} main\n" for suite in _SUITES)
    (folder / "sources.list").write_text("".join(lines))
    new = conf.with_suffix(".new")
    new.write_text(_APT.format(folder=folder))
    _run(["apt-get", "update", "-qq"], {"APT_CONFIG": str(new)})
    new.rename(conf)


def _run(command: Sequence[str], env: dict[str, str], cwd: Path | None = None) -> str:
    try:
        done = subprocess.run(command, env={**os.environ, **env}, cwd=cwd, capture_output=True, text=True, check=False)
    except FileNotFoundError as error:
        raise CannotFetch(f"{command[0]} must be installed") from error
    if done.returncode != 0:
        raise CannotFetch(f"{' '.join(command[:3])}: {done.stderr.strip()[-1500:]}")
    return done.stdout


# ---- wheels --------------------------------------------------------------------------------------


def closure(roots: Iterable[str]) -> set[str]:
    """Names of the distributions that these need on the images' Python, by what is installed here."""
    found: set[str] = set()
    waiting = [_normal(name) for name in roots]
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            waiting += needed(name)
    return found


def needed(name: str) -> list[str]:
    """What a distribution needs directly, extras left out."""
    environment = {"extra": "", "python_version": "3.11", "python_full_version": "3.11.2", "sys_platform": "linux"}
    wanted = (Requirement(text) for text in requires(name) or ())
    return [_normal(one.name) for one in wanted if one.marker is None or one.marker.evaluate(environment)]


def wheels(names: Iterable[str], arch: str) -> list[Part]:
    """The wheels that the lock pins, fetched when they are not there. Raises CannotFetch."""
    entries = _entries()
    lost = sorted(set(names) - set(entries))
    if lost:
        raise CannotFetch(f"{WHEEL_LOCK.name} must pin {', '.join(lost)}: run: make lock")
    text = "".join(entries[name] for name in sorted(names))
    folder = cache() / "wheels" / f"{arch}-{sha256(text.encode()).hexdigest()[:24]}"
    if not folder.is_dir():
        _fetch_wheels(text, arch, folder)
    parts = []
    for path in sorted(folder.glob("*.whl")):
        name, version = path.name.split("-")[:2]
        of = "all" if path.name.endswith("-any.whl") else arch
        parts.append(Part(_normal(name), version, of, sha256(path.read_bytes()).hexdigest(), path))
    return parts


def _fetch_wheels(text: str, arch: str, folder: Path) -> None:
    new = folder.with_name(f".{folder.name}.{os.getpid()}")
    new.mkdir(parents=True)
    only = new / "only.txt"
    only.write_text(text)
    machine = _MACHINES[arch]
    tags = ["manylinux1", "manylinux2014", *(f"manylinux_2_{minor}" for minor in _GLIBC)]
    platforms = [word for tag in tags for word in ("--platform", f"{tag}_{machine}")]
    python = ["--python-version", "3.11", "--implementation", "cp", "--abi", "cp311", "--abi", "abi3", "--abi", "none"]
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps", "--require-hashes"]
    _run([*pip, "--only-binary=:all:", *python, *platforms, "-d", str(new), "-r", str(only)], {})
    only.unlink()
    try:
        new.rename(folder)
    except OSError:  # another process was first, with the same files
        if not folder.is_dir():
            raise
        shutil.rmtree(new)


def _entries() -> dict[str, str]:
    """Name → its lines of the lock, hashes included."""
    found = re.finditer(r"^([A-Za-z0-9._-]+)==.*?(?=^\S|\Z)", WHEEL_LOCK.read_text(), re.MULTILINE | re.DOTALL)
    return {_normal(match[1]): match[0] for match in found}


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
