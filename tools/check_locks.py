"""Do the lock files hold every dependency that pyproject.toml declares, in its range, with hashes?

Offline: it compares texts and asks no index. `make lock` mends what it finds.
"""

import re
import sys
import tomllib
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent


def pins(lock: Path) -> dict[str, str]:
    """Package name to pinned version; a pin without a hash counts as no pin."""
    entries = re.findall(
        r"^([A-Za-z0-9._-]+)==([^\s;\\]+)[^\n]*\\\n\s+--hash=sha256:",
        lock.read_text(),
        re.MULTILINE,
    )
    return {canonicalize_name(name): version for name, version in entries}


def faults() -> list[str]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    groups = project["dependency-groups"]
    user = project["project"]["dependencies"] + groups["build"]
    user_pins = pins(ROOT / "requirements.lock")
    dev_pins = pins(ROOT / "requirements-dev.lock")
    bench_pins = pins(ROOT / "requirements-bench.lock")
    found = []
    for lock, wanted, held in (
        ("requirements.lock", user, user_pins),
        ("requirements-dev.lock", user + groups["dev"], dev_pins),
        ("requirements-bench.lock", user + groups["dev"] + groups["bench"], bench_pins),
    ):
        for text in wanted:
            need = Requirement(text)
            version = held.get(canonicalize_name(need.name))
            if version is None or not need.specifier.contains(version, prereleases=True):
                found.append(f"{lock}: {need.name} is {version or 'not held'}, must be {text}")
    for lock, held, below, base in (
        ("requirements-dev.lock", dev_pins, "requirements.lock", user_pins),
        ("requirements-bench.lock", bench_pins, "requirements-dev.lock", dev_pins),
    ):
        found += [
            f"{lock}: {name} is {held.get(name, 'not held')}, must be {version} as in {below}"
            for name, version in base.items()
            if held.get(name) != version
        ]
    return found


if __name__ == "__main__":
    problems = faults()
    for problem in problems:
        print(problem, file=sys.stderr)
    if problems:
        sys.exit("the locks are stale: run `make lock`")
