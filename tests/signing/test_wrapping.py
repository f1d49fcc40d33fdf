"""Key-encryption keys, in a file and in a token: one behaviour."""

from __future__ import annotations

from pathlib import Path

import pytest

from knhk.adapters.key_stores import established
from knhk.model.faults import Corrupt, Stalled
from knhk.wiring.privacy import wrapping_in
from knhk_runtime.envelope import KEY
from knhk_runtime.hsm import read_token_file
from knhk_runtime.subject_keys import KeyStore, wrapped_store_key

SECRET = bytes(range(KEY))


def test_what_was_wrapped_unwraps_for_its_purpose_only(keys: Path) -> None:
    wrapping = wrapping_in(keys)
    wrapped = wrapping.wrap(b"store", SECRET)
    assert wrapping.unwrap(b"store", wrapped) == SECRET
    assert SECRET not in wrapped
    assert wrapping.wrap(b"store", SECRET) != wrapped
    flipped = wrapped[:-1] + bytes([wrapped[-1] ^ 1])
    for purpose, data in ((b"tags", wrapped), (b"store", flipped), (b"store", wrapped[:-1]), (b"store", b"")):
        with pytest.raises(Corrupt):
            wrapping.unwrap(purpose, data)
    assert wrapping.unwrap(b"store", wrapped) == SECRET


def test_a_key_store_is_opened_again_by_the_same_key_only(keys: Path, tmp_path: Path) -> None:
    store_key = established(tmp_path / "subjects", wrapping_in(keys))
    made = KeyStore(tmp_path / "subjects", store_key)
    key = made.keys_for("erp/orders", [(bytes(32), 1)])[bytes(32), 1]
    made.close()
    assert established(tmp_path / "subjects", wrapping_in(keys)) == store_key
    again = KeyStore(tmp_path / "subjects", store_key)
    assert again.key(key.id) == key.key
    again.close()
    assert store_key not in b"".join(path.read_bytes() for path in (tmp_path / "subjects").iterdir())
    assert wrapped_store_key(tmp_path / "subjects") is not None


def test_a_lost_key_is_said(keys: Path, tmp_path: Path) -> None:
    wrapping = wrapping_in(keys)
    wrapped = wrapping.wrap(b"store", SECRET)
    if (keys / "token.json").exists():
        told = read_token_file(keys / "token.json")
        other = (keys / "token.json").read_text().replace(told.prefix, "nobodys/")
        (keys / "token.json").write_text(other)
    else:
        (keys / "subjects.key").unlink()
    with pytest.raises(Stalled):
        wrapping_in(keys).unwrap(b"store", wrapped)
