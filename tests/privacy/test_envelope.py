"""The envelope of formats/envelope.md: what opens, what does not, and whose an observation is."""

from __future__ import annotations

import json
from typing import Any

import pytest
from envelope_vectors import FILE, made

from knhk_runtime.envelope import (
    Plain,
    blinded,
    leaves_digest,
    parse_envelope,
    seal,
    tag_of,
    unseal,
    unwrap,
    window_of,
    without_triples,
    wrap,
)
from knhk_runtime.record import Observation, check_record, h_a, h_o, parse_record
from knhk_runtime.subjects import Privacy, Rule, parse_privacy
from knhk_verify.errors import Bad
from knhk_verify.leaf import parse_leaf

VECTORS = json.loads(FILE.read_bytes())
KEY, KEY_ID, NONCE = (bytes.fromhex(VECTORS[name]) for name in ("key", "keyId", "nonce"))
TAGS = bytes.fromhex(VECTORS["tagsKey"])


def test_vectors_are_fresh() -> None:
    assert FILE.read_bytes() == made(), "stale: run tests/privacy/envelope_vectors.py and review the diff"


def test_tags_and_blinded_clusters() -> None:
    assert [tag_of(TAGS, row["subject"]).hex() for row in VECTORS["tags"]] == [row["tag"] for row in VECTORS["tags"]]
    assert [blinded(TAGS, int(row["cluster"])) for row in VECTORS["clusters"]] == [int(row["blinded"]) for row in VECTORS["clusters"]]


@pytest.mark.parametrize("row", VECTORS["records"], ids=lambda row: row["name"])
def test_a_sealed_record_holds_all_of_the_plain_one(row: Any) -> None:
    plain = parse_record(bytes.fromhex(row["plain"])[8:], "plain")
    sealed = parse_record(bytes.fromhex(row["sealed"])[8:], "sealed")
    check_record(sealed, "sealed")
    assert (sealed.sealed, sealed.erased, sealed.leaves) == (True, False, plain.leaves)
    assert sealed.observation.hex() == row["envelope"]
    assert sealed.actions == tuple(map(without_triples, plain.actions))
    assert plain.salt not in bytes.fromhex(row["sealed"])
    opened = unseal(KEY, parse_envelope(sealed.observation), sealed.leaves[0])
    arms = {leaf[5] & 1: a for leaf, a in zip(plain.leaves, plain.actions, strict=True)}
    assert opened == Plain(plain.salt, plain.observation, arms)
    for data in sealed.leaves:  # the hashes of the log are those of what was opened
        leaf = parse_leaf(data, "leaf")
        assert leaf.h_o == h_o(opened.salt, opened.observation)
        assert leaf.kind != 1 or leaf.h_a == h_a(opened.salt, opened.actions[leaf.flags & 1])
    assert seal(KEY, KEY_ID, tag_of(TAGS, "anna@example.com"), sealed.leaves, opened, NONCE) == sealed.observation


@pytest.mark.parametrize("row", VECTORS["refused"], ids=lambda row: row["name"])
def test_what_was_altered_or_moved_does_not_open(row: Any) -> None:
    leaf = parse_record(bytes.fromhex(VECTORS["records"][0]["sealed"])[8:], "sealed").leaves[0]
    with pytest.raises(Bad):
        unseal(KEY, parse_envelope(bytes.fromhex(row["envelope"])), leaf)


def test_the_wrong_key_opens_nothing() -> None:
    record = parse_record(bytes.fromhex(VECTORS["records"][0]["sealed"])[8:], "sealed")
    with pytest.raises(Bad, match="another key's"):
        unseal(bytes(32), parse_envelope(record.observation), record.leaves[0])


@pytest.mark.parametrize("name", ["wrapping", "store"])
def test_wrapped_keys(name: str) -> None:
    row = {key: bytes.fromhex(value) for key, value in VECTORS[name].items()}
    assert unwrap(row["by"], row["purpose"], row["wrapped"], "key") == row["key"]
    assert unwrap(row["by"], row["purpose"], wrap(row["by"], row["purpose"], row["key"]), "key") == row["key"]
    for by, purpose, wrapped in (
        (bytes(32), row["purpose"], row["wrapped"]),
        (row["by"], b"tags", row["wrapped"]),
        (row["by"], row["purpose"], row["wrapped"][:-1]),
    ):
        with pytest.raises(Bad):
            unwrap(by, purpose, wrapped, "key")


def test_leaf_hashes_of_an_event() -> None:
    assert leaves_digest([bytes.fromhex(each) for each in VECTORS["leafHashes"]["hashes"]]) == VECTORS["leafHashes"]["digest"]


def test_windows_are_of_thirty_days() -> None:
    day = 86_400 * 10**9
    assert [window_of(time) for time in (0, 30 * day - 1, 30 * day, 61 * day)] == [0, 0, 1, 2]


def seen(body: bytes, route: str = "invoice", **attributes: str) -> Observation:
    return Observation(1, "local", route, bytes(32), bytes(32), tuple(sorted(attributes.items())), body)


def test_the_first_rule_of_the_route_that_finds_a_text_says_the_subject() -> None:
    rules = (Rule("invoice", pointer="/buyer/contacts/0/e~1mail"), Rule("invoice", pointer="/id"), Rule("", attribute="sub"))
    privacy = Privacy(rules)
    assert privacy.subject_of(seen(b'{"buyer":{"contacts":[{"e/mail":"a@b.c"}]},"id":7}', sub="clerk")) == "a@b.c"
    assert privacy.subject_of(seen(b'{"buyer":{"contacts":[]},"id":7}', sub="clerk")) == "7"
    assert privacy.subject_of(seen(b'{"id":7}', "order", sub="clerk")) == "clerk"


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<a/>",
        b"[" * 100_000,
        b'{"id":null}',
        b'{"id":true}',
        b'{"id":1.5}',
        b'{"id":""}',
        b'{"id":"\\ud800"}',
        b'{"id":{}}',
        b'{"id":"' + b"x" * 1025 + b'"}',
        b"\xff\xfe",
        b"9" * 5000,
    ],
)
def test_a_body_that_names_nobody(body: bytes) -> None:
    assert Privacy((Rule("", pointer="/id"),)).subject_of(seen(body)) == ""


@pytest.mark.parametrize(
    "document",
    [
        None,
        {"subjects": [], "retentionDays": 0},
        {"subjects": [{"route": ""}], "retentionDays": 0},
        {"subjects": [{"route": "", "pointer": "buyer"}], "retentionDays": 0},
        {"subjects": [{"route": "", "pointer": ""}], "retentionDays": 0},
        {"subjects": [{"route": "", "pointer": "/a~2"}], "retentionDays": 0},
        {"subjects": [{"route": "", "pointer": "/a", "attribute": "sub"}], "retentionDays": 0},
        {"subjects": [{"route": "", "attribute": "SUB"}], "retentionDays": 0},
        {"subjects": [{"route": "", "attribute": "sub"}], "retentionDays": -1},
        {"subjects": [{"route": "", "attribute": "sub"}], "retentionDays": True},
        {"subjects": [{"route": "", "attribute": "sub"}]},
    ],
)
def test_what_is_no_privacy(document: object) -> None:
    assert parse_privacy(document) is None


def test_privacy_of_a_point() -> None:
    told = {"subjects": [{"route": "invoice", "pointer": "/a"}, {"route": "", "attribute": "sub"}], "retentionDays": 30}
    assert parse_privacy(told) == Privacy((Rule("invoice", pointer="/a"), Rule("", attribute="sub")), 30)
