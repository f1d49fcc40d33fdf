"""A guarded home for attacks: the real control plane, agent and Envoy, the example's pack 1.2.0, an application that trusts everyone."""

from __future__ import annotations

import contextlib
import copy
import http.client
import io
import json
import shutil
import socket
import socketserver
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import yaml
from attack_policy import admissible
from system_world import PACKS, PAYLOADS, World, until

from identity import AUDIENCE, ISSUER, IdentityProvider
from knhk_verify.leaf import Leaf
from traffic import Callers, Mix

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from loopback_ports import free_port

DECISION, REFUSED, DENY, ADMIT, ENFORCED = 1, 4, 2, 1, 1
QUIET_S = 0.15  # how long to listen for an answer that need not come: what reached the application after that is found by the next look
PATIENCE_S = 30.0  # for an answer that must come


@dataclass(frozen=True)
class Row:
    """What the application stored."""

    method: str
    target: str
    headers: tuple[tuple[str, str], ...]
    body: bytes

    def header(self, name: str) -> list[str]:
        return [value for key, value in self.headers if key.lower() == name]


class Witness:
    """The application: no check of its own, stores every request that it can read, as lenient as the standard library is."""

    def __init__(self, folder: Path) -> None:
        self.socket = folder / "app.sock"
        self.rows: list[Row] = []
        rows = self.rows

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def _store(self) -> None:
                rows.append(Row(self.command, self.path, tuple(self.headers.items()), self._body()))
                self.send_response(201)
                self.send_header("content-length", "2")
                self.end_headers()
                self.wfile.write(b"ok")

            def _body(self) -> bytes:
                if "chunked" not in self.headers.get("transfer-encoding", "").lower():
                    return self.rfile.read(int(self.headers.get("content-length", "0")))
                body = b""
                while (size := int(self.rfile.readline().split(b";")[0], 16)) > 0:
                    body += self.rfile.read(size)
                    self.rfile.readline()
                while self.rfile.readline().strip():
                    pass
                return body

            def __getattr__(self, name: str) -> Any:
                if name.startswith("do_"):
                    return self._store
                raise AttributeError(name)

            def log_message(self, format: str, *args: object) -> None:
                pass

        class Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
            daemon_threads = True
            request_queue_size = 256

        self._server = Server(str(self.socket), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), name="witness")

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


@dataclass(frozen=True)
class Answer:
    """One response; `receipt` is empty when there is none."""

    status: int
    receipt: str
    body: bytes
    decision: str = ""


@dataclass
class House(World):
    """A `World` whose application is a `Witness`, with 1.2.0 enforced and nothing else coming."""

    @classmethod
    @contextmanager
    def open(cls, folder: Path, **spec: Any) -> Iterator[House]:
        """Up, applied, promoted. Ends everything."""
        sockets = Path(tempfile.mkdtemp(prefix="attack-"))
        witness = Witness(sockets)
        witness.start()
        provider = IdentityProvider.new()
        port = free_port()
        point = yaml.safe_load((PACKS / "orders.yaml").read_text())
        point["spec"] |= {"upstream": {"socket": str(witness.socket)}, "listen": {"address": "127.0.0.1", "port": port}, **spec}
        point["spec"]["attributes"]["jwt"] = {"issuer": ISSUER, "audiences": [AUDIENCE], "jwks": {"inline": provider.jwks()}}
        mix = Mix(PAYLOADS, seed=11)
        house = cls(folder, witness, provider, point, Callers(f"http://127.0.0.1:{port}", provider, mix), mix)  # type: ignore[arg-type]
        try:
            house.up()
            house.apply(yaml.safe_load((PACKS / "finance-roles.yaml").read_text()), point)
            house.until_answering()
            house.promote(short_rollout("1.2.0"))
            yield house
        finally:
            house.end()
            shutil.rmtree(sockets)

    def promote(self, pack: dict[str, Any]) -> None:
        """Rolls a pack out under right traffic until it is Live."""
        with self.traffic(rate_s=80.0, writes_only=True):
            self.roll(pack)

    @property
    def rows(self) -> list[Row]:
        return self.app.rows  # type: ignore[return-value]

    @property
    def port(self) -> int:
        return int(self.point["spec"]["listen"]["port"])

    # ---- attacks ---------------------------------------------------------------------------------

    def envelope(self, **changes: Any) -> dict[str, Any]:
        """A right invoice with members of `doc` changed; dots in names are levels (`totals__payable`)."""
        request = next(request for request in self.mix if request.kind == "right")
        envelope: dict[str, Any] = copy.deepcopy(json.loads(request.body))
        for name, value in changes.items():
            node = envelope["doc"]
            *steps, last = name.split("__")
            for step in steps:
                node = node[step]
            node[last] = value
        return envelope

    def body(self, **changes: Any) -> bytes:
        return json.dumps(self.envelope(**changes)).encode()

    def head(
        self, line: str = "POST /invoices HTTP/1.1", *, caller: str = "clerk-001", token: str | None = None, more: tuple[str, ...] = ()
    ) -> bytes:
        """Request line and headers without the empty line; `token` "" leaves the authorization out."""
        bearer = self.provider.token(caller) if token is None else token
        lines = [line, "Host: orders.example", *([f"Authorization: Bearer {bearer}"] if bearer else []), *more]
        return "\r\n".join(lines).encode("utf-8", "surrogateescape")

    def post(self, body: bytes, line: str = "POST /invoices HTTP/1.1", *, caller: str = "clerk-001", more: tuple[str, ...] = ()) -> Answer:
        """One whole request with a content length; its one answer."""
        fields = ("Content-Type: application/json", f"Content-Length: {len(body)}", "Connection: close", *more)
        return self.raw(self.head(line, caller=caller, more=fields) + b"\r\n\r\n" + body, least=1, most=1)[0]

    def ask(self, body: bytes, *fields: str, line: str = "POST /invoices HTTP/1.1", token: str | None = None) -> list[Answer]:
        """One whole request whose length is right and whose other headers are `fields`; what comes back, nothing at worst."""
        more = (f"Content-Length: {len(body)}", "Connection: close", *fields)
        return self.raw(self.head(line, token=token, more=more) + b"\r\n\r\n" + body, most=1)

    def raw(self, data: bytes, least: int = 0, most: int = 1000) -> list[Answer]:
        """Sends bytes on one connection; every answer until the point closes it or says no more: at least so many, at most so many."""
        answers: list[Answer] = []
        with socket.create_connection(("127.0.0.1", self.port), PATIENCE_S) as connection:
            with contextlib.suppress(ConnectionError):
                connection.sendall(data)
            reader = connection.makefile("rb")
            with contextlib.suppress(ConnectionError, TimeoutError, http.client.HTTPException):
                connection.settimeout(PATIENCE_S if least else QUIET_S)
                while len(answers) < most and (answer := read_answer(reader)) is not None:
                    answers.append(answer)
                    connection.settimeout(PATIENCE_S if len(answers) < least else QUIET_S)
        assert len(answers) >= least, f"{data[:200]!r}: {len(answers)} answers, at least {least} must come"
        return answers

    # ---- what must hold --------------------------------------------------------------------------

    def assert_rows_right(self, since: int, caller: str = "clerk-001") -> None:
        """No row that the policy would not admit, by the judge that shares nothing with the product."""
        for row in self.rows[since:]:
            why = admissible(row.method, row.target, row.body, caller)
            assert not why, f"the application stored {row.method} {row.target} {row.body[:200]!r}: {why}"
            assert len(row.header("knhk-receipt")) == 1, f"a row must have one receipt: {row.headers}"

    def assert_kept_out(self, since: int, answers: list[Answer], what: str = "") -> None:
        """Nothing reached the application, every answer says no, and each receipt's leaf says DENY or REFUSED."""
        assert self.rows[since:] == [], f"{what}: reached the application: {self.rows[since:]}"
        for answer in answers:
            assert 400 <= answer.status < 600, f"{what}: answered with {answer.status}: {answer.body[:200]!r}"
        self.assert_leaves([answer.receipt for answer in answers if answer.receipt])

    def assert_leaves(self, receipts: list[str]) -> None:
        """The enforced leaf of each receipt says DENY, as a decision or as a refusal."""
        enforced: dict[str, Leaf] = {}

        def logged() -> bool:
            enforced.update({leaf.receipt_id.hex(): leaf for leaf in self.leaves() if leaf.mode == ENFORCED})
            return all(receipt in enforced for receipt in receipts)

        if receipts:
            until(logged, "the log has a leaf for each receipt")
        for receipt in receipts:
            leaf = enforced[receipt]
            said = (leaf.kind, leaf.verdict)
            assert said in ((DECISION, DENY), (REFUSED, DENY)), f"{receipt}: its leaf says kind {leaf.kind} verdict {leaf.verdict}"


def read_answer(reader: io.BufferedReader) -> Answer | None:
    """The next response of a connection, 1xx left out; None at its end."""
    line = reader.readline(65_536)
    if not line:
        return None
    status = int(line.split()[1])
    headers = http.client.parse_headers(reader)
    if 100 <= status < 200:
        return read_answer(reader)
    length = headers.get("content-length")
    body = reader.read(int(length)) if length is not None else b"" if status in (204, 304) else reader.read()
    return Answer(status, headers.get("knhk-receipt", ""), body, headers.get("knhk-decision", ""))


def short_rollout(version: str) -> dict[str, Any]:
    """The example's pack with a rollout of a few pairs."""
    pack: dict[str, Any] = yaml.safe_load((PACKS / version / "pack.yaml").read_text())
    pack["spec"]["rollout"] = {
        "shadow": {"minPairs": 5},
        "steps": [{"weight": 50, "minPairs": 5}],
        "analysis": {"tolerances": {"maxNewDenials": "0.01", "maxNewAdmits": "0.01"}, "effect": "0.5"},
        "deadlineSeconds": 600,
        "onNoData": "Hold",
    }
    return pack
