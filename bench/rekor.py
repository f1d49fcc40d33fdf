"""Our sequencer beside Rekor v2's posix server: entries per second that clients have acknowledged, one entry a request, and in batches."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import re
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import aiohttp
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from bench.durable import ORIGIN, sequencer
from bench.figures import Figures, Row, single
from knhk_runtime.record import encode_leaf
from knhk_runtime.sequencer_client import encode_batch
from knhk_verify.leaf import Leaf

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "sigstore"))

TITLE = "Sequencer beside Rekor v2"
BATCH = 1_024
WITHIN_S = 120.0
# Rekor's own settings, and settings that serve many clients sooner: larger batches, checkpoints as often as it likes.
REKOR = {
    "as it comes": (),
    "batches of 1,024, a checkpoint each 100 ms": ("--batch-max-size", "1024", "--batch-max-age", "50ms", "--checkpoint-interval", "100ms"),
}


NOTES = (
    "What an acknowledgement says. Rekor: the signature is verified, the entry's tile and a checkpoint over it are on the disk (fsync), "
    "and the answer has the proof. Ours: the leaf is well-formed and in the write-ahead log (fdatasync), with its index; tiles and a "
    "signed checkpoint follow by themselves: with its proof, as Rekor's, is the row of the checkpoint.",
    "An entry is not the same: a hashed record with a signature that the server verifies, and a leaf of 118 bytes of a known agent. "
    "Rekor takes one entry a request and has no other way in; ours takes up to 65,536.",
    "Both serve HTTP on this machine, Rekor by TCP, ours by a Unix socket; client and server share the cores. Rekor is Go and uses all of "
    "them, ours is one process of Python.",
)


@dataclass(frozen=True)
class Flood:
    """`requests` (target, body, media type) by so many clients at once; each is acknowledged by an answer of status 200 or 201."""

    url: str
    socket: Path | None
    requests: Sequence[tuple[str, bytes, str]]
    clients: int

    async def run(self) -> tuple[float, float]:
        """Wall seconds, and CPU seconds of this process."""
        unix = aiohttp.UnixConnector(str(self.socket), limit=self.clients) if self.socket else None
        connector = unix or aiohttp.TCPConnector(limit=self.clients)
        left, timeout = iter(self.requests), aiohttp.ClientTimeout(total=WITHIN_S)
        async with aiohttp.ClientSession(self.url, connector=connector, timeout=timeout) as session:
            begun, cpu = time.perf_counter(), time.process_time()
            await asyncio.gather(*(self._client(session, left) for _ in range(self.clients)))
            return time.perf_counter() - begun, time.process_time() - cpu

    @staticmethod
    async def _client(session: aiohttp.ClientSession, left: Iterator[tuple[str, bytes, str]]) -> None:
        for target, body, kind in left:
            async with session.post(target, data=body, headers={"Content-Type": kind}) as answer:
                said = await answer.read()
                if answer.status not in (200, 201):
                    raise ValueError(f"{target}: {answer.status}: {said[:300]!r}")


def _records(count: int) -> list[tuple[str, bytes, str]]:
    """Hashed records, each signed by itself: Rekor verifies every signature."""
    key = ec.generate_private_key(ec.SECP256R1())
    spki = base64.b64encode(key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).decode()
    verifier = {"publicKey": {"rawBytes": spki}, "keyDetails": "PKIX_ECDSA_P256_SHA_256"}

    def record(number: int) -> bytes:
        digest = sha256(number.to_bytes(8, "big")).digest()
        signature = base64.b64encode(key.sign(digest, ec.ECDSA(Prehashed(SHA256())))).decode()
        asked = {"digest": base64.b64encode(digest).decode(), "signature": {"content": signature, "verifier": verifier}}
        return json.dumps({"hashedRekordRequestV002": asked}).encode()

    return [("/api/v2/log/entries", record(number), "application/json") for number in range(count)]


def _leaves(count: int, each: int) -> list[tuple[str, bytes, str]]:
    """Decisions that differ, `each` in a request."""
    salt = os.urandom(8)

    def leaf(number: int) -> bytes:
        return encode_leaf(Leaf(1, 1, 1, 1, 0, 0, bytes(32), bytes(32), bytes(20), time.time_ns(), salt + number.to_bytes(8, "big")))

    leaves = [leaf(number) for number in range(count)]
    bodies = [encode_batch(leaves[start : start + each]) for start in range(0, count, each)]
    return [("/append", body, "application/octet-stream") for body in bodies]


def _cpu_s(pid: int) -> float:
    """CPU seconds of a process and all its threads."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _row(name: str, count: int, flood: Flood, pid: int) -> tuple[Row, Row]:
    before = _cpu_s(pid)
    wall, own = asyncio.run(flood.run())
    server = (_cpu_s(pid) - before) / count * 1e6
    note = f"{count:,} entries, {flood.clients:,} clients at once; the client took {own / wall:.2f} of a core"
    return Row(name, "entries/s", single(count / wall), note), Row(f"{name}: CPU of the server", "µs/entry", single(server))


def _rekor(folder: Path, count: int, clients: int) -> list[Row]:
    from private_stack import rekor
    from sigstore_binaries import built

    from go_binaries import CannotBuild

    try:
        program = built(build=False)["rekor"]
    except CannotBuild as error:
        return [Row("Rekor v2", "entries/s", None, f"not run: {error}")]
    rows: list[Row] = []
    for number, (name, options) in enumerate(REKOR.items()):
        with rekor(program, folder / f"rekor{number}", *options) as server:
            assert server.process is not None
            rows += _row(f"Rekor v2, {name}", count, Flood(server.url, None, _records(count), clients), server.process.pid)
    return rows


def _ours(folder: Path, count: int, clients: int) -> list[Row]:
    with sequencer(folder) as socket:
        (pid,) = (int(path.name) for path in Path("/proc").iterdir() if path.name.isdecimal() and _serves(path, socket))
        one = _row("ours, one leaf a request", count, Flood("http://sequencer", socket, _leaves(count, 1), min(clients, 256)), pid)
        many = _row(f"ours, {BATCH:,} leaves a request", count * 50, Flood("http://sequencer", socket, _leaves(count * 50, BATCH), 8), pid)
        begun = time.perf_counter()
        asyncio.run(_covered(socket, count * 51))
        waited = time.perf_counter() - begun
    assert many[0].spread is not None
    rate = count * 50 / (count * 50 / many[0].spread.median + waited)
    covered = Row(f"ours, {BATCH:,} leaves a request, covered by a checkpoint", "entries/s", single(rate), f"{waited:.1f} s later")
    return [*one, *many, covered]


def _serves(process: Path, socket: Path) -> bool:
    try:
        return str(socket).encode() in (process / "cmdline").read_bytes()
    except OSError:
        return False


async def _covered(socket: Path, size: int) -> None:
    end = time.monotonic() + WITHIN_S
    async with aiohttp.ClientSession("http://sequencer", connector=aiohttp.UnixConnector(str(socket))) as session:
        while time.monotonic() < end:
            async with session.get("/checkpoint") as answer:
                found = re.match(rf"{re.escape(ORIGIN)}\n(\d+)\n", await answer.text())
            if found and int(found[1]) >= size:
                return
            await asyncio.sleep(0.005)
    raise TimeoutError(f"no checkpoint covers {size} entries within {WITHIN_S:.0f} s")


def run(quick: bool = False) -> Figures:
    """One after the other, each alone, in the temporary folder ($TMPDIR)."""
    count, clients = (200, 64) if quick else (8_192, 2_048)
    with tempfile.TemporaryDirectory(prefix="knhk-bench-") as name:
        theirs = _rekor(Path(name), count, clients)
        (Path(name) / "ours").mkdir()
        ours = _ours(Path(name) / "ours", count, clients)
    rows = [*theirs, *ours]
    rates = {row.name: row.spread.median for row in rows if row.spread and row.unit == "entries/s"}
    best = max((rate for named, rate in rates.items() if named.startswith("Rekor")), default=None)
    if best is not None:
        rows += [Row(f"{named} ÷ Rekor's best", "×", single(rate / best)) for named, rate in rates.items() if named.startswith("ours")]
    return Figures("rekor", TITLE, tuple(rows), NOTES)
