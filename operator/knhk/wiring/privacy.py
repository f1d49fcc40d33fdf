"""The key store of a home: where its key-encryption key lies, and how it is opened."""

from __future__ import annotations

from pathlib import Path

from knhk.adapters.key_stores import STORE, established
from knhk.adapters.signer_pkcs11 import TOKEN_FILE
from knhk.adapters.wrapping_keys import FileWrapping, TokenWrapping
from knhk.model.faults import NotFound, Stalled
from knhk.ports.wrapping import Wrapping
from knhk.wiring.home import Home
from knhk_runtime import subject_keys
from knhk_runtime.durable import replace_file
from knhk_runtime.envelope import tag_of
from knhk_runtime.subject_keys import KeyStore
from knhk_runtime.unsealing import Unsealer


def wrapping_in(folder: Path) -> Wrapping:
    """By the token that token.json of a folder of keys names, else by a file there. Raises Stalled."""
    return TokenWrapping(folder / TOKEN_FILE) if (folder / TOKEN_FILE).exists() else FileWrapping(folder)


def prepare(home: Home, keys: Path | None = None) -> None:
    """For the agents of a home that comes up: the key store, and its own key in memory. Raises as `established`."""
    replace_file(home.store_key, established(home.subjects, wrapping_in(keys or home.keys)))


def unsealer(home: Home, *, needed: bool = False) -> Unsealer:
    """Opens the sealed records of a home for who may use its key store; else it tells them as sealed, unless the key store is `needed`.
    Raises as `opened`."""
    try:
        return Unsealer(opened(home))
    except (NotFound, Stalled):
        if needed:
            raise
        return Unsealer()


def tags_of(home: Home, subject: str) -> list[str]:
    """The tag, hexadecimal, under which a home's records about a subject are sealed; none where its key store may not be used."""
    try:
        keys = opened(home)
    except (NotFound, Stalled):
        return []
    found = tag_of(keys.tags_key, subject).hex()
    keys.close()
    return [found]


def opened(home: Home) -> KeyStore:
    """The key store of a home. Raises NotFound when it has none, Stalled when this user may not use its key, Corrupt and Waiting."""
    return opened_in(home.subjects, home.keys)


def opened_in(folder: Path, keys: Path) -> KeyStore:
    """The key store in a folder, by the key-encryption key in `keys`. Raises as `opened`."""
    wrapped = subject_keys.wrapped_store_key(folder)
    if wrapped is None:
        raise NotFound(f"{folder}: there is no key store")
    return KeyStore(folder, wrapping_in(keys).unwrap(STORE, wrapped))
