"""Evidence of a log (formats/receipt.md): proven from what it serves, held against another log, written as an audit bundle."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any, Protocol

from knhk.model.faults import Fault, Refused
from knhk.reconcilers import index_pages
from knhk.reconcilers.receipts import Entry, actor_of, describe
from knhk_runtime.tlog.served import Served, first_difference, receipt_of
from knhk_verify.errors import Bad
from knhk_verify.evidence import Evidence, Step
from knhk_verify.note import unb64

VERIFIER = "knhk_verify"


class Provable(Protocol):
    """A log, or what was given of one. Raises Bad for what it has not."""

    def entry(self, index: int) -> bytes: ...
    def inclusion(self, index: int, note: str) -> str:
        """tlog-proof of an entry under a checkpoint."""
        ...


@dataclass
class Bundle:
    """Files of an audit bundle, by folder and name; `told`: for people, what each receipt is of; `entries`: what is proven, by index."""

    receipts: dict[str, str] = field(default_factory=dict)
    checkpoints: dict[str, str] = field(default_factory=dict)
    consistency: dict[str, str] = field(default_factory=dict)
    told: list[tuple[str, Mapping[str, Any]]] = field(default_factory=list)
    entries: dict[int, bytes] = field(default_factory=dict)

    def files(self) -> dict[str, str]:
        """Path in the folder → text, of all that is evidence."""
        folders = {"receipts": self.receipts, "checkpoints": self.checkpoints, "consistency": self.consistency}
        return {f"{folder}/{name}": text for folder, files in folders.items() for name, text in files.items()}

    def prove(self, log: Provable, index: int, note: str, name: str = "", receipt: str | None = None) -> None:
        """Adds the receipt of an entry, under `note`. `receipt`: the id that it was asked for by: one of another does not verify."""
        entry = self.entries[index] = log.entry(index)
        name = f"{name or index}.json"
        said = receipt_of(entry, index, log.inclusion(index, note)) | ({"receipt": receipt} if receipt is not None else {})
        self.receipts[name] = json.dumps(said, indent=1, ensure_ascii=False) + "\n"
        self.told.append((f"receipts/{name}", {**describe(Entry(index, entry)), "actor": actor_of(Entry(index, entry))}))


def size_of(note: str, where: str) -> int:
    """Number of entries that a checkpoint states; nothing is verified. Raises Bad."""
    lines = note.split("\n")
    if len(lines) < 3 or not (lines[1].isascii() and lines[1].isdecimal() and len(lines[1]) < 20):
        raise Bad(f"{where} line 2", "must be the number of entries")
    return int(lines[1])


def grown(log: Served, note: str, since: str, bundle: Bundle, where: str = "older checkpoint") -> None:
    """Adds an older checkpoint, which is told as `where`, and the proof that the log only grew since then. Raises Bad."""
    old = size_of(since, where)
    if old > log.size:
        raise Bad(where, f"covers {old} entries, the log {log.size}: it is newer, or the log was cut off: see `knhk log diff`")
    bundle.checkpoints[f"{old}"] = since
    if old == log.size:
        bundle.checkpoints[f"{log.size}-now"] = note
    else:
        bundle.consistency[f"{old}-{log.size}"] = log.consistency(old, note)


def judge(evidence: Evidence, files: Mapping[str, str]) -> bool:
    """Adds all files to the evidence; whether everything verifies."""
    for name, text in files.items():
        evidence.add(text.encode(), name)
    evidence.together()
    return all(step.ok for step in evidence.steps)


def write(folder: Path, bundle: Bundle, keys_json: bytes, trusted_root: bytes | None = None) -> None:
    """Writes an audit bundle into a new or empty folder: evidence, keys.json, the sigstore's trusted_root.json where one is given, an index
    for people, and the verifier. Raises Refused."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise Refused([Fault("--out", str(folder), "must be a new or an empty folder")])
    for name, text in bundle.files().items():
        _put(folder / name, text.encode())
    _put(folder / "keys.json", keys_json)
    if trusted_root is not None:
        _put(folder / "trusted_root.json", trusted_root)
    _put(folder / "index.html", _index(bundle).encode())
    for source in resources.files(VERIFIER).iterdir():
        if source.name.endswith(".py"):
            _put(folder / "verifier" / VERIFIER / source.name, source.read_bytes())


def _put(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def _index(bundle: Bundle) -> str:
    what = [
        f"`receipts/`: {len(bundle.receipts)} entries of the log, each with the proof that the log has it",
        *([f"`checkpoints/`: {len(bundle.checkpoints)} signed states of the log"] if bundle.checkpoints else []),
        *([f"`consistency/`: {len(bundle.consistency)} proofs that the log only grew between two states"] if bundle.consistency else []),
        "`keys.json`: which key may sign what, until when; signed by the root",
        "`verifier/`: the program that checks all this",
    ]
    columns = ("receipt", "entry", "what happened", "verdict", "mode", "time (UTC)", "of", "by")
    return index_pages.page(
        "Audit bundle",
        index_pages.paragraph(
            "Evidence from a log of decisions and policy changes. It shows, to whoever has the root key: these entries are in the "
            "log, under a state that the log signed, and policy events were signed by keys that the root vouches for. It does not show "
            "that there are no other entries, nor that a decision was right."
        ),
        index_pages.listed(what),
        index_pages.how_to_check(),
        *((index_pages.heading("What the receipts say"), index_pages.table(columns, map(_told, bundle.told))) if bundle.told else ()),
    )


def _told(receipt: tuple[str, Mapping[str, Any]]) -> tuple[index_pages.Cell, ...]:
    name, told = receipt
    of = told["subject"] or f"request {told['receipt']}" + (f", pack {told['pack']}" if told["pack"] else ", judged by no pack")
    shown = (str(told["index"]), told["kind"], told["verdict"], told["mode"].lower(), told["time"], of, told["actor"])
    return (index_pages.Link(name, name), *shown)


@dataclass(frozen=True)
class Side:
    """One side of a comparison: a checkpoint, and the log that it heads when that is at hand."""

    name: str
    note: str
    log: Served | None


@dataclass(frozen=True)
class Difference:
    """How log A stands to log B: `relation` equal, ahead, behind, fork, or unverified. Of a fork the first entry that differs and what
    it says on each side (None: not known). `bundle`: what shows it, `steps`: how that was judged."""

    relation: str
    sizes: tuple[int, int]
    bundle: Bundle
    steps: Sequence[Step]
    first: int | None = None


def diff(a: Side, b: Side, fresh: Callable[[], Evidence]) -> Difference:
    """Compares two logs; `fresh` makes the evidence that they are held against. Raises Bad for different logs, for sizes that differ
    with no log at hand to tell, and for tiles that are not those of their checkpoint."""
    sizes = size_of(a.note, a.name), size_of(b.note, b.name)
    alone = [fresh(), fresh()]
    verified = [judge(evidence, {side.name: side.note}) for evidence, side in zip(alone, (a, b), strict=True)]
    if not all(verified):
        return Difference("unverified", sizes, Bundle(), [step for evidence in alone for step in evidence.steps])
    origins = [side.note.partition("\n")[0] for side in (a, b)]
    if origins[0] != origins[1]:
        raise Bad("checkpoints", f"are of two logs, {origins[0]!r} and {origins[1]!r}: must be of one origin")
    roots = [_root(side, size) for side, size in zip((a, b), sizes, strict=True)]
    shared, larger = min(sizes), (a if sizes[0] > sizes[1] else b).log
    if sizes[0] != sizes[1] and larger is None:
        raise Bad("checkpoints", f"of sizes {sizes[0]} and {sizes[1]} cannot be compared: give the folder or URL of the larger log")
    at_shared = [larger.root(shared) if larger and size > shared else root for size, root in zip(sizes, roots, strict=True)]
    bundle, first = Bundle(), None
    if at_shared[0] != at_shared[1]:
        relation = "fork"
        first = first_difference(a.log.read, b.log.read, shared) if a.log and b.log else None
        bundle.checkpoints = {"a": a.note, "b": b.note}
        for letter, side in (("a", a), ("b", b)):
            if first is not None and side.log:
                bundle.prove(side.log, first, side.note, f"{letter}-{first}")
    else:
        relation = "equal" if sizes[0] == sizes[1] else "ahead" if sizes[0] > sizes[1] else "behind"
        old, new = (b, a) if relation == "ahead" else (a, b)
        bundle.checkpoints = {"a": a.note, "b": b.note}
        if relation != "equal" and new.log:
            bundle.consistency[f"{shared}-{max(sizes)}"] = new.log.consistency(size_of(old.note, old.name), new.note)
    together = fresh()
    judge(together, bundle.files())
    return Difference(relation, sizes, bundle, together.steps, first)


def _root(side: Side, size: int) -> bytes:
    """Root of a verified checkpoint, which the tiles beside it must give."""
    root = unb64(side.note.split("\n")[2], f"{side.name} line 3")
    if side.log and side.log.root(size) != root:
        raise Bad(side.name, "its tiles do not give the root of its checkpoint: `knhk log verify` says where")
    return root
