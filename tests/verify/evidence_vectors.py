"""Write formats/vectors/receipt.json: python tests/verify/evidence_vectors.py. Whole evidence that verifies, and for each field the
same with that one thing altered. Same code, same bytes."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from knhk.lockchain import PolicyEvent, assemble, receipt_spec, statement
from knhk_runtime.record import encode_leaf
from knhk_runtime.tlog.notes import format_checkpoint, format_proof, sign_note
from knhk_runtime.tlog.tree import consistency_proof, inclusion_proof, range_root
from knhk_verify.leaf import Leaf
from knhk_verify.note import Checkpoint
from knhk_verify.signed import KEYS, canonical, keyid, pae
from knhk_verify.tree import leaf_hash, node_hash

VECTORS = Path(__file__).parents[2] / "formats" / "vectors" / "receipt.json"
ORIGIN = "knhk.dev/vectors"
AT = "2026-11-26T00:00:00Z"
PACK = {"name": "invoice-controls", "namespace": "erp", "version": "1.0.0", "digest": "sha256:" + "ab" * 32}
Files = dict[str, str]


def key(number: int) -> Ed25519PrivateKey:
    return Ed25519PrivateKey.from_private_bytes(bytes([number]) * 32)


ROOT, BUILD, ROLLOUT, LOG, OTHER = key(1), key(2), key(3), key(9), key(5)


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def public(private: Ed25519PrivateKey) -> bytes:
    return private.public_key().public_bytes_raw()


def envelope(private: Ed25519PrivateKey, kind: str, payload: bytes) -> dict[str, Any]:
    signature = {"keyid": keyid(public(private)), "sig": b64(private.sign(pae(kind, payload)))}
    return {"payload": b64(payload), "payloadType": kind, "signatures": [signature]}


def named(private: Ed25519PrivateKey, **more: str) -> dict[str, str]:
    return {"keyid": keyid(public(private)), "pub": b64(public(private)), **more}


def keys_json(
    signer: Ed25519PrivateKey = ROOT, expires: str = "2027-01-01T00:00:00Z", serial: int = 1, version: int = 1, **roles: object
) -> str:
    held = {"build": [named(BUILD)], "rollout": [named(ROLLOUT)], "log": [named(LOG, name=ORIGIN)], "data": []} | roles
    return canonical(envelope(signer, KEYS, canonical({"version": version, "serial": serial, "expires": expires, "roles": held}))).decode()


def event(number: int, signer: Ed25519PrivateKey = ROLLOUT) -> bytes:
    subject, rest = (
        ("pack/erp/invoice-controls@1.0.0", "ab" * 32),
        ("control-plane", "2026-11-23T10:00:00Z", PACK, "erp/orders", "production"),
    )
    told = PolicyEvent("Promoted", subject, *rest, step=number, evidence={"verdict": "Pass"})
    return assemble(statement(told), lambda kind, payload: envelope(signer, kind, payload))


def leaf(number: int) -> bytes:
    return encode_leaf(
        Leaf(1, 1, 2, 1, 0, 0, bytes([number]) * 32, bytes(32), bytes(range(20)), number, b"SOURCE01" + number.to_bytes(8, "big"))
    )


@dataclass(frozen=True)
class Tree:
    """A log: its entries, and who signs for it under which name."""

    entries: Sequence[bytes]
    signer: Ed25519PrivateKey = LOG
    origin: str = ORIGIN

    def read(self, level: int, index: int) -> bytes:
        if level == 0:
            return leaf_hash(self.entries[index])
        return node_hash(self.read(level - 1, 2 * index), self.read(level - 1, 2 * index + 1))

    def checkpoint(self, size: int) -> str:
        tree = Checkpoint(self.origin, size, range_root(self.read, 0, size))
        return sign_note(format_checkpoint(tree), self.origin, public(self.signer), self.signer.sign)

    def proof(self, index: int, size: int) -> str:
        return format_proof(index, inclusion_proof(self.read, index, size), self.checkpoint(size))

    def consistency(self, old: int, new: int) -> str:
        return f"old {old}\n" + "".join(b64(h) + "\n" for h in consistency_proof(self.read, old, new)) + "\n" + self.checkpoint(new)

    def event_receipt(self, index: int, size: int) -> dict[str, Any]:
        statement_ = json.loads(base64.b64decode(json.loads(self.entries[index])["dsseEnvelope"]["payload"]))
        return receipt_spec(self.entries[index], statement_, index, self.proof(index, size))

    def leaf_receipt(self, index: int, size: int) -> dict[str, Any]:
        data = self.entries[index]
        return {"leaf": b64(data), "receipt": data[100:116].hex(), "logIndex": index, "proof": self.proof(index, size)}


ENTRIES = tuple(event(i) if i % 3 == 2 else leaf(i) for i in range(13))
GOOD = Tree(ENTRIES)
FORKED = Tree((*ENTRIES[:6], leaf(99), *ENTRIES[7:]))
SIZE, OLD, EVENT, LEAF = 13, 6, 5, 7


def text(document: object) -> str:
    return json.dumps(document, ensure_ascii=False)


def flipped(value: str, at: int) -> str:
    """The text with another letter at `at`, still base64 where it was."""
    return value[:at] + ("B" if value[at] != "B" else "C") + value[at + 1 :]


def line(value: str, number: int, change: Callable[[str], str]) -> str:
    lines = value.split("\n")
    lines[number] = change(lines[number])
    return "\n".join(lines)


def _begun(tree: Tree, old: int, of: Tree) -> str:
    """A consistency proof to SIZE, before which the root of the first `old` entries of a tree stands."""
    return line(tree.consistency(old, SIZE), 1, lambda hash_: f"{b64(range_root(of.read, 0, old))}\n{hash_}")


def _changed(entry: bytes, change: Callable[[dict[str, Any]], None]) -> bytes:
    bundle = json.loads(entry)
    change(bundle)
    return canonical(bundle)


def _logged(entry: bytes) -> dict[str, Any]:
    """The receipt of an event that a log has: its proof is good, whatever the entry is."""
    proof = Tree((*ENTRIES[:EVENT], entry, *ENTRIES[EVENT + 1 :])).proof(EVENT, SIZE)
    said = GOOD.event_receipt(EVENT, SIZE)
    return {name: value for name, value in said.items() if name != "checkpoint"} | {"bundle": entry.decode(), "proof": proof}


def _set(path: str, value: object) -> Callable[[dict[str, Any]], None]:
    def change(document: dict[str, Any]) -> None:
        *outer, last = path.split(".")
        inner: Any = document
        for name in outer:
            inner = inner[int(name) if name.isdecimal() else name]
        inner[last] = value(inner[last]) if callable(value) else value

    return change


def _resigned(payload: bytes) -> Callable[[dict[str, Any]], None]:
    def change(bundle: dict[str, Any]) -> None:
        bundle["dsseEnvelope"] = envelope(ROLLOUT, "application/vnd.in-toto+json", payload)

    return change


def accepted() -> dict[str, Files]:
    receipt, decision = GOOD.event_receipt(EVENT, SIZE), GOOD.leaf_receipt(LEAF, SIZE)
    resource = {"apiVersion": "knhk.dev/v1alpha1", "kind": "Receipt", "metadata": {"name": "r", "namespace": "erp"}, "spec": receipt}
    cosigned = GOOD.checkpoint(SIZE) + sign_note("x\n", "witness.example", public(OTHER), OTHER.sign).rpartition("\n\n")[2]
    return {
        "event: spec of a Receipt": {"r.json": text(receipt)},
        "event: Receipt resource": {"r.json": text(resource)},
        "event: only what is needed": {"r.json": text({name: receipt[name] for name in ("bundle", "proof")})},
        "event: proof with an extra line": {
            "r.json": text(receipt | {"proof": line(receipt["proof"], 0, lambda first: first + "\nextra YQ==")})
        },
        "decision": {"r.json": text(decision)},
        "decision: first of a tree of one": {"r.json": text(GOOD.leaf_receipt(0, 1))},
        "decision: last of a tree": {"r.json": text(GOOD.leaf_receipt(SIZE - 1, SIZE))},
        "checkpoint": {"checkpoint": GOOD.checkpoint(SIZE)},
        "checkpoint with a line of a witness": {"checkpoint": cosigned},
        "consistency": {"old": GOOD.checkpoint(OLD), "grown": GOOD.consistency(OLD, SIZE)},
        "consistency from a power of two": {"old": GOOD.checkpoint(8), "grown": GOOD.consistency(8, SIZE)},
        "consistency of a tree with itself": {"old": GOOD.checkpoint(SIZE), "same": GOOD.consistency(SIZE, SIZE)},
        "consistency in two steps": {"old": GOOD.checkpoint(3), "a": GOOD.consistency(3, OLD), "b": GOOD.consistency(OLD, SIZE)},
        "receipts under two checkpoints": {
            "r.json": text(GOOD.event_receipt(2, OLD)),
            "d.json": text(decision),
            "grown": GOOD.consistency(OLD, SIZE),
        },
    }


# name → (files, where, says, part): "log" is what Go's note and tlog packages see, "signed" signatures and what they cover, "json" the
# form of JSON, "receipt" the rest
Refused = dict[str, tuple[Files, str, str, str]]


def refused_logs() -> Refused:
    """Proofs and checkpoints."""
    receipt, decision, note = GOOD.event_receipt(EVENT, SIZE), GOOD.leaf_receipt(LEAF, SIZE), GOOD.checkpoint(SIZE)
    proof, grown, old = receipt["proof"], GOOD.consistency(OLD, SIZE), GOOD.checkpoint(OLD)
    head = proof.index("\n\n") + 2
    stranger = Tree(ENTRIES, OTHER, "example.com/other")

    head13 = note.partition("\n\n")[0] + "\n"

    def signed(body: str) -> str:
        return sign_note(body, ORIGIN, public(LOG), LOG.sign)

    def with_proof(changed: str) -> Files:
        return {"r.json": text({name: value for name, value in receipt.items() if name != "checkpoint"} | {"proof": changed})}

    last = proof[:head].rstrip("\n").count("\n")
    cases = {
        "proof: a hash altered": (with_proof(line(proof, 2, lambda h: flipped(h, 4))), "inclusion proof", "does not lead"),
        "proof: cut short": (with_proof(line(proof, last, lambda h: "").replace("\n\n\n", "\n\n")), "inclusion proof", "must have 4"),
        "proof: a hash too many": (with_proof(line(proof, 2, lambda h: f"{h}\n{h}")), "inclusion proof", "must have 4"),
        "proof: another index": (with_proof(proof.replace(f"index {EVENT}", f"index {EVENT - 1}")), "inclusion proof", "does not lead"),
        "proof: index beyond the tree": (with_proof(proof.replace(f"index {EVENT}", f"index {SIZE}")), "inclusion proof", "below the size"),
        "proof: a hash of 31 bytes": (with_proof(line(proof, 2, lambda h: b64(bytes(31)))), "r.json proof hash 0", "32 bytes"),
        "proof: base64 that is not canonical": (
            with_proof(line(proof, 2, lambda h: h[:-2] + chr(ord(h[-2]) + 1) + "=")),
            "r.json proof hash 0",
            "canonical",
        ),
        "proof: another version": (with_proof(proof.replace("proof@v1", "proof@v2")), "r.json proof line 1", "tlog-proof@v1"),
        "proof: its checkpoint's origin altered": (
            with_proof(proof[:head] + note.replace("vectors", "vektors", 1)),
            "checkpoint line 1",
            "no key",
        ),
        "proof: its checkpoint's size altered": (
            with_proof(proof[:head] + note.replace("\n13\n", "\n14\n")),
            "r.json proof checkpoint line 5",
            "altered",
        ),
        "proof: its checkpoint's root altered": (
            with_proof(proof[:head] + line(note, 2, lambda r: flipped(r, 3))),
            "r.json proof checkpoint line 5",
            "altered",
        ),
        "proof: its checkpoint's signature altered": (
            with_proof(proof[:head] + line(note, 4, lambda s: flipped(s, -9))),
            "r.json proof checkpoint line 5",
            "altered",
        ),
        "proof: its checkpoint unsigned": (
            with_proof(proof[:head] + note.partition("\n\n")[0] + "\n\n"),
            "r.json proof checkpoint",
            "not a signed note",
        ),
        "proof: checkpoint of another log, by its key": (
            with_proof(stranger.proof(EVENT, SIZE)),
            "checkpoint line 1",
            "'example.com/other'",
        ),
        "proof: checkpoint by another key": (
            with_proof(Tree(ENTRIES, OTHER).proof(EVENT, SIZE)),
            "r.json proof checkpoint",
            "has no signature of knhk.dev/vectors",
        ),
        "decision: a byte of the leaf altered": (
            {"r.json": text(decision | {"leaf": b64(ENTRIES[LEAF][:50] + b"\1" + ENTRIES[LEAF][51:])})},
            "inclusion proof",
            "does not lead",
        ),
        "checkpoint: size altered": ({"checkpoint": note.replace("\n13\n", "\n12\n")}, "checkpoint checkpoint line 5", "altered"),
        "checkpoint: a line added": ({"checkpoint": note.replace("\n\n", "\nmore\n\n")}, "checkpoint checkpoint line 6", "altered"),
        "checkpoint: a line more, signed": ({"checkpoint": signed(f"{head13}more\n")}, "checkpoint checkpoint", "one line each"),
        "checkpoint: a root of 31 bytes, signed": (
            {"checkpoint": signed(f"{ORIGIN}\n13\n{b64(bytes(31))}\n")},
            "checkpoint checkpoint line 3",
            "32 bytes",
        ),
        "checkpoint: a control character": (
            {"checkpoint": f"{note}— wit\x01ness {b64(bytes(68))}\n"},
            "checkpoint checkpoint",
            "control character",
        ),
        "checkpoint: a line that is no signature": (
            {"checkpoint": f"{note}— witness AAAA\n"},
            "checkpoint checkpoint line 6",
            "not a signature line",
        ),
        "proof: no index": (with_proof(proof.replace(f"index {EVENT}\n", "")), "r.json proof", "must have `index N`"),
        "proof: more hashes than a tree can have": (
            with_proof(line(proof, 2, lambda h: "\n".join([h] * 64))),
            "r.json proof",
            "at most 63",
        ),
        "consistency: of a tree with itself, with hashes": (
            {"old": note, "grown": f"old 13\n{b64(bytes(32))}\n\n{note}"},
            "consistency proof",
            "no hashes",
        ),
        "checkpoint: a size of 2^63, signed": (
            {"checkpoint": signed(head13.replace("\n13\n", f"\n{1 << 63}\n"))},
            "checkpoint checkpoint line 2",
            "below 2^63",
        ),
        "checkpoint: leading zero, signed": (
            {"checkpoint": signed(head13.replace("\n13\n", "\n013\n"))},
            "checkpoint checkpoint line 2",
            "leading zeros",
        ),
        "consistency: a hash altered": (
            {"old": old, "grown": line(grown, 2, lambda h: flipped(h, 4))},
            "consistency proof",
            "does not lead",
        ),
        "consistency: cut short": (
            {"old": old, "grown": line(grown, 1, lambda h: "").replace("\n\n", "\n", 1)},
            "consistency proof",
            "leads from no tree",
        ),
        "consistency: another old size": ({"old": old, "grown": grown.replace("old 6", "old 7")}, "grown", "give the checkpoint of size 7"),
        "consistency: no older checkpoint": ({"grown": grown}, "grown", "give the checkpoint of size 6"),
        "consistency: none": ({"old": old, "new": note}, "size 6", "give a consistency proof"),
        "split view: two roots of one size": ({"a": note, "b": FORKED.checkpoint(SIZE)}, "b checkpoint", "split view"),
        "split view: two entries of one index": (
            {"a.json": text(GOOD.leaf_receipt(6, SIZE)), "b.json": text(FORKED.leaf_receipt(6, 8))},
            "b.json",
            "split view",
        ),
        "split view: the only proof from the smaller tree leads to itself": (
            {"small": FORKED.checkpoint(7), "large": note, "same": FORKED.consistency(7, 7)},
            f"{ORIGIN} size 7",
            "give a consistency proof",
        ),
        "consistency: to a smaller tree": (
            {"old": GOOD.checkpoint(8), "small": GOOD.checkpoint(7), "back": f"old 8\n\n{GOOD.checkpoint(7)}"},
            "consistency proof",
            "must lead to a larger tree",
        ),
        "split view: a larger tree that does not begin with the old one": (
            {"old": GOOD.checkpoint(8), "grown": FORKED.consistency(8, SIZE)},
            "consistency proof",
            "does not lead",
        ),
        "split view: a larger tree of which the root of the older one stands first": (
            {"old": GOOD.checkpoint(8), "grown": _begun(FORKED, 8, FORKED)},
            "consistency proof",
            "split view",
        ),
        "consistency: the root of the older tree, which is left out, stands first": (
            {"old": GOOD.checkpoint(8), "grown": _begun(GOOD, 8, GOOD)},
            "consistency proof",
            "leads from no tree",
        ),
        "consistency: another root stands first": (
            {"old": GOOD.checkpoint(8), "grown": _begun(GOOD, 8, FORKED)},
            "consistency proof",
            "does not lead",
        ),
    }
    return {name: (*case, "log") for name, case in cases.items()}


def refused_signatures() -> Refused:
    """Signatures, and JSON that can be read in two ways."""
    receipt = GOOD.event_receipt(EVENT, SIZE)
    payload = base64.b64decode(json.loads(receipt["bundle"])["dsseEnvelope"]["payload"])
    sig, bundle = "dsseEnvelope.signatures.0", "r.json bundle"
    changes: dict[str, tuple[Callable[[dict[str, Any]], None], str, str]] = {
        "payload altered": (_set("dsseEnvelope.payload", lambda p: flipped(p, 40)), f"{bundle} signatures", "altered"),
        "signature altered": (_set(f"{sig}.sig", lambda s: flipped(s, 5)), f"{bundle} signatures", "altered"),
        "signature of a wrong length": (_set(f"{sig}.sig", b64(bytes(63))), f"{bundle} signatures", "altered"),
        "signature in base64 that is not canonical": (
            _set(f"{sig}.sig", lambda s: s[:-3] + chr(ord(s[-3]) + 1) + "=="),
            f"{bundle} sig",
            "canonical",
        ),
        "payload type altered": (_set("dsseEnvelope.payloadType", "text/plain"), f"{bundle} payloadType", "vnd.in-toto"),
        "keyid altered": (_set(f"{sig}.keyid", "00" * 32), f"{bundle} signatures", "none is a key allowed here"),
        "no signature": (_set("dsseEnvelope.signatures", []), f"{bundle} signatures", "must be one"),
        "two signatures": (_set("dsseEnvelope.signatures", lambda s: s * 2), f"{bundle} signatures", "must be one"),
        "hint of a key of another role": (
            _set("verificationMaterial.publicKey.hint", keyid(public(BUILD))),
            f"{bundle} verificationMaterial",
            "is a key of build",
        ),
        "hint of no key": (_set("verificationMaterial.publicKey.hint", "00" * 32), f"{bundle} verificationMaterial", "is a key of no role"),
        "media type altered": (_set("mediaType", "application/json"), f"{bundle} mediaType", "must be"),
        "payload signed, but not canonical": (_resigned(payload.replace(b'","', b'", "', 1)), f"{bundle} payload", "not canonical"),
        "payload signed, but a member repeated": (_resigned(b'{"_type":1,' + payload[1:]), f"{bundle} payload", "repeats a member"),
        "payload signed, of another predicate": (
            _resigned(payload.replace(b"policy-event/v1", b"policy-event/v2")),
            f"{bundle} predicateType",
            "policy-event/v1",
        ),
        "payload signed, its time without a zero": (
            _resigned(payload.replace(b"T10:00:00Z", b"T10:0:00Z")),
            f"{bundle} predicate.time",
            "must be a time like",
        ),
        "payload signed, no statement": (_resigned(payload.replace(b"Statement/v1", b"Statement/v0")), f"{bundle} _type", "Statement/v1"),
    }
    cases: Refused = {
        f"event: {name}": ({"r.json": text(_logged(_changed(ENTRIES[EVENT], change)))}, where, says, "signed")
        for name, (change, where, says) in changes.items()
    }
    entry = ENTRIES[EVENT]
    cases["event: bundle with white space in it, in the log"] = (
        {"r.json": text(_logged(entry.replace(b":", b": ", 1)))},
        f"{bundle}",
        "not canonical",
        "signed",
    )
    cases["event: bundle with white space before it, in the log"] = (
        {"r.json": text(_logged(b" " + entry))},
        f"{bundle}",
        "not canonical",
        "signed",
    )
    cases["event: bundle in UTF-16, in the log"] = (
        {"r.json": text(_logged(entry.decode().encode("utf-16-le")))},
        bundle,
        "is not JSON",
        "signed",
    )
    repeated = text(receipt).replace('"logIndex": 5', '"logIndex": 4, "logIndex": 5')
    cases["event: a member repeated"] = ({"r.json": repeated}, "r.json", "repeats a member", "json")
    cases["event: a number with a point"] = (
        {"r.json": text(receipt).replace('"logIndex": 5', '"logIndex": 5.0')},
        "r.json",
        "is not JSON of integers",
        "json",
    )
    cases["more than 1 MiB"] = ({"r.json": text(receipt | {"x": "SPACES"})}, "r.json", "has more than 1048576 bytes", "json")
    by_builder = Tree((*ENTRIES[:5], event(5, BUILD), *ENTRIES[6:]))
    cases["event: by a key of role build, in the log"] = (
        {"r.json": text(by_builder.event_receipt(EVENT, SIZE))},
        f"{bundle} verificationMaterial",
        "is a key of build",
        "signed",
    )
    return cases


def refused_receipts() -> Refused:
    """What a receipt says beside what is signed."""
    receipt, decision = GOOD.event_receipt(EVENT, SIZE), GOOD.leaf_receipt(LEAF, SIZE)
    altered = {
        "event": "RolledBack",
        "pack": "other",
        "point": "other",
        "stage": "canary",
        "verdict": "Fail",
        "actor": "ann",
        "logIndex": 4,
        "checkpoint": GOOD.checkpoint(12),
    }
    cases = {
        f"event: {name} altered": ({"r.json": text(receipt | {name: value})}, f"r.json {name}", "must be")
        for name, value in altered.items()
    }
    cases |= {
        f"event: no {name}": ({"r.json": text({k: v for k, v in receipt.items() if k != name})}, f"r.json {name}", "must be there")
        for name in ("bundle", "proof")
    }
    cases |= {
        "event: a member that no page names, null": ({"r.json": text(receipt | {"color": None})}, "r.json color", "must be 'left out'"),
        "event: actor null": ({"r.json": text(receipt | {"actor": None})}, "r.json actor", "must be 'control-plane'"),
        "decision: members of an event, null": (
            {"r.json": text(decision | {"bundle": None, "verdict": None})},
            "r.json bundle",
            "must be 'left out'",
        ),
        "decision: logIndex true, for 1": (
            {"r.json": text(GOOD.leaf_receipt(1, SIZE) | {"logIndex": True})},
            "r.json logIndex",
            "must be 1",
        ),
        "event: logIndex as text": ({"r.json": text(receipt | {"logIndex": "5"})}, "r.json logIndex", "must be 5"),
        "event: a member that no page names": ({"r.json": text(receipt | {"color": "red"})}, "r.json color", "must be 'left out'"),
        "decision: receipt altered": ({"r.json": text(decision | {"receipt": "00" * 16})}, "r.json receipt", "must be"),
        "decision: logIndex altered": ({"r.json": text(decision | {"logIndex": 8})}, "r.json logIndex", "must be"),
        "decision: leaf of 117 bytes": ({"r.json": text(decision | {"leaf": b64(ENTRIES[LEAF][:-1])})}, "r.json leaf", "118"),
        "decision: leaf of an unknown version": (
            {"r.json": text(decision | {"leaf": b64(b"\2" + ENTRIES[LEAF][1:])})},
            "r.json leaf version",
            "must be 1",
        ),
        "decision: leaf in base64 that is not canonical": (
            {"r.json": text(decision | {"leaf": decision["leaf"][:-3] + "B=="})},
            "r.json leaf",
            "canonical",
        ),
        "decision: a policy event as leaf": ({"r.json": text(decision | {"leaf": b64(ENTRIES[EVENT])})}, "r.json leaf", "118"),
    }
    return {name: (*case, "receipt") for name, case in cases.items()}


def refused_keys() -> dict[str, tuple[str, str, str]]:
    """keys.json → what is told of a good receipt of an event under it, with where."""
    good = keys_json()
    return {
        "newer, and not signed by the root": (keys_json(OTHER, serial=2), "keys.json signatures", "none is a key allowed here"),
        "signed by another key": (keys_json(OTHER), "keys.json signatures", "none is a key allowed here"),
        "altered": (flipped(good, good.index('"payload":"') + 60), "keys.json signatures", "altered"),
        "of another version": (keys_json(version=2), "keys.json version", "must be 1"),
        "without a serial number": (keys_json(serial=0), "keys.json serial", "at least 1"),
        "a time in small letters": (keys_json(expires="2027-01-01t00:00:00z"), "keys.json expires", "must be a time like"),
        "a time without zeros": (keys_json(expires="2027-1-1T00:00:00Z"), "keys.json expires", "must be a time like"),
        "a time in other digits": (keys_json(expires="２０２７-01-01T00:00:00Z"), "keys.json expires", "must be a time like"),
        "expired": (keys_json(expires=AT), "keys.json expires", "expired at"),
        "a key of two roles": (keys_json(build=[named(ROLLOUT)]), "keys.json roles.rollout", "must serve one role"),
        "the root in a role": (keys_json(build=[named(ROOT)]), "keys.json roles.build", "is a key of root too"),
        "an unknown role": (keys_json(admin=[]), "keys.json roles", "'admin'"),
        "keyid of another key": (
            keys_json(build=[named(BUILD) | {"keyid": keyid(public(OTHER))}]),
            "keys.json roles.build keyid",
            "SHA-256",
        ),
        "the event's key is of role build": (
            keys_json(build=[named(ROLLOUT)], rollout=[]),
            "r.json bundle verificationMaterial",
            "is a key of build",
        ),
        "the event's key was replaced before": (
            keys_json(rollout=[named(ROLLOUT, until="2026-11-23T09:59:59Z")]),
            "r.json bundle predicate.time",
            "after its key was replaced",
        ),
        "the log's key is for another origin": (
            keys_json(log=[named(LOG, name="example.com/other")]),
            "checkpoint line 1",
            "no key of role log",
        ),
        "the log's key was replaced": (
            keys_json(log=[named(LOG, name=ORIGIN, until="2026-11-25T00:00:00Z")]),
            "checkpoint line 1",
            "valid at this time",
        ),
        "the log's key is of role data": (keys_json(log=[], data=[named(LOG, name=ORIGIN)]), "checkpoint line 1", "no key of role log"),
    }


def receipt_vectors() -> dict[str, Any]:
    good, receipt = keys_json(), {"r.json": text(GOOD.event_receipt(EVENT, SIZE))}
    cases: list[dict[str, Any]] = [{"name": name, "verdict": "accepted", "files": files} for name, files in accepted().items()]
    for name, (files, where, says, part) in {**refused_logs(), **refused_signatures(), **refused_receipts()}.items():
        cases.append({"name": name, "verdict": "refused", "part": part, "where": where, "says": says, "files": files})
    for name, (keys, where, says) in refused_keys().items():
        told = {"name": f"keys.json: {name}", "verdict": "refused", "part": "keys", "where": where, "says": says}
        cases.append(told | {"keys.json": keys, "files": receipt})
    return {
        "at": AT,
        "root_pub": b64(public(ROOT)),
        "keys.json": good,
        "spaces": "SPACES in a file stands for 1,048,576 spaces",
        "cases": cases,
    }


def made() -> bytes:
    """The bytes of receipt.json."""
    return json.dumps(receipt_vectors(), indent=1, ensure_ascii=False).encode() + b"\n"


if __name__ == "__main__":
    VECTORS.write_bytes(made())
