"""The control plane as a background process of this user: started once for each home, stopped by its own id."""

from __future__ import annotations

import fcntl
import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path

from knhk.adapters.processes import Identity, end_all, identity
from knhk.adapters.rings import sweep
from knhk.model.faults import KnhkError, Stalled
from knhk.model.keeping import keep_of
from knhk.wiring.home import Home, is_own

LOOK_EVERY_S = 0.05
ENDS_WITHIN_S = 10.0
Serve = Callable[[Home, threading.Event, Path], None]
PROBED_FOR_S = 2.0  # others who look whether the home is in use hold its lock for a moment


def start(home: Home, timeout_s: float, kept: str = "") -> tuple[int, bool]:
    """`kept`: how many Receipts stay (model.keeping). Process id, and whether it was started by this call; returns when it is
    ready. Raises Stalled with what its log says."""
    home.prepare_to_run()
    log = home.run / "control.log"
    deadline = time.monotonic() + timeout_s
    running = running_pid(home)
    process = None if running is not None else _spawn(home, log, kept)
    while time.monotonic() < deadline:
        ended = process is not None and process.poll() is not None
        running = running_pid(home)
        if running is not None and ready_file(home).exists():
            mine = process is not None and running == process.pid
            if process is not None and not mine:
                _give_up(process)
            return running, mine
        if ended and running is None:
            code = process.returncode if process is not None else 0
            raise Stalled("NotStarted", f"the control plane ended with {code}: {_last_line(log)}; see {log}")
        time.sleep(LOOK_EVERY_S)
    if process is not None:
        _give_up(process)
    raise Stalled("NotReady", f"the control plane was not ready within {timeout_s:g} s: {_last_line(log)}; see {log}")


def _give_up(process: subprocess.Popen[bytes]) -> None:
    """Ends one that lost the race for the home: left alone it would take the lock as soon as the winner goes down."""
    if process.poll() is None:
        process.terminate()
    try:
        process.wait(ENDS_WITHIN_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _spawn(home: Home, log: Path, kept: str) -> subprocess.Popen[bytes]:
    ready_file(home).unlink(missing_ok=True)
    with log.open("ab") as out:
        return subprocess.Popen(
            [sys.executable, "-m", "knhk.wiring.daemon", str(home.root), kept],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            start_new_session=True,
        )


def stop(home: Home, timeout_s: float) -> tuple[bool, tuple[Path, ...]]:
    """Ends the control plane and its children, by force after `timeout_s`, and removes sockets and emptied rings. Whether anything
    ran, and the rings that are kept because they hold records that are not durable yet: the next `up` goes on with them."""
    holder = _holder(home)
    ran = bool(end_all([holder], timeout_s)) if holder is not None else False
    if not home.run.is_dir():
        return ran, ()
    with held(home):
        ran = bool(end_leftovers(home)) or ran
        return ran, clean(home)


def end_leftovers(home: Home) -> tuple[int, ...]:
    """Ends children of a control plane that was ended by force, so that nothing runs twice. Gives their ids."""
    try:
        rows = json.loads(home.children_file.read_text())
        children = [Identity(int(row["pid"]), int(row["started"])) for row in rows]
    except FileNotFoundError:
        return ()
    except (ValueError, KeyError, TypeError):
        children = []  # half a file: its writer died, and children die with it
    ended = end_all(children)
    home.children_file.unlink(missing_ok=True)
    return ended


def clean(home: Home) -> tuple[Path, ...]:
    """Sockets and emptied rings go, of a home that this process holds and where nothing runs. Gives the rings that are kept."""
    ready_file(home).unlink(missing_ok=True)
    if is_own(home.sockets):
        shutil.rmtree(home.sockets)
    if not is_own(home.ring_root):
        return ()
    home.store_key.unlink(missing_ok=True)
    kept = tuple(ring for folder in sorted(home.ring_root.iterdir()) for ring in sweep(folder))
    if not kept:
        home.ring_root.rmdir()
    return kept


def running_pid(home: Home) -> int | None:
    """Process id of the control plane of this home."""
    found = _holder(home)
    return None if found is None else found.pid


def _holder(home: Home) -> Identity | None:
    """Who holds the home's lock. The lock says that somebody runs, the file who it is; a text that an earlier one left is ignored."""
    try:
        with home.pid_file.open("r") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
                return None
            except BlockingIOError:
                row = json.loads(file.read() or "{}")
                named = Identity(int(row["pid"]), int(row["started"]))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (ValueError, KeyError, TypeError):
        return None  # it has just taken the lock and says so in a moment
    except PermissionError as error:
        raise Stalled("NoPermission", f"{home.pid_file}: must be readable: it belongs to another user; choose another --home") from error
    return named if identity(named.pid) == named else None


def run_in_front(home: Home, serve: Serve | None = None, kept: str = "") -> None:
    """Runs until SIGINT, SIGTERM or SIGHUP, and leaves what `stop` leaves. `serve` runs the control plane, by default the embedded one with
    `kept` Receipts. Raises Stalled when the home is in use."""
    home.prepare()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    halt = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda *_: halt.set())
    from knhk.wiring import embedded

    with held(home):
        end_leftovers(home)
        try:
            (serve or partial(embedded.serve, keep=keep_of(kept)))(home, halt, ready_file(home))
        finally:
            clean(home)


def ready_file(home: Home) -> Path:
    """Exists while the control plane is ready; names its children."""
    return home.run / "ready.json"


@contextmanager
def held(home: Home) -> Iterator[None]:
    """The home's lock, with this process named in it. Raises Stalled when another process keeps it."""
    with home.pid_file.open("a+") as file:
        deadline = time.monotonic() + PROBED_FOR_S
        while not _locked(file.fileno()):
            if time.monotonic() > deadline:
                raise Stalled("InUse", f"{home.root}: a control plane already runs here; run: knhk --home {home.root} down")
            time.sleep(LOOK_EVERY_S)
        file.truncate(0)
        me = identity(os.getpid())
        file.write(json.dumps(asdict(me)) if me is not None else "")
        file.flush()
        try:
            yield
        finally:
            file.truncate(0)


def _locked(handle: int) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _last_line(log: Path) -> str:
    lines = log.read_text(errors="replace").strip().splitlines()
    return lines[-1][:400] if lines else "nothing was logged"


if __name__ == "__main__":
    try:
        run_in_front(Home(Path(sys.argv[1])), kept="".join(sys.argv[2:]))
    except (KnhkError, OSError) as error:
        sys.exit(str(error))
