"""Copies of the outboxes of pods, kept beside the log byte for byte (formats/delta.md): their volumes go with them."""

from __future__ import annotations

import fcntl
import os
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from knhk_runtime.durable import sync_folder
from knhk_runtime.record import SEGMENT_HEAD, SEGMENT_MAGIC, erased_payload, frame, parse_record, scan_frames
from knhk_verify.errors import Bad

CLIENT_BYTES = 1 << 30  # that wait for the archive, of one client
MAX_OUTBOXES = 16  # of one client, at a time: a pod has one, and a new one with a new volume
MAX_SEGMENT = 1 << 48
LOCKS = 256
LOCK = "copies.lock"
_POD = re.compile(r"spiffe://knhk\.dev/ns/([a-z0-9-]+)/point/([a-z0-9.-]+)/pod/([a-z0-9.-]+)")
_OUTBOX = re.compile(r"[0-9a-f]{16}")
_NAME = re.compile(r"[0-9a-f]{16}\.seg")


class NoPod(Exception):
    """The client is no pod."""


class Full(Exception):
    """So much of this client's waits for the archive that no more is taken."""


@dataclass(eq=False)
class Elsewhere(Exception):
    """The copy ends at another place: go on from there."""

    end: tuple[int, int] | None


class Copies:
    """Outboxes below one folder. Safe from any thread; one process only. What is there already may be sent again, also where an erasure
    took it away since: then it stays away. Methods raise OSError."""

    def __init__(self, folder: Path, client_bytes: int = CLIENT_BYTES) -> None:
        self.folder = folder
        self._client_bytes = client_bytes
        self._locks = [threading.Lock() for _ in range(LOCKS)]  # as many, whatever names are asked for

    def end(self, client: str, outbox: str) -> tuple[int, int] | None:
        """(segment, offset) where the copy ends. Raises NoPod and Bad."""
        name = source_of(client, outbox)
        with self._lock(client):
            return self._end(self.folder / name)

    def add(self, client: str, outbox: str, at: tuple[int, int], frames: bytes) -> None:
        """Durable when it returns. Raises NoPod, Bad, Full and Elsewhere."""
        name = source_of(client, outbox)
        _check(at, frames)
        folder = self.folder / name
        with self._lock(client), _locked(self.folder, fcntl.LOCK_SH):
            end = self._end(folder)
            if end is not None and at[0] == end[0] and at[1] <= end[1]:
                self._append(folder, at, frames, end[1])
            elif at[1] == SEGMENT_HEAD and (end is None or at[0] > end[0]):
                self._begin(folder, at[0], frames)
            elif end is None or at > end or not self._holds(folder, at, frames):
                raise Elsewhere(end)

    def _lock(self, client: str) -> threading.Lock:
        return self._locks[hash(client) % LOCKS]

    def _end(self, folder: Path) -> tuple[int, int] | None:
        names = sorted(name for name in os.listdir(folder) if _NAME.fullmatch(name)) if folder.is_dir() else []
        return (int(names[-1][:16], 16), (folder / names[-1]).stat().st_size) if names else None

    def _holds(self, folder: Path, at: tuple[int, int], frames: bytes) -> bool:
        """Whether these bytes are there, or were: the archive has taken segments before the last."""
        path = folder / f"{at[0]:016x}.seg"
        return not path.exists() or _is_of(_slice(path, at[1], len(frames)), frames)

    def _append(self, folder: Path, at: tuple[int, int], frames: bytes, size: int) -> None:
        path, there = folder / f"{at[0]:016x}.seg", min(len(frames), size - at[1])
        if not _is_of(_slice(path, at[1], there), frames[:there]):
            raise Bad(f"segment {at[0]} offset {at[1]}", "is there with other bytes")
        handle = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
        try:
            _write(handle, frames[there:], size)
        finally:
            os.close(handle)

    def _begin(self, folder: Path, segment: int, frames: bytes) -> None:
        """By rename: a segment is there with its first frames or not at all."""
        client = folder.name.rpartition("~")[0]
        outboxes = [path for path in self.folder.glob(f"{client}~*") if path != folder]
        if len(outboxes) >= MAX_OUTBOXES:
            raise Full(f"{len(outboxes)} other outboxes of this client are kept: one goes a day after its last record")
        held = sum(path.stat().st_size for each in (*outboxes, folder) for path in each.glob("*.seg"))
        if held + len(frames) > self._client_bytes:
            raise Full(f"{held} bytes of this client wait for the archive")
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        path = folder / f"{segment:016x}.seg"
        temporary = path.with_suffix(".tmp")
        handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            _write(handle, SEGMENT_MAGIC + segment.to_bytes(8, "big") + frames, 0)
        finally:
            os.close(handle)
        os.rename(temporary, path)
        for each in (folder, self.folder):
            sync_folder(each)


@contextmanager
def whole(folder: Path) -> Iterator[None]:
    """Nothing is added to copies meanwhile, by any process."""
    with _locked(folder, fcntl.LOCK_EX):
        yield


@contextmanager
def _locked(folder: Path, how: int) -> Iterator[None]:
    handle = os.open(folder.parent / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(handle, how)
        yield
    finally:
        os.close(handle)


def source_of(client: str, outbox: str) -> str:
    """Folder of the copy: `NAMESPACE.POINT~POD~OUTBOX`. Raises NoPod and Bad."""
    if (pod := _POD.fullmatch(client)) is None:
        raise NoPod(client)
    if not _OUTBOX.fullmatch(outbox):
        raise Bad("outbox", "must be 16 lower-case hexadecimal digits")
    return f"{pod[1]}.{pod[2]}~{pod[3]}~{outbox}"


def _check(at: tuple[int, int], frames: bytes) -> None:
    if not (0 <= at[0] < MAX_SEGMENT and SEGMENT_HEAD <= at[1] < MAX_SEGMENT) or not frames:
        raise Bad("segment, offset", f"must be numbers, the offset at least {SEGMENT_HEAD}, with frames in the body")
    head = SEGMENT_MAGIC + bytes(8)
    if scan_frames(head + frames, 0, "body")[1] != len(head) + len(frames):
        raise Bad("body", "must be whole frames")


def _is_of(kept: bytes, sent: bytes) -> bool:
    """Whether these bytes of a copy are what was sent, or what erasures left of it."""
    if kept == sent or len(kept) != len(sent):
        return kept == sent
    at = 0
    while at < len(sent):
        end = at + 8 + int.from_bytes(sent[at : at + 4], "big")
        if kept[at:end] != sent[at:end] and (end > len(sent) or kept[at:end] != _erased(sent[at:end])):
            return False
        at = end
    return True


def _erased(sent: bytes) -> bytes:
    """What an erasure leaves of a frame; none of what is no record."""
    try:
        return frame(erased_payload(parse_record(sent[8:], "frame")))
    except Bad:
        return b""


def _slice(path: Path, offset: int, size: int) -> bytes:
    with path.open("rb") as file:
        file.seek(offset)
        return file.read(size)


def _write(handle: int, data: bytes, at: int) -> None:
    """A write that fails is cut off again: the end of the file is what is durable."""
    os.lseek(handle, at, os.SEEK_SET)
    rest = memoryview(data)
    try:
        while rest:
            rest = rest[os.write(handle, rest) :]
        os.fdatasync(handle)
    except OSError:
        os.ftruncate(handle, at)
        raise
