"""C2SP signed notes, checkpoints, cosignatures, verifier keys and tlog-proof text (c2sp.org/signed-note, tlog-checkpoint, …)."""

import base64
import re
from collections.abc import Collection
from hashlib import sha256
from typing import NamedTuple

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from knhk_verify.errors import Bad, demand
from knhk_verify.tree import HASH

ED25519, COSIGNATURE = b"\x01", b"\x04"  # kinds of keys: a log's, a witness's
PROOF, MAX_SIGNATURES, MAX_HASHES, MAX_NOTE_BYTES = "c2sp.org/tlog-proof@v1", 200, 63, 1 << 20
NAME = re.compile(r"[^\s+]+")  # of a signer


def b64(data: bytes) -> str:
    """Standard base64 with padding."""
    return base64.b64encode(data).decode()


def unb64(text: str, where: str) -> bytes:
    """Bytes of canonical standard base64; raises Bad for any other spelling."""
    try:
        data = base64.b64decode(text, validate=True)
    except ValueError as error:
        raise Bad(where, "is not base64") from error
    demand(b64(data) == text, where, "is not canonical base64")
    return data


def ed25519_ok(public: bytes, signature: bytes, message: bytes) -> bool:
    """Whether `signature` (64 bytes) over `message` is by the raw key `public` (32 bytes)."""
    try:
        Ed25519PublicKey.from_public_bytes(public).verify(signature, message)
    except (InvalidSignature, ValueError):
        return False
    return True


class Verifier(NamedTuple):
    """A verifier key: name of the signer, its raw Ed25519 key, and its kind."""

    name: str
    public: bytes
    kind: bytes = ED25519

    @property
    def id(self) -> bytes:
        """The four bytes that begin each of its signatures: of SHA-256(name ‖ LF ‖ kind ‖ key)."""
        return sha256(self.name.encode() + b"\n" + self.kind + self.public).digest()[:4]

    def signed(self, data: bytes, text: bytes) -> bool:
        """Whether `data`, which follows the id, signs `text`: 64 bytes; of a witness u64 time and 64 bytes (c2sp.org/tlog-cosignature)."""
        if self.kind == COSIGNATURE:
            text, data = b"cosignature/v1\ntime %d\n%b" % (int.from_bytes(data[:8], "big"), text), data[8:] if data[0] < 128 else b""
        return ed25519_ok(self.public, data, text)


def parse_vkey(text: str, kind: bytes = ED25519, where: str = "vkey") -> Verifier:
    """Verifier of `name+hexid+base64(kind‖public)`; raises Bad."""
    name, _, key = (*text.strip().split("+", 2), "", "")[:3]
    verifier = Verifier(name, unb64(key, where)[1:], kind)
    whole = len(verifier.public) == 32 and f"{name}+{verifier.id.hex()}+{b64(kind + verifier.public)}" == text.strip()
    demand(whole and bool(NAME.fullmatch(name)), where, f"must be name+hexid+base64 of {kind.hex()} and an Ed25519 key, with their key id")
    return verifier


def open_note(note: str | bytes, verifiers: Collection[Verifier], where: str = "checkpoint") -> tuple[str, frozenset[Verifier]]:
    """Text of a note, and who of `verifiers` signed it; raises Bad for a wrong form, or a wrong signature of one of them."""
    body = note.decode("utf-8", "replace") if isinstance(note, bytes) else note
    text, blank, signatures = body.rpartition("\n\n")
    lines = signatures.split("\n")
    whole = bool(text and blank) and lines.pop() == "" and 0 < len(lines) <= MAX_SIGNATURES and len(body) <= MAX_NOTE_BYTES
    demand(whole, where, "is not a signed note: text, a blank line, signature lines")
    demand(not re.search("[\0-\t\v-\x1f\ufffd]", body), where, "is not UTF-8, or has a control character")
    known, signed = {(verifier.name, verifier.id): verifier for verifier in verifiers}, set[Verifier]()
    for number, line in enumerate(lines, text.count("\n") + 3):
        dash, name, signature = line.split(" ") if line.count(" ") == 2 else ("", "", "")
        data = unb64(signature, f"{where} line {number}")
        whole = dash == "—" and bool(NAME.fullmatch(name)) and len(data) > 4
        demand(whole, f"{where} line {number}", "is not a signature line: — name base64")
        if (verifier := known.get((name, data[:4]))) is not None:
            good = verifier.signed(data[4:], f"{text}\n".encode())
            demand(good, f"{where} line {number}", f"the signature of {name} is wrong: text or signature was altered")
            signed.add(verifier)
    return f"{text}\n", frozenset(signed)


class Checkpoint(NamedTuple):
    """Tree head: origin of the log, number of entries, root hash (32 bytes)."""

    origin: str
    size: int
    root: bytes


def _number(text: str, where: str) -> int:
    demand(bool(re.fullmatch(r"0|[1-9][0-9]{0,18}", text)) and int(text) < 1 << 63, where, "must be decimal, below 2^63, no leading zeros")
    return int(text)


def open_checkpoint(note: str | bytes, verifier: Verifier, where: str = "checkpoint") -> Checkpoint:
    """Checkpoint signed by `verifier`, whose name is its origin; extension lines are refused. Raises Bad."""
    text, signed = open_note(note, [verifier], where)
    demand(bool(signed), where, f"has no signature of {verifier.name} with key id {verifier.id.hex()}")
    origin, *lines = text.split("\n")
    demand(origin == verifier.name, f"{where} line 1", f"origin {origin!r}: must be {verifier.name!r}")
    demand(len(lines) == 3, where, "must be origin, size and root, one line each")
    root = unb64(lines[1], f"{where} line 3")
    demand(len(root) == HASH, f"{where} line 3", f"the root must have {HASH} bytes")
    return Checkpoint(origin, _number(lines[0], f"{where} line 2"), root)


class Proof(NamedTuple):
    """Hashes that lead to a signed checkpoint: from the entry at index `start`, or from the tree of size `start`."""

    start: int
    path: tuple[bytes, ...]
    checkpoint: str


def parse_path(text: str, word: str, where: str) -> Proof:
    """Proof of a line `word N` (`old`: as witnesses are asked), base64 hashes, a blank line, a checkpoint; raises Bad."""
    head, _, checkpoint = text.partition("\n\n")
    first, *lines = head.split("\n")
    demand(first.startswith(f"{word} ") and len(lines) <= MAX_HASHES, where, f"must have `{word} N` and at most {MAX_HASHES} hashes")
    path = tuple(unb64(line, f"{where} hash {number}") for number, line in enumerate(lines))
    for number, hash_ in enumerate(path):
        demand(len(hash_) == HASH, f"{where} hash {number}", f"must have {HASH} bytes")
    return Proof(_number(first[len(word) + 1 :], f"{where} {word}"), path, checkpoint)


def parse_proof(text: str, where: str = "proof") -> Proof:
    """Inclusion proof of c2sp.org/tlog-proof; its `extra` line, if any, is not judged. Raises Bad."""
    first, _, rest = text.partition("\n")
    demand(first == PROOF, f"{where} line 1", f"must be {PROOF}")
    return parse_path(rest.partition("\n")[2] if rest.startswith("extra ") else rest, "index", where)
