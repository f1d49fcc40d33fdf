"""The key store of a home: where its key-encryption key lies, and how it is opened."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from knhk.adapters.key_stores import STORE, established
from knhk.adapters.keys_remote import RemoteKeyStore
from knhk.adapters.signer_pkcs11 import TOKEN_FILE
from knhk.adapters.token_client import Whom
from knhk.adapters.wrapping_keys import FileWrapping, TokenWrapping
from knhk.model.faults import NotFound, Stalled
from knhk.ports.wrapping import Wrapping
from knhk.wiring.home import Home
from knhk_runtime import subject_keys
from knhk_runtime.durable import replace_file
from knhk_runtime.envelope import tag_of
from knhk_runtime.subject_keys import ErasableKeys, KeyStore
from knhk_runtime.unsealing import Unsealer


def wrapping_in(folder: Path) -> Wrapping:
    """By the token that token.json of a folder of keys names, else by a file there. Raises Stalled."""
    return TokenWrapping(folder / TOKEN_FILE) if (folder / TOKEN_FILE).exists() else FileWrapping(folder)


def prepare(home: Home, keys: Path | None = None) -> None:
    """For the agents of a home that comes up: the key store, and its own key in memory. Raises as `established`."""
    replace_file(home.store_key, established(home.subjects, wrapping_in(keys or home.keys)))


@dataclass(frozen=True)
class KeyPlace:
    """The key store of a namespace behind a key service: its URL, a file with a token of audience keys.knhk.dev, and one with the
    authority of the service's certificate."""

    url: str
    namespace: str
    token: Path
    authority: Path
    dial: tuple[str, int] | None = None  # where connections go, when the way there is forwarded


Keys = Home | KeyPlace
"""Where a key store is."""


def unsealer(keys: Keys, *, needed: bool = False) -> Unsealer:
    """Opens the sealed records of a home, or of a namespace, for who may use its key store; else it tells them as sealed, unless the key
    store is `needed`. Raises as `opened`."""
    try:
        return Unsealer(opened(keys), whole=isinstance(keys, Home))
    except (NotFound, Stalled):
        if needed:
            raise
        return Unsealer()


def tags_of(keys: Keys, subject: str) -> list[str]:
    """The tag, hexadecimal, under which records about a subject are sealed; none where the home's key store may not be used."""
    try:
        found = opened(keys)
    except (NotFound, Stalled):
        return []
    made = tag_of(found.tags_key, subject).hex()
    found.close()
    return [made]


def tags_key(home: Home) -> bytes:
    """By which the key store of a home makes tags; the key store is made when it is missing. Raises as `established`."""
    store = KeyStore(home.subjects, established(home.subjects, wrapping_in(home.keys)))
    try:
        return store.tags_key
    finally:
        store.close()


def opened(keys: Keys) -> ErasableKeys:
    """Raises NotFound for a home that has none, Stalled when this user may not use its key, Corrupt and Waiting; of a key service when it
    is first asked."""
    if isinstance(keys, KeyPlace):
        return service(keys)
    return opened_in(keys.subjects, keys.keys)


def service(keys: KeyPlace) -> RemoteKeyStore:
    """Of a namespace. Raises Stalled; the service is asked later."""
    return RemoteKeyStore(Whom(keys.url, keys.token, keys.authority, keys.dial), keys.namespace)


def opened_in(folder: Path, keys: Path) -> KeyStore:
    """The key store in a folder, by the key-encryption key in `keys`. Raises as `opened`."""
    wrapped = subject_keys.wrapped_store_key(folder)
    if wrapped is None:
        raise NotFound(f"{folder}: there is no key store")
    return KeyStore(folder, wrapping_in(keys).unwrap(STORE, wrapped))
