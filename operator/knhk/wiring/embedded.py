"""The embedded home: which adapter serves which port on one machine."""

from __future__ import annotations

import json
import logging
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from threading import Event

from knhk.adapters.compiler_zig import ZigCompiler
from knhk.adapters.fleet_folder import FolderFleet
from knhk.adapters.log_sequencer import SequencerLog
from knhk.adapters.placement_processes import PointFolders, ProcessPlacement
from knhk.adapters.processes import Command, Supervisor, identity
from knhk.adapters.registry_layout import LayoutRegistry
from knhk.adapters.secrets_folder import FolderSecrets
from knhk.adapters.signer_roles import RoleSigner
from knhk.adapters.store_sqlite import SqliteStore
from knhk.adapters.system import SystemClock, SystemRandom
from knhk.adapters.trust_file import FileTrusts
from knhk.model.faults import Stalled, Waiting
from knhk.model.keeping import BY_DEFAULT, Keep
from knhk.ports.builder import Builder
from knhk.ports.notary import Notary
from knhk.ports.registry import Registry
from knhk.ports.secrets import Secrets
from knhk.ports.signer import Signer
from knhk.ports.store import Store
from knhk.reconcilers.context import Ports
from knhk.reconcilers.controller import Controller
from knhk.reconcilers.workshop import Bench, Retirement, Workshop
from knhk.wiring import packs, privacy
from knhk.wiring.git import EMBEDDED, Access, git, namespaces, webhooks
from knhk.wiring.home import LOG_ORIGIN, Home, local_user
from knhk.wiring.leading import ACTS, always, fence
from knhk.wiring.rotating import Rotating, Telling
from knhk.wiring.signing import established, notary_in, signer_in
from knhk.wiring.subject_key import Made

READY_WITHIN_S = 20.0
_log = logging.getLogger("knhk.embedded")


def signer_of(home: Home, keys: Path | None = None) -> RoleSigner:
    """The signer of a home, its keys made when missing, or that of a folder that others fill. What a verifier needs lies in the log's
    folder and, for agents, in the home's too."""
    signer = established(home.keys, LOG_ORIGIN, datetime.now(UTC)) if keys is None else signer_in(keys)
    for folder in (home.log,) if keys is None else (home.log, home.keys):
        for name in ("keys.json", "root.pub"):
            shutil.copyfile((keys or home.keys) / name, folder / f"{name}.tmp")
            (folder / f"{name}.tmp").rename(folder / name)
    return signer


def sequencer_command(home: Home, signer: RoleSigner, regions: tuple[str, ...] = ()) -> Command:
    """`regions`: those of the log, in order; none: those that it has."""
    argv = (
        sys.executable,
        "-m",
        "knhk_runtime.sequencer",
        "--dir",
        str(home.log),
        "--socket",
        str(home.sequencer_socket),
        "--origin",
        LOG_ORIGIN,
        "--key",
        str(signer.key_file("log")),
        *(("--region", ",".join(regions)) if regions else ()),
    )
    return Command("sequencer", argv, home.run / "sequencer.log")


def folders_of(home: Home, point: str) -> PointFolders:
    namespace, _, name = point.partition("/")
    return PointFolders(
        home.point(namespace, name),
        home.outbox(namespace, name),
        home.rings(namespace, name),
        home.point_sockets(namespace, name),
    )


Adapt = Callable[[Ports], Ports]


@contextmanager
def workshop(registry: Registry, signer: Signer, compiled: Path, notary: Notary | None = None) -> Iterator[Builder]:
    """Builds by this process; finished objects are kept in `compiled`."""
    prover = packs.prover()
    executor, beside = ThreadPoolExecutor(2, thread_name_prefix="build"), ThreadPoolExecutor(1, thread_name_prefix="data")
    try:
        prover.warm()
        bench = Bench(ZigCompiler(compiled), prover, registry, signer, packs.generator(), notary)
        yield Workshop(bench, executor, beside, Retirement(registry, SystemClock()))
    finally:
        for pool in (executor, beside):
            pool.shutdown(wait=False, cancel_futures=True)
        prover.close()


def serve(
    home: Home,
    stop: Event,
    ready_file: Path,
    store: Store | None = None,
    adapt: Adapt = lambda ports: ports,
    access: Access | None = None,
    *,
    own_log: bool = True,
    registry: Registry | None = None,
    builder: Builder | None = None,
    keys: Path | None = None,
    check: Callable[[], None] = always,
    keep: Keep = BY_DEFAULT,
    regions: tuple[str, ...] = (),
) -> None:
    """Runs the control plane until `stop` is set, then ends every child. Call it on the main thread: children die with it. Resources
    live in `store`, packs in `registry`, both by default those of the home; `builder` builds, by default this process; `keys`
    is a folder of keys that others fill. `adapt` puts other adapters in place of the home's; `access` is for Git;
    `own_log`: the sequencer is a child of this process. `keep`: how many Receipts there may be. `check` raises Deposed unless this
    process may act: what works beside the loop asks it. `regions`: those that points may be of; none: those that the home says.
    The store is closed at the end."""
    home.prepare_to_run()
    regions = regions or home.regions()
    signer, notary = signer_of(home, keys), notary_in(keys or home.keys)
    clock = SystemClock()
    supervisor = Supervisor()
    reviews = store is not None  # an API server
    store = store or SqliteStore(home.store, clock, SystemRandom())
    registry = registry or LayoutRegistry(home.registry)
    fenced_registry: Registry = fence(registry, ACTS["registry"], check)
    secrets: Secrets = Made(home) if access is None else access.secrets
    access = access or Access(FolderSecrets(home.secrets), FileTrusts(home.trusts), EMBEDDED)
    try:
        if own_log:
            supervisor.ensure(sequencer_command(home, signer, regions))
            privacy.prepare(home, keys)
        _note_children(home, supervisor)
        with nullcontext(builder) if builder else workshop(fenced_registry, signer, home.run / "compiled", notary) as building:
            ports = _ports(home, store, signer, supervisor, clock, registry, building)
            ports = adapt(replace(ports, reviews=reviews, trusts=access.trusts, notary=notary, secrets=secrets, regions=regions))
            if _wait_for_log(home, ports, supervisor, stop):
                with git(home.git, access, check) as found, webhooks(store, access, clock):
                    turning = Rotating(
                        home.keys, ports.log, ports.actor, partial(signer_of, home), partial(_log_anew, home, signer, supervisor, regions)
                    )
                    beside = [Telling(keys, ports.log).turn] if keys is not None else [turning.turn] if own_log else []
                    _turn(home, Controller(ports, found, keep), supervisor, stop, ready_file, beside)
    finally:
        supervisor.stop_all()
        if notary is not None:
            notary.close()
        home.children_file.unlink(missing_ok=True)
        home.store_key.unlink(missing_ok=True)
        store.close()


def _ports(
    home: Home, store: Store, signer: RoleSigner, supervisor: Supervisor, clock: SystemClock, registry: Registry, builder: Builder
) -> Ports:
    return Ports(
        store=store,
        log=SequencerLog(home.sequencer_socket),
        signer=signer,
        registry=registry,
        builder=builder,
        fleet=FolderFleet(home.root / "points"),
        placement=ProcessPlacement(
            supervisor,
            lambda point: folders_of(home, point),
            home.registry,
            home.sequencer_socket,
            home.root_pub,
            keys=(home.subjects, home.store_key),
        ),
        clock=clock,
        origin=signer.log_origin(),
        actor=local_user(),
        namespaces=namespaces(),
    )


def _log_anew(home: Home, signer: RoleSigner, supervisor: Supervisor, regions: tuple[str, ...]) -> None:
    """The sequencer, started again: it reads its keys."""
    command = sequencer_command(home, signer, regions)
    supervisor.stop(command.name)
    supervisor.ensure(command)


def _turn(
    home: Home,
    controller: Controller,
    supervisor: Supervisor,
    stop: Event,
    ready_file: Path,
    beside: Sequence[Callable[[float], None]] = (),
) -> None:
    """The loop. A full disk delays what it tells, and ends nothing. `beside`: what is done, too, now and then, by a clock of seconds."""
    while not stop.is_set():
        for work in beside:
            work(time.monotonic())
        for ended in supervisor.tick():
            _log.warning("%s ended with %d (start %d)", ended.name, ended.returncode, ended.restarts + 1)
        try:
            _note_children(home, supervisor)
            _tell(ready_file, supervisor)
        except OSError as error:
            _log.warning("the state of the home cannot be written: %s", error)
        controller.tick()


def _wait_for_log(home: Home, ports: Ports, supervisor: Supervisor, stop: Event) -> bool:
    """The log comes first: nothing is decided without a place for its receipt. False when `stop` came before."""
    deadline = time.monotonic() + READY_WITHIN_S
    while not stop.is_set():
        supervisor.tick()
        _note_children(home, supervisor)
        try:
            ports.log.checkpoint()
            return True
        except Waiting as waiting:
            if time.monotonic() > deadline:
                log = home.run / "sequencer.log"
                lines = log.read_text(errors="replace").strip().splitlines() if log.exists() else []
                said = lines[-1][:300] if lines else str(waiting)
                raise Stalled("NoLog", f"the sequencer did not start: {said}; see {log}") from waiting
            stop.wait(0.05)
    return False


def _tell(ready_file: Path, supervisor: Supervisor) -> None:
    """Says that it is ready, and names the processes of the home, for people and for tests that kill them."""
    replace_changed(ready_file, json.dumps({"ready": True, "processes": supervisor.pids()}, sort_keys=True))


def _note_children(home: Home, supervisor: Supervisor) -> None:
    """For `end_leftovers`, should this process be killed."""
    found = [(name, identity(pid)) for name, pid in sorted(supervisor.pids().items())]
    rows = [{"name": name, "pid": who.pid, "started": who.started} for name, who in found if who is not None]
    replace_changed(home.children_file, json.dumps(rows))


def replace_changed(path: Path, text: str) -> None:
    """Writes the file whole, by rename, unless it has this text."""
    if path.exists() and path.read_text() == text:
        return
    temporary = path.with_suffix(".tmp")
    temporary.write_text(text)
    temporary.rename(path)
