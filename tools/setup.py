"""Set-up of the working copy: `python3 tools/setup.py user|dev|bench|native`, called by the Makefile.

user    .venv with the locked run-time dependencies and the editable install of this repository
dev     the locked development dependencies on top
bench   the engines that benches measure beside ours, on top
native  the C parts, by `python -m knhk_hot.build`

Each stage ends by touching `.stamps/<stage>`. Standard library only; it runs before .venv exists.
"""

from __future__ import annotations

import contextlib
import fcntl
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
STAMPS = ROOT / ".stamps"
PYTHON = VENV / "bin" / "python"
DISK_NEEDED_BYTES = 2 * 1024**3
STAGES = ("user", "dev", "bench", "native")


def say(text: str) -> None:
    print(f"setup: {text}", flush=True)


def run(*command: str | Path, env: dict[str, str] | None = None) -> bool:
    return subprocess.run([str(word) for word in command], cwd=ROOT, env=env).returncode == 0


def fail(text: str) -> None:
    sys.exit(f"setup: {text}")


def lacks() -> list[tuple[str, str]]:
    """Everything this machine lacks, each with the Debian package that brings it ("" if none)."""
    found = []
    version = ".".join(str(part) for part in sys.version_info[:3])
    if sys.version_info < (3, 11):
        found.append((f"Python 3.11 or newer (this is {version})", "python3"))
    if not all(importlib.util.find_spec(name) for name in ("venv", "ensurepip")):
        found.append(("the venv module with ensurepip", "python3-venv"))
    header = Path(sysconfig.get_path("include")) / "Python.h"
    if not header.is_file():
        found.append((f"the Python headers ({header})", "python3-dev"))
    if shutil.which("git") is None:
        found.append(("git", "git"))
    free = shutil.disk_usage(ROOT).free
    if not VENV.exists() and free < DISK_NEEDED_BYTES:
        found.append((f"2 GiB of free disk space in {ROOT} (there are {free / 1024**3:.1f} GiB)", ""))
    if not os.access(ROOT, os.W_OK):
        found.append((f"permission to write in {ROOT}", ""))
    return found


def check_machine() -> None:
    missing = lacks()
    if not missing:
        return
    lines = ["cannot go on; this machine lacks:"]
    lines += [f"  - {what}" for what, _ in missing]
    packages = sorted({package for _, package in missing if package})
    if packages:
        lines.append(f"on Debian or Ubuntu: apt-get update && apt-get install {' '.join(packages)}")
    if sys.version_info < (3, 11):
        lines.append("with another Python: make setup PYTHON=/path/to/python3.11")
    fail("\n".join(lines))


@contextlib.contextmanager
def only_one() -> Iterator[None]:
    """Two set-ups of one working copy take turns."""
    with (ROOT / ".setup.lock").open("w") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("waiting for another set-up of this working copy")
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def pip_environment() -> dict[str, str]:
    """The caller's environment; a PIP_FIND_LINKS that leads nowhere is dropped."""
    env = dict(os.environ)
    links = env.get("PIP_FIND_LINKS", "").split()
    if any("://" not in link and not Path(link).exists() for link in links):
        del env["PIP_FIND_LINKS"]
    env["PIP_DISABLE_PIP_VERSION_CHECK"] = "1"
    return env


def has_own_index(env: dict[str, str]) -> bool:
    """True if pip is told to use another index; uv does not read pip's configuration."""
    if any(env.get(name) for name in ("PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "PIP_NO_INDEX")):
        return True
    shown = subprocess.run([str(PYTHON), "-m", "pip", "config", "list"], env=env, capture_output=True, text=True)
    return bool(re.search(r"index-url|extra-index-url|no-index", shown.stdout))


def lock_entry(lock: Path, name: str) -> str:
    """The lines of one package in a lock file, hashes included."""
    found = re.search(rf"^{re.escape(name)}==.*?(?=^\S|\Z)", lock.read_text(), re.MULTILINE | re.DOTALL)
    if not found:
        fail(f"{lock.name} does not hold {name}: run `make lock`")
        raise AssertionError
    return found.group(0)


def install_uv(lock: Path, env: dict[str, str]) -> bool:
    """uv into .venv, pinned and hashed by the lock: it installs the rest six times faster."""
    if has_own_index(env):
        return False
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as only:
        only.write(lock_entry(lock, "uv"))
        only.flush()
        return run(
            PYTHON, "-m", "pip", "install", "--quiet", "--require-hashes", "--no-deps",
            "-r", only.name, env=env,
        )  # fmt: skip


def install_locked(lock: Path) -> None:
    env = pip_environment()
    if install_uv(lock, env):
        uv_env = dict(env)
        if "PIP_CERT" in env:
            uv_env.setdefault("SSL_CERT_FILE", env["PIP_CERT"])
        uv = VENV / "bin" / "uv"
        if run(
            uv, "pip", "install", "--quiet", "--no-config", "--system-certs",
            "--python", PYTHON, "--require-hashes", "-r", lock, env=uv_env,
        ):  # fmt: skip
            return
        say("uv could not install; trying again with pip")
    # The lock names every package; pip would take an extra (`pydantic[email]`) for one that is not pinned.
    if not run(PYTHON, "-m", "pip", "install", "--quiet", "--require-hashes", "--no-deps", "-r", lock, env=env):
        fail(
            f"the packages of {lock.name} could not be installed (see above). Needed: a way to "
            "pypi.org or a mirror named by PIP_INDEX_URL. Nothing else was changed; run it again."
        )


def stage_user() -> None:
    if not PYTHON.exists() or not run(PYTHON, "-c", "import pip, sys; assert sys.version_info >= (3, 11)"):
        say("[1/3] making .venv")
        shutil.rmtree(VENV, ignore_errors=True)
        if not run(sys.executable, "-m", "venv", VENV):
            fail("python3 -m venv .venv failed (see above)")
    say("[2/3] installing the locked packages (about 300 MB to fetch the first time)")
    install_locked(ROOT / "requirements.lock")
    say("[3/3] installing this repository, editable")
    if not run(
        PYTHON, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation",
        "--editable", ROOT, env=pip_environment(),
    ):  # fmt: skip
        fail("the editable install failed (see above)")


def stage_dev() -> None:
    say("installing the locked development packages")
    install_locked(ROOT / "requirements-dev.lock")


def stage_bench() -> None:
    say("installing the engines that benches measure beside ours")
    install_locked(ROOT / "requirements-bench.lock")
    if not run(PYTHON, "-m", "bench.anchors"):
        say("OPA's engine is not there (see above); `make bench` will say so in its table")
    if not run(PYTHON, "-m", "bench.rego"):
        say("regorus is not there (see above); `make bench` will say so in its table")


def stage_native() -> None:
    if not (ROOT / "hot_c" / "knhk_hot" / "build.py").is_file():
        return
    say("building the native parts")
    if not run(PYTHON, "-m", "knhk_hot.build"):
        fail("the native build failed (see above)")


def main() -> None:
    if len(sys.argv) != 2 or sys.argv[1] not in STAGES:
        fail(f"usage: python3 tools/setup.py {'|'.join(STAGES)}")
    stage = sys.argv[1]
    if stage == "user":
        check_machine()
    started = time.monotonic()
    with only_one():
        {"user": stage_user, "dev": stage_dev, "bench": stage_bench, "native": stage_native}[stage]()
        STAMPS.mkdir(exist_ok=True)
        (STAMPS / stage).touch()
    say(f"{stage} ready in {time.monotonic() - started:.0f} s")


if __name__ == "__main__":
    main()
