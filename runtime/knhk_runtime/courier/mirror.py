"""POINT_DIR/desired as the exchange has it. What it sends is checked for form only: the agent judges what lies there."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections import deque
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from knhk.model.consents import BASE
from knhk.model.consents import DOCUMENT as CONSENTS
from knhk.model.faults import Corrupt, KnhkError, Refused, Waiting
from knhk_runtime.durable import replace_file
from knhk_runtime.exchange.documents import Beside, Rollout, read_keys, read_rollout
from knhk_runtime.exchange.install import BOOTSTRAP, fetch
from knhk_runtime.exchange.watch import Folders, load_accepted, most_bytes
from knhk_runtime.layout import parse_object
from knhk_runtime.packstore import PackStore
from knhk_runtime.point import parse_point
from knhk_runtime.pull import SUPERSEDED, Stop
from knhk_verify.signed import Keys

NEEDED = ("keys.json", "point.json", "rollout.json")
IN_ORDER = ("keys.json", "point.json", BOOTSTRAP, "rollout.json")
ANSWERED = (*IN_ORDER, CONSENTS)
Pull = Callable[[str, Stop], None]
"""Puts the image of a digest into the agent's layout; blocks, until the Stop at the latest; raises KnhkError and OSError."""
Prune = Callable[[Collection[str]], None]
"""Takes every other image out of it."""
KEPT = 3
LOOK_EVERY_S = 0.2
_DIGEST = re.compile(r"[0-9a-f]{64}")
_ETAG = re.compile(r"[0-9A-Za-z]{1,128}")


def read_desired(body: bytes, where: str) -> tuple[str, dict[str, bytes]]:
    """Etag and files of an answer. Raises Corrupt."""
    document = parse_object(body, where)
    etag, rows = document.get("etag"), document.get("files")
    if not isinstance(etag, str) or not _ETAG.fullmatch(etag) or not isinstance(rows, dict):
        raise Corrupt(where, "must have etag, letters and digits, and files")
    if not set(NEEDED) <= set(rows):
        raise Corrupt(where, f"must have {', '.join(NEEDED)}")
    return etag, {name: _data(rows[name], f"{where}: {name}", most_bytes(name)) for name in ANSWERED if name in rows}


def _data(row: object, where: str, limit: int) -> bytes:
    try:
        data = base64.b64decode(row["data"], validate=True) if isinstance(row, dict) else b""
    except (ValueError, KeyError, TypeError) as error:
        raise Corrupt(where, "must have data, base64, and sha256") from error
    if not isinstance(row, dict) or hashlib.sha256(data).hexdigest() != row.get("sha256"):
        raise Corrupt(where, "must have the SHA-256 that it says")
    if len(data) > limit:
        raise Corrupt(where, f"must have at most {limit} bytes")
    return data


@dataclass(frozen=True)
class Mirror:
    """`registry`: the agent's layout, filled by `pull` before a document that names an image is written; None: by somebody else. What the
    last KEPT documents do not name is taken out of it by `prune`; documents that the agent refuses do not count. Safe from any thread: the
    newest `take` is not held up by one that was stopped, unless both pull."""

    folders: Folders
    root_public: bytes
    registry: Path
    arch: str
    pull: Pull | None
    prune: Prune | None = None
    _named: deque[frozenset[str]] = field(default_factory=lambda: deque(maxlen=KEPT))
    _pulling: threading.Lock = field(default_factory=threading.Lock)
    _writing: threading.Lock = field(default_factory=threading.Lock)

    def lacks(self, envelope: bytes) -> str | None:
        """SHA-256 of the base that consents name and that does not lie here; None when nothing is missing."""
        try:
            base = json.loads(base64.b64decode(json.loads(envelope)["payload"]))["base"]
            digest = base and str(base["sha256"])
        except (ValueError, KeyError, TypeError):
            return None  # the agent refuses it, and says why
        if not digest or not _DIGEST.fullmatch(digest):
            return None
        try:
            with (self.folders.desired / BASE).open("rb") as file:
                return None if hashlib.file_digest(file, "sha256").hexdigest() == digest else digest
        except FileNotFoundError:
            return digest

    def take_consents(self, envelope: bytes, base: bytes | None) -> None:
        """Writes consents, which wait for no image. Raises OSError."""
        desired = self.folders.desired
        with self._writing:
            desired.mkdir(mode=0o700, parents=True, exist_ok=True)
            if base is not None:
                replace_file(desired / BASE, base)
            if not _is(desired / CONSENTS, envelope):
                replace_file(desired / CONSENTS, envelope)

    def take(self, files: Mapping[str, bytes], stop: Stop) -> None:
        """Writes what differs, images first, the rollout document last. Raises KnhkError and OSError; then the document is not written.
        After `stop` nothing is written: something newer is, or will be."""
        named = self._pull(files, stop)
        desired = self.folders.desired
        with self._writing:
            _go_on(stop)
            desired.mkdir(mode=0o700, parents=True, exist_ok=True)
            for name in IN_ORDER:
                if name in files and not _is(desired / name, files[name]):
                    replace_file(desired / name, files[name])
            self._forget(named)

    def _forget(self, named: frozenset[str]) -> None:
        """A document that goes on with the images of the one before is none of its own here. While another one's pull is still ending,
        nothing is taken away: the next document does it."""
        if self.prune is None or not named:
            return
        if self._named and self._named[-1] == named:
            return
        self._named.append(named)
        if len(self._named) == KEPT and self._pulling.acquire(blocking=False):
            try:
                self.prune(frozenset().union(*self._named))
            finally:
                self._pulling.release()

    def _pull(self, files: Mapping[str, bytes], stop: Stop) -> frozenset[str]:
        """Gives what the document names, when all of it is as the agent will take it. Only what a document names that the agent would take
        is worth room on the disk."""
        if self.pull is None:
            return frozenset()
        try:
            rollout, keys = self._read(files)
        except Refused:
            return frozenset()  # the agent refuses it too, and says why
        packs = [arm.digest for arm in (rollout.stable, rollout.candidate) if arm is not None]
        named = [*packs, *([rollout.data] if rollout.data else [])]
        if self._is_there(rollout, keys):
            return frozenset(named)
        with self._turn(stop):
            for digest in named:
                self.pull(digest, stop)
        return frozenset(named) if self._is_there(rollout, keys) else frozenset()

    @contextmanager
    def _turn(self, stop: Stop) -> Iterator[None]:
        """One pull at a time: one that was stopped ends soon."""
        while not self._pulling.acquire(timeout=LOOK_EVERY_S):
            _go_on(stop)
        try:
            _go_on(stop)
            yield
        finally:
            self._pulling.release()

    def _read(self, files: Mapping[str, bytes]) -> tuple[Rollout, Keys]:
        now, accepted = datetime.now(UTC), load_accepted(self.folders)
        keys = read_keys(files["keys.json"], self.root_public, now, accepted, "keys.json")
        point = parse_point(files["point.json"], "point.json")
        beside = Beside(point, files.get(BOOTSTRAP))
        return read_rollout(files["rollout.json"], keys, now, beside, accepted, "rollout.json"), keys

    def _is_there(self, rollout: Rollout, keys: Keys) -> bool:
        """A rollback needs no registry: what runs lies here."""
        try:
            fetch(rollout, PackStore(self.registry), self.arch, keys)
        except (KnhkError, OSError):
            return False
        return True


def _go_on(stop: Stop) -> None:
    if stop.is_set:
        raise Waiting("Superseded", SUPERSEDED, 0.0)


def _is(path: Path, data: bytes) -> bool:
    try:
        return path.read_bytes() == data
    except FileNotFoundError:
        return False
