"""Signed notes, checkpoints, verifier keys, tlog-proofs."""

from __future__ import annotations

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from knhk_runtime.tlog.notes import format_checkpoint, format_proof, format_vkey, sign_note, verify_proof
from knhk_verify.errors import Bad
from knhk_verify.note import Checkpoint, Verifier, open_checkpoint, parse_proof, parse_vkey
from knhk_verify.tree import leaf_hash

KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
LOG = Verifier("knhk.dev/test", KEY.public_key().public_bytes_raw())
TREE = Checkpoint("knhk.dev/test", 1, leaf_hash(b"entry"))
NOTE = sign_note(format_checkpoint(TREE), LOG.name, LOG.public, KEY.sign)


def test_a_signed_checkpoint_opens() -> None:
    assert open_checkpoint(NOTE, LOG) == TREE
    assert parse_vkey(format_vkey(LOG)) == LOG


def test_a_witness_line_of_another_key_does_not_disturb() -> None:
    other = Ed25519PrivateKey.generate()
    line = sign_note(format_checkpoint(TREE), "witness.example", other.public_key().public_bytes_raw(), other.sign).rpartition("\n\n")[2]
    assert open_checkpoint(NOTE + line, LOG) == TREE
    alone = format_checkpoint(TREE) + "\n" + line
    with pytest.raises(Bad, match=r"no signature of knhk\.dev/test"):
        open_checkpoint(alone, LOG)


@pytest.mark.parametrize("bit", range(8))
def test_every_flipped_bit_is_refused(bit: int) -> None:
    data = NOTE.encode()
    for at in range(len(data)):
        with pytest.raises(Bad):
            open_checkpoint(data[:at] + bytes([data[at] ^ 1 << bit]) + data[at + 1 :], LOG)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "knhk.dev/test\n01\n",
        "knhk.dev/test\n-1\n{root}\n",
        "knhk.dev/test\n1\nAAAA\n",
        "knhk.dev/test\n1\n{root}\nextension\n",
        "other\n1\n{root}\n",
    ],
)
def test_a_signed_text_that_is_no_checkpoint_of_the_log_is_refused(text: str) -> None:
    root = format_checkpoint(TREE).split("\n")[2]
    with pytest.raises(Bad):
        open_checkpoint(sign_note(text.format(root=root), LOG.name, LOG.public, KEY.sign), LOG)


@given(st.binary(max_size=300))
def test_arbitrary_bytes_are_refused_and_never_crash(data: bytes) -> None:
    for read in (
        lambda: open_checkpoint(data, LOG),
        lambda: parse_vkey(data.decode("latin-1")),
        lambda: parse_proof(data.decode("latin-1")),
    ):
        with pytest.raises(Bad):
            read()


@pytest.mark.parametrize(
    "change", ["name+00000000+AQ==", "knhk.dev/test", "a b+" + format_vkey(LOG).partition("+")[2], "+" + format_vkey(LOG).partition("+")[2]]
)
def test_malformed_vkeys_are_refused(change: str) -> None:
    with pytest.raises(Bad):
        parse_vkey(change)


def test_a_proof_shows_its_entry_and_no_other() -> None:
    text = format_proof(0, [], NOTE)
    assert verify_proof(text, b"entry", LOG) == (0, TREE)
    with pytest.raises(Bad, match="does not lead"):
        verify_proof(text, b"Entry", LOG)
    with pytest.raises(Bad):
        verify_proof(text.replace("index 0", "index 1"), b"entry", LOG)
    extra = text.replace("index", "extra YQ==\nindex")
    assert verify_proof(extra, b"entry", LOG) == (0, TREE)
