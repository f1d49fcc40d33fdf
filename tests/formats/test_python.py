"""The vectors of formats/, read by the verifier, the compiler and the cold tier."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import pytest
from edge_vectors import VECTORS, made

from knhk_gen.bundle import build
from knhk_runtime.record import check_record, h_a, h_o, o_key, parse_action, parse_observation, parse_record, scan_frames
from knhk_runtime.tiers.errors import ShapeError
from knhk_runtime.tiers.evaluator import Evaluator
from knhk_runtime.tlog.notes import verify_proof
from knhk_verify.errors import Bad
from knhk_verify.leaf import parse_leaf
from knhk_verify.note import open_checkpoint, parse_vkey
from knhk_verify.signed import parse_canonical


def vectors(name: str) -> Any:
    return json.loads((VECTORS / f"{name}.json").read_bytes())


EDGES = vectors("edges")


def data(row: Any) -> bytes:
    return bytes.fromhex(row["bytes"]) + bytes(row.get("zeros", 0))


def rows(*path: str) -> Any:
    found = EDGES
    for part in path:
        found = found[part]
    return [pytest.param(row, id=row["name"]) for row in found]


def test_edges_are_fresh() -> None:
    assert (VECTORS / "edges.json").read_bytes() == made(), "stale: run tests/formats/edge_vectors.py and review the diff"


PAGES = sorted(path for path in VECTORS.parent.glob("*.md") if "\nVectors: " in path.read_text())


def test_pages_and_vector_files_name_one_another() -> None:
    named = {
        word.strip("`.,") for page in PAGES for word in page.read_text().rsplit("\nVectors: ", 1)[1].split() if word.startswith("`vectors/")
    }
    assert named == {f"vectors/{path.name}" for path in VECTORS.iterdir()}
    assert {page.stem for page in PAGES} >= set(EDGES), "each part of edges.json is that of a page"
    for page in PAGES:
        assert f"`vectors/{page.stem}.json`" in page.read_text()
        assert ("`vectors/edges.json`" in page.read_text()) == (page.stem in EDGES)


# ---- O and A ------------------------------------------------------------------------------------


def test_observations() -> None:
    found = vectors("observation")
    for row in found["good"]:
        o = bytes.fromhex(row["bytes"])
        parse_observation(o)
        assert (h_o(bytes.fromhex(found["salt"]), o).hex(), o_key(o).hex()) == (row["h_o"], row["o_key"])
    for row in found["bad"]:
        with pytest.raises(Bad):
            parse_observation(bytes.fromhex(row["bytes"]))


@pytest.mark.parametrize("row", rows("observation", "accepted"))
def test_observation_is_read(row: Any) -> None:
    o, fields = parse_observation(data(row)), row["fields"]
    assert (str(o.time_ns), o.region, o.route) == (fields["time_ns"], fields["region"], fields["route"])
    assert [list(pair) for pair in o.attributes] == fields["attributes"]
    assert hashlib.sha256(o.body).hexdigest() == fields["body_sha256"]
    assert o_key(data(row)).hex() == row["o_key"]


@pytest.mark.parametrize("row", rows("observation", "refused"))
def test_observation_is_refused(row: Any) -> None:
    with pytest.raises(Bad):
        parse_observation(data(row))


def test_actions() -> None:
    found = vectors("action")
    for row in found["actions"] + EDGES["action"]["accepted"]:
        a = parse_action(bytes.fromhex(row["bytes"]))
        assert (a.verdict, a.guards, list(a.failing)) == (row["verdict"], row["guards"], row["failing"])
        assert [triple.decode() for triple in a.triples] == row.get("triples", [])
    for row in found["actions"]:
        assert h_a(bytes.fromhex(found["salt"]), bytes.fromhex(row["bytes"])).hex() == row["h_a"]


@pytest.mark.parametrize("row", rows("action", "refused"))
def test_action_is_refused(row: Any) -> None:
    with pytest.raises(Bad):
        parse_action(data(row))


# ---- frames and records -------------------------------------------------------------------------


def test_outbox_records() -> None:
    for row in vectors("frame")["outbox"]:
        frame, fields = bytes.fromhex(row["frame"]), row["record"]
        ((_, payload),), end = scan_frames(b"KNHKSEG1" + bytes(8) + frame, 0, "s")
        assert end == 16 + len(frame)
        record = parse_record(payload, "r")
        check_record(record, "r")
        assert (record.salt.hex(), str(record.cluster), record.observation.hex()) == (row["salt"], fields["cluster"], fields["o"])
        for leaf, action, arm in zip(map(parse_leaf, record.leaves), record.actions, fields["arms"], strict=True):
            numbers = {name: getattr(leaf, name) for name in ("kind", "klass", "verdict", "mode", "flags")}
            assert numbers | {"pack": leaf.pack.hex(), "a": action.hex()} == arm
            assert (leaf.receipt_id.hex(), leaf.region) == (fields["receipt"], fields["region"])


@pytest.mark.parametrize("row", rows("frame", "accepted"))
def test_segment_is_read(row: Any) -> None:
    frames, end = scan_frames(data(row), row["number"], "s")
    assert ([payload.hex() for _, payload in frames], end) == (row["payloads"], row["end"])


@pytest.mark.parametrize("row", rows("frame", "refused"))
def test_segment_is_refused(row: Any) -> None:
    with pytest.raises(Bad):
        scan_frames(data(row), row["number"], "s")


@pytest.mark.parametrize("row", rows("frame", "records_refused"))
def test_record_is_refused(row: Any) -> None:
    with pytest.raises(Bad):
        check_record(parse_record(data(row), "r"), "r")


# ---- bundle, GuardPlan, log ---------------------------------------------------------------------


@pytest.mark.parametrize("row", rows("bundle", "built"))
def test_compiler_builds_the_bundle(row: Any) -> None:
    assert build(row["turtle"], "data.ttl", row["caller"]).hex() == row["bytes"]


@pytest.mark.parametrize("row", rows("guardplan", "refused"))
def test_plan_is_refused(row: Any) -> None:
    with pytest.raises(ShapeError):
        Evaluator(row["plan"])


def test_plan_of_the_vector_is_loaded() -> None:
    Evaluator(vectors("guardplan")["plan"])


@pytest.mark.parametrize("row", rows("guardplan", "text_refused"))
def test_plan_that_is_not_canonical_is_refused(row: Any) -> None:
    with pytest.raises(Bad):
        parse_canonical(row["text"].encode(), "plan")


LOG = vectors("log")


@pytest.mark.parametrize("row", rows("log", "checkpoints_refused"))
def test_checkpoint_is_refused(row: Any) -> None:
    with pytest.raises(Bad):
        open_checkpoint(row["text"], parse_vkey(LOG["vkey"]))


@pytest.mark.parametrize("row", rows("log", "proofs_refused"))
def test_proof_is_refused(row: Any) -> None:
    with pytest.raises(Bad):
        verify_proof(row["text"], b"entry 4242", parse_vkey(LOG["vkey"]))
