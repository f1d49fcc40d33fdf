"""Segments of frames: one writer with group commit, readers by position, and a cursor file."""

from __future__ import annotations

import os
import re
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from knhk.model.faults import Corrupt
from knhk_hot.frames import sound_frames
from knhk_runtime.durable import replace_file, sync_folder
from knhk_runtime.record import SEGMENT_HEAD, SEGMENT_MAGIC, scan_frames
from knhk_verify.errors import Bad

SEGMENT_BYTES = 32 << 20
_FRAME_HEAD = 8  # length and checksum
_NAME = re.compile(r"[0-9a-f]{16}\.seg")


@dataclass(frozen=True, order=True)
class Position:
    """A place between frames: segment number and byte offset in its file."""

    segment: int
    offset: int


class Written(NamedTuple):
    """Frames that were appended, where those before them end (in the segment before, if these began a new one), and how often what was not
    durable had been given up by then: a sync that comes later must know."""

    before: Position
    start: Position
    end: Position
    failures: int


class Segments:
    """The segments of one folder. `append` and `sync` may be called from any thread; one process only."""

    def __init__(self, folder: Path, segment_bytes: int = SEGMENT_BYTES) -> None:
        """Opens or makes the folder and cuts a torn tail off the last segment; `cut_bytes` says how much. Raises Corrupt and OSError."""
        self.folder = folder
        self._segment_bytes = segment_bytes
        self._write_lock, self._sync_lock = threading.Lock(), threading.Lock()
        self._failures = 0
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        numbers = self.numbers()
        self.cut_bytes = 0
        if numbers:
            self._file, end = self._reopen(numbers[-1])
        else:
            self._file, end = self._make(0), Position(0, SEGMENT_HEAD)
        self._end = self._durable = end

    def numbers(self) -> list[int]:
        """Numbers of the segments that exist, ascending."""
        return sorted(int(path.name[:16], 16) for path in self.folder.iterdir() if _NAME.fullmatch(path.name))

    def path(self, number: int) -> Path:
        return self.folder / f"{number:016x}.seg"

    @property
    def durable(self) -> Position:
        """Everything before this survives a crash."""
        return self._durable

    def start(self) -> Position:
        """The first position that exists."""
        return Position(self.numbers()[0], SEGMENT_HEAD)

    def _make(self, number: int) -> int:
        path = self.path(number)
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            _write_all(handle, SEGMENT_MAGIC + number.to_bytes(8, "big"))
            os.fdatasync(handle)
            sync_folder(self.folder)
        except OSError:
            os.close(handle)
            path.unlink()  # the next try begins anew
            raise
        return handle

    def _reopen(self, number: int) -> tuple[int, Position]:
        path = self.path(number)
        data = path.read_bytes()
        if len(data) < SEGMENT_HEAD:  # a crash between creation and its first sync: it never held a frame
            path.unlink()
            self.cut_bytes = len(data)
            return self._make(number), Position(number, SEGMENT_HEAD)
        end = _scan(data, number, path)
        handle = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        self.cut_bytes = len(data) - end
        if self.cut_bytes:
            os.ftruncate(handle, end)
        os.fdatasync(handle)
        os.lseek(handle, end, os.SEEK_SET)
        return handle, Position(number, end)

    def append(self, frames: bytes) -> Written:
        """Writes whole frames. Not durable before `sync` of what this returns. On OSError nothing was added."""
        with self._write_lock:
            if self._has_room(frames):
                return self._write(frames, self._end)
        with self._sync_lock, self._write_lock:  # a new segment needs both, in the order in which `sync` takes them
            before = self._end
            if not self._has_room(frames):
                self._rotate()
            return self._write(frames, before)

    def rotate(self) -> None:
        """What is there is in closed segments from now on. Raises OSError; then nothing changed."""
        with self._sync_lock, self._write_lock:
            if self._end.offset > SEGMENT_HEAD:
                self._rotate()

    def remove_before(self, number: int) -> None:
        """Segments before this one are no longer needed; the last stays in any case. Raises OSError."""
        old = [each for each in self.numbers()[:-1] if each < number]
        for each in old:
            self.path(each).unlink()
        if old:
            sync_folder(self.folder)

    def _has_room(self, frames: bytes) -> bool:
        return self._end.offset + len(frames) <= self._segment_bytes or self._end.offset == SEGMENT_HEAD

    def _write(self, frames: bytes, before: Position) -> Written:
        start = self._end
        try:
            _write_all(self._file, frames)
        except OSError:
            self._cut(start)
            raise
        self._end = Position(start.segment, start.offset + len(frames))
        return Written(before, start, self._end, self._failures)

    def _rotate(self) -> None:
        try:
            os.fdatasync(self._file)
        except OSError:
            self._forget()
            raise
        self._durable = self._end
        fresh = self._make(self._end.segment + 1)
        os.close(self._file)
        self._file = fresh
        self._end = self._durable = Position(self._end.segment + 1, SEGMENT_HEAD)

    def sync(self, written: Written) -> None:
        """Returns when what was written is durable; one fdatasync serves all who wait. On OSError it counts as gone: repeat it."""
        with self._sync_lock:
            if self._failures != written.failures:
                raise OSError("the write before this one failed")
            if written.end <= self._durable:
                return
            with self._write_lock:
                target, handle = self._end, self._file
            try:
                os.fdatasync(handle)
            except OSError:
                with self._write_lock:
                    self._forget()
                raise
            self._durable = target

    def _forget(self) -> None:
        """After a failed sync nobody knows what the disk holds: cut back to what is known, so that writers repeat. Both locks are held."""
        self._failures += 1
        self._cut(self._durable)

    def _cut(self, end: Position) -> None:
        self._end = end
        os.ftruncate(self._file, end.offset)
        os.lseek(self._file, end.offset, os.SEEK_SET)

    def read(self, at: Position, limit: int) -> tuple[bytes, Position]:
        """Durable frames from `at`, about `limit` bytes and at least one frame if there is one, and where they end. Raises Corrupt."""
        while True:
            end = self._durable
            last = end.offset if at.segment == end.segment else None
            path = self.path(at.segment)
            data = _slice(path, at.offset, limit, last)
            if data:
                return data, Position(at.segment, at.offset + len(data))
            if at.segment >= end.segment:
                return b"", at
            at = Position(at.segment + 1, SEGMENT_HEAD)

    def close(self) -> None:
        with self._sync_lock, self._write_lock:
            os.close(self._file)


def _write_all(handle: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(handle, view) :]


def _scan(data: bytes, number: int, path: Path) -> int:
    try:
        return scan_frames(data, number, str(path))[1]
    except Bad as error:
        raise Corrupt(error.where, error.what) from error


def _slice(path: Path, offset: int, limit: int, last: int | None) -> bytes:
    """Whole frames of a file from `offset`, checked; up to `last` or the end of the file."""
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size if last is None else last
            file.seek(offset)
            data = file.read(min(max(limit, _FRAME_HEAD), size - offset)) if size > offset else b""
            whole, sound = sound_frames(data)
            if data and not whole:  # one frame longer than the limit
                data += file.read(min(_FRAME_HEAD + int.from_bytes(data[:4], "big"), size - offset) - len(data))
                whole, sound = len(data), sound_frames(data)[1]
    except FileNotFoundError:
        raise Corrupt(str(path), "the segment is missing") from None
    if sound != whole:
        check_frames(data[:whole], f"{path}", offset)  # raises, and says where
    return data[:whole]


def check_frames(data: bytes, where: str, offset: int) -> None:
    """Raises Corrupt with file and offset when a frame was altered."""
    head = SEGMENT_MAGIC + bytes(8)
    try:
        _, end = scan_frames(head + data, 0, where)
    except Bad as error:
        raise Corrupt(f"{where} from offset {offset - SEGMENT_HEAD}, {error.where}", error.what) from error
    if end != len(head) + len(data):
        raise Corrupt(f"{where} offset {offset + end - len(head)}", "must be a whole frame")


class Cursor:
    """A position in a text file, written by rename: up to here the frames are no longer needed. `kept`: what the file says."""

    def __init__(self, path: Path, first: Position) -> None:
        """Starts at the file's position; without a file at `first`, and says so in it: a verifier of a log that is written to must
        tell an agent that was never acknowledged from one whose file was lost. Raises Corrupt and OSError."""
        self.path = path
        self.position = self.kept = self._load(first)
        if not path.exists():
            self.move(first)

    def _load(self, first: Position) -> Position:
        try:
            words = self.path.read_text(encoding="ascii").split()
        except FileNotFoundError:
            return first
        except UnicodeDecodeError:
            raise Corrupt(str(self.path), "must be text") from None
        if len(words) != 2 or not re.fullmatch("[0-9a-f]{16}", words[0]) or not words[1].isdecimal():
            raise Corrupt(str(self.path), "must be a segment of 16 hexadecimal digits and an offset")
        return Position(int(words[0], 16), int(words[1]))

    def move(self, position: Position) -> None:
        """Raises OSError."""
        self.position = position
        self.keep()

    def keep(self) -> None:
        """Writes the position. Not synced: an older cursor after a crash only repeats work. One caller at a time; raises OSError."""
        position = self.position
        replace_file(self.path, f"{position.segment:016x} {position.offset}\n".encode(), sync=False)
        self.kept = position
