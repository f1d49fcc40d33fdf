"""What a receipt costs beside its decision: the leaf, its hashes, the drain from ring to outbox frames."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

from bench import inputs
from bench.figures import Figures, Goal, Row, Spread, single, spread
from bench.native import NativePack, address, ffi, loops
from bench.rings import ProducerRing, record
from knhk_hot import native
from knhk_hot.drain import SHA256_BY, Ring
from knhk_hot.pack import Pack

TITLE = "Leaf and drain"
CAPACITY = 8 << 20
BATCH_BYTES = 1 << 20


def _drained(ring: Ring, producer: ProducerRing, made: bytes, samples: int) -> Spread:
    """CPU nanoseconds per receipt: full batches out of a full ring, leaves and frames with H(O), H(A) made, nothing written."""
    found = []
    for _ in range(samples):
        producer.produce(made, CAPACITY // len(made))
        count, begun = 0, time.thread_time_ns()
        while (batch := ring.drain(BATCH_BYTES)).n_records:
            ring.commit(batch.new_tail)
            count += batch.n_records
        found.append((time.thread_time_ns() - begun) / count)
    return spread(found)


def run(quick: bool = False) -> Figures:
    """One arm, O of about 370 bytes, A of 12."""
    samples, rounds = (3, 2_000) if quick else (20, 50_000)
    case = inputs.access_cases()[0]
    pack = Pack.load(inputs.access_pack())
    decision = pack.bind().decide(case.o)
    timed = NativePack(inputs.access_pack(), [case.o], pack.variants[0])
    decide = spread([timed.decide(rounds) for _ in range(samples)])
    hashed = address(native.ffi, native.lib, "knhk_sha256")
    digest = ffi.new("uint8_t[]", 32)
    leaf = spread([loops().bench_leaf(hashed, rounds, digest) / rounds for _ in range(samples)])
    with tempfile.TemporaryDirectory(prefix="knhk-bench-", dir="/dev/shm") as name:
        producer = ProducerRing(Path(name), CAPACITY)
        ring = Ring.open(producer.path)
        made = record(case.o, decision.a, decision.verdict, producer.source)
        drain = _drained(ring, producer, made, samples)
        ring.close()
        producer.close()
    near, whole = leaf.median / decide.median, (leaf.median + drain.median) / decide.median
    rows = (
        Row("decision, in C", "ns", decide, f"O of {len(case.o)} bytes, A of {len(decision.a)}"),
        Row("leaf assembly and its RFC 6962 hash", "ns", leaf, f"SHA-256 by {SHA256_BY}"),
        Row("drain: H(O), H(A), leaf, frame with its checksum", "ns/receipt", drain, f"batches of {BATCH_BYTES >> 20} MiB"),
        Row("leaf and its hash ÷ decision", "×", single(near), "O and A hashed already", Goal(1.75, most=True)),
        Row("drain and leaf hash ÷ decision", "×", single(whole), "with H(O) and H(A)", Goal(3.5, most=True)),
    )
    notes = (
        "CPU time of the thread. The drain copies O and A into the frame that the outbox keeps and reads fresh salts from the system.",
    )
    return Figures("leaf", TITLE, rows, notes)
