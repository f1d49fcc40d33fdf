"""Invariant: whatever bytes lie in a registry, an agent takes a pack or a data bundle out of it only when a key of the right role signed
its digest, else it says Corrupt or Refused; it opens nothing outside the registry, and installs files named by their digest.

An input is three numbers (who signs, which piece is fetched, which piece is the statement that is signed) and pieces. Each piece is a blob;
in it `@N@` stands for the SHA-256 of an earlier piece and `#N#` for its size, so that a search can change one of them and the rest still
names it. The last piece is index.json."""

from __future__ import annotations

import hashlib
import json
import re
import struct
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from house_keys import Signer, spelled, trusted

from knhk.model.faults import Corrupt, Refused
from knhk.model.oci import (
    BUNDLE,
    BUNDLE_FILE,
    INDEX,
    MANIFEST,
    PACK,
    PACK_PLAN,
    PACK_SO,
    PREDICATE,
    PROVENANCE_PREDICATE,
    SIGNATURE_PREDICATE,
    SIGNED,
)
from knhk_runtime.exchange.documents import PackRef
from knhk_runtime.exchange.install import UNTOLD, Private
from knhk_runtime.layout import SUBJECT
from knhk_runtime.packstore import PackStore

ERRORS = (Corrupt, Refused)
CUT = b"\n--\n"
HEAD = 3
STATED = b"\xa5" * 32  # in a piece: the SHA-256 of the piece before it
SIGNERS = {0: Signer(0), 1: Signer(32), 2: Signer(64)}  # of role build, of role data, of none
BUILD, DATA = 0, 1
KEYS = trusted(build=SIGNERS[BUILD], data=SIGNERS[DATA])
ACTS = {"open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.link", "os.symlink", "os.truncate", "os.chmod", "ctypes.dlopen"}
MEMORY = "/dev/shm" if Path("/dev/shm").is_dir() else None
_within: list[str] = []


def _watch(event: str, arguments: tuple[Any, ...]) -> None:
    if _within and event in ACTS and isinstance(arguments[0], str | bytes):
        path = arguments[0] if isinstance(arguments[0], str) else arguments[0].decode()
        if not path.startswith(_within[-1]) and not path.endswith((".py", ".pyc")):
            raise AssertionError(f"{event} {path}: outside {_within[-1]}")


sys.addaudithook(_watch)


@contextmanager
def only(folder: Path) -> Iterator[None]:
    """Raises AssertionError when anything outside the folder is opened, made or changed."""
    _within.append(f"{folder}/")
    try:
        yield
    finally:
        _within.pop()


def _lay(registry: Path, head: bytes, pieces: list[bytes]) -> list[str]:
    """Writes the registry; returns the digests of its pieces."""
    blobs = registry / "blobs" / "sha256"
    blobs.mkdir(parents=True)
    digests, sizes, made = list[bytes](), list[bytes](), b""
    for i, piece in enumerate(pieces):
        piece = re.sub(rb"@(\d)@", lambda m: digests[int(m[1])] if int(m[1]) < len(digests) else m[0], piece)
        piece = re.sub(rb"#(\d)#", lambda m: sizes[int(m[1])] if int(m[1]) < len(sizes) else m[0], piece)
        piece = piece.replace(STATED, hashlib.sha256(made).digest())
        made = SIGNERS[head[0] % 3].bundle(spelled(piece)) if i == head[2] else piece
        name = hashlib.sha256(made).hexdigest()
        (blobs / name).write_bytes(made)
        digests.append(name.encode())
        sizes.append(str(len(made)).encode())
    (registry / "index.json").write_bytes(made)
    return [f"sha256:{digest.decode()}" for digest in digests]


def fetch(data: bytes) -> None:
    """What the agent does with the image that an input names. Raises Corrupt and Refused."""
    head, pieces = data[:HEAD].ljust(HEAD, b"\0"), data[HEAD:].split(CUT)
    with tempfile.TemporaryDirectory(prefix="knhk-fuzz-", dir=MEMORY) as place:
        digests = _lay(Path(place, "registry"), head, pieces)
        digest, store, private = digests[head[1] % len(digests)], PackStore(Path(place, "registry")), Private(Path(place, "private"))
        with only(Path(place)):
            _look(store, digest)
            if head[0] % 3 == DATA:
                path, _ = private.put_bundle(store.fetch_bundle(digest, KEYS))
            else:
                found = store.fetch_pack(digest, "amd64", KEYS)
                assert head[0] % 3 == BUILD, "a pack is taken that no key of role build signed"
                path = private.put_pack(PackRef("n", "x", "1", digest), found).so
        assert {*private.folder.iterdir()} == {path, private.folder / UNTOLD}
        assert path.stem == hashlib.sha256(path.read_bytes()).hexdigest()


def _look(store: PackStore, digest: str) -> None:
    """What is read without a signature."""
    raw = bytes.fromhex(digest[7:])
    for predicate in (SIGNATURE_PREDICATE, PROVENANCE_PREDICATE):
        with suppress(*ERRORS):
            store.signed_statements(digest, predicate)
    with suppress(*ERRORS):
        store.find_pack(raw[:20])
    with suppress(*ERRORS):
        store.find_bundle(raw)


# ---- right inputs ---------------------------------------------------------------------------------------


def elf(machine: int = 62, guards: int = 1) -> bytes:
    """A shared object that holds nothing but what `stated` reads: knhk_pack_v1 with ABI, number of guards and digest of the plan."""
    head = b"\x7fELF\x02\x01\x01".ljust(16, b"\0") + struct.pack("<HHIQQQIHHHHHH", 3, machine, 1, 0, 64, 320, 0, 64, 56, 1, 64, 3, 0)
    load = struct.pack("<IIQQQQQQ", 1, 4, 0, 0, 0, 512, 512, 4096)
    pack = struct.pack("<II", 1, guards).ljust(48, b"\0") + STATED
    names = b"\0knhk_pack_v1\0"
    symbols = bytes(24) + struct.pack("<IBBHQQ", 1, 0x11, 0, 1, 128, 80)
    symbol_table = struct.pack("<IIQQQQIIQQ", 0, 11, 0, 0, 272, 48, 2, 0, 8, 24)
    sections = bytes(64) + symbol_table + struct.pack("<IIQQQQIIQQ", 0, 3, 0, 0, 256, 14, 0, 0, 1, 0)
    return (head + load).ljust(128, b"\0") + pack.ljust(128, b"\0") + names.ljust(16, b"\0") + symbols + sections


def _entry(piece: int, media: str, **more: Any) -> dict[str, Any]:
    return {"mediaType": media, "digest": f"sha256:@{piece}@", "size": f"#{piece}#", **more}


def _document(media: str, artifact: str, **more: Any) -> dict[str, Any]:
    return {"schemaVersion": 2, "mediaType": media, "artifactType": artifact, **more}


def _piece(value: Any) -> bytes:
    return re.sub(rb'"(#\d#)"', rb"\1", json.dumps(value).encode())


def _signature_of(piece: int, statement: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """Statement over a piece, and the manifest that holds it."""
    subject = [{"name": "x", "digest": {"sha256": f"@{piece}@"}}]
    told = {"_type": "https://in-toto.io/Statement/v1", "subject": subject, "predicateType": SIGNATURE_PREDICATE, "predicate": {}}
    return told, _document(MANIFEST, SIGNED, config=_entry(0, "x/y"), layers=[_entry(statement, SIGNED)])


def _listed(piece: int, signature: int, media: str, artifact: str) -> dict[str, Any]:
    notes = {SUBJECT: f"sha256:@{piece}@", PREDICATE: SIGNATURE_PREDICATE}
    entries = [_entry(piece, media, artifactType=artifact), _entry(signature, MANIFEST, artifactType=SIGNED, annotations=notes)]
    return {"schemaVersion": 2, "manifests": entries}


def _whole(head: bytes, *pieces: Any) -> bytes:
    made = [piece if isinstance(piece, bytes) else _piece(piece) for piece in pieces]
    return head + CUT.join(made)


def seeds() -> Iterator[bytes]:
    """A pack and a data bundle, signed by a key of the right role and by one of none."""
    plan = {"guards": [{"id": "payload"}], "pack": {"namespace": "n", "name": "x", "version": "1"}}
    layers = [_entry(1, PACK_SO), _entry(0, PACK_PLAN)]
    manifest = _document(MANIFEST, PACK, config=_entry(0, "x/y"), layers=layers)
    platform = {"architecture": "amd64", "os": "linux"}
    index = _document(INDEX, PACK, manifests=[_entry(2, MANIFEST, platform=platform)])
    pack = (plan, elf(), manifest, index, *_signature_of(3, 4), _listed(3, 5, INDEX, PACK))
    data = (b"KNHKBND2", _document(MANIFEST, BUNDLE, config=_entry(0, "x/y"), layers=[_entry(0, BUNDLE_FILE)]))
    bundle = (*data, *_signature_of(1, 2), _listed(1, 3, MANIFEST, BUNDLE))
    for who in SIGNERS:
        yield _whole(bytes([who, 3, 4]), *pack)
        yield _whole(bytes([who, 1, 2]), *bundle)
