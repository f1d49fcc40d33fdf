"""Evidence, step by step: receipts, checkpoints and consistency proofs, held against a pinned root and against one another."""

from collections.abc import Collection
from datetime import datetime
from typing import Any, NamedTuple

from knhk_verify.errors import Bad, demand
from knhk_verify.leaf import KINDS, MODES, VERDICTS, parse_leaf
from knhk_verify.note import Checkpoint, Proof, Verifier, b64, open_checkpoint, open_note, parse_path, parse_proof, unb64
from knhk_verify.signed import TIME, Keys, keyid, member, parse_json, verify_event, verify_keys
from knhk_verify.tree import leaf_hash, verify_consistency, verify_inclusion


class Step(NamedTuple):
    """One step: what was checked, against which key, whether it held (None: not judged), and what was found, or what is wrong and where."""

    what: str
    key: str
    ok: bool | None
    detail: str


class Evidence:
    """Judges what is added; all of it verifies when all `steps` are ok after `together`. `now`: when keys must be valid (None: whenever).
    `quorum`: so many different keys of `witnesses` must have cosigned each checkpoint."""

    def __init__(self, root: bytes, keys_json: bytes, now: datetime | None, witnesses: Collection[Verifier] = (), quorum: int = 0) -> None:
        self.steps, self._keys, self._now = list[Step](), Keys(0, datetime.min, {}), now
        self._witnesses, self._quorum = witnesses, quorum
        self._trees, self._entries = dict[tuple[str, int], Checkpoint](), dict[tuple[str, int], bytes]()  # by origin and size, and index
        self._growth = list[tuple[str, Proof, Checkpoint]]()
        try:
            self._keys = verify_keys(keys_json, root, now)
            told = f"serial {self._keys.serial}, expires {self._keys.expires:{TIME}}"
            self._step("keys.json is signed by the pinned root", f"root {keyid(root)[:16]}", told)
        except Bad as bad:
            self._step("keys.json", "", str(bad), ok=False)

    def _step(self, what: str, key: str, detail: str, *, ok: bool = True) -> None:
        what, detail = ("".join(c if c.isprintable() else "?" for c in text) for text in (what, detail))
        self.steps.append(Step(what, key, ok, detail))

    def _key(self, role: str, id_: str) -> str:
        return f"{role} {id_[:16]}, valid until {self._keys.roles[role][id_].until or self._keys.expires:{TIME}}"

    def add(self, data: bytes, where: str) -> None:
        """A receipt (JSON: a Receipt, its spec, or formats/receipt.md), a checkpoint, or a consistency proof."""
        text = data.decode("utf-8", "replace")
        try:
            if text.startswith("{"):
                document = parse_json(data, where)
                self.receipt(document.get("spec", document), where)
            elif text.startswith("old "):
                proof = parse_path(text, "old", where)
                self._growth.append((where, proof, self._checkpoint(proof.checkpoint, where)))
            else:
                self._checkpoint(text, where)
        except (Bad, UnicodeError) as bad:
            self._step(where, "", str(bad), ok=False)

    def together(self) -> None:
        """Holds checkpoints against one another: consistency proofs must lead from each to a larger one of its log."""
        apart = {(origin, size) for origin, size in self._trees if any(origin == o and size < s for o, s in self._trees)}
        for where, proof, new in self._growth:
            try:
                demand((new.origin, proof.start) in self._trees, where, f"give the checkpoint of size {proof.start}, too")
                old = self._trees[new.origin, proof.start]
                verify_consistency(old.size, old.root, new.size, new.root, proof.path)
                self._step(f"{where}: consistency", "none", f"the tree of size {old.size} is the beginning of that of size {new.size}")
                apart -= {(old.origin, old.size)} if old.size < new.size else set()
            except Bad as bad:
                self._step(where, "", str(bad), ok=False)
        for origin, size in sorted(apart):
            self._step(f"{origin} size {size}", "", "nothing shows that the larger trees begin with it: give a consistency proof", ok=False)

    def _checkpoint(self, note: str, where: str) -> Checkpoint:
        """Checkpoint signed by the key of role log for its origin, which must be valid now: a checkpoint carries no time."""
        origin, named = note.partition("\n")[0], self._keys.roles.get("log", {})
        keys = {id_: Verifier(origin, key) for id_, key in self._keys.of("log", self._now).items() if named[id_].name == origin}
        demand(bool(keys), f"{where} checkpoint line 1", f"keys.json has no key of role log for {origin!r} that is valid at this time")
        id_ = next((id_ for id_, key in keys.items() if f"\n— {origin} {b64(key.id)[:5]}" in note), min(keys))
        tree = open_checkpoint(note, keys[id_], f"{where} checkpoint")
        self._step(f"{where}: the checkpoint is signed", self._key("log", id_), f"{origin}, size {tree.size}, root {tree.root.hex()}")
        if self._quorum:
            signed = {key.public: f"{key.name} {key.id.hex()}" for key in open_note(note, self._witnesses, f"{where} checkpoint")[1]}
            told = f"by {', '.join(sorted(signed.values())) or 'nobody'}"
            demand(len(signed) >= self._quorum, f"{where} checkpoint", f"is cosigned {told}: must be by {self._quorum} of these witnesses")
            self._step(f"{where}: the checkpoint is cosigned", f"{self._quorum} of {len(self._witnesses)} witnesses", told)
        demand(self._trees.setdefault((origin, tree.size), tree) == tree, f"{where} checkpoint", f"split view: two of size {tree.size}")
        return tree

    def receipt(self, spec: Any, where: str = "receipt") -> None:
        """A receipt of a policy event or of a decision; raises Bad with the first member that does not hold."""
        entry, told = self._leaf(spec, where) if isinstance(spec, dict) and "leaf" in spec else self._event(spec, where)
        proof = parse_proof(member(spec, "proof", str, where), f"{where} proof")
        tree = self._checkpoint(proof.checkpoint, f"{where} proof")
        verify_inclusion(leaf_hash(entry), proof.start, tree.size, tree.root, proof.path)
        told |= {"proof": spec["proof"], "logIndex": proof.start, "checkpoint": proof.checkpoint}
        for name, value in spec.items():
            same = type(value) in (str, int) and (type(value), value) == (type(told.get(name)), told.get(name))  # true is no 1
            demand(same, f"{where} {name}", f"must be {told.get(name, 'left out')!r}, as what is signed says")
        self._step(f"{where}: inclusion", "none", f"entry {proof.start} of {tree.size}")
        demand(self._entries.setdefault((tree.origin, proof.start), entry) == entry, where, f"split view: two entries {proof.start}")

    def _leaf(self, spec: Any, where: str) -> tuple[bytes, dict[str, object]]:
        leaf = parse_leaf(data := unb64(member(spec, "leaf", str, where), f"{where} leaf"), f"{where} leaf")
        said = f"{KINDS[leaf.kind]} {VERDICTS[leaf.verdict]}, {MODES[leaf.mode]}, flags {leaf.flags:06b},"
        said += f" of receipt {leaf.receipt_id.hex()} by pack {leaf.pack.hex()} at {leaf.time_ns} ns"
        self._step(f"{where}: leaf", "none", said)
        return data, {"leaf": spec["leaf"], "receipt": leaf.receipt_id.hex()}

    def _event(self, spec: Any, where: str) -> tuple[bytes, dict[str, object]]:
        data = member(spec, "bundle", str, where).encode()
        statement, id_ = verify_event(data, self._keys, f"{where} bundle")
        said = {"pack": {}, "point": "", "stage": "", "evidence": {}} | statement["predicate"]
        pack, verdict = (member(said, name, dict, where).get(part, "") for name, part in (("pack", "name"), ("evidence", "verdict")))
        told = {"point": member(said, "point", str, where).rpartition("/")[2], "stage": said["stage"], "actor": said.get("actor")}
        subjects = ", ".join(str(subject.get("name")) for subject in statement["subject"])
        self._step(f"{where}: the event is signed", self._key("rollout", id_), f"{said['kind']} of {subjects} at {said['time']}")
        return data, told | {"bundle": spec["bundle"], "event": said["kind"], "pack": pack, "verdict": verdict}
