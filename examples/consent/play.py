"""Plays consent at a guard, on this machine: nobody asked, consent, withdrawal; then measures how soon a withdrawal acts.

    python examples/consent/play.py --home FOLDER [--runs 20]

Prints one JSON object. The home is made, used and shut down again; its log stays for `knhk receipt lineage` and `export`.
"""

from __future__ import annotations

import argparse
import http.client
import http.server
import json
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
PURPOSE = "https://example.com/purposes/recruiting"
WITHIN_S = 180.0
NOBODY_ASKED, CONSENTS = "c-9", "c-117"


class Files(http.server.BaseHTTPRequestHandler):
    """The application: it gives every file to everybody."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("content-length", "2")
        self.end_headers()
        self.wfile.write(b"ok")

    def log_message(self, format: str, *args: Any) -> None:
        pass


@dataclass
class House:
    """A home, and the address of its point."""

    home: Path
    address: str = ""

    def knhk(self, *words: str) -> Any:
        done = subprocess.run(
            [sys.executable, "-m", "knhk.cli", "--home", str(self.home), *words, "-o", "json"], capture_output=True, text=True
        )
        if done.returncode:
            raise RuntimeError(f"knhk {' '.join(words)}: {done.stderr}")
        return json.loads(done.stdout)

    def consent(self, verb: str, subject: str, *more: str) -> Any:
        return self.knhk("consent", verb, subject, "-n", "ats", "--purpose", PURPOSE, *more)

    def read(self, candidate: str) -> tuple[int, list[str]]:
        """Status, and why not."""
        host, _, port = self.address.rpartition(":")
        connection = http.client.HTTPConnection(host, int(port), timeout=30)
        try:
            connection.request("GET", f"/candidates/{candidate}")
            answer = connection.getresponse()
            body = answer.read()
        finally:
            connection.close()
        return answer.status, [row["message"] for row in json.loads(body).get("violations", ())] if answer.status == 403 else []


@contextmanager
def house(home: Path, staleness_s: int) -> Iterator[House]:
    """Up, with the point before an application and the pack live."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Files)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    made = House(home)
    made.knhk("up")
    try:
        text = (HERE / "point.yaml").read_text().replace("port: 8080", f"port: {server.server_port}")
        point = home / "point.yaml"
        point.write_text(text.replace("maxStalenessSeconds: 30", f"maxStalenessSeconds: {staleness_s}"))
        made.consent("grant", CONSENTS, "--controller", "Example Ltd")
        made.knhk("apply", "-f", str(point), "-f", str(HERE / "pack.yaml"))
        _until_live(made)
        yield made
    finally:
        made.knhk("down")
        server.shutdown()
        server.server_close()


def _until_live(made: House) -> None:
    deadline = time.monotonic() + WITHIN_S
    while time.monotonic() < deadline:
        made.address = made.knhk("get", "point", "ats/candidates").get("status", {}).get("address", "")
        revision = made.knhk("get", "policypack", "ats/candidate-consent").get("status", {}).get("revision", {})
        if made.address:
            with suppress(OSError):  # Envoy does not listen yet
                status, _ = made.read(CONSENTS)  # what the rollout judges, too
                if (revision.get("phase"), status) == ("Live", 200):
                    return
        time.sleep(0.1)
    raise TimeoutError("the pack is not live")


def measure(made: House, runs: int) -> dict[str, Any]:
    """Milliseconds from the acknowledgement of a withdrawal (its event is durable in the log) to the answer of the first denied request,
    and from the command; a caller asks all the time. 0: the guard denied before the acknowledgement was seen."""
    from dataclasses import replace

    from knhk.model.consents import consent_name
    from knhk.model.resource import Key
    from knhk.model.subjects import tag_of
    from knhk.wiring.consenting import desk
    from knhk.wiring.home import Home

    acknowledged, ordered = list[float](), list[float]()
    with desk(Home(made.home), None) as found:
        key = Key("Consent", "ats", consent_name(tag_of(found.key("ats"), CONSENTS), PURPOSE))

        def record(state: str) -> float:
            before = found.store.get(key)
            now = found.store.apply(replace(before, spec={**before.spec, "state": state}, resource_version=""))
            found.recorded(key, now.generation, WITHIN_S)
            return time.monotonic()

        for _ in range(runs):
            record("Granted")
            _until(made, 200)
            denied: list[float] = []
            caller = threading.Thread(target=lambda seen=denied: seen.append(_until(made, 403)))
            caller.start()
            begun = time.monotonic()
            told = record("Withdrawn")
            caller.join()
            acknowledged.append(max(0.0, denied[0] - told) * 1000)
            ordered.append((denied[0] - begun) * 1000)
    return {"runs": runs, "acknowledgedToDenyMs": _spread(acknowledged), "commandToDenyMs": _spread(ordered)}


def _until(made: House, status: int) -> float:
    deadline = time.monotonic() + WITHIN_S
    while made.read(CONSENTS)[0] != status:
        if time.monotonic() > deadline:
            raise TimeoutError(f"{CONSENTS} is never answered {status}")
    return time.monotonic()


def _spread(values: list[float]) -> dict[str, float]:
    return {"p50": round(statistics.median(values), 1), "max": round(max(values), 1)}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--home", type=Path, required=True)
    parser.add_argument("--runs", type=int, default=20)
    options = parser.parse_args()
    with house(options.home, 30) as made:
        story = {"nobody asked": made.read(NOBODY_ASKED), "consents": made.read(CONSENTS)}
        made.consent("withdraw", CONSENTS)
        _until(made, 403)
        story["withdrawn"] = made.read(CONSENTS)
        print(json.dumps({"story": story, "withdrawal": measure(made, options.runs)}))


if __name__ == "__main__":
    main()
