"""A million decision receipts: how soon the first page comes, by `knhk receipt list` and by kubectl through a real API server, and how much
memory that takes; and what a question by SQL takes that reads them all by that API. python -m bench.receipts [--leaves N]

Beside them, in the same run, what a request costs anyway: `knhk --version`, and kubectl for the list of namespaces."""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "receipts"))
sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "cluster"))
from control_plane import shared
from definitions import install
from log_of_entries import CONTROLS, LIMITS, OTHERS, PACKS, Written, leaf
from receipts_process import ReceiptsServer
from server_binaries import binaries

from knhk.adapters.kube_client import KubeClient, api_client
from knhk_hot.toolchain import cache_root

TIMES = 9
RINGS = ((b"RING0001", CONTROLS), (b"RING0002", LIMITS), (b"RING0003", OTHERS))
FIRST = "/apis/receipts.knhk.dev/v1alpha1/namespaces/erp/decisionreceipts?limit=500"
SELECTED = f"{FIRST}&fieldSelector=verdict%3DDENY%2Cpack%3Dinvoice-controls"
# 9 of docs/risk.md, but for its percentage
QUESTION = """SELECT pack, version, min(time) AS first, count(*) AS judged, count(*) FILTER (verdict = 'DENY') AS denied FROM decisions
WHERE kind = 'DECISION' AND mode = 'ENFORCED' AND pack_digest != '' GROUP BY ALL ORDER BY pack, first"""
NARROW = "verdict=DENY,pack=invoice-controls,stale=true"  # 333 of a million: what kubectl shows as one table


def leaves(count: int) -> Iterator[bytes]:
    """Of three packs; one in 50 is denied, one in 7 judged beside, one in 3,000 denied under a stale document."""
    for n in range(count):
        ring, pack = RINGS[n % 3]
        stale = n % 3000 == 0
        yield leaf(n, ring=ring, pack=pack, verdict=2 if stale or n % 50 == 0 else 1, flags=(n % 7 == 0) | 2 * stale, mode=1 + (n % 7 == 0))


def took(run: Callable[[], object]) -> dict[str, float]:
    """Milliseconds: median and extremes of TIMES, after one that is not counted."""
    run()
    found = []
    for _ in range(TIMES):
        start_s = time.perf_counter()
        run()
        found.append((time.perf_counter() - start_s) * 1e3)
    return {"median_ms": round(statistics.median(found), 1), "least_ms": round(min(found), 1), "most_ms": round(max(found), 1)}


def command(*words: str | Path, rows: int | None = None) -> Callable[[], object]:
    def run() -> None:
        done = subprocess.run([*map(str, words)], capture_output=True, check=True, env={**os.environ, "KNHK_CACHE": CACHE})
        assert rows is None or len(json.loads(done.stdout)["receipts" if b'"receipts"' in done.stdout[:4096] else "items"]) == rows

    return run


def once(*words: str | Path) -> dict[str, float]:
    """Seconds of one run, of its CPU, and the most memory it held (MiB)."""
    start_s = time.perf_counter()
    with tempfile.TemporaryFile() as told:
        process = subprocess.Popen([*map(str, words)], stdout=told)
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        assert process.returncode == 0, words
    took_s = time.perf_counter() - start_s
    return {"s": round(took_s, 1), "cpu_s": round(used.ru_utime + used.ru_stime, 1), "peak_mib": round(used.ru_maxrss / 1024, 1)}


CACHE = ""


def main() -> int:
    global CACHE
    parser = argparse.ArgumentParser(prog="python -m bench.receipts", description=__doc__)
    parser.add_argument("--leaves", type=int, default=1_000_000)
    args = parser.parse_args()
    servers, knhk = binaries(build=True), Path(sys.executable).with_name("knhk")
    with tempfile.TemporaryDirectory() as folder, shared(Path(folder) / "cluster") as cluster:
        CACHE = f"{folder}/cache"  # without an index of this log, and with the native parts that set-up built
        Path(CACHE).mkdir()
        Path(CACHE, "native").symlink_to(cache_root())
        written = Written(Path(folder) / "made")
        written.add(*(written.event("Signed", pack) for pack in PACKS))
        written.leaves(leaves(args.leaves))
        client = KubeClient(api_client(cluster.kubeconfig))
        install(client)
        listing = (knhk, "--home", f"{folder}/none", "receipt", "list", "--log", written.folder, "-o", "json")
        start_s = time.perf_counter()
        command(*listing)()
        read_s = time.perf_counter() - start_s
        told: dict[str, object] = {"leaves": args.leaves, "cli_reads_log_in_s": round(read_s, 1)}
        told["knhk --version"] = took(command(knhk, "--version"))
        told["knhk receipt list"] = took(command(*listing, rows=50))
        told["knhk receipt list --verdict DENY --pack"] = took(
            command(*listing, "--limit", "500", "--verdict", "DENY", "--pack", "invoice-controls", rows=500)
        )
        server = ReceiptsServer(cluster, client, servers["kubectl"], written.folder, Path(folder) / "server")
        try:
            told["server_memory_mib"] = round(server.memory_mib(), 1)
            kubectl = (servers["kubectl"], f"--kubeconfig={cluster.kubeconfig}", f"--cache-dir={folder}/kube", "get")
            told["kubectl get namespaces"] = took(command(*kubectl, "namespaces"))
            told["kubectl get --raw, first page of 500"] = took(command(*kubectl, "--raw", FIRST, rows=500))
            told["kubectl get --raw, first page of 500, verdict and pack"] = took(command(*kubectl, "--raw", SELECTED, rows=500))
            told["kubectl get decisionreceipts, a table"] = took(
                command(*kubectl, "decisionreceipts", "-n", "erp", "--field-selector", NARROW)
            )
            client.call("GET", "/apis/receipts.knhk.dev/v1alpha1/decisionreceipts", {"limit": "1"})
            for _ in range(20):
                client.call("GET", "/apis/receipts.knhk.dev/v1alpha1/decisionreceipts", {"limit": "500"})
            asking = (knhk, "receipt", "query", "--kubeconfig", cluster.kubeconfig, "-o", "json")
            told["knhk receipt query --kubeconfig, all decisions"] = once(*asking, QUESTION)
            told["the same, --field-selector verdict=DENY"] = once(*asking, "--field-selector", "verdict=DENY", QUESTION)
            told["server_memory_after_mib"] = round(server.memory_mib(), 1)
        finally:
            server.close()
    print(json.dumps(told, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
