"""The embedded home: which adapter serves which port on one machine."""

from __future__ import annotations

import getpass
import json
import logging
import shutil
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from threading import Event

from knhk.adapters.compiler_zig import ZigCompiler
from knhk.adapters.fleet_folder import FolderFleet
from knhk.adapters.log_sequencer import SequencerLog
from knhk.adapters.placement_processes import PointFolders, ProcessPlacement
from knhk.adapters.processes import Command, Supervisor
from knhk.adapters.registry_layout import LayoutRegistry
from knhk.adapters.signer_local import LocalSigner, establish
from knhk.adapters.store_sqlite import SqliteStore
from knhk.adapters.system import SystemClock, SystemRandom
from knhk.model.faults import Stalled, Waiting
from knhk.ports.store import Store
from knhk.reconcilers.context import Ports
from knhk.reconcilers.controller import Controller
from knhk.wiring.home import LOG_ORIGIN, Home

READY_WITHIN_S = 20.0
_log = logging.getLogger("knhk.embedded")


@contextmanager
def open_store(home: Home, *, must_exist: bool) -> Iterator[Store]:
    """The store of a home. Raises Stalled when there is none and it must exist."""
    if must_exist and not home.store.exists():
        raise Stalled("NoHome", f"{home.root}: must be a home; run: knhk --home {home.root} up")
    if not must_exist:
        home.prepare()
    store = SqliteStore(home.store, SystemClock(), SystemRandom())
    try:
        yield store
    finally:
        store.close()


def signer_of(home: Home) -> LocalSigner:
    """The signer of a home, its keys made when missing; what a verifier needs lies in the log's folder too."""
    signer = establish(home.keys, LOG_ORIGIN, datetime.now(UTC))
    for name in ("keys.json", "root.pub"):
        shutil.copyfile(home.keys / name, home.log / f"{name}.tmp")
        (home.log / f"{name}.tmp").rename(home.log / name)
    return signer


def sequencer_command(home: Home, signer: LocalSigner) -> Command:
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
    )
    return Command("sequencer", argv, home.run / "sequencer.log")


def folders_of(home: Home, point: str) -> PointFolders:
    namespace, _, name = point.partition("/")
    return PointFolders(
        home.point(namespace, name),
        home.outbox(namespace, name),
        home.rings(namespace, name),
        home.sockets / f"{namespace}.{name}",
    )


def serve(home: Home, stop: Event, ready_file: Path) -> None:
    """Runs the control plane until `stop` is set, then ends every child. Call it on the main thread: children die with it."""
    home.prepare()
    signer = signer_of(home)
    supervisor = Supervisor()
    supervisor.ensure(sequencer_command(home, signer))
    clock = SystemClock()
    store = SqliteStore(home.store, clock, SystemRandom())
    placement = ProcessPlacement(
        supervisor,
        lambda point: folders_of(home, point),
        home.registry,
        home.sequencer_socket,
        home.root_pub,
    )
    ports = Ports(
        store=store,
        log=SequencerLog(home.sequencer_socket),
        signer=signer,
        registry=LayoutRegistry(home.registry),
        compiler=ZigCompiler(home.run / "compiled"),
        fleet=FolderFleet(home.root / "points"),
        placement=placement,
        clock=clock,
        origin=LOG_ORIGIN,
        actor=f"local:{getpass.getuser()}",
    )
    try:
        _wait_for_log(ports, supervisor, stop)
        with ThreadPoolExecutor(2, thread_name_prefix="build") as executor:
            controller = Controller(ports, executor)
            _tell(ready_file, supervisor)
            while not stop.is_set():
                for ended in supervisor.tick():
                    _log.warning("%s ended with %d (start %d)", ended.name, ended.returncode, ended.restarts + 1)
                controller.tick()
                _tell(ready_file, supervisor)
    finally:
        supervisor.stop_all()
        store.close()


def _wait_for_log(ports: Ports, supervisor: Supervisor, stop: Event) -> None:
    """The log comes first: nothing is decided without a place for its receipt."""
    deadline = time.monotonic() + READY_WITHIN_S
    while not stop.is_set():
        supervisor.tick()
        try:
            ports.log.checkpoint()
            return
        except Waiting as waiting:
            if time.monotonic() > deadline:
                raise Stalled("NoLog", f"the sequencer did not start: {waiting}; see sequencer.log in the home's run folder") from waiting
            stop.wait(0.05)


def _tell(ready_file: Path, supervisor: Supervisor) -> None:
    """Names the processes of the home, for `knhk down`, for people, and for tests that kill them."""
    text = json.dumps({"ready": True, "processes": supervisor.pids()}, sort_keys=True)
    if not ready_file.exists() or ready_file.read_text() != text:
        ready_file.with_suffix(".tmp").write_text(text)
        ready_file.with_suffix(".tmp").rename(ready_file)
