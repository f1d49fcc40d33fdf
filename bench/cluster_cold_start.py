"""`make bench-cluster`: how long an operator needs for a cluster with many built packs, its memory, and what it writes meanwhile.

python -m bench.cluster_cold_start [--packs 1000] [--out FILE]

A real API server (tests/cluster). One pack is built by the operator; then as many objects are there, each with an image of its own in
the registry and the status of a pack that is live; then the operator starts. There are no enforcement points: in the home that
this operator has they would be processes of this machine.
"""

from __future__ import annotations

import argparse
import json
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from knhk.adapters.kube_client import APPLY, KubeClient, api_client
from knhk.adapters.kube_documents import collection, new_document, place, resource_of, status_document
from knhk.adapters.registry_layout import LayoutRegistry
from knhk.api import parse
from knhk.model.canonical import canonical
from knhk.model.faults import AlreadyExists, KnhkError, NotFound
from knhk.model.oci import INDEX, PACK, Artifact, Blob
from knhk.model.resource import Resource

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "cluster"))
from control_plane import Cluster, owned
from definitions import install
from server_binaries import binaries

EXAMPLE = Path(__file__).parents[1] / "examples" / "packs" / "invoice-controls"
NAMESPACES = 10
WITHIN_S = 300.0
QUIET_S = 5.0  # nothing is written for so long after all is observed
WRITES = re.compile(r'apiserver_request_total\{[^}]*group="knhk\.dev"[^}]*verb="(?:POST|PUT|PATCH|APPLY|DELETE)"[^}]*\} ([0-9.e+]+)')
SEEN = re.compile(r'controller_runtime_reconcile_total\{controller="policypack",result="success"\} ([0-9.e+]+)')


@dataclass
class Operator:
    """The operator's process, and where it tells how it fares."""

    process: subprocess.Popen[bytes]
    url: str
    log: Path

    def get(self, path: str) -> str:
        """The answer, empty while there is none."""
        try:
            with urllib.request.urlopen(f"{self.url}/{path}", timeout=5) as answer:
                found: str = answer.read().decode()
                return found
        except OSError:
            return ""

    def memory_mib(self, name: str) -> float:
        """VmRSS or VmHWM of the process."""
        row = next(line for line in Path(f"/proc/{self.process.pid}/status").read_text().splitlines() if line.startswith(f"{name}:"))
        return round(int(row.split()[1]) / 1024, 1)


@contextmanager
def operator(home: Path, cluster: Cluster) -> Iterator[Operator]:
    """Runs while the context lasts."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    options = ["--home", str(home), "--kubeconfig", str(cluster.kubeconfig), "--health", f"127.0.0.1:{port}"]
    log = home.parent / "operator.log"
    with log.open("ab") as out:
        process = subprocess.Popen([sys.executable, "-m", "knhk.handlers", *options], stdout=out, stderr=out)
    try:
        yield Operator(process, f"http://127.0.0.1:{port}", log)
    finally:
        process.send_signal(signal.SIGTERM)
        if process.wait(120) != 0:
            raise RuntimeError(log.read_text(errors="replace")[-3000:])


def until(holds: Callable[[], bool], of: Operator) -> None:
    """Waits until it is so."""
    deadline_s = time.monotonic() + WITHIN_S
    while not holds():
        if time.monotonic() > deadline_s or of.process.poll() is not None:
            raise RuntimeError(of.log.read_text(errors="replace")[-3000:])
        time.sleep(0.05)


def built(client: KubeClient, home: Path, cluster: Cluster) -> Resource:
    """A pack that the operator built."""
    resources = [r for name in ("finance-roles.yaml", "1.0.0/pack.yaml") for r in parse((EXAMPLE / name).read_text(), name)]
    for resource in resources:
        client.call("POST", collection(resource.kind, resource.namespace), {}, new_document(resource))
    key = resources[-1].key

    def signed() -> bool:
        return resource_of(client.call("GET", place(key))).status.get("revision", {}).get("phase") == "Signed"

    with operator(home, cluster) as running:
        until(signed, running)
        until(lambda: not resource_of(client.call("GET", place(key))).status.get("pending"), running)
        return resource_of(client.call("GET", place(key)))


def images(home: Path, digest: str, count: int) -> list[str]:
    """As many images that differ, with the parts of a built one."""
    registry = LayoutRegistry(home / "registry")
    index = json.loads(registry.read(digest))
    blobs = [Blob(INDEX, canonical({**index, "annotations": {"dev.knhk.bench": str(n)}})) for n in range(count)]
    for start in range(0, count, 100):
        registry.publish([Artifact(blob, PACK, ()) for blob in blobs[start : start + 100]])
    return [blob.digest for blob in blobs]


def live(pack: Resource, name: str, namespace: str, digest: str) -> Resource:
    """A pack of another name with the status of one that is live."""
    revision = {**pack.status["revision"], "phase": "Live", "generation": 1, "digest": digest}
    ready = {"type": "Ready", "status": "True", "reason": "Live", "message": f"{revision['version']} is live", "observedGeneration": 1}
    status = {
        "revision": revision,
        "live": revision,
        "conditions": [{**ready, "lastTransitionTime": "2026-11-26T00:00:00Z"}],
        "observedGeneration": 1,
    }
    return replace(pack, name=name, namespace=namespace, status=status, uid="", resource_version="")


def create(client: KubeClient, packs: list[Resource]) -> None:
    """Objects and their status, as an operator before left them."""

    def one(pack: Resource) -> None:
        client.call("POST", collection(pack.kind, pack.namespace), {}, new_document(pack))
        query = {"fieldManager": "knhk", "force": "true", "fieldValidation": "Strict"}
        client.call("PATCH", f"{place(pack.key)}/status", query, status_document(pack), APPLY)

    for namespace in sorted({pack.namespace for pack in packs} | {"erp"}):
        try:
            client.call("POST", "/api/v1/namespaces", body={"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}})
        except AlreadyExists:
            continue
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(one, packs))


def writes(cluster: Cluster) -> int:
    """Requests that write objects of ours, as the API server counts them."""
    kubectl = str(binaries(("kubectl",), build=False)["kubectl"])
    command = [kubectl, f"--kubeconfig={cluster.kubeconfig}", "get", "--raw", "/metrics"]
    told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return sum(int(float(found)) for found in WRITES.findall(told))


def measure(client: KubeClient, cluster: Cluster, home: Path, count: int) -> dict[str, Any]:
    """The figures of one cold start."""
    create(client, [])
    pack = built(client, home, cluster)
    digests = images(home, pack.status["revision"]["digest"], count)
    packs = [live(pack, f"pack-{n:04}", f"team-{n % NAMESPACES}", digest) for n, digest in enumerate(digests)]
    create(client, packs)
    before = writes(cluster)
    if before < 2 * count:
        raise RuntimeError(f"the API server must have counted the writes of {count} packs, it told {before}")
    begun_s = time.monotonic()
    with operator(home, cluster) as running:
        until(lambda: running.get("readyz") == "ok\n", running)
        ready_s = time.monotonic() - begun_s
        until(lambda: sum(float(n) for n in SEEN.findall(running.get("metrics"))) >= count, running)
        observed_s = time.monotonic() - begun_s
        time.sleep(QUIET_S)
        written = writes(cluster) - before
        memory = {name: running.memory_mib(row) for name, row in (("rss_mib", "VmRSS"), ("peak_rss_mib", "VmHWM"))}
    conditions = [row for document in client.call("GET", collection("PolicyPack"))["items"] for row in document["status"]["conditions"]]
    are_ready = sum(row["type"] == "Ready" and row["status"] == "True" for row in conditions)
    size = len(canonical(new_document(pack)))
    return {
        "packs": count,
        "pack_bytes": size,
        "memory_synced_s": round(ready_s, 2),
        "all_observed_s": round(observed_s, 2),
        "ready": are_ready,
        "writes": written,
        **memory,
    }


def main(argv: list[str]) -> int:
    """The exit code: 1 when it could not be measured."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--packs", type=int, default=1000)
    parser.add_argument("--out", type=Path, help="file for the figures, JSON; default: standard output")
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder, owned(Path(folder) / "cluster") as cluster:
        client = KubeClient(api_client(cluster.kubeconfig))
        install(client)
        try:
            figures = measure(client, cluster, Path(folder) / "home", args.packs)
        except (KnhkError, NotFound, RuntimeError) as error:
            print(error, file=sys.stderr)
            return 1
    text = json.dumps(figures, indent=1)
    print(text)
    if args.out:
        args.out.write_text(text + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
