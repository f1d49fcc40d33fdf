"""Receipts per second: ring, drain, outbox with fdatasync, a real sequencer's acknowledged append; and each stage by itself."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from bench import inputs
from bench.figures import Figures, Goal, Row, Spread, single, spread
from bench.rings import ProducerRing, record
from knhk_hot.drain import Ring
from knhk_hot.pack import Pack
from knhk_runtime.outbox.records import Entries
from knhk_runtime.outbox.segments import Cursor, Segments
from knhk_runtime.outbox.upload import BATCH_ENTRIES, Outbox, Uploader
from knhk_runtime.ring.drain import DrainLoop, batch_bytes
from knhk_runtime.ring.entries import entries_of
from knhk_runtime.ring.observed import Judged, ObservedQueue
from knhk_runtime.sequencer.__main__ import load_key
from knhk_runtime.sequencer.core import Log
from knhk_runtime.sequencer.files import Disk
from knhk_runtime.sequencer.wire import parse_append
from knhk_runtime.sequencer_client import SequencerClient
from knhk_runtime.waiting import InClear

TITLE = "Durable receipts"
ORIGIN = "knhk.dev/bench"
CAPACITY = 16 << 20
WAIT_S = 60.0


@contextmanager
def sequencer(folder: Path) -> Iterator[Path]:
    """A sequencer process over folder/log; gives its socket."""
    key, socket = folder / "log.key", folder / "s.sock"
    key.touch(0o600)
    key.write_bytes(Ed25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    command = [sys.executable, "-m", "knhk_runtime.sequencer", "--dir", str(folder / "log"), "--socket", str(socket)]
    with (folder / "sequencer.err").open("wb") as said:
        process = subprocess.Popen([*command, "--origin", ORIGIN, "--key", str(key)], stderr=said)
    try:
        until(socket.exists, "the sequencer serves", process)
        yield socket
    finally:
        process.terminate()
        process.wait(30)


def until(holds: Callable[[], bool], what: str, process: subprocess.Popen[bytes] | None = None) -> None:
    """Polls. Raises TimeoutError, or ChildProcessError when the process ended."""
    end = time.monotonic() + WAIT_S
    while not holds():
        if process is not None and process.poll() is not None:
            raise ChildProcessError(f"{what}: it ended with {process.returncode}")
        if time.monotonic() > end:
            raise TimeoutError(f"never within {WAIT_S:.0f} s: {what}")
        time.sleep(0.005)


def made_record(source: bytes) -> bytes:
    """A ring record of one decision of the access pack."""
    case = inputs.access_cases()[0]
    decision = Pack.load(inputs.access_pack()).bind().decide(case.o)
    return record(case.o, decision.a, decision.verdict, source)


async def _flow(folder: Path, rings: Path, socket: Path, count: int) -> float:
    """Seconds from the first record in the ring until the sequencer acknowledged the last one."""
    outbox = Outbox(Segments(folder / "outbox"))
    client = SequencerClient(socket, timeout_s=WAIT_S)
    uploader = Uploader(outbox, Cursor(folder / "outbox" / "acked", outbox.segments.start()), client)
    loop = asyncio.get_running_loop()
    outbox.on_durable = lambda: _wake(loop, uploader)
    observed = ObservedQueue(folder / "observed", _never, lambda made: None, InClear())
    producer = ProducerRing(rings, CAPACITY)
    drain = DrainLoop(rings, Ring.open, lambda made, _: _commit(outbox, made), observed.put)
    drain.start()
    running = asyncio.create_task(uploader.run())
    begun = time.perf_counter()
    feeding = threading.Thread(target=_feed, args=(producer, count), daemon=True)
    feeding.start()
    await asyncio.to_thread(_acknowledged, uploader, count)
    taken = time.perf_counter() - begun
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    await asyncio.to_thread(drain.stop)
    await client.close()
    outbox.segments.close()
    feeding.join()
    producer.close()
    producer.path.unlink(missing_ok=True)
    if uploader.uploaded < count:
        raise TimeoutError(f"{uploader.uploaded} of {count} receipts were acknowledged in {WAIT_S:.0f} s; {uploader.fault}")
    return taken


def _acknowledged(uploader: Uploader, count: int) -> None:
    end = time.monotonic() + WAIT_S
    while uploader.uploaded < count and time.monotonic() < end:
        time.sleep(0.002)


def _wake(loop: asyncio.AbstractEventLoop, uploader: Uploader) -> None:
    loop.call_soon_threadsafe(uploader.wake)


def _commit(outbox: Outbox, made: Entries) -> None:
    outbox.commit(made)


def _never(pack: bytes, o: bytes) -> Judged:
    raise AssertionError("no record of this bench waits for a lower tier")


def _feed(producer: ProducerRing, count: int) -> None:
    made, left = made_record(producer.source), count
    end = time.monotonic() + WAIT_S
    while left > 0 and time.monotonic() < end:
        put = producer.produce(made, left)
        left -= put
        if put == 0:
            time.sleep(0.0005)  # the ring is full: a shim would answer 503


class _Stages:
    """Each stage alone over the same batches; wall seconds and CPU seconds by stage."""

    def __init__(self, folder: Path, batches: int) -> None:
        self._folder, self._batches = folder, batches
        self.cpu: dict[str, list[float]] = {}
        self.wall: dict[str, list[float]] = {}

    def _time(self, name: str, count: int, work: Callable[[], object]) -> object:
        wall, cpu = time.perf_counter_ns(), time.process_time_ns()
        result = work()
        self.cpu.setdefault(name, []).append((time.process_time_ns() - cpu) / count)
        self.wall.setdefault(name, []).append((time.perf_counter_ns() - wall) / count)
        return result

    def run(self) -> None:
        folder = self._folder
        rings = Path(tempfile.mkdtemp(dir="/dev/shm", prefix="knhk-bench-"))
        producer = ProducerRing(rings, CAPACITY)
        made, ring = made_record(producer.source), Ring.open(producer.path)
        segments = Segments(folder / "alone")
        log = Log(folder / "alone-log", load_key(folder / "log.key", ORIGIN), Disk())
        for _ in range(self._batches):
            n = producer.produce(made, batch_bytes(CAPACITY) // len(made))
            drained = ring.drain(CAPACITY)
            self._time("drain", n, partial(ring.drain, CAPACITY))
            ring.commit(drained.new_tail)
            entries = entries_of(drained)
            self._time("outbox write and fdatasync", n, partial(_durably, segments, entries))
            body = n.to_bytes(4, "big") + entries.entries
            append = parse_append(body)
            self._time("sequencer: parse and check", n, partial(parse_append, body))
            self._time("sequencer: index, WAL and fdatasync", n, partial(log.commit, [append]))
            self._time("sequencer: tiles and checkpoint", n, log.integrate)
        log.close()
        segments.close()
        ring.close()
        producer.close()
        producer.path.unlink()
        rings.rmdir()


def _durably(segments: Segments, made: Entries) -> None:
    segments.sync(segments.append(made.frames))


def _rates(folder: Path, count: int, runs: int) -> Spread:
    found = []
    for number in range(runs):
        place = folder / str(number)
        place.mkdir()
        with tempfile.TemporaryDirectory(prefix="knhk-bench-", dir="/dev/shm") as rings, sequencer(place) as socket:
            found.append(count / asyncio.run(_flow(place, Path(rings), socket, count)))
    return spread(found)


def run(quick: bool = False) -> Figures:
    """Real components; the outbox and the log lie in the temporary folder ($TMPDIR)."""
    count, runs, batches = (5_000, 1, 2) if quick else (200_000, 3, 20)
    with tempfile.TemporaryDirectory(prefix="knhk-bench-") as name:
        folder = Path(name)
        rates = _rates(folder, count, runs)
        (folder / "stages").mkdir()
        with sequencer(folder / "stages"):
            pass
        stages = _Stages(folder / "stages", batches)
        stages.run()
    rows = [Row("ring to acknowledged append", "receipts/s", rates, f"{count:,} receipts a run", Goal(200_000))]
    total = 0.0
    for stage, cpu in stages.cpu.items():
        seen = spread(cpu)
        total += seen.median
        rows.append(Row(f"alone: {stage}", "ns CPU/receipt", seen, f"wall {spread(stages.wall[stage]).median:,.0f} ns"))
    rows.append(Row("sum of the stages", "ns CPU/receipt", single(total), f"{1e9 / total:,.0f} receipts/s on one core"))
    notes = (
        "One producer in C, one drain thread, outbox and uploader in this process, the sequencer in its own; every receipt counted was "
        f"made durable twice (outbox, then log) and acknowledged by index in batches of at most {BATCH_ENTRIES:,}.",
        f"{len(os.sched_getaffinity(0))} cores are shared by producer, agent side, sequencer and whatever else runs; "
        "tiles are made while appends go on.",
    )
    return Figures("durable", TITLE, tuple(rows), notes)
