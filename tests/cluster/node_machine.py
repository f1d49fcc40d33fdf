"""The machine under a node: where it lies in the network, what it must have, and what is made on it and taken away again."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

HOST, ADDRESS = "10.77.0.1", "10.77.0.2"
PODS, SERVICES = "10.78.0.0/24", "10.96.0.0/16"
NAME = "node-1"
REGISTRY = "registry.test"
PLAIN_PORT, TLS_PORT = 5000, 5443
PLAIN_REGISTRY = f"http://{ADDRESS}:{PLAIN_PORT}"
PAUSE = f"{REGISTRY}/pause:1"
DEVICE = "knhk0"
_DEVICE = Path("/sys/class/net", DEVICE)
LOCK = Path("/run/knhk-node.lock")
CGROUPS = Path("/sys/fs/cgroup")
CGROUP = "knhk"
CNI = Path("/usr/lib/cni")
# Program → Debian package. The Makefile installs the packages (APT_NODE_PACKAGES).
PROGRAMS = {
    "containerd": "containerd",
    "runc": "runc",
    "docker-registry": "docker-registry",
    "nft": "nftables",
    "ip": "iproute2",
    "gcc": "gcc",
}
# What stays the machine's while the node has its own: bind mounts over these need them to be there.
MOUNT_POINTS = (Path("/var/lib/kubelet"), Path("/var/lib/cni"))
GONE_WITHIN_S = 10.0


def lacks() -> str:
    """Why no node can run on this machine, in words for people; empty when one can."""
    if os.environ.get("KNHK_NODE") == "0":
        return "KNHK_NODE=0 leaves the node out"
    if sys.platform != "linux" or os.geteuid() != 0:
        return "a node needs Linux and root"
    missing = sorted({package for program, package in PROGRAMS.items() if shutil.which(program) is None})
    if not (CNI / "bridge").exists():
        missing.append("containernetworking-plugins")
    if missing:
        return f"a node needs the Debian packages {' '.join(missing)}"
    if not (CGROUPS / "memory").is_dir():
        return f"a node needs the controllers of cgroup v1 below {CGROUPS} (v2 alone was never tried)"
    if not os.access(CGROUPS / "memory", os.W_OK):
        return f"a node needs {CGROUPS} to be writable"
    done = subprocess.run(["unshare", "--net", "--mount", "--pid", "--fork", "true"], capture_output=True, text=True, check=False)
    return f"a node needs namespaces of its own: {done.stderr.strip()}" if done.returncode else ""


@contextmanager
def held() -> Iterator[None]:
    """One node at a time on a machine, for its addresses are fixed: others wait."""
    with LOCK.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        clear()
        made = [path for path in MOUNT_POINTS if not path.exists()]
        for path in made:
            path.mkdir(parents=True)
        _make_cgroups()
        try:
            yield
        finally:
            clear()
            for path in made:
                if not any(path.iterdir()):
                    path.rmdir()


def connect(pid: int) -> None:
    """A link from the machine into the network namespace of `pid`; pods and services are reached through it."""
    run("ip", "link", "add", DEVICE, "type", "veth", "peer", "name", "eth0", "netns", str(pid))
    run("ip", "addr", "add", f"{HOST}/30", "dev", DEVICE)
    run("ip", "link", "set", DEVICE, "up")
    for network in (PODS, SERVICES):
        run("ip", "route", "add", network, "via", ADDRESS, "dev", DEVICE)


def clear() -> None:
    """Takes away what a node, this or one that was killed, has left."""
    if _DEVICE.exists():
        run("ip", "link", "del", DEVICE, check=False)  # it may go by itself in between
    deadline_s = time.monotonic() + GONE_WITHIN_S
    while left := _cgroups():
        for path in left:
            try:
                path.rmdir()
            except FileNotFoundError:
                continue
            except OSError:  # the kernel has not yet buried its processes
                if time.monotonic() > deadline_s:
                    raise
        time.sleep(0.02)


def leftovers() -> list[Path]:
    """What of a node is on the machine."""
    return [*_cgroups(), *(path for path in (_DEVICE, *MOUNT_POINTS) if path.exists())]


def run(*command: str, check: bool = True) -> None:
    """Runs a program; what it says goes where this process's words go."""
    subprocess.run(command, check=check, stdin=subprocess.DEVNULL)


def _make_cgroups() -> None:
    for controller in CGROUPS.iterdir():
        if not controller.is_dir():
            continue
        ours = controller / CGROUP
        ours.mkdir()
        if controller.name == "cpuset":
            for name in ("cpuset.cpus", "cpuset.mems"):  # empty in a new one, which then takes no process
                (ours / name).write_text((controller / name).read_text())


def _cgroups() -> list[Path]:
    """Those of a node, in the order in which they can be removed."""
    return [Path(path) for top in CGROUPS.glob(f"*/{CGROUP}") for path, _, _ in os.walk(top, topdown=False)]
