"""An agent whose packs are Python: everything else is the product. Run as `python agent_process.py OPTIONS…`.

A pack decides by the body: `deny` denies by guard 1, `cold…` must be asked of the evaluator, anything else is admitted. The graph is one
triple with the body, so that shapes in the plan see it.
"""

from __future__ import annotations

import argparse
import asyncio
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from knhk_runtime.record import parse_observation
from knhk_runtime.tiers.action import action_bytes

OK, COLD = 0, 1
GUARDS = [{"kind": kind, "severity": "Violation"} for kind in ("payload", "abac", "shacl")]
A = "http://www.w3.org/1999/02/22-rdf-syntax-ns#type"
MODULE = Path("/opt/knhk/knhk_shim.so")


@dataclass(frozen=True)
class Decision:
    status: int
    verdict: int
    klass: int
    a: bytes


class Binding:
    """Stands for hot_c's binding."""

    predicates: tuple[str, ...] = ("https://e.x/amount",)

    def decide(self, o: bytes) -> Decision:
        body = parse_observation(o).body
        if body.startswith(b"cold"):
            return Decision(COLD, 0, 3, b"")
        failing = [1] if body == b"deny" else []
        return Decision(OK, 2 if failing else 1, 1, action_bytes(GUARDS, failing))

    def graph(self, o: bytes) -> bytes:
        body = parse_observation(o).body.decode()
        return (
            f"<urn:doc> <urn:body> {json.dumps(body)} .\n<urn:doc> <http://www.w3.org/1999/02/22-rdf-syntax-ns#type> <urn:Doc> .\n".encode()
        )

    def explain(self, o: bytes, a: bytes) -> list[dict[str, Any]]:
        return [{"guard": "amount", "message": "denied"}]


def main() -> None:
    from knhk_hot.drain import Ring
    from knhk_runtime.wiring import Agent, Hot, Options

    parser = argparse.ArgumentParser()
    for name in ("point-dir", "registry", "sequencer-socket", "outbox", "ring-dir", "root-pub"):
        parser.add_argument(f"--{name}", type=Path)
    for name in ("token-file", "ca-file", "socket", "subject-keys", "store-key", "keys-token", "serving"):
        parser.add_argument(f"--{name}", type=Path)
    for name in ("exchange", "log", "pull", "keys"):
        parser.add_argument(f"--{name}")
    parser.add_argument("--instance", default="")
    options = Options(**vars(parser.parse_args()))
    hot = Hot(Ring.open, lambda path, sha256, bundle: Binding(), MODULE)
    asyncio.run(Agent(options, hot).run())


if __name__ == "__main__":
    main()
