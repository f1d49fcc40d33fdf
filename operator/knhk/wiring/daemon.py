"""The control plane as a background process of this user: started once for each home, stopped by its own id."""

from __future__ import annotations

import fcntl
import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from knhk.model.faults import Stalled
from knhk.wiring.home import Home


def start(home: Home, timeout_s: float) -> tuple[int, bool]:
    """Process id, and whether it was started by this call; returns when it is ready. Raises Stalled with what its log says."""
    home.prepare()
    running = running_pid(home)
    if running is not None:
        return running, False
    ready_file(home).unlink(missing_ok=True)
    log = home.run / "control.log"
    with log.open("ab") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", "knhk.wiring.daemon", str(home.root)],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            start_new_session=True,
        )
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise Stalled("NotStarted", f"the control plane ended with {process.returncode}: {_last_line(log)}; see {log}")
        if ready_file(home).exists():
            return process.pid, True
        time.sleep(0.05)
    process.terminate()
    process.wait()
    raise Stalled("NotReady", f"the control plane was not ready within {timeout_s:g} s: {_last_line(log)}; see {log}")


def stop(home: Home, timeout_s: float) -> bool:
    """Ends the control plane and its children; false when none ran."""
    pid = running_pid(home)
    if pid is None:
        return False
    os.kill(pid, signal.SIGTERM)
    deadline = time.monotonic() + timeout_s
    while running_pid(home) == pid:
        if time.monotonic() > deadline:
            os.kill(pid, signal.SIGKILL)
            deadline += 5.0
        time.sleep(0.05)
    return True


def running_pid(home: Home) -> int | None:
    """Process id of the control plane of this home. The lock, not the file's text, says whether it runs."""
    try:
        with home.pid_file.open("r") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                text = file.read()
                return int(json.loads(text)["pid"]) if text else None
    except FileNotFoundError:
        return None
    return None


def run_in_front(home: Home) -> None:
    """Runs until SIGINT or SIGTERM. Raises Stalled when the home is in use."""
    home.prepare()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    halt = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: halt.set())
    from knhk.wiring.embedded import serve

    with _held(home):
        try:
            serve(home, halt, ready_file(home))
        finally:
            ready_file(home).unlink(missing_ok=True)


def ready_file(home: Home) -> Path:
    """Exists while the control plane is ready; names its children."""
    return home.run / "ready.json"


@contextmanager
def _held(home: Home) -> Iterator[None]:
    with home.pid_file.open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Stalled("InUse", f"{home.root}: a control plane already runs here; run: knhk --home {home.root} down") from None
        file.truncate(0)
        file.write(json.dumps({"pid": os.getpid()}))
        file.flush()
        yield


def _last_line(log: Path) -> str:
    lines = log.read_text(errors="replace").strip().splitlines()
    return lines[-1][:400] if lines else "nothing was logged"


if __name__ == "__main__":
    try:
        run_in_front(Home(Path(sys.argv[1])))
    except Stalled as stalled:
        sys.exit(str(stalled))
