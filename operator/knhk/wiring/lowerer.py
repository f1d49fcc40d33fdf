"""Lowering as a process (knhk.adapters.lowering_process): resources on standard input, one a line; their faults on standard output.

What an author wrote decides how long lowering takes and how much memory it needs; here that is this process's alone.
"""

from __future__ import annotations

import json
import os
import resource
import sys
from collections.abc import Mapping
from typing import Any

from knhk.api import from_document
from knhk.model.faults import Refused
from knhk.reconcilers.admission import admit

MEMORY_BYTES = 1 << 30


def serve() -> None:
    """Answers until its input ends."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for line in sys.stdin.buffer:
        try:
            told: dict[str, Any] = {"faults": answer(json.loads(line))}
        except (MemoryError, RecursionError) as error:
            told = {"unfinished": f"{type(error).__name__} within {MEMORY_BYTES >> 20} MiB"}
        except Exception as error:  # a bug of ours: the parent tells it, and the operator will say the same
            told = {"unfinished": f"{type(error).__name__}: {error}"[:200]}
        out.write(json.dumps(told) + "\n")
        out.flush()


def answer(document: Mapping[str, Any]) -> list[list[str]]:
    """All faults of a resource, those of the parser or those of lowering."""
    try:
        faults = admit(from_document(document))
    except Refused as refused:
        faults = refused.faults
    return [[fault.where, fault.value, fault.must] for fault in faults]


if __name__ == "__main__":
    serve()
