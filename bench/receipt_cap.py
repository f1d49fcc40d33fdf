"""Receipts beyond the cap leave, in both homes. python -m bench.receipt_cap [--receipts 12000] [--kept 10000]

Every Receipt is of a signed policy event in a real log (its sequencer's process), with its proof. They lie in SQLite, and on a real API
server (etcd on this machine's disk). Then what the control plane does: read how many there are, remove the oldest ones once the log has
named them, and look again with nothing to remove. `requests at rest`: to the API server, in a hundred looks."""

from __future__ import annotations

import argparse
import contextlib
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "receipts"))
sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "cluster"))
from control_plane import shared
from definitions import install
from log_of_entries import ORIGIN, Written
from server_binaries import binaries

from bench.machine import describe
from knhk.adapters.kube_client import KubeClient, api_client
from knhk.adapters.kube_feed import ChangeFeed
from knhk.adapters.log_sequencer import SequencerLog
from knhk.adapters.store_kube import KubeStore
from knhk.adapters.store_sqlite import SqliteStore
from knhk.adapters.system import SystemClock, SystemRandom
from knhk.adapters.threads import Threads
from knhk.lockchain import receipt_labels, receipt_spec
from knhk.model.faults import AlreadyExists, Waiting
from knhk.model.keeping import Keep
from knhk.model.resource import Resource
from knhk.ports.log import Log
from knhk.ports.store import Store
from knhk.reconcilers.context import Ports, statement_of
from knhk.reconcilers.keeping import Keeping

HANDS = 8
LOOKS = 100
BEGINS_WITHIN_S = 60.0


def receipts(written: Written) -> Iterator[Resource]:
    """As the operator makes them."""
    note, log = (written.folder / "checkpoint").read_text(), written.served
    for index, entry in enumerate(log.entries()):
        document = statement_of(entry.decode())
        spec = receipt_spec(entry, document, index, log.inclusion(index, note))
        name = f"{spec['event'].lower()}-{index:08d}"
        yield Resource("Receipt", "erp", name, spec, labels=receipt_labels(spec, document))


@contextmanager
def sequencer(written: Written, folder: Path) -> Iterator[Log]:
    """The log, served."""
    socket, key = folder / "s", folder / "made" / "keys" / "log.key"
    options = ("--dir", written.folder, "--socket", socket, "--origin", ORIGIN, "--key", key)
    process = subprocess.Popen([sys.executable, "-m", "knhk_runtime.sequencer", *map(str, options)], stderr=subprocess.DEVNULL)
    try:
        log, deadline_s = SequencerLog(socket), time.monotonic() + BEGINS_WITHIN_S
        while True:
            try:
                log.checkpoint()
                break
            except Waiting:
                if time.monotonic() > deadline_s or process.poll() is not None:
                    raise
                time.sleep(0.1)
        yield log
    finally:
        process.terminate()
        process.wait(60)


def took_s(run: Callable[[], object]) -> float:
    start_s = time.perf_counter()
    run()
    return time.perf_counter() - start_s


def capped(store: Store, log: Log, hands: Threads, made: list[Resource], kept: int, asked: Callable[[], int]) -> dict[str, Any]:
    """What it costs to hold a store with these Receipts to the bound."""
    some = [made[n::HANDS] for n in range(HANDS)]
    written_s = took_s(lambda: hands([partial(_create, store, part) for part in some]))
    ports = cast(Ports, SimpleNamespace(store=store, log=log, together=hands, clock=SystemClock()))
    keeping, before_mib = Keeping(ports, Keep(kept, 0, 0)), _memory_mib()
    listing_s = took_s(lambda: [None for _ in store.heads("Receipt")])
    now_s, turns = 0.0, list[float]()
    while not keeping.resting:
        turns.append(took_s(partial(keeping.turn, now_s, busy=False)))
        now_s += 0.05
    left = {receipt.name for receipt in store.heads("Receipt")}
    assert left == {receipt.name for receipt in made[-kept:]}, "the newest are left, and no others"
    count = asked()
    rest_s = sum(took_s(partial(keeping.turn, now_s + 10.0 + n * 2.0, busy=False)) for n in range(LOOKS))
    return {
        "made": len(made),
        "made_a_second": round(len(made) / written_s),
        "left": len(left),
        "metadata_read_in_s": round(listing_s, 2),
        "memory_mib_more": round(_memory_mib() - before_mib, 1),
        "removed_a_second": round((len(made) - len(left)) / sum(turns)),
        "turn_ms_at_most": round(max(turns[1:]) * 1e3, 1),
        "look_at_rest_us": round(rest_s / LOOKS * 1e6, 1),
        "requests_at_rest": asked() - count,
    }


def _create(store: Store, some: list[Resource]) -> None:
    for receipt in some:
        store.create(receipt)


def _memory_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.receipt_cap", description=__doc__)
    parser.add_argument("--receipts", type=int, default=12_000)
    parser.add_argument("--kept", type=int, default=10_000)
    args = parser.parse_args()
    binaries(build=True)
    told: dict[str, Any] = {"command": " ".join(["python", "-m", "bench.receipt_cap", *sys.argv[1:]]), **describe()}
    with tempfile.TemporaryDirectory() as name, shared(Path(name) / "cluster") as cluster:
        folder, hands, count = Path(name), Threads(HANDS), [0]
        written = Written(folder / "made")
        written.add_events(written.event("Approved", actor=f"user{n % 97}@example.com", reason=f"number {n}") for n in range(args.receipts))
        made = list(receipts(written))
        told["bytes_of_a_receipt"] = len(json.dumps(made[0].spec))

        def answered(method: str, host: str, status: int) -> None:
            count[0] += 1

        with sequencer(written, folder) as log:
            embedded = SqliteStore(folder / "store.db", SystemClock(), SystemRandom())
            told["embedded"] = capped(embedded, log, hands, made, args.kept, lambda: 0)
            embedded.close()
            client = KubeClient(api_client(cluster.kubeconfig), answered)
            install(client)
            with contextlib.suppress(AlreadyExists):
                client.call("POST", "/api/v1/namespaces", body={"metadata": {"name": "erp"}})
            store = KubeStore(client, ChangeFeed(), SystemClock())
            told["API server"] = capped(store, log, hands, made, args.kept, lambda: count[0])
        hands.close()
    print(json.dumps(told, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
