"""keys.json of a folder of keys, with the chapters of former keys that lie beside that folder (formats/signed.md): of these Secrets of a
cluster have the newest, ConfigMaps all."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from functools import lru_cache
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple

from knhk.model.canonical import canonical
from knhk_runtime.log import log
from knhk_verify.note import unb64
from knhk_verify.signed import MAX_BYTES, MAX_KEYS_BYTES, member, parse_json

_CHAPTER = re.compile(r"([0-9a-f]{64})\.json")


class _File(NamedTuple):
    path: str
    size: int
    changed_ns: int


def chapters_folder(keys: Path) -> Path:
    """Where the chapters of a folder of keys lie: beside it, so that no file of it can be one of theirs."""
    return keys.with_name(f"{keys.name}.chapters")


def read_keys_json(path: Path) -> bytes:
    """The file, with those of the chapters beside its folder that it names. A chapter that is not what its name says is left out, and told.
    Nothing is verified. Raises OSError."""
    data, beside = path.read_bytes(), _files(chapters_folder(path.parent))
    return _joined(data, beside) if beside else data


def _files(folder: Path) -> tuple[_File, ...]:
    try:
        with os.scandir(folder) as entries:
            there = [(entry.path, entry.stat()) for entry in entries if _CHAPTER.fullmatch(entry.name)]
    except FileNotFoundError:  # there is none, or a kubelet brings others just now
        return ()
    return tuple(sorted(_File(path, stat.st_size, stat.st_mtime_ns) for path, stat in there))


@lru_cache(2)  # it is read at every look
def _joined(data: bytes, files: tuple[_File, ...]) -> bytes:
    try:
        envelope = parse_json(data, "keys.json", MAX_KEYS_BYTES)
        payload = parse_json(unb64(member(envelope, "payload", str, "keys.json"), "keys.json"), "keys.json")
        named, own = (member({"chapters": []} | part, "chapters", list, "keys.json") for part in (payload, envelope))
        at = {str(digest): number for number, digest in enumerate(named)}
        texts = {_digest(str(text).encode()): str(text) for text in own}
        more = {digest: text for digest, text in _sound(files) if digest in at.keys() - texts.keys()}
        whole = sorted([*texts.items(), *more.items()], key=lambda chapter: at.get(chapter[0], len(at)))
        return canonical({**envelope, "chapters": [text for _, text in whole]}) if more else data
    except ValueError:  # Bad is one, too: told by whoever verifies it
        return data


def _sound(files: tuple[_File, ...]) -> Iterator[tuple[str, str]]:
    """SHA-256, as the name has it, and text."""
    for file in files:
        try:
            text = Path(file.path).read_bytes() if file.size <= MAX_BYTES else b""
        except FileNotFoundError:  # a kubelet takes it away just now
            continue
        if (digest := _digest(text)) == Path(file.path).name.partition(".")[0]:
            yield digest, text.decode()
        else:
            log("a chapter of former keys is refused", file=file.path, what=f"has SHA-256 {digest}, not that of its name: was altered")


def _digest(text: bytes) -> str:
    return sha256(text).hexdigest()
