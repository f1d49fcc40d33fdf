"""What a sigstore answers, and what is said to be its trusted root, may be anything: it is told, and nothing else ends or waits for it."""

from __future__ import annotations

import copy
import json
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from trusted_roots import trusted_root

from knhk.adapters.notary_sigstore import Keyless, Settings, SigstoreNotary
from knhk.adapters.signer_roles import outside_of
from knhk.adapters.sigstore_root import parse_trusted_root
from knhk.lockchain import PolicyEvent, statement
from knhk.model.faults import Stalled
from knhk.wiring import rotating
from knhk.wiring.signing import established, signer_in
from knhk_verify.errors import Bad

NOW = datetime.now(UTC)
WRONG = (
    b"[" * 100_000 + b"]" * 100_000,
    b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
    b'{"a":1e999}',
    b'{"a":NaN}',
    b'{"a":"\\ud800"}',
    b'{"a":1,"a":2}',
    b"5",
    b'{"signedCertificateEmbeddedSct":{"chain":{"certificates":[1]}}}',
    b'{"signedCertificateEmbeddedSct":{"chain":{"certificates":["no PEM"]}}}',
)


@contextmanager
def answering(body: bytes) -> Iterator[str]:
    """URL of a server that answers everything with this."""

    class Answers(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            """Says nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Answers) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.parametrize("keyless", [False, True])
@pytest.mark.parametrize("body", WRONG, ids=range(len(WRONG)))
def test_an_answer_of_a_wrong_form_is_told(tmp_path: Path, body: bytes, keyless: bool) -> None:
    """Else the Receipt that asked, and all others behind it, would wait for ever."""
    signer = established(tmp_path, "knhk.dev/test", NOW)
    rotating.pinned_apart(tmp_path, trusted_root(tmp_path / "root.json", "rekor.example").read_bytes(), NOW, "local:kim")
    (tmp_path / "token").write_text("token")
    event = PolicyEvent("Promoted", ("pack/erp/x@1.0.0", "ab" * 32), "me", "2026-11-23T10:00:00Z")
    with answering(body) as url:
        by = Keyless(url, tmp_path / "token", {"rollout": "who"}, "issuer") if keyless else None
        asked = SigstoreNotary(tmp_path, Settings(url, url, by), signer_in(tmp_path).outside, lambda: outside_of(tmp_path))
        with closing(asked) as notary, pytest.raises(Stalled):
            notary.ask("rollout", signer.bundle("rollout", statement(event))).result(60)


def places(document: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield at
    inner = document.items() if isinstance(document, dict) else enumerate(document) if isinstance(document, list) else ()
    for name, value in inner:
        yield from places(value, (*at, name))


def test_a_trusted_root_with_anything_anywhere_is_one_or_is_told(tmp_path: Path) -> None:
    good = json.loads(trusted_root(tmp_path / "root.json", "rekor.example").read_text())
    good["tlogs"][0]["publicKey"]["validFor"] = {"start": "2026-01-01T00:00:00Z"}
    good["timestampAuthorities"][0]["validFor"] = {"start": "2026-01-01T00:00:00Z", "end": "2027-01-01T00:00:00+01:00"}
    parse_trusted_root(json.dumps(good).encode())
    refused = 0
    for *way, last in (place for place in places(good) if place):
        for value in (None, 1, True, "", "start", [], ["start"], {}, {"start": 1}, "2026-01-01", "2026-01-01T00:00:00"):
            changed = copy.deepcopy(good)
            inner = changed
            for name in way:
                inner = inner[name]
            inner[last] = value
            try:
                parse_trusted_root(json.dumps(changed).encode())
            except Bad:
                refused += 1
    assert refused > 200


@pytest.mark.parametrize("time", ["2026-01-01", "2026-01-01T00:00:00"])
def test_a_validity_without_a_zone_is_refused(tmp_path: Path, time: str) -> None:
    """It would be another one on each machine."""
    document = json.loads(trusted_root(tmp_path / "root.json", "rekor.example").read_text())
    document["timestampAuthorities"][0]["validFor"] = {"end": time}
    with pytest.raises(Bad, match="zone"):
        parse_trusted_root(json.dumps(document).encode())
