"""What runs beside an application and on a desk: memory and start of the agent, start of the command, verifier, replay."""

from __future__ import annotations

import base64
import hashlib
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from bench import idle, inputs
from bench.durable import sequencer, until
from bench.figures import Figures, Goal, Row, Spread, single, spread
from bench.machine import family
from bench.native import NativePack
from bench.sealing import ASKED
from knhk.reconcilers.auditing import JUDGED, Loaded, Sources, audit, one_by_one
from knhk.reconcilers.evaluators import Evaluator
from knhk.reconcilers.replaying import replay, replay_segments
from knhk.wiring import archive, replays
from knhk_hot.drain import Arm, encode_record
from knhk_hot.pack import Pack
from knhk_runtime.envelope import KEY
from knhk_runtime.outbox.records import Entries
from knhk_runtime.outbox.segments import Segments
from knhk_runtime.sealing import Sealer
from knhk_runtime.sequencer.__main__ import load_key
from knhk_runtime.sequencer.core import Log
from knhk_runtime.sequencer.files import Disk
from knhk_runtime.sequencer.wire import parse_append
from knhk_runtime.sequencer_client import encode_batch
from knhk_runtime.subject_keys import KeyStore, create
from knhk_runtime.tlog.audit import verify_log
from knhk_runtime.tlog.folder import log_entries
from knhk_runtime.tlog.notes import format_vkey
from knhk_runtime.unsealing import Unsealer

TITLE = "Agent, command, verifier, replay"
BATCH = 8192
MIB = 1024.0
AUDITED = 1_000
IDLE_S = 2.0


def _rss(pid: int, field: str = "Pss") -> float:
    """MiB of a process; pages that it shares with others count in part."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{field}:")) / MIB


def _agent_once(folder: Path) -> tuple[float, float, float]:
    """Seconds until the agent's socket is there, MiB resident of the agent itself, proportional MiB of all its processes, idle."""
    for name in ("point", "rings", "registry"):
        (folder / name).mkdir(parents=True)
    public = Ed25519PrivateKey.generate().public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
    (folder / "root.pub").write_text(base64.b64encode(public).decode())
    options = {
        "point-dir": "point",
        "registry": "registry",
        "sequencer-socket": "s",
        "outbox": "outbox",
        "ring-dir": "rings",
        "root-pub": "root.pub",
    }
    words = [word for name, path in options.items() for word in (f"--{name}", str(folder / path))]
    command = [sys.executable, "-m", "knhk_runtime.main", *words, "--socket", str(folder / "a.sock")]
    with (folder / "agent.log").open("wb") as said:
        begun = time.perf_counter()
        process = subprocess.Popen(command, stderr=said)
        try:
            until((folder / "a.sock").exists, f"the agent listens; see {folder}", process)
            ready = time.perf_counter() - begun
            time.sleep(IDLE_S)
            return ready, _rss(process.pid, "Rss"), sum(_rss(pid) for pid in family(process.pid))
        finally:
            process.terminate()
            process.wait(30)


def _agent_rows(folder: Path, runs: int) -> list[Row]:
    seen = [_agent_once(folder / str(number)) for number in range(runs)]
    ready, own, whole = zip(*seen, strict=True)
    return [
        Row("agent: start to listening", "s", spread(ready), "no document yet", Goal(1.0, most=True)),
        Row("agent: resident, idle", "MiB", spread(own), f"after {IDLE_S:.0f} s", Goal(80, most=True)),
        Row("agent with its evaluator: proportional, idle", "MiB", spread(whole), "shared pages in part"),
    ]


def _command(words: Sequence[str], runs: int) -> Spread:
    argv = [sys.executable, "-m", "knhk.cli", *words]
    found = []
    for number in range(runs + 1):
        begun = time.perf_counter()
        subprocess.run(argv, capture_output=True, check=True)
        if number:  # the first reads files from disk
            found.append(time.perf_counter() - begun)
    return spread(found)


def _filled(folder: Path, count: int, sealed: Callable[[bytes], bytes] = bytes) -> None:
    """A log with `count` decisions of the access pack and their records, by the product's own writers. `sealed`: frames as they
    are kept."""
    binding = Pack.load(inputs.access_pack()).bind()
    pack = hashlib.sha256(inputs.access_pack()).digest()[:20]
    decided = [(case.o, binding.decide(case.o)) for case in inputs.access_cases()]
    log = Log(folder / "log", load_key(folder / "log.key", "knhk.dev/bench"), Disk())
    segments, source = Segments(folder / "log" / "observations" / "bench.point"), os.urandom(8)
    for first in range(0, count, BATCH):
        made = []
        for number in range(first, min(count, first + BATCH)):
            o, d = decided[number % len(decided)]
            made.append(encode_record(source + number.to_bytes(8, "big"), 0, 0, o, [Arm(pack, 1, d.klass, d.verdict, 1, 0, d.a)]))
        segments.append(sealed(b"".join(each.frame for each in made)))
        log.commit([parse_append(encode_batch([leaf for each in made for leaf in each.leaves]))])
    log.integrate()
    log.close()
    segments.close()


def _log_rows(folder: Path, count: int, runs: int) -> list[Row]:
    folder.mkdir()
    with sequencer(folder):
        pass
    _filled(folder, count)
    vkey = format_vkey(load_key(folder / "log.key", "knhk.dev/bench").verifier)
    evaluator = Evaluator({}, Pack.load(inputs.access_pack()).bind())
    verified, replayed = [], []
    for _ in range(runs):
        begun = time.process_time()
        report = verify_log(folder / "log", vkey)
        verified.append(count / (time.process_time() - begun))
        if report.bad or report.size != count:
            raise ValueError(f"verified {report.size} of {count} entries, {len(report.bad)} bad")
        begun = time.process_time()
        again = replay(folder / "log", log_entries(folder / "log"), lambda pack, bundle: evaluator, bytes(32))
        replayed.append(count / (time.process_time() - begun))
        if again.replayed != count:
            raise ValueError(f"replayed {again.replayed} of {count}; {again.differences[:1]}")
    clear = _archive_rows(folder, count, runs, evaluator)
    return [
        *clear,
        *_sealed_rows(folder / "sealed", count, runs, evaluator, clear[1]),
        Row("verifier: whole log", "leaves/s CPU", spread(verified), f"{count:,} leaves with their records"),
        Row("log replay: records, decisions, hashes", "decisions/s CPU", spread(replayed), "each compared byte for byte with the log"),
    ]


def _archive_rows(folder: Path, count: int, runs: int, evaluator: Evaluator) -> list[Row]:
    """The same decisions as segments of the Δ log: written, replayed, and some judged again by the oracle."""
    written, replayed, judged = list[float](), list[float](), list[float]()
    served, sources = archive.opened_folder(folder / "log").served, Sources([inputs.access_sources()])
    loaded = Loaded(evaluator, next(iter(sources.plans())))
    for number in range(runs):
        place = folder / f"delta-{number}"
        begun = time.process_time()
        made = archive.run_once(archive.Options(folder / "log", str(place), folder / f"state-{number}"))
        written.append(count / (time.process_time() - begun))
        begun = time.process_time()
        again = replay_segments(replays.kept(str(place)), served, lambda pack, bundle: evaluator, bytes(32))
        replayed.append(count / (time.process_time() - begun))
        if (made.progress.rows, again.replayed, again.root) != (count, count, served.root(count).hex()):
            raise ValueError(f"{made.progress.rows} rows, replayed {again.replayed} of {count}; {again.differences[:1]}")
        admitted = islice(replays.archived(str(place), served), min(count, AUDITED))
        begun = time.process_time()
        found = audit(admitted, one_by_one(sources, lambda pack, bundle: loaded))
        judged.append(found.kinds[JUDGED].judged / (time.process_time() - begun))
        if not found.kinds[JUDGED].judged or found.violations or found.unjudged:
            raise ValueError(f"judged {found.kinds[JUDGED]}, {found.violations[:1]}, {found.unjudged}")
    return [
        Row("archive: rows written", "decisions/s CPU", spread(written), "index of the log read, Parquet with ZSTD"),
        Row("archive: replay", "decisions/s CPU", spread(replayed), "every A, both hashes, every tile and the root recomputed"),
        Row("archive: audit by the oracle", "decisions/s CPU", spread(judged), "admitted ones, from RDF and mapping, in Python"),
    ]


def _sealed_rows(folder: Path, count: int, runs: int, evaluator: Evaluator, clear: Row) -> list[Row]:
    """The same decisions again, each sealed for its subject, replayed by who has the key store. `clear`: those in clear."""
    folder.mkdir()
    with sequencer(folder):
        pass
    own, found = os.urandom(KEY), list[float]()
    create(folder / "keys", own, b"")
    sealer, keys = Sealer(lambda _: KeyStore(folder / "keys", own)), KeyStore(folder / "keys", own)
    _filled(folder, count, lambda frames: sealer.entries(Entries(frames, b"", count), ASKED).frames)
    archive.run_once(archive.Options(folder / "log", str(folder / "delta"), folder / "state"))
    served = archive.opened_folder(folder / "log").served
    for _ in range(runs):
        segments, begun = replays.kept(str(folder / "delta")), time.process_time()
        again = replay_segments(segments, served, lambda pack, bundle: evaluator, bytes(32), unsealer=Unsealer(keys))
        found.append(count / (time.process_time() - begun))
        if (again.replayed, again.sealed, again.root) != (count, 0, served.root(count).hex()):
            raise ValueError(f"replayed {again.replayed} of {count} sealed; {again.differences[:1]}")
    sealer.close()
    keys.close()
    beside = clear.spread.median if clear.spread is not None else 0.0
    return [
        Row("archive: replay of sealed records", "decisions/s CPU", spread(found), "the same, each opened first"),
        Row("sealed ÷ clear", "×", single(spread(found).median / beside), "what decryption leaves of the rate of replay"),
    ]


def run(quick: bool = False) -> Figures:
    """Processes by wall time, verifier and replay by CPU time of one core."""
    runs, count, samples = (1, 500, 3) if quick else (5, 50_000, 15)
    cases = inputs.access_cases()
    native = NativePack(inputs.access_pack(), [case.o for case in cases], Pack.load(inputs.access_pack()).variants[0])
    with tempfile.TemporaryDirectory(prefix="knhk-bench-") as name:
        rows = _agent_rows(Path(name) / "agent", runs)
        rows += idle.rows(Path(name) / "idle", *((1.0, 1) if quick else (20.0, 3)))
        rows.append(Row("knhk --help", "s", _command(["--help"], runs)))
        rows.append(Row("knhk catalog -o json", "s", _command(["catalog", "-o", "json"], runs)))
        rows += _log_rows(Path(name) / "log", count, runs)
    rates = spread([1e9 / native.decide(50) for _ in range(samples)])
    rows.append(
        Row("what-if: decisions from bytes of O, one core", "decisions/s CPU", rates, "in C, without records and hashes", Goal(1_000_000))
    )
    return Figures("agent", TITLE, tuple(rows))
