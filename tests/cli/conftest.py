"""`knhk` called in this process, a small pack, and a log with leaves, an event and observations."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from knhk.adapters.signer_local import LocalSigner, establish
from knhk.cli import main
from knhk.model.observation import Observation
from knhk.wiring import packs
from knhk.wiring.home import LOG_ORIGIN
from knhk_runtime.record import encode_leaf, entry_key, frame, h_a, h_o
from knhk_runtime.sequencer.__main__ import load_key
from knhk_runtime.sequencer.core import Log, lock
from knhk_runtime.sequencer.files import Disk
from knhk_runtime.sequencer.wire import Append, item
from knhk_verify.leaf import Leaf

PACK = """apiVersion: knhk.dev/v1alpha1
kind: PolicyPack
metadata: {name: small, namespace: erp}
spec:
  version: 1.0.0
  sources:
    - name: shapes
      kind: shapes
      inline: |
        @prefix sh: <http://www.w3.org/ns/shacl#> .
        @prefix ex: <https://example.com/ns#> .
        @prefix xsd: <http://www.w3.org/2001/XMLSchema#> .
        ex:OrderShape a sh:NodeShape ;
          sh:targetClass ex:Order ;
          sh:property [ sh:path ex:currency ; sh:minCount 1 ; sh:message "An order needs a currency." ] ;
          sh:property [ sh:path ex:total ; sh:maxInclusive 1000 ; sh:datatype xsd:integer ] .
    - name: order
      kind: mapping
      inline: |
        prefixes: {ex: "https://example.com/ns#"}
        maps:
          - id: order
            iterator: "$"
            subject: {template: "https://example.com/orders/{id}"}
            class: ex:Order
            properties:
              ex:currency: currency
              ex:total: total
  routes:
    - {name: orders, mapping: order}
  targets:
    - {point: gate}
"""
BASELINE = b"KNA1\x01\x00\x00\x00\x00\x00"


@dataclass(frozen=True)
class Answer:
    """Exit code, standard output as JSON (None when empty), standard error as JSON (None when empty), and both as text."""

    exit: int
    out: Any
    err: Any
    text: str
    error_text: str


Knhk = Callable[..., Answer]


@pytest.fixture(scope="session")
def objects(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of finished objects for modules that say SHARED_OBJECTS: their tests compile the same packs again and again."""
    return tmp_path_factory.mktemp("objects")


@pytest.fixture
def cache(request: pytest.FixtureRequest, objects: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Folder of finished objects, of this test alone: what is found in it was made by the test."""
    folder = objects if getattr(request.module, "SHARED_OBJECTS", False) else tmp_path / "cache"
    monkeypatch.setattr(packs, "cache_folder", lambda: folder)
    return folder


@pytest.fixture
def knhk(capsys: pytest.CaptureFixture[str], tmp_path: Path, cache: Path) -> Knhk:
    """Call `knhk` with these words; the home is a folder of the test."""

    def call(*words: object) -> Answer:
        capsys.readouterr()
        code = main([*(str(word) for word in words), "--home", str(tmp_path / "home")])
        out, err = capsys.readouterr()
        return Answer(code, _json(out), _json(err), out, err)

    return call


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return None


@pytest.fixture
def pack(tmp_path: Path) -> Path:
    """A folder with a pack that compiles."""
    folder = tmp_path / "small"
    folder.mkdir()
    (folder / "pack.yaml").write_text(PACK)
    return folder


@dataclass(frozen=True)
class Written:
    """A log folder with a checkpoint over everything in it."""

    dir: Path
    signer: LocalSigner
    receipts: tuple[str, ...]


@dataclass(frozen=True)
class Made:
    """One record: the leaf, and the outbox payload that holds it."""

    leaf: bytes
    payload: bytes


def record(number: int, o: bytes, a: bytes, *, pack: bytes = bytes(20), klass: int = 0, kind: int = 1) -> Made:
    """A record of one arm as an agent writes it; the verdict is that of `a`, DENY without one."""
    salt, receipt = bytes([number]) * 16, b"RING0001" + number.to_bytes(8, "big")
    time_ns = int.from_bytes(o[4:12], "big")
    hash_a = h_a(salt, a) if a else bytes(32)
    leaf = encode_leaf(Leaf(kind, klass, a[4] if a else 2, 1, 0, 0, h_o(salt, o), hash_a, pack, time_ns, receipt))
    payload = b"\x01\x01\x00\x00" + bytes(8) + salt + leaf + len(o).to_bytes(4, "big") + o + len(a).to_bytes(4, "big") + a
    return Made(leaf, payload)


def write_log(home: Path, records: list[Made]) -> Written:
    """A log folder in `home` with these records and one policy event, covered by a checkpoint."""
    folder = home / "log"
    signer = establish(home / "keys", LOG_ORIGIN, datetime.now(UTC))
    held = lock(folder)
    log = Log(folder, load_key(signer.key_file("log"), LOG_ORIGIN), Disk())
    entries = [made.leaf for made in records] + [_event(signer)]
    keys = tuple(entry_key(entry) for entry in entries)
    log.commit([Append(keys, tuple(entries), b"".join(item(k, e) for k, e in zip(keys, entries, strict=True)))])
    log.integrate()
    log.close()
    os.close(held)
    segment = folder / "observations" / "erp.gate" / f"{0:016x}.seg"
    segment.parent.mkdir(parents=True)
    segment.write_bytes(b"KNHKSEG1" + bytes(8) + b"".join(frame(made.payload) for made in records))
    (folder / "keys.json").write_bytes(signer.keys_json())
    (folder / "root.pub").write_bytes((home / "keys" / "root.pub").read_bytes())
    return Written(folder, signer, tuple(made.leaf[100:116].hex() for made in records))


@pytest.fixture
def recorded() -> Callable[..., Made]:
    """`record`, for tests that decide by themselves."""
    return record


@pytest.fixture
def logged(tmp_path: Path) -> Callable[[list[Made]], Written]:
    """`write_log` in the home of the test."""
    return lambda records: write_log(tmp_path / "home", records)


@pytest.fixture
def log(tmp_path: Path) -> Written:
    """Three decisions of a point without a pack (baseline Admit), one refusal and one policy event."""
    seen = [
        Observation(1_700_000_000_000_000_000 + number, "orders", b"{}", {"sub": "alice"}, region="local").encode() for number in range(4)
    ]
    decisions = [record(number, o, BASELINE) for number, o in enumerate(seen[:3])]
    return write_log(tmp_path / "home", [*decisions, record(3, seen[3], b"", kind=4)])


def _event(signer: LocalSigner) -> bytes:
    return signer.bundle(
        "rollout",
        {
            "_type": "https://in-toto.io/Statement/v1",
            "subject": [{"name": "pack/erp/small@1.0.0", "digest": {"sha256": "ab" * 32}}],
            "predicateType": "https://knhk.dev/policy-event/v1",
            "predicate": {"kind": "Promoted", "point": "erp/gate", "time": "2026-11-23T00:00:00Z", "actor": "test", "evidence": {}},
        },
    )
