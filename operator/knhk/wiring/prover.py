"""Proofs as a process (knhk.adapters.prover_process): requests on standard input, a line each; a proof or faults on standard output."""

from __future__ import annotations

import base64
import json
import os
import resource
import signal
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

from knhk.model.arrows import GuardPlan, PackSources, SharedObject, Source
from knhk.model.faults import Stalled
from knhk.model.resource import Resource
from knhk.ports.prover import Budget
from knhk.reconcilers import proving
from knhk.reconcilers.admission import bundle_bytes
from knhk.wiring.packs import host_arch

MEMORY_BYTES = 2 << 30
BEYOND_S = 30
"""Beyond the seconds of the budget: for reading the sources, the least of cases, and making a found case small."""


def serve() -> None:
    """Answers until its input ends. What a pack writes to standard output is no answer."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for line in sys.stdin.buffer:
        request = json.loads(line)
        signal.alarm(int(request["budget"]["seconds"]) + BEYOND_S)
        try:
            told = answer(request)
        except Stalled as stalled:
            told = {"stalled": [stalled.reason, str(stalled)]}
        except MemoryError:
            told = {"stalled": ["ProofUnfinished", f"it needs more than {MEMORY_BYTES >> 20} MiB of memory: the pack must be smaller"]}
        except Exception as error:  # the parent tells it; nothing was proven
            told = {"failed": f"{type(error).__name__}: {error}"[:500]}
        signal.alarm(0)
        out.write(json.dumps(told) + "\n")
        out.flush()


def answer(request: Mapping[str, Any]) -> dict[str, Any]:
    """What the proof did, or the bug that it found."""
    told = dict(request["pack"])
    pack = PackSources(**told | {"sources": tuple(Source(**source) for source in told["sources"])})
    bundle = None if request["bundle"] is None else Resource("DataBundle", **request["bundle"])
    arch, budget = host_arch(), Budget(**request["budget"])
    shared = SharedObject(arch, base64.b64decode(request["object"]))
    under = proving.loaded(GuardPlan(request["plan"]), [shared], arch, None if bundle is None else bundle_bytes(bundle))
    proof = proving.prove(pack, under, (), proving.callers(bundle), budget.cases, budget.seed, _lasting(budget.seconds))
    if proof.disagreement is not None:
        fault = proof.disagreement.fault()
        return {"faults": [[fault.where, fault.value, fault.must]]}
    return {"proof": proof.document()}


def _lasting(seconds: float) -> Callable[[], proving.Ended]:
    """Begins a time of so many seconds."""

    def begun() -> proving.Ended:
        end = time.monotonic() + seconds
        return lambda: time.monotonic() > end

    return begun


if __name__ == "__main__":
    serve()
