"""`make bench-cluster`: from the edit of a pack of 64 guards to the first decision that is judged by the new revision.

python -m bench.cluster_edit [--edits 5] [--guards 64] [--home embedded|cluster|both] [--signer local|keyless|both] [--out FILE]

A point with Envoy and agent is live under light traffic; an edit is a new version with another threshold, proven on as many cases as every
build is. The time runs from before the version is applied, with the command that people use, to the moment that the first leaf says whose
pack it names: a leaf is the decision's record, and carries its time. In shadow and canary both packs judge every request, and one is
enforced; so there are two answers: first judged, and first enforced, after a shadow and a canary of 20 pairs each.

`embedded`: `knhk up` and `knhk apply`. `cluster`: a real API server, the operator with its exchange, the builder with two warm
workers, Debian's registry, the log behind TLS, `kubectl apply`, and agent with courier and Envoy as processes with a real pod's token.

`--signer`: `local`, role keys in files and nobody outside; `keyless`, the same and, before the order of an image is done, the word of a
private sigstore for it (a certificate of Fulcio by a service account's token, an entry of Rekor v2, a timestamp), by the real servers on
this machine, which `python tests/sigstore/sigstore_binaries.py` builds. A public one is further away.
Builds are done by warm workers; there is no mode in which they are Jobs.
"""

from __future__ import annotations

import argparse
import base64
import http.client
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import yaml

sys.path.insert(0, str(Path(__file__).parents[1] / "examples" / "order_to_cash"))
sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "system"))
sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "sigstore"))
sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from private_stack import Stack, private_sigstore
from sigstore_binaries import built

from bench import cluster_plane
from bench.cluster_plane import control_plane
from knhk.api import parse, to_sources
from knhk.model.resource import Key
from knhk.model.times import from_rfc3339_ns
from knhk.packaging.builds import PackOrder
from knhk.reconcilers.workshop import Bench
from knhk.wiring import packs
from knhk.wiring.home import Home
from knhk.wiring.signing import SIGSTORE_FILE
from knhk_runtime.tlog.folder import log_entries
from knhk_verify.leaf import parse_leaf
from loopback_ports import free_port

GOAL_S = 5.0
RATE_S = 50.0
PACK, POINT = Key("PolicyPack", "erp", "orders"), Key("EnforcementPoint", "erp", "p1")
ENFORCED = 1
until = partial(cluster_plane.until, within_s=120.0, every_s=0.005)
STEPS = ("stored", "begun", "signed", "published", "applied", "judged", "enforced")


# ---- what is applied --------------------------------------------------------------------------------


def pack(version: str, guards: int, threshold: int) -> dict[str, Any]:
    """A pack of so many guards, of which one compares with the threshold; guard 0 of every pack comes from none of its constraints."""
    rules = [f"[ sh:path ex:p{n} ; sh:maxInclusive {threshold if n == 0 else 1000 + n} ]" for n in range(guards - 1)]
    shapes = "\n".join(
        (
            "@prefix sh: <http://www.w3.org/ns/shacl#> .",
            "@prefix ex: <https://example.com/ns#> .",
            "ex:S a sh:NodeShape ; sh:targetClass ex:Order ;",
            "  sh:property " + " ,\n    ".join(rules) + " .\n",
        )
    )
    properties = {f"ex:p{n}": f"$.p{n}" for n in range(guards - 1)}
    mapping = {
        "prefixes": {"ex": "https://example.com/ns#"},
        "unknownMembers": "Allow",
        "maps": [{"id": "order", "iterator": "$", "subject": {"blank": True}, "class": "ex:Order", "properties": properties}],
    }
    return {
        "apiVersion": "knhk.dev/v1alpha1",
        "kind": "PolicyPack",
        "metadata": {"name": PACK.name, "namespace": PACK.namespace},
        "spec": {
            "version": version,
            "sources": [
                {"name": "shapes", "kind": "shapes", "inline": shapes},
                {"name": "body", "kind": "mapping", "inline": yaml.safe_dump(mapping, sort_keys=False)},
            ],
            "routes": [{"name": "create", "mapping": "body"}],
            "targets": [{"point": POINT.name}],
            "rollout": {
                "shadow": {"minPairs": 20},
                "steps": [{"weight": 50, "minPairs": 20}],
                "analysis": {"tolerances": {"maxNewDenials": "0.01", "maxNewAdmits": "0.01"}, "effect": "0.3"},
                "deadlineSeconds": 600,
                "onNoData": "Hold",
            },
        },
    }


def point(upstream: int, listen: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "apiVersion": "knhk.dev/v1alpha1",
        "kind": "EnforcementPoint",
        "metadata": {"name": POINT.name, "namespace": POINT.namespace},
        "spec": {
            "mode": "Sidecar",
            "selector": {"matchLabels": {"app": "orders"}},
            "listen": dict(listen),
            "upstream": {"host": "127.0.0.1", "port": upstream},
            "match": [{"name": "create", "method": "POST", "path": "/orders", "action": "create"}],
            "baseline": "Deny",
        },
    }


def body(guards: int) -> bytes:
    """An order that every guard admits."""
    return json.dumps({f"p{n}": n for n in range(guards - 1)}).encode()


# ---- traffic ----------------------------------------------------------------------------------------


class _Upstream(BaseHTTPRequestHandler):
    """An application that takes every order."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("content-length", 0)))
        self.send_response(201)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Says nothing."""


@contextmanager
def upstream() -> Iterator[int]:
    """Its port."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Upstream)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@dataclass
class Callers:
    """Orders, one after another, at a rate of RATE_S a second."""

    address: tuple[str, int]
    order: bytes
    answers: dict[int, int] = field(default_factory=dict)
    _stop: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> Callers:
        self._thread = threading.Thread(target=self._run)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        connection = http.client.HTTPConnection(*self.address, timeout=10)
        while not self._stop.wait(1 / RATE_S):
            try:
                connection.request("POST", "/orders", self.order, {"content-type": "application/json"})
                answer = connection.getresponse()
                answer.read()
                status = answer.status
            except (OSError, http.client.HTTPException):
                connection.close()
                status = 0
            self.answers[status] = self.answers.get(status, 0) + 1
        connection.close()


# ---- one edit, in either home -----------------------------------------------------------------------


@dataclass(frozen=True)
class House:
    """A home that runs: how a document is applied, what an object's status says, where the agent and the log have their files."""

    apply: Callable[[dict[str, Any]], None]
    status: Callable[[Key], Mapping[str, Any]]
    desired: Path
    agent_log: Path
    log: Path
    address: tuple[str, int]


def document(house: House) -> str:
    """The rollout document at the point, whole, empty while there is none."""
    try:
        envelope = json.loads(house.desired.read_bytes())
    except (FileNotFoundError, ValueError):
        return ""
    return base64.b64decode(envelope["payload"]).decode()


def edited(house: House, made: dict[str, Any]) -> dict[str, Any]:
    """One edit, until the new version is live: moments of its steps, seconds since 1970."""
    version = made["spec"]["version"]
    moments = {"from": time.time()}
    house.apply(made)
    moments["stored"] = time.time()
    digest = ""

    def revision() -> Mapping[str, Any]:
        found = house.status(PACK).get("revision", {})
        return found if found.get("version") == version else {}

    def signed() -> str:
        found = revision()
        if found.get("phase") == "Pending":
            moments.setdefault("begun", from_rfc3339_ns(found["phaseSince"]) / 1e9)
        return str(found.get("digest", ""))

    digest = until(signed, f"{version} is signed")
    moments["signed"] = time.time()
    until(lambda: digest in document(house), f"{version} is published")
    moments["published"] = house.desired.stat().st_mtime
    until(lambda: revision().get("phase") == "Live", f"{version} is live")
    return {"version": version, "digest": digest, "moments": moments}


def applied(house: House) -> dict[int, float]:
    """Epoch → when the agent gave Envoy its configuration."""
    found: dict[int, float] = {}
    for line in house.agent_log.read_text(errors="replace").splitlines():
        told: dict[str, Any] = json.loads(line) if line.startswith("{") else {}
        if told.get("event") == "applied":
            found.setdefault(int(told["epoch"]), datetime.fromisoformat(told["time"]).timestamp())
    return found


def leaves(house: House) -> dict[str, dict[str, float]]:
    """First 20 bytes of a digest → when a leaf names it first, and first as enforced."""
    found: dict[str, dict[str, float]] = {}
    for data in log_entries(house.log):
        if len(data) == 118 and data[0] == 1:
            leaf = parse_leaf(data)
            row, at = found.setdefault(leaf.pack.hex(), {}), leaf.time_ns / 1e9
            row["judged"] = min(at, row.get("judged", at))
            if leaf.mode == ENFORCED:
                row["enforced"] = min(at, row.get("enforced", at))
    return found


def measure(house: House, guards: int, edits: int) -> dict[str, Any]:
    """The figures of a home whose point is there."""
    house.apply(pack("1.0.0", guards, 10))
    with Callers(house.address, body(guards)) as callers:
        until(lambda: house.status(PACK).get("live"), "1.0.0 is live")
        until(lambda: callers.answers.get(201, 0) > 20, "orders are admitted")
        callers.answers.clear()
        rows = [edited(house, pack(f"1.0.{n}", guards, 10 + n)) for n in range(1, edits + 1)]
        last = rows[-1]["digest"].removeprefix("sha256:")[:40]
        until(lambda: "enforced" in leaves(house).get(last, {}), "the last decisions are in the log")
    told, given = leaves(house), sorted(applied(house).values())
    for row in rows:
        moments = row["moments"]
        moments |= told[row["digest"].removeprefix("sha256:")[:40]]
        moments["applied"] = next((at for at in given if at >= moments["published"]), moments["judged"])
    if house.status(PACK)["live"]["guards"] != guards:
        raise ValueError(f"the pack must have {guards} guards, it has {house.status(PACK)['live']['guards']}")
    since = {name: [round(row["moments"][name] - row["moments"]["from"], 2) for row in rows if name in row["moments"]] for name in STEPS}
    return {
        "edits": edits,
        "guards": guards,
        "answers": {str(status): count for status, count in sorted(callers.answers.items())},
        "first_judged_s": {"median": round(statistics.median(since["judged"]), 2), "worst": max(since["judged"])},
        "first_enforced_s": {"median": round(statistics.median(since["enforced"]), 2), "worst": max(since["enforced"])},
        "seconds_since_the_edit": since,
        "goal_s": GOAL_S,
    }


# ---- where a build's time goes ----------------------------------------------------------------------


def build_steps(guards: int, edits: int) -> dict[str, Any]:
    """Median seconds of each step of a build, in this process, into a registry that is a folder."""
    spent: dict[str, list[float]] = {}
    proof: Mapping[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="knhk-bench-") as name:
        home = Home(Path(name) / "home")
        home.prepare()
        bench = Bench(packs.compiler(), packs.prover(), packs.registry(home.registry), packs.signer(home), packs.generator())
        for n in range(edits + 1):
            (resource,) = parse(yaml.safe_dump(pack(f"2.0.{n}-{time.time_ns()}", guards, 10 + n)), "edit")
            at = [time.perf_counter()]

            def told(step: Any, at: list[float] = at, n: int = n) -> None:
                now = time.perf_counter()
                if n:  # the first warms what is warm in a worker
                    spent.setdefault(step.name, []).append(now - at[0])
                at[0] = now

            proof = bench.pack(PackOrder(to_sources(resource)), told).proof
    return {"steps_s": {step: round(statistics.median(times), 3) for step, times in spent.items()}, "proof_cases": proof["cases"]}


# ---- who signs --------------------------------------------------------------------------------------

Settle = Callable[[Path], None]
"""Says in a folder of keys who signs with them, before a process reads it."""
OPERATOR = "https://kubernetes.io/namespaces/knhk-system/serviceaccounts/knhk-operator"
TOKEN_LIVES_S = 6 * 3600


@contextmanager
def local(_: Path) -> Iterator[Settle]:
    """Role keys in files are what every folder begins with."""
    yield lambda keys: None


@contextmanager
def keyless(folder: Path) -> Iterator[Settle]:
    """A sigstore of our own in `folder`. Raises CannotBuild when its servers were not built, and ValueError when nobody asked it."""
    with private_sigstore(built(build=False), folder) as stack:
        yield partial(_by_certificates, stack)
        entries = int((folder / "rekor" / "tiles" / "checkpoint").read_text().splitlines()[1])
        if not entries:
            raise ValueError("Rekor must have entries of what was built: nobody outside bore witness")


def _by_certificates(stack: Stack, keys: Path) -> None:
    knhk("keys", "trust", str(stack.trusted_root), "--folder", str(keys))
    (keys / "token").write_text(stack.issuer.token(valid_s=TOKEN_LIVES_S))
    servers = {"rekor": stack.rekor.url, "timestamp": f"{stack.timestamps.url}/api/v1/timestamp", "fulcio": stack.fulcio.url}
    said = {**servers, "token": "token", "issuer": stack.issuer.url, "identity": OPERATOR}
    (keys / SIGSTORE_FILE).write_text(json.dumps(said))


SIGNERS: Mapping[str, Callable[[Path], AbstractContextManager[Settle]]] = {"local": local, "keyless": keyless}


def knhk(*args: str, **environment: str) -> None:
    argv = [str(Path(sys.executable).parent / "knhk"), *args]
    done = subprocess.run(argv, env={**os.environ, **environment}, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"knhk {' '.join(args)}: exit {done.returncode}: {done.stdout}{done.stderr}")


# ---- homes ------------------------------------------------------------------------------------------


@contextmanager
def embedded(folder: Path, settle: Settle) -> Iterator[House]:
    """`knhk up`, a point, and the end of both."""
    home = Home(folder / "home")
    home.prepare()
    packs.signer(home)
    settle(home.keys)
    here = partial(knhk, KNHK_HOME=str(home.root))

    def apply(resource: dict[str, Any]) -> None:
        (folder / "applied.yaml").write_text(yaml.safe_dump(resource, sort_keys=False))
        here("apply", "-f", str(folder / "applied.yaml"))

    with upstream() as application:
        here("up", "--timeout-s", "300")
        try:
            with packs.resources(home) as store:

                def status(key: Key) -> Mapping[str, Any]:
                    return store.get(key).status

                port, at = free_port(), home.point(POINT.namespace, POINT.name)
                apply(point(application, {"address": "127.0.0.1", "port": port}))
                yield House(apply, status, at / "desired" / "rollout.json", at / "agent.log", home.log, ("127.0.0.1", port))
        finally:
            here("down")


@contextmanager
def in_cluster(folder: Path, settle: Settle) -> Iterator[House]:
    """All processes of a cluster but its node."""
    with control_plane(folder, settle=settle) as plane, upstream() as application:
        apply, listen = plane.kubectl_apply, plane.ports[2]
        apply(point(application, {"port": listen}))
        base = plane.add_pod("one", "127.0.0.2", point=POINT.name, pull=plane.registry).base
        at = base / "point" / "desired" / "rollout.json"
        yield House(apply, plane.status, at, base / "agent.log", plane.folder / "log", ("127.0.0.2", listen))


HOMES: Mapping[str, Callable[[Path, Settle], AbstractContextManager[House]]] = {"embedded": embedded, "cluster": in_cluster}


def run(homes: Sequence[str], signers: Sequence[str], guards: int, edits: int) -> dict[str, Any]:
    found: dict[str, Any] = {"cores": os.cpu_count(), "load": round(os.getloadavg()[0], 1), "build": build_steps(guards, edits)}
    for signer in signers:
        with tempfile.TemporaryDirectory(prefix="knhk-bench-") as aside, SIGNERS[signer](Path(aside)) as settle:
            found[signer] = {name: figures(name, settle, guards, edits) for name in homes}
    return found | {"not_measured": "builds as Jobs: there are none; role keys in a token or a KMS"}


def figures(name: str, settle: Settle, guards: int, edits: int) -> dict[str, Any]:
    """Of a home of this kind, which is gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="knhk-bench-") as folder, HOMES[name](Path(folder), settle) as house:
        return measure(house, guards, edits)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--edits", type=int, default=5)
    parser.add_argument("--guards", type=int, default=64)
    parser.add_argument("--home", choices=("both", *HOMES), default="both")
    parser.add_argument("--signer", choices=("both", *SIGNERS), default="both")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    homes, signers = (tuple(rows) if said == "both" else (said,) for rows, said in ((HOMES, args.home), (SIGNERS, args.signer)))
    text = json.dumps(run(homes, signers, args.guards, args.edits), indent=1)
    print(text)
    if args.out:
        args.out.write_text(text + "\n")


if __name__ == "__main__":
    main()
