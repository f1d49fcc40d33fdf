"""What sealing O for its subject costs an agent, and what opening it again costs whoever replays (formats/envelope.md)."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from bench import inputs
from bench.figures import Figures, Row, Spread, single, spread
from bench.rings import ProducerRing, record
from knhk_hot.drain import Ring
from knhk_hot.pack import Pack
from knhk_runtime.envelope import KEY
from knhk_runtime.outbox.records import Entries, payloads
from knhk_runtime.record import Record, h_o, parse_record
from knhk_runtime.ring.entries import entries_of
from knhk_runtime.sealing import Sealer, Sealing
from knhk_runtime.subject_keys import KeyStore, create
from knhk_runtime.subjects import Privacy, Rule
from knhk_runtime.unsealing import Closed, Unsealer
from knhk_verify.leaf import parse_leaf

TITLE = "Sealing"
CAPACITY = 8 << 20
ASKED = Sealing("bench/orders", Privacy((Rule("", attribute="sub"),)))


def _made(rings: Path, most: int) -> Entries:
    """Entries of at most so many equal records, as an agent drains them."""
    case = inputs.access_cases()[0]
    decision = Pack.load(inputs.access_pack()).bind().decide(case.o)
    producer = ProducerRing(rings, CAPACITY)
    ring = Ring.open(producer.path)
    one = record(case.o, decision.a, decision.verdict, producer.source)
    producer.produce(one, min(most, CAPACITY // len(one)))
    made = entries_of(ring.drain(CAPACITY))
    ring.close()
    producer.close()
    return made


def _per_second(count: int, samples: int, work: Callable[[], object]) -> Spread:
    """By CPU time of the thread, after one run to warm up."""
    work()
    found = []
    for _ in range(samples):
        begun = time.thread_time_ns()
        work()
        found.append(count * 1e9 / (time.thread_time_ns() - begun))
    return spread(found)


def _held(opened: Record | Closed) -> None:
    """Raises ValueError for one that is not what its leaf says."""
    if not isinstance(opened, Record) or h_o(opened.salt, opened.observation) != parse_leaf(opened.leaves[0]).h_o:
        raise ValueError("a record does not open, or is not what its leaf says")


def run(quick: bool = False) -> Figures:
    """One subject, whose key is in memory after the first record: what each record costs then."""
    samples, most = (2, 200) if quick else (10, 5_000)
    with tempfile.TemporaryDirectory(prefix="knhk-bench-", dir="/dev/shm") as name:
        folder, own = Path(name), os.urandom(KEY)
        (folder / "rings").mkdir()
        made = _made(folder / "rings", most)
        create(folder / "keys", own, b"")
        keys = KeyStore(folder / "keys", own)
        sealer, unsealer = Sealer(lambda _: KeyStore(folder / "keys", own)), Unsealer(keys)
        sealed = sealer.entries(made, ASKED)

        def read(entries: Entries) -> None:
            for start, end in payloads(entries.frames):
                _held(unsealer.open(parse_record(entries.frames[start:end], "record"), "record"))

        sealing = _per_second(made.count, samples, lambda: sealer.entries(made, ASKED))
        clear, opened = (_per_second(made.count, samples, partial(read, each)) for each in (made, sealed))
        sealer.close()
        keys.close()
    rows = (
        Row("sealed by an agent", "records/s", sealing, f"{len(made.frames) // made.count} bytes each in clear"),
        Row("read and hashed in clear", "records/s", clear, "as replay reads them, without deciding"),
        Row("opened, read and hashed", "records/s", opened, "the same, sealed"),
        Row("opened ÷ clear", "×", single(clear.median / opened.median), "what decryption adds to reading"),
    )
    return Figures("sealing", TITLE, rows, ("CPU time of one thread. Keys are made and unwrapped once, not for each record.",))
