"""Key-encryption keys: in a file beside the keys that sign, or in the PKCS#11 token that token.json there names."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from knhk.model.faults import Corrupt, Stalled
from knhk_runtime.durable import replace_file, sync_folder
from knhk_runtime.envelope import KEY, NONCE, purposed, unwrap, wrap, wrapped_parts
from knhk_runtime.hsm import read_token_file
from knhk_runtime.keyfile import read_private
from knhk_verify.errors import Bad

NAME = "subjects"


class FileWrapping:
    """`knhk.ports.wrapping.Wrapping` by `subjects.key` of a folder, 32 bytes, mode 0600."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / f"{NAME}.key"

    def ensure(self) -> None:
        """The key is there; of two processes that make it at once one does."""
        if self._path.exists():
            return
        self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        made = self._path.with_name(f".{self._path.name}.{os.getpid()}.{os.urandom(4).hex()}")
        replace_file(made, os.urandom(KEY))
        try:
            with suppress(FileExistsError):
                os.link(made, self._path)
            sync_folder(self._path.parent)
        finally:
            made.unlink()

    def wrap(self, purpose: bytes, key: bytes) -> bytes:
        """See the port."""
        self.ensure()
        return wrap(self._key(), purpose, key)

    def unwrap(self, purpose: bytes, wrapped: bytes) -> bytes:
        """See the port."""
        try:
            return unwrap(self._key(), purpose, wrapped, str(self._path))
        except Bad as error:
            raise Corrupt(error.where, error.what) from error

    def _key(self) -> bytes:
        found = read_private(self._path, "the key-encryption key of the key store")
        if len(found) != KEY:
            raise Stalled("KeyFile", f"{self._path}: must have {KEY} bytes")
        return found


class TokenWrapping:
    """`knhk.ports.wrapping.Wrapping` by an AES key of a token, labelled prefix + `subjects`."""

    def __init__(self, token_file: Path) -> None:
        told = read_token_file(token_file)
        self._where, self._token, self._label = str(token_file), told.open(), told.label(NAME)

    def wrap(self, purpose: bytes, key: bytes) -> bytes:
        """See the port."""
        if not self._token.has_secret(self._label):
            self._token.make_secret(self._label)
        nonce = os.urandom(NONCE)
        wrapped = b"KNW1" + nonce + self._token.encrypt(self._label, nonce, key, purposed(purpose))
        if self.unwrap(purpose, wrapped) != key:
            raise Stalled("Token", f"{self._where}: the token wraps otherwise than AES-256-GCM: cannot be used")
        return wrapped

    def unwrap(self, purpose: bytes, wrapped: bytes) -> bytes:
        """See the port."""
        try:
            nonce, ciphertext = wrapped_parts(wrapped, self._where)
        except Bad as error:
            raise Corrupt(error.where, error.what) from error
        key = self._token.decrypt(self._label, nonce, ciphertext, purposed(purpose))
        if key is None:
            raise Corrupt(self._where, "the token's key has not wrapped this, or it was altered")
        return key
