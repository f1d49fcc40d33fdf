"""The machine of a run, in words."""

from __future__ import annotations

import os
import platform
import re
import subprocess
from pathlib import Path


def describe() -> dict[str, str]:
    """Processor, cores, memory, kernel, Python, load, commit."""
    load = os.getloadavg()
    return {
        "processor": _processor(),
        "cores": str(len(os.sched_getaffinity(0))),
        "memory": _memory(),
        "kernel": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "load before": f"{load[0]:.1f} (1 min), {load[1]:.1f} (5 min)",
        "commit": _commit(),
    }


def family(pid: int) -> list[int]:
    """A process and all below it."""
    found = [pid]
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in task.read_text().split():
            found += family(int(child))
    return found


def _processor() -> str:
    text = _read("/proc/cpuinfo")
    found = [re.search(rf"^{name}\s*:\s*(.+)$", text, re.MULTILINE) for name in ("model name", "cpu family", "model")]
    name, family, model = (match[1] if match else "" for match in found)
    sets = [s for s in ("avx2", "avx512f", "sha_ni") if re.search(rf"\b{s}\b", text)]
    return f"{name or platform.processor() or platform.machine()} (family {family}, model {model}; {', '.join(sets) or 'no AVX2'})"


def _memory() -> str:
    match = re.search(r"MemTotal:\s+(\d+) kB", _read("/proc/meminfo"))
    return f"{int(match[1]) / 1024**2:.1f} GiB" if match else "unknown"


def _commit() -> str:
    git = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty"]
    done = subprocess.run(git, capture_output=True, text=True, check=False)
    return done.stdout.strip() or "unknown"


def _read(path: str) -> str:
    try:
        return Path(path).read_text()
    except OSError:
        return ""
