"""A log of made-up entries that can fork, and what is asked of a witness about it."""

from __future__ import annotations

import http.client
import json
import signal
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, field

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from knhk_runtime.tlog.notes import format_checkpoint, sign_note
from knhk_runtime.tlog.tree import consistency_proof, range_root
from knhk_runtime.witness.core import Refusal, Witness, WitnessKey
from knhk_verify.note import COSIGNATURE, Checkpoint, Verifier, b64
from knhk_verify.tree import leaf_hash, node_hash

ORIGIN = "knhk.dev/witnessed"


def private(number: int) -> Ed25519PrivateKey:
    return Ed25519PrivateKey.from_private_bytes(bytes([number]) * 32)


def pem(key: Ed25519PrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def witness_key(number: int = 40, name: str = "witness.example/one") -> WitnessKey:
    key = private(number)
    return WitnessKey(Verifier(name, key.public_key().public_bytes_raw(), COSIGNATURE), key.sign)


@dataclass(frozen=True)
class FakeLog:
    """Entry i is `entry i`; from entry `fork` on it is another history."""

    origin: str = ORIGIN
    signer: Ed25519PrivateKey = field(default_factory=lambda: private(9))
    fork: int = 1 << 30

    @property
    def verifier(self) -> Verifier:
        return Verifier(self.origin, self.signer.public_key().public_bytes_raw())

    def read(self, level: int, index: int) -> bytes:
        if level == 0:
            return leaf_hash(b"%s %d" % (b"entry" if index < self.fork else b"other", index))
        return node_hash(self.read(level - 1, 2 * index), self.read(level - 1, 2 * index + 1))

    def checkpoint(self, size: int, *lines: str) -> str:
        tree = Checkpoint(self.origin, size, range_root(self.read, 0, size))
        text = format_checkpoint(tree) + "".join(f"{line}\n" for line in lines)
        return sign_note(text, self.origin, self.verifier.public, self.signer.sign)

    def asks(self, old: int, size: int, proof: Sequence[bytes] | None = None) -> bytes:
        """Body of add-checkpoint."""
        hashes = consistency_proof(self.read, old, size) if proof is None else proof
        return (f"old {old}\n" + "".join(f"{b64(hash_)}\n" for hash_ in hashes) + f"\n{self.checkpoint(size)}").encode()


def answer(witness: Witness, body: bytes) -> tuple[int, int | str | None]:
    """(status, the cosignature line, or the size that 409 tells)."""
    try:
        return 200, witness.add_checkpoint(body)
    except Refusal as refusal:
        return int(refusal.status), refusal.size


@dataclass
class Running:
    """A witness as a process."""

    process: subprocess.Popen[str]
    _port: int = 0

    @property
    def port(self) -> int:
        """As soon as it says that it serves."""
        while not self._port:
            assert self.process.stderr is not None
            line = self.process.stderr.readline()
            assert line, "it ended before it served"
            if '"witness serves"' in line:
                self._port = int(json.loads(line)["listen"].rpartition(":")[2])
        return self._port

    def post(self, body: bytes) -> tuple[int, str, str]:
        """(status, content type, body)."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            connection.request("POST", "/add-checkpoint", body)
            answered = connection.getresponse()
            return answered.status, answered.headers.get("Content-Type", ""), answered.read().decode()
        finally:
            connection.close()

    def get(self, path: str) -> tuple[int, str]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            connection.request("GET", path)
            answered = connection.getresponse()
            return answered.status, answered.read().decode()
        finally:
            connection.close()

    def end(self, number: int = signal.SIGTERM) -> int:
        if self.process.poll() is None:
            self.process.send_signal(number)
        code = self.process.wait(60)
        if self.process.stderr:
            self.process.stderr.close()
        return code
