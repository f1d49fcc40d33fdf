"""Signed notes, checkpoints and proofs as text, for those who write them (c2sp.org/signed-note, tlog-checkpoint, tlog-proof)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from hashlib import sha256

from knhk_verify.errors import Bad
from knhk_verify.note import PROOF, Checkpoint, Verifier, b64, open_checkpoint, parse_proof, unb64
from knhk_verify.tree import leaf_hash, verify_inclusion


def format_vkey(verifier: Verifier) -> str:
    """Text of a verifier key: `name+hexid+base64(kind‖public)`."""
    return f"{verifier.name}+{verifier.id.hex()}+{b64(verifier.kind + verifier.public)}"


def format_checkpoint(checkpoint: Checkpoint) -> str:
    """The text of a checkpoint that is signed."""
    return f"{checkpoint.origin}\n{checkpoint.size}\n{b64(checkpoint.root)}\n"


def sign_note(text: str, name: str, public: bytes, sign: Callable[[bytes], bytes]) -> str:
    """Signed note over `text` (ends in LF) with one signature; `sign` maps bytes to 64 bytes."""
    return f"{text}\n{signature_line(text, Verifier(name, public), sign)}"


def signature_line(text: str, verifier: Verifier, sign: Callable[[bytes], bytes]) -> str:
    """What a signer more puts under a signed note over `text`."""
    return f"— {verifier.name} {b64(verifier.id + sign(text.encode()))}\n"


def size_of(note: str) -> int:
    """Size in a checkpoint, which its signer wrote or somebody has verified."""
    return int(note.split("\n", 2)[1])


def cosign(text: str, witness: Verifier, time_s: int, sign: Callable[[bytes], bytes]) -> str:
    """Signature line of a witness under a checkpoint's text (ends in LF), as of `time_s` (c2sp.org/tlog-cosignature)."""
    signature = sign(b"cosignature/v1\ntime %d\n%b" % (time_s, text.encode()))
    return f"— {witness.name} {b64(witness.id + time_s.to_bytes(8, 'big') + signature)}\n"


MIRRORED = b"knhk.dev/mirrored/v1"


def mirrored(text: str, witness: Verifier, time_s: int, sign: Callable[[bytes], bytes]) -> str:
    """Signature line of a witness that holds every entry under a checkpoint's text (ends in LF), as of `time_s` (formats/witness.md)."""
    return f"— {witness.name} {b64(_mirror_id(witness) + time_s.to_bytes(8, 'big') + sign(_held(time_s, text)))}\n"


def is_mirrored(note: str, witness: Verifier) -> bool:
    """Whether this witness says under the note that it holds every entry. Raises Bad for a wrong signature of it."""
    text, _, signatures = note.rpartition("\n\n")
    for line in signatures.splitlines():
        head, _, signature = line.rpartition(" ")
        data = unb64(signature, "mirror") if head == f"— {witness.name}" else b""
        if data[:4] == _mirror_id(witness):
            if Verifier(witness.name, witness.public).signed(data[12:], _held(int.from_bytes(data[4:12], "big"), f"{text}\n")):
                return True
            raise Bad("mirror", f"the signature of {witness.name} is wrong: text or signature was altered")
    return False


def _mirror_id(witness: Verifier) -> bytes:
    return sha256(witness.name.encode() + b"\n\xff" + MIRRORED + witness.public).digest()[:4]


def _held(time_s: int, text: str) -> bytes:
    return b"%b\ntime %d\n%b" % (MIRRORED, time_s, text.encode())


def format_proof(index: int, path: Sequence[bytes], checkpoint: str) -> str:
    """tlog-proof text."""
    hashes = "".join(f"{b64(hash_)}\n" for hash_ in path)
    return f"{PROOF}\nindex {index}\n{hashes}\n{checkpoint}"


def verify_proof(text: str, entry: bytes, verifier: Verifier) -> tuple[int, Checkpoint]:
    """(index, checkpoint) when the proof shows `entry` in a log whose checkpoint `verifier` signed; raises Bad."""
    proof = parse_proof(text)
    checkpoint = open_checkpoint(proof.checkpoint, verifier)
    verify_inclusion(leaf_hash(entry), proof.start, checkpoint.size, checkpoint.root, proof.path)
    return proof.start, checkpoint
