"""An agent to which nobody speaks: documents applied, the ring of an Envoy worker open, a log that answers. What it costs each second."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from bench import inputs
from bench.durable import sequencer, until
from bench.figures import Goal, Row, spread
from bench.machine import family
from bench.rings import ProducerRing
from knhk.adapters.registry_layout import LayoutRegistry
from knhk.adapters.signer_local import LocalSigner, establish
from knhk.model.arrows import SharedObject
from knhk.model.canonical import canonical
from knhk.model.oci import SIGNATURE_PREDICATE
from knhk.packaging import signed
from knhk.packaging.image import pack_image
from knhk_gen.lower import lower
from knhk_hot.toolchain import HOST
from knhk_runtime.signatures import ROLLOUT

POINT, CAPACITY = "bench/idle", 4 << 20
SETTLE_S = 3.0
GOAL = Goal(5, most=True)


def _published(registry: Path, signer: LocalSigner) -> dict[str, str]:
    """The access pack, signed; as a rollout document names it."""
    image = pack_image(lower(inputs.access_sources()), [SharedObject(HOST, inputs.access_pack())])
    bundle = signer.bundle("build", signed.signature_statement(image, "pack/bench/access@1.0.0"))
    LayoutRegistry(registry).publish((image, signed.attached(image, bundle, SIGNATURE_PREDICATE)), "bench/access:1.0.0")
    return {"namespace": "bench", "name": "access", "version": "1.0.0", "digest": image.digest}


def _documents(signer: LocalSigner, pack: dict[str, str]) -> dict[str, bytes]:
    """What the control plane writes for this point."""
    now = datetime.now(UTC)
    point: dict[str, Any] = {
        "version": 1, "point": POINT, "region": "local", "regionIndex": 0, "attributes": [], "stickyAttribute": "", "failure": "Closed",
        "agentGraceSeconds": 30, "parkTimeoutMs": 1500, "ringBytes": CAPACITY, "residency": {"bytes": 0, "absent": "Decide"},
    }  # fmt: skip
    rollout = {
        "version": 1, "point": POINT, "epoch": 1, "origin": "knhk.dev/bench", "issued": f"{now:%Y-%m-%dT%H:%M:%SZ}",
        "notAfter": f"{now + timedelta(hours=1):%Y-%m-%dT%H:%M:%SZ}", "mode": "Stable", "weight": 0, "salt": "00" * 16, "baseline": "Deny",
        "stable": pack, "candidate": None, "data": None, "flags": {}, "bootstrap": None,
        "pointConfig": hashlib.sha256(canonical(point)).hexdigest(),
    }  # fmt: skip
    signature = canonical(signer.sign("rollout", ROLLOUT, canonical(rollout)))
    return {"keys.json": signer.keys_json(), "point.json": canonical(point), "rollout.json": signature}


def _cpu_s(processes: Sequence[int]) -> float:
    """User and system time of these, over all their threads, as proc(5) says it."""
    fields = [Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split() for pid in processes]
    return sum(int(each[11]) + int(each[12]) for each in fields) / os.sysconf("SC_CLK_TCK")


def _seen(folder: Path, seconds: float, runs: int) -> list[float]:
    """Milliseconds of CPU a second, run by run."""
    signer = establish(folder / "keys", "knhk.dev/bench", datetime.now(UTC))
    for name in ("point/desired", "rings"):
        (folder / name).mkdir(parents=True)
    for name, data in _documents(signer, _published(folder / "registry", signer)).items():
        (folder / "point" / "desired" / name).write_bytes(data)
    paths = {"point-dir": "point", "registry": "registry", "outbox": "outbox", "ring-dir": "rings", "root-pub": "keys/root.pub"}
    options = [word for name, path in {**paths, "sequencer-socket": "s.sock"}.items() for word in (f"--{name}", str(folder / path))]
    with sequencer(folder), (folder / "agent.log").open("wb") as said:
        process = subprocess.Popen([sys.executable, "-m", "knhk_runtime.main", *options], stderr=said)
        ring: ProducerRing | None = None
        try:
            until((folder / "point" / "private" / "ecds.json").exists, f"documents are applied; see {folder}", process)
            ring = ProducerRing(folder / "rings", CAPACITY)
            time.sleep(SETTLE_S)
            found = []
            for _ in range(runs):
                processes, begun = family(process.pid), time.perf_counter()
                before = _cpu_s(processes)
                time.sleep(seconds)
                found.append(1000 * (_cpu_s(processes) - before) / (time.perf_counter() - begun))
            return found
        finally:
            process.terminate()
            process.wait(30)
            if ring is not None:
                ring.close()


def rows(folder: Path, seconds: float, runs: int) -> list[Row]:
    """An agent as in a home, without traffic."""
    note = f"with a document, a log and a ring, over {seconds:.0f} s; evaluator included"
    return [Row("agent: CPU without traffic", "ms/s", spread(_seen(folder, seconds, runs)), note, GOAL)]
