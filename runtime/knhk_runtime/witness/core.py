"""What a witness decides and keeps: its one commit point is the rename of a log's newest checkpoint, and no signature leaves before."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from http import HTTPStatus
from pathlib import Path

from knhk.model.faults import Corrupt
from knhk_runtime.sequencer.files import Files, put
from knhk_runtime.tlog.notes import cosign, mirrored
from knhk_verify.errors import Bad, demand
from knhk_verify.note import Checkpoint, Proof, Verifier, open_checkpoint, open_note, parse_path, unb64
from knhk_verify.tree import EMPTY, verify_consistency

SIZE_TYPE = "text/x.tlog.size"
MOST_SPLIT_VIEWS = 64  # of a log that are kept: one proves it, and who has its key can sign any number


@dataclass(frozen=True)
class WitnessKey:
    """The cosigning key: verifier of kind 04, and bytes → 64-byte signature."""

    verifier: Verifier
    sign: Callable[[bytes], bytes]


@dataclass(frozen=True)
class Cosigned:
    """The newest checkpoint of a log that was cosigned, as a note with the log's line and ours."""

    tree: Checkpoint
    note: str
    time_s: int


class Refusal(Exception):
    """An answer that is no cosignature. `size`: of 409, what was cosigned last."""

    def __init__(self, status: HTTPStatus, where: str, what: str, size: int | None = None) -> None:
        super().__init__(f"{where}: {what}")
        self.status, self.where, self.what, self.size = status, where, what, size


def name_of(origin: str) -> str:
    """File name of a log's state."""
    return sha256(origin.encode()).hexdigest()


def time_of(line: str) -> int:
    """Seconds since the epoch in a cosignature line, which was verified."""
    return int.from_bytes(unb64(line.rpartition(" ")[2], "cosignature")[4:12], "big")


class Witness:
    """One witness on one folder, which is held by the sequencer's `lock`; one caller at a time. Raises Corrupt when a stored checkpoint is
    not one that a log and this witness signed."""

    def __init__(
        self,
        folder: Path,
        key: WitnessKey,
        logs: Mapping[str, Sequence[Verifier]],
        files: Files,
        now_s: Callable[[], int],
        ever: Mapping[str, Sequence[Verifier]] | None = None,
    ) -> None:
        """`logs`: keys of each log that count, at any time; `ever`: these and those that are over, which may have signed what is stored."""
        self._folder, self._key, self._logs, self._files, self._now_s = folder, key, logs, files, now_s
        for name in ("latest", "splitviews"):
            files.mkdir(folder / name)
        for name in files.names(folder / "latest"):
            if name.endswith(".tmp"):
                files.unlink(folder / "latest" / name)
        try:
            found = {origin: self._stored(origin, (ever or logs)[origin]) for origin in logs}
        except Bad as error:
            raise Corrupt(str(folder / "latest"), str(error)) from error
        self._latest = {origin: cosigned for origin, cosigned in found.items() if cosigned is not None}
        views = folder / "splitviews"
        offered = ("checkpoints", "consistency")
        self.split_views = tuple(
            name for name in files.names(views) if any("offered" in files.names(views / name / kind) for kind in offered)
        )

    def _stored(self, origin: str, keys: Sequence[Verifier]) -> Cosigned | None:
        if name_of(origin) not in self._files.names(self._folder / "latest"):
            return None
        where = f"{name_of(origin)} ({origin})"
        note = self._files.read(self._folder / "latest" / name_of(origin)).decode("utf-8", "replace")
        _, signed = open_note(note, [*keys, self._key.verifier], where)
        demand(self._key.verifier in signed, where, "has no cosignature of this witness: it is another's folder, or was altered")
        log = next((key for key in signed if key != self._key.verifier), None)
        demand(log is not None, where, "is signed by no key of this log in the policy: keep it there until a newer checkpoint is cosigned")
        assert log is not None  # demanded
        return Cosigned(open_checkpoint(note, log, where), note, time_of(note.rstrip("\n").rpartition("\n")[2]))

    def latest(self, origin: str) -> Cosigned | None:
        """What was cosigned last of a log."""
        return self._latest.get(origin)

    def sizes(self) -> dict[str, int]:
        """Of each log in the policy, the size cosigned last."""
        return {origin: self._size(origin) for origin in self._logs}

    def _size(self, origin: str) -> int:
        return self._latest[origin].tree.size if origin in self._latest else 0

    def held(self, note: str) -> str:
        """Our line under a log's checkpoint whose entries our mirror holds, all of them. It says nothing of other histories."""
        return mirrored(note.rpartition("\n\n")[0] + "\n", self._key.verifier, self._now_s(), self._key.sign)

    def add_checkpoint(self, body: bytes) -> str:
        """The cosignature line for a request's body. Raises Refusal; OSError when storage fails, after which nothing was signed."""
        try:
            asked = parse_path(body.decode("utf-8", "strict"), "old", "body")
            open_note(asked.checkpoint, [])
        except (Bad, UnicodeError) as error:
            raise Refusal(HTTPStatus.BAD_REQUEST, getattr(error, "where", "body"), getattr(error, "what", "is not UTF-8")) from error
        tree, log = self._signed(asked.checkpoint)
        self._follows(asked, tree, body)
        return self._cosign(asked.checkpoint, tree, log)

    def _signed(self, note: str) -> tuple[Checkpoint, Verifier]:
        """The tree of a checkpoint, and which key of its log signed it."""
        origin = note.partition("\n")[0]
        if origin not in self._logs:
            raise Refusal(HTTPStatus.NOT_FOUND, "checkpoint line 1", f"{origin!r}: is no log of this witness")
        try:
            _, signed = open_note(note, self._logs[origin])
        except Bad as error:
            raise Refusal(HTTPStatus.FORBIDDEN, error.where, error.what) from error
        if not signed:
            raise Refusal(HTTPStatus.FORBIDDEN, "checkpoint", f"is not signed by a key of {origin} that this witness knows")
        log = min(signed)
        try:
            return open_checkpoint(note, log), log
        except Bad as error:
            raise Refusal(HTTPStatus.BAD_REQUEST, error.where, error.what) from error

    def _follows(self, asked: Proof, tree: Checkpoint, body: bytes) -> None:
        """Raises Refusal unless what was cosigned last is the beginning of `tree`."""
        known = self._latest.get(tree.origin)
        size, root = (known.tree.size, known.tree.root) if known is not None else (0, EMPTY)
        if asked.start > tree.size:
            raise Refusal(HTTPStatus.BAD_REQUEST, "body old", f"{asked.start}: must be at most the checkpoint's size, {tree.size}")
        if known is not None and tree.size == size and tree.root != root:
            self._keep(known, "checkpoints", asked.checkpoint, tree)
            raise Refusal(HTTPStatus.CONFLICT, "checkpoint", f"split view: {tree.origin} has signed two roots for size {size}", size)
        if asked.start != size:
            raise Refusal(HTTPStatus.CONFLICT, "body old", f"{asked.start}: the size cosigned last is {size}", size)
        try:
            demand(tree.size > 0 or tree.root == EMPTY, "checkpoint line 3", "is not the root of the empty tree")
            verify_consistency(size, root, tree.size, tree.root, asked.path)
        except Bad as error:
            if known is not None and error.what.startswith("split view"):
                self._keep(known, "consistency", body.decode(), tree)
            raise Refusal(HTTPStatus.UNPROCESSABLE_ENTITY, error.where, error.what) from error

    def _cosign(self, note: str, tree: Checkpoint, log: Verifier) -> str:
        known = self._latest.get(tree.origin)
        time_s = max(self._now_s(), known.time_s if known is not None else 0)
        text = note.rpartition("\n\n")[0] + "\n"
        line = cosign(text, self._key.verifier, time_s, self._key.sign)
        if known is None or known.tree != tree:
            kept = Cosigned(tree, f"{text}\n{_line_of(note, log)}{line}", time_s)
            put(self._files, self._folder / "latest" / name_of(tree.origin), kept.note.encode())
            self._files.sync_dir(self._folder / "latest")
            self._latest[tree.origin] = kept
        return line

    def _keep(self, known: Cosigned, kind: str, offered: str, tree: Checkpoint) -> None:
        """Two checkpoints of one size, or one that begins with another tree than was cosigned, are the proof of a split view: both are made
        durable, the one that was offered last. One bundle for each size and root."""
        folder = self._folder / "splitviews" / f"{name_of(tree.origin)}-{tree.size}-{tree.root.hex()[:8]}"
        if folder.name in self.split_views:
            return
        if sum(name.startswith(name_of(tree.origin)) for name in self.split_views) >= MOST_SPLIT_VIEWS:
            return  # on this disk other logs' checkpoints must be kept, too
        for place, name, text in (("checkpoints", "kept", known.note), (kind, "offered", offered)):
            self._files.mkdir(folder / place)
            put(self._files, folder / place / name, text.encode())
            for made in (folder / place, folder, folder.parent):
                self._files.sync_dir(made)
        self.split_views = (*self.split_views, folder.name)


def _line_of(note: str, key: Verifier) -> str:
    """The signature line of a key that signed the note."""
    lines = note.rpartition("\n\n")[2].split("\n")[:-1]
    mine = (line for line in lines if line.startswith(f"— {key.name} ") and unb64(line.rpartition(" ")[2], "note")[:4] == key.id)
    return f"{next(mine)}\n"
