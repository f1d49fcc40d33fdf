"""C2SP signed notes, checkpoints, verifier keys and tlog-proof text (c2sp.org/signed-note, tlog-checkpoint, tlog-proof)."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import sha256

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from knhk_verify.errors import Bad
from knhk_verify.tree import HASH, leaf_hash, verify_inclusion

ED25519 = b"\x01"
PROOF = "c2sp.org/tlog-proof@v1"
MAX_SIGNATURES = 200
MAX_NOTE_BYTES = 1 << 20


def b64(data: bytes) -> str:
    """Standard base64 with padding."""
    return base64.b64encode(data).decode()


def unb64(text: str, where: str) -> bytes:
    """Bytes of canonical standard base64; raises Bad for any other spelling."""
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise Bad(where, "is not base64") from error
    if b64(data) != text:
        raise Bad(where, "is not canonical base64")
    return data


def ed25519_ok(public: bytes, signature: bytes, message: bytes) -> bool:
    """Whether `signature` (64 bytes) over `message` is by the raw key `public` (32 bytes)."""
    try:
        Ed25519PublicKey.from_public_bytes(public).verify(signature, message)
    except (InvalidSignature, ValueError):
        return False
    return True


def key_id(name: str, public: bytes) -> bytes:
    """First four bytes of SHA-256(name ‖ LF ‖ 01 ‖ public)."""
    return sha256(name.encode() + b"\n" + ED25519 + public).digest()[:4]


@dataclass(frozen=True)
class Verifier:
    """A verifier key: name of the signer and its raw Ed25519 key."""

    name: str
    public: bytes

    @property
    def id(self) -> bytes:
        """The four bytes that begin each of its signatures."""
        return key_id(self.name, self.public)

    def __str__(self) -> str:
        return f"{self.name}+{self.id.hex()}+{b64(ED25519 + self.public)}"


def _name_ok(name: str) -> bool:
    return bool(name) and "+" not in name and name.isprintable() and not any(c.isspace() for c in name)


def parse_vkey(text: str) -> Verifier:
    """Verifier of `name+hexid+base64(01‖public)`; raises Bad."""
    name, _, rest = text.strip().partition("+")
    hexid, _, key = rest.partition("+")
    data = unb64(key, "vkey")
    if not _name_ok(name) or data[:1] != ED25519 or len(data) != 33:
        raise Bad("vkey", "must be name+hexid+base64 of 01 and an Ed25519 key")
    verifier = Verifier(name, data[1:])
    if verifier.id.hex() != hexid:
        raise Bad("vkey", f"key id {hexid} is not that of the key, {verifier.id.hex()}")
    return verifier


def sign_note(text: str, name: str, public: bytes, sign: Callable[[bytes], bytes]) -> str:
    """Signed note over `text` (ends in LF) with one signature; `sign` maps bytes to 64 bytes."""
    return f"{text}\n— {name} {b64(key_id(name, public) + sign(text.encode()))}\n"


def open_note(note: str | bytes, verifier: Verifier, where: str = "checkpoint") -> str:
    """Text of a note that `verifier` signed; raises Bad for a wrong form, a missing or a wrong signature."""
    try:
        body = note.decode() if isinstance(note, bytes) else note
    except UnicodeDecodeError as error:
        raise Bad(f"{where} offset {error.start}", "is not UTF-8") from error
    text, blank, signatures = body.rpartition("\n\n")
    lines = signatures.split("\n")
    if len(body) > MAX_NOTE_BYTES or not text or not blank or lines.pop() != "" or not 0 < len(lines) <= MAX_SIGNATURES:
        raise Bad(where, "is not a signed note: text, a blank line, signature lines")
    if any(ord(c) < 0x20 and c != "\n" for c in body):
        raise Bad(where, "has a control character")
    text += "\n"
    signed = False
    for number, line in enumerate(lines, text.count("\n") + 2):
        parts = line.split(" ")
        if len(parts) != 3 or parts[0] != "—" or not _name_ok(parts[1]):
            raise Bad(f"{where} line {number}", "is not a signature line: — name base64")
        signature = unb64(parts[2], f"{where} line {number}")
        if len(signature) < 5:
            raise Bad(f"{where} line {number}", "the signature is too short")
        if parts[1] == verifier.name and signature[:4] == verifier.id:
            if not ed25519_ok(verifier.public, signature[4:], text.encode()):
                raise Bad(f"{where} line {number}", f"the signature of {verifier.name} is wrong: text or signature was altered")
            signed = True
    if not signed:
        raise Bad(where, f"has no signature of {verifier.name} with key id {verifier.id.hex()}")
    return text


@dataclass(frozen=True)
class Checkpoint:
    """Tree head: origin of the log, number of entries, root hash (32 bytes)."""

    origin: str
    size: int
    root: bytes

    def text(self) -> str:
        """The text that is signed."""
        return f"{self.origin}\n{self.size}\n{b64(self.root)}\n"


def _number(text: str, where: str) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) <= 19 and str(int(text)) == text):
        raise Bad(where, "must be a decimal number without leading zeros")
    return int(text)


def parse_checkpoint(text: str, where: str = "checkpoint") -> Checkpoint:
    """Checkpoint of a note's text; extension lines are refused."""
    lines = text.split("\n")
    if len(lines) != 4 or lines[3] or not lines[0]:
        raise Bad(where, "must be origin, size and root, one line each")
    root = unb64(lines[2], f"{where} line 3")
    if len(root) != HASH:
        raise Bad(f"{where} line 3", "the root must have 32 bytes")
    return Checkpoint(lines[0], _number(lines[1], f"{where} line 2"), root)


def open_checkpoint(note: str | bytes, verifier: Verifier, where: str = "checkpoint") -> Checkpoint:
    """Checkpoint signed by `verifier`, whose name is its origin; raises Bad."""
    checkpoint = parse_checkpoint(open_note(note, verifier, where), where)
    if checkpoint.origin != verifier.name:
        raise Bad(f"{where} line 1", f"origin {checkpoint.origin!r}: must be {verifier.name!r}")
    return checkpoint


@dataclass(frozen=True)
class Proof:
    """A tlog-proof: entry index, audit path, signed checkpoint as text, optional opaque bytes."""

    index: int
    path: tuple[bytes, ...]
    checkpoint: str
    extra: bytes | None = None


def format_proof(index: int, path: Sequence[bytes], checkpoint: str) -> str:
    """tlog-proof text."""
    hashes = "".join(f"{b64(hash_)}\n" for hash_ in path)
    return f"{PROOF}\nindex {index}\n{hashes}\n{checkpoint}"


def parse_proof(text: str) -> Proof:
    """Proof of a tlog-proof text; raises Bad with the line."""
    head, _, checkpoint = text.partition("\n\n")
    lines = head.split("\n")
    if lines.pop(0) != PROOF:
        raise Bad("proof line 1", f"must be {PROOF}")
    extra = unb64(lines.pop(0)[6:], "proof line 2") if lines and lines[0].startswith("extra ") else None
    if not lines or not lines[0].startswith("index ") or len(lines) > 64:
        raise Bad("proof", "must have a line `index N` and at most 63 hashes")
    index = _number(lines[0][6:], "proof index")
    path = tuple(unb64(line, "proof hash") for line in lines[1:])
    if any(len(hash_) != HASH for hash_ in path):
        raise Bad("proof hash", "must have 32 bytes")
    return Proof(index, path, checkpoint, extra)


def verify_proof(text: str, entry: bytes, verifier: Verifier) -> tuple[int, Checkpoint]:
    """(index, checkpoint) when the proof shows `entry` in a log whose checkpoint `verifier` signed; raises Bad."""
    proof = parse_proof(text)
    checkpoint = open_checkpoint(proof.checkpoint, verifier)
    verify_inclusion(leaf_hash(entry), proof.index, checkpoint.size, checkpoint.root, proof.path)
    return proof.index, checkpoint
