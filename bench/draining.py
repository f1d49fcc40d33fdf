"""The agent's part that works for each request, as a process of its own: rings to an outbox, by the product's drain loop.

Run as `python -m bench.draining RING_DIR OUTBOX`; ends with SIGTERM.
"""

from __future__ import annotations

import signal
import sys
import threading
from pathlib import Path

from knhk_hot.drain import Ring
from knhk_runtime.outbox.records import Entries
from knhk_runtime.outbox.segments import Segments
from knhk_runtime.outbox.upload import Outbox
from knhk_runtime.ring.drain import DrainLoop
from knhk_runtime.ring.observed import Judged, ObservedQueue
from knhk_runtime.waiting import InClear


def _never(pack: bytes, o: bytes) -> Judged:
    raise AssertionError("no record of this bench waits for a lower tier")


def main() -> int:
    """Exit code 0 after SIGTERM."""
    rings, folder = Path(sys.argv[1]), Path(sys.argv[2])
    outbox, ended = Outbox(Segments(folder / "outbox")), threading.Event()
    observed = ObservedQueue(folder / "observed", _never, lambda made: None, InClear())
    drain = DrainLoop(rings, Ring.open, lambda made, _: _commit(outbox, made), observed.put)
    signal.signal(signal.SIGTERM, lambda number, frame: ended.set())
    drain.start()
    ended.wait()
    drain.stop()
    return 0


def _commit(outbox: Outbox, made: Entries) -> None:
    outbox.commit(made)


if __name__ == "__main__":
    sys.exit(main())
