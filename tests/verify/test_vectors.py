"""The committed vectors: fresh, and read as a stranger would read them."""

from __future__ import annotations

import base64
import importlib.util
import json
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from knhk_runtime.record import encode_leaf, entry_key, parse_wal_payload, scan_frames
from knhk_runtime.signatures import ROLLOUT, verify_document, verify_signature_of
from knhk_runtime.tlog.notes import verify_proof
from knhk_runtime.tlog.tree import tile_path
from knhk_verify.errors import Bad
from knhk_verify.leaf import Leaf, parse_leaf
from knhk_verify.note import open_checkpoint, parse_vkey
from knhk_verify.signed import Key, canonical, keyid, pae, parse_canonical, verify_bundle, verify_event, verify_keys
from knhk_verify.tree import leaf_hash, verify_consistency, verify_inclusion

VECTORS = Path(__file__).parents[2] / "formats" / "vectors"


def load(name: str) -> Any:
    return json.loads((VECTORS / f"{name}.json").read_bytes())


def test_the_vectors_are_fresh() -> None:
    spec = importlib.util.spec_from_file_location("make_vectors", Path(__file__).with_name("make_vectors.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    for name, data in module.made().items():
        assert (VECTORS / name).read_bytes() == data, f"{name} is stale: run python tests/verify/make_vectors.py and review the diff"


def test_leaves() -> None:
    vectors = load("leaf")
    for case in vectors["leaves"]:
        data, fields = bytes.fromhex(case["bytes"]), case["fields"]
        raw = {name: bytes.fromhex(fields[name]) for name in ("h_o", "h_a", "pack", "receipt_id")}
        leaf = Leaf(**{**fields, **raw, "time_ns": int(fields["time_ns"])})
        assert encode_leaf(leaf) == data
        assert parse_leaf(data) == leaf
        assert (entry_key(data).hex(), leaf_hash(data).hex()) == (case["key"], case["leaf_hash"])
    for case in vectors["refused"]:
        with pytest.raises(Bad):
            parse_leaf(bytes.fromhex(case["bytes"]))


def test_log() -> None:
    vectors = load("log")
    roots = {case["size"]: bytes.fromhex(case["root"]) for case in vectors["roots"]}
    verifier = parse_vkey(vectors["vkey"])
    assert open_checkpoint(vectors["checkpoint"], verifier).root == roots[66_000]
    for case in vectors["inclusion"]:
        leaf, path = leaf_hash(b"entry %d" % case["index"]), [bytes.fromhex(h) for h in case["path"]]
        verify_inclusion(leaf, case["index"], case["size"], roots[case["size"]], path)
    for case in vectors["consistency"]:
        old, new = case["old"], case["new"]
        verify_consistency(old, roots[old], new, roots[new], [bytes.fromhex(h) for h in case["path"]])
    assert verify_proof(vectors["proof"]["text"], b"entry 4242", verifier)[0] == 4242
    for case in vectors["paths"]:
        assert tile_path(case["level"], case["n"], case["width"]) == case["path"]
    segment = bytes.fromhex(vectors["wal_segment"])
    ((_, payload),), end = scan_frames(segment, 41, "wal")
    first, keys, entries = parse_wal_payload(payload, "wal")
    assert (first, keys, end) == (41, [entry_key(entries[0])], len(segment))


def test_signed() -> None:
    vectors = load("signed")
    root = base64.b64decode(vectors["root_pub"])
    keys = verify_keys(json.dumps(vectors["keys.json"]).encode(), root)
    chaptered = vectors["chapters"]
    former = verify_keys(json.dumps(chaptered["keys.json"]).encode(), root)
    for row in chaptered["former"]:
        public = base64.b64decode(row["pub"])
        assert former.roles[row["role"]][keyid(public)] == Key(public, row["name"], datetime.fromisoformat(row["until"]))
    away = verify_keys(json.dumps(chaptered["without_the_first"]).encode(), root)
    assert (former.away, away.away) == (0, 1)
    assert set(away.roles["build"]) == set(former.roles["build"])
    for envelope in chaptered["refused"]:
        with pytest.raises(Bad, match=r"keys.json chapters\[0\]: has SHA-256 [0-9a-f]{64}, which keys.json does not name"):
            verify_keys(json.dumps(envelope).encode(), root)
    assert pae(vectors["pae"]["type"], vectors["pae"]["payload"].encode()).hex() == vectors["pae"]["bytes"]
    assert verify_document(json.dumps(vectors["rollout"]).encode(), ROLLOUT, keys.of("rollout"), "rollout")["epoch"] == 17
    event = vectors["event"].encode()
    assert verify_event(event, keys)[0]["predicate"]["kind"] == "Promoted"
    assert entry_key(event).hex() == vectors["event_key"]
    verify_signature_of(vectors["signature"].encode(), "sha256:" + "ab" * 32, keys.of("build"))
    with pytest.raises(Bad):
        verify_bundle(event, keys.of("build"))
    for case in vectors["canonical"]:
        assert canonical(case["value"]).hex() == case["bytes"]
        assert parse_canonical(bytes.fromhex(case["bytes"]), "case") == case["value"]
    for text in vectors["not_canonical"]:
        with pytest.raises(Bad):
            parse_canonical(text.encode(), "case")
