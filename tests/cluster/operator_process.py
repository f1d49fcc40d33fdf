"""The operator's process on the real API server, and what is waited for of its objects."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

from knhk.adapters.kube_client import KubeClient
from knhk.model.faults import NotFound, Waiting
from knhk.model.resource import Key

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parent))

from loopback_ports import free_port

EXAMPLES = Path(__file__).parents[2] / "examples" / "packs" / "invoice-controls"
WITHIN_S = 240.0
PACK = Key("PolicyPack", "erp", "invoice-controls")


class Operator:
    """The process, as its Deployment will start it."""

    def __init__(self, home: Path, kubeconfig: Path, *more: str) -> None:
        self.home = home
        self._health = f"127.0.0.1:{free_port()}"
        options = ["--home", str(home), "--kubeconfig", str(kubeconfig), "--health", self._health, *more]
        self._command = [sys.executable, "-m", "knhk.handlers", *options]
        self._log = home.parent / "operator.log"
        self.start()

    def start(self) -> None:
        with self._log.open("ab") as out:
            self.process = subprocess.Popen(self._command, stdout=out, stderr=out)

    def end(self, number: signal.Signals) -> int:
        self.process.send_signal(number)
        return self.process.wait(60)

    def get(self, path: str) -> tuple[int, str]:
        """Status and text; 0 while nobody listens."""
        try:
            with urllib.request.urlopen(f"http://{self._health}/{path}", timeout=10) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()
        except OSError:
            return 0, ""

    def counted(self, metric: str) -> float:
        """The sum over all labels of a metric."""
        rows = [line for line in self.get("metrics")[1].splitlines() if re.match(rf"{metric}[{{ ]", line)]
        return sum(float(row.rpartition(" ")[2]) for row in rows)

    def said(self) -> str:
        return self._log.read_text(errors="replace")[-4000:]


def seen(client: KubeClient, operator: Operator, path: str, holds: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    """The document at `path`, as soon as it is so."""
    deadline_s = time.monotonic() + WITHIN_S
    document: dict[str, Any] = {}
    while time.monotonic() < deadline_s:
        assert operator.process.poll() is None, operator.said()
        try:
            document = client.call("GET", path)
            if holds(document):
                return document
        except (NotFound, Waiting):
            pass
        time.sleep(0.1)
    raise AssertionError(f"{path} is not so: {json.dumps(document.get('status', document))[:2000]}\n{operator.said()}")


def phase(document: dict[str, Any]) -> str:
    return str(document.get("status", {}).get("revision", {}).get("phase", ""))


def events(receipts: dict[str, Any]) -> set[str]:
    return {row["spec"]["event"] for row in receipts["items"]}


def rests(found: dict[str, Any]) -> bool:
    """Signed, and nothing is owed any more."""
    return phase(found) == "Signed" and "pending" not in found["status"] and not found["metadata"].get("finalizers")


def until(holds: Callable[[], bool], operator: Operator) -> None:
    deadline_s = time.monotonic() + WITHIN_S
    while not holds():
        assert time.monotonic() < deadline_s, operator.said()
        time.sleep(0.1)
