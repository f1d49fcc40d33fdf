"""`make bench-cluster`: new packs, all at once, through operator and builder together; then deleted, and once more out of the registry.

python -m bench.cluster_many [--packs 200] [--guards 8] [--out FILE]

A real API server, the operator, the builder with two workers, and a real registry (bench/cluster_plane.py). Each pack is one of its own and
targets a point that is not there, so it comes to rest when it is signed. The time runs from `kubectl apply` of all of them to the last that
is signed, and to the last whose events have their Receipts and whose finalizer is gone. In between all are deleted, and the builder starts
anew: what it knows then is in the registry.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

from bench.cluster_edit import pack
from bench.cluster_plane import Plane, control_plane, until
from knhk.adapters.kube_documents import HOLD, collection, place
from knhk.model.resource import Key

WITHIN_S = 900.0
LOOK_S = 0.25
GOALS = {"built": 1.0, "cached": 20.0}
PROOF_CASES = 20


def packs(count: int, guards: int) -> list[dict[str, Any]]:
    found = [pack("1.0.0", guards, 10 + n) for n in range(count)]
    for n, document in enumerate(found):
        document["metadata"]["name"] = f"orders-{n:03}"
        document["spec"]["targets"] = [{"point": "none"}]
    return found


def there(plane: Plane) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = plane.client.call("GET", collection("PolicyPack", "erp"))["items"]
    return found


def signed(row: dict[str, Any]) -> bool:
    return bool(row.get("status", {}).get("revision", {}).get("phase") == "Signed")


def rests(row: dict[str, Any]) -> bool:
    return "pending" not in row["status"] and HOLD not in row["metadata"].get("finalizers", ())


def all_are(plane: Plane, wanted: Iterable[dict[str, Any]], so: Callable[[dict[str, Any]], bool], what: str) -> None:
    """Looks at one after the other, until it is so: listing all of them again and again takes a tenth of what the machine has."""
    for document in wanted:
        at = place(Key("PolicyPack", "erp", document["metadata"]["name"]))
        until(partial(_is, plane, at, so), what, WITHIN_S, LOOK_S)


def _is(plane: Plane, at: str, so: Callable[[dict[str, Any]], bool]) -> bool:
    return so(plane.client.call("GET", at))


def all_at_once(plane: Plane, wanted: list[dict[str, Any]]) -> tuple[float, float]:
    """Seconds until the last is signed, and until nothing is owed."""
    begun_s = time.monotonic()
    plane.kubectl_apply(*wanted)
    all_are(plane, wanted, signed, "all are signed")
    signed_s = time.monotonic() - begun_s
    all_are(plane, wanted, rests, "all is told")
    return signed_s, time.monotonic() - begun_s


def run(count: int, guards: int) -> dict[str, Any]:
    wanted = packs(count, guards)
    with tempfile.TemporaryDirectory(prefix="knhk-bench-") as name, control_plane(Path(name), PROOF_CASES) as plane:
        first = packs(1, guards + 1)
        plane.kubectl_apply(*first)
        all_are(plane, first, signed, "the first is signed")
        built = all_at_once(plane, wanted)
        subprocess.run([*plane.kubectl, "delete", "policypacks", "--all", "-n", "erp"], capture_output=True, check=True)
        until(lambda: not there(plane), "all are gone", WITHIN_S, LOOK_S)
        plane.restart_builder(PROOF_CASES)
        cached = all_at_once(plane, wanted)
    return {
        "packs": count,
        "guards": guards,
        "cores": os.cpu_count(),
        "load": round(os.getloadavg()[0], 1),
        "proof_cases": PROOF_CASES,
        "built": _figures(count, *built),
        "cached": _figures(count, *cached),
        "goals_per_s": GOALS,
    }


def _figures(count: int, signed_s: float, settled_s: float) -> dict[str, float]:
    return {"signed_s": round(signed_s, 1), "settled_s": round(settled_s, 1), "signed_per_s": round(count / signed_s, 1)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--packs", type=int, default=200)
    parser.add_argument("--guards", type=int, default=8)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    text = json.dumps(run(args.packs, args.guards), indent=1)
    print(text)
    if args.out:
        args.out.write_text(text + "\n")


if __name__ == "__main__":
    main()
