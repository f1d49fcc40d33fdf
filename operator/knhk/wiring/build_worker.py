"""Builds as a process (knhk.adapters.build_workers): orders on standard input, a line each; steps and outcomes on standard output.

python -P -m knhk.wiring.build_worker OPTIONS, one JSON object: see Options.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from knhk.adapters.compiler_zig import ZigCompiler
from knhk.adapters.registry_oci import OciRegistry
from knhk.packaging.builds import Step, error_document, read_order, result_document
from knhk.reconcilers.workshop import Bench
from knhk.wiring import packs
from knhk.wiring.signing import notary_in, signer_in
from knhk_runtime.distribution import Repository


@dataclass(frozen=True)
class Options:
    """`keys`: folder with build.key and data.key, or token.json; `registry`: URL, `auth`: docker config.json, `authorities`: PEM;
    `compiled`: folder of finished objects."""

    keys: str
    registry: str
    auth: str | None
    authorities: str | None
    compiled: str

    def repository(self) -> Repository:
        auth, authorities = (None if path is None else Path(path) for path in (self.auth, self.authorities))
        return Repository(self.registry, auth, authorities)

    def argument(self) -> str:
        return json.dumps(asdict(self))


def serve(options: Options) -> None:
    """Says that it is warm, then answers until its input ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    prover = packs.prover()
    keys = Path(options.keys)
    bench = Bench(
        ZigCompiler(Path(options.compiled)),
        prover,
        OciRegistry(options.repository()),
        signer_in(keys),
        packs.generator(),
        notary_in(keys),
    )

    def say(document: Mapping[str, Any]) -> None:
        out.write(json.dumps(document) + "\n")
        out.flush()

    try:
        prover.warm()
        say({"warm": True})
        for line in sys.stdin.buffer:
            try:
                made = result_document(bench.make(read_order(json.loads(line)), lambda step: say(_step(step))))
            except Exception as error:  # each is told to who asked, with what may be done
                made = error_document(error)
            say(made)
    finally:
        prover.close()


def _step(step: Step) -> dict[str, str]:
    return {"step": f"{step.name}: {step.made}"}


if __name__ == "__main__":
    serve(Options(**json.loads(sys.argv[1])))
