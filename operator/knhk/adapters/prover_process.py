"""Prover in a warm process of its own: each request one line of JSON on its standard input, each answer one on its standard output.

It gets nothing of the environment of its parent but where native parts lie. The kernel ends it by an alarm when a proof takes too long:
native code may not give way, and a parent that was killed cannot. A proof that went well is remembered by the SHA-256 of its request, so
that publishing once more proves nothing twice.
"""

from __future__ import annotations

import base64
import json
import os
import signal
import subprocess
import threading
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, TypeVar

from knhk.model.arrows import GuardPlan, PackSources, SharedObject
from knhk.model.canonical import sha256_hex
from knhk.model.faults import Fault, Refuted, Stalled, Waiting
from knhk.model.resource import Resource
from knhk.ports.prover import Budget

T = TypeVar("T")
KEPT = 64
GIVEN = ("KNHK_CACHE",)
CRASHES = (signal.SIGSEGV, signal.SIGBUS, signal.SIGILL, signal.SIGFPE)
_MEMORY = "for want of memory, it seems", "the control plane must have more memory, or the pack be smaller"
PASSING = {
    signal.SIGALRM: ("for the proof did not end in its time", "KNHK_PROOF_SECONDS must be more, or the pack be smaller"),
    signal.SIGKILL: _MEMORY,
    signal.SIGABRT: _MEMORY,
}
"""Ends that say nothing of the pack, as on a busy machine: why it was, and what must be done when it stays so."""
TRIES = 3
AGAIN_AFTER_S = 10.0
ENDS_WITHIN_S = 5.0


class ProcessProver:
    """knhk.ports.prover.Prover. `argv`: what runs knhk.wiring.prover; `arch`: that of this machine. Threads take turns."""

    def __init__(self, argv: tuple[str, ...], arch: str, budget: Budget) -> None:
        self._argv, self._arch, self._budget = argv, arch, budget
        self._known: dict[str, Mapping[str, Any]] = {}
        self._tries: dict[str, int] = {}
        self._process: subprocess.Popen[bytes] | None = None
        self._lock = threading.Lock()
        self._closed = False

    def prove(self, pack: PackSources, plan: GuardPlan, objects: tuple[SharedObject, ...], bundle: Resource | None) -> Mapping[str, Any]:
        (data,) = (made.data for made in objects if made.arch == self._arch)
        request = {
            "pack": asdict(pack),
            "plan": plan.document,
            "object": base64.b64encode(data).decode(),
            "bundle": None if bundle is None else {"name": bundle.name, "namespace": bundle.namespace, "spec": bundle.spec},
            "budget": asdict(self._budget),
        }
        text = json.dumps(request, sort_keys=True).encode()
        key = sha256_hex(text)
        with self._lock:
            if key not in self._known:
                _keep(self._known, key, self._asked(f"{pack.namespace}/{pack.name}@{pack.version}", key, text))
                self._tries.pop(key, None)
            return self._known[key]

    def warm(self) -> None:
        """Starts the process, so that the first proof finds it ready."""
        with self._lock:
            self._started()

    def close(self) -> None:
        """Ends the process for good, whatever it does."""
        self._closed = True
        process = self._process
        if process is not None:
            process.kill()
            _gone(process)

    def _started(self) -> subprocess.Popen[bytes]:
        if self._closed:
            raise Waiting("Ending", "the control plane ends", AGAIN_AFTER_S)
        if self._process is None or self._process.poll() is not None:
            if self._process is not None:
                _gone(self._process)
            given = {name: os.environ[name] for name in GIVEN if name in os.environ}
            self._process = subprocess.Popen(self._argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=given, start_new_session=True)
        return self._process

    def _asked(self, name: str, key: str, request: bytes) -> Mapping[str, Any]:
        process = self._started()
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            process.stdin.write(request + b"\n")
            process.stdin.flush()
            line = process.stdout.readline()
        except BrokenPipeError:
            line = b""
        if not line.endswith(b"\n"):
            raise self._ended(name, key, _gone(process))
        answer = json.loads(line)
        if "faults" in answer:
            raise Refuted(Fault(*fault) for fault in answer["faults"])
        if "stalled" in answer:
            reason, message = answer["stalled"]
            raise Stalled(reason, f"{name}: {message}")
        if "failed" in answer:
            raise Stalled("ProofFailed", f"{name}: the proof could not be made: {answer['failed']}")
        proof: Mapping[str, Any] = answer["proof"]
        return proof

    def _ended(self, name: str, key: str, code: int) -> Refuted | Stalled | Waiting:
        """What it means that the process ended in the middle of a proof."""
        if -code in CRASHES:
            must = "must decide every request and go on: this is a bug of the compiler, please report it with the pack"
            return Refuted([Fault(name, f"the compiled pack ended its process by {signal.Signals(-code).name}", must)])
        if -code not in PASSING:
            return Stalled("ProofFailed", f"{name}: the process that proves ended with {code}")
        why, must = PASSING[signal.Signals(-code)]
        told = f"{name}: the process that proves ended by {signal.Signals(-code).name}, {why}"
        tries = self._tries.pop(key, 0) + (not self._closed)
        if tries >= TRIES:
            return Stalled("ProofUnfinished", f"{told}, {tries} times: {must}")
        _keep(self._tries, key, tries)
        return Waiting("ProofUnfinished", f"{told}; it is tried again", AGAIN_AFTER_S)


def _keep(found: dict[str, T], key: str, value: T) -> None:
    """Remembers the last few."""
    while len(found) >= KEPT:
        del found[next(iter(found))]
    found[key] = value


def _gone(process: subprocess.Popen[bytes]) -> int:
    """Waits for the end of a process that ends; its exit code."""
    with process:
        return process.wait(ENDS_WITHIN_S)
