"""Write-ahead log of the sequencer (formats/frame.md): frames in segments, one fdatasync for a group of appends.

A segment is never written again after an error or a restart: the next one begins at the number of durable entries, and
what an older segment holds from there on was never acknowledged and does not count."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from knhk.model.faults import Corrupt
from knhk_runtime.record import MAX_FRAME, SEGMENT_HEAD, SEGMENT_MAGIC, frame, parse_wal_payload, scan_frames
from knhk_runtime.sequencer.files import Files
from knhk_verify.errors import Bad

SEGMENT_BYTES = 64 << 20
_NAME = re.compile(r"([0-9a-f]{16})\.seg", re.ASCII)
_TERM = re.compile(r"[0-9a-f]{16}", re.ASCII)


def payload(first: int, count: int, items: bytes) -> bytes:
    """WAL payload of `count` entries from index `first`."""
    return b"\1" + first.to_bytes(8, "big") + count.to_bytes(4, "big") + items


@dataclass(frozen=True)
class Recovered:
    """Entries from the index asked for on, their keys, and what was cut off: ((file and offset, bytes), …)."""

    keys: list[bytes]
    entries: list[bytes]
    cut: tuple[tuple[str, int], ...]


def terms(files: Files, folder: Path) -> list[tuple[int, Path]]:
    """(term, folder) of the WALs below one, in order; 0 is the folder itself when it has segments."""
    names = files.names(folder)
    own = [(0, folder)] if any(_NAME.fullmatch(name) for name in names) else []
    return own + [(int(name, 16), folder / name) for name in names if _TERM.fullmatch(name)]


class Wal:
    """The segments in one folder; one caller at a time."""

    def __init__(self, files: Files, folder: Path) -> None:
        self._files, self._folder = files, folder
        self._fd: int | None = None
        self._size = 0

    def _segments(self) -> list[tuple[int, Path]]:
        names = self._files.names(self._folder)
        return [(int(match[1], 16), self._folder / name) for name in names if (match := _NAME.fullmatch(name))]

    def recover(self, start: int) -> Recovered:
        """All entries from index `start` on; raises Corrupt with file and offset. The torn tail of the last segment is cut, and what
        is left of it is durable."""
        try:
            return self._recover(start)
        except Bad as error:
            raise Corrupt(error.where, error.what) from error

    def recover_all(self) -> tuple[int, Recovered]:
        """(index of the first entry, `recover` from there on)."""
        segments = self._segments()
        first = segments[0][0] if segments else 0
        return first, self.recover(first)

    def _recover(self, start: int) -> Recovered:
        segments = self._segments()
        if segments and segments[0][0] > start:
            raise Corrupt(str(segments[0][1]), f"begins at entry {segments[0][0]}; entries from {start} on are missing")
        holds = max((at for at, (first, _) in enumerate(segments) if first <= start), default=0)
        segments = segments[holds:]  # a crash may have taken back the removal of some before it
        found, cut = Recovered([], [], ()), list[tuple[str, int]]()
        for position, (first, path) in enumerate(segments):
            data = self._files.read(path)
            until = segments[position + 1][0] if position + 1 < len(segments) else None
            frames, end = scan_frames(data, first, str(path))
            at = first
            for offset, body in frames:
                if at == until:
                    break
                where = f"{path} offset {offset}"
                begins, keys, entries = parse_wal_payload(body, where)
                if begins != at or (until is not None and at + len(entries) > until):
                    raise Corrupt(where, f"holds entries {begins} to {begins + len(entries) - 1}: must begin at {at}")
                skip = max(0, start - at)
                found.keys.extend(keys[skip:])
                found.entries.extend(entries[skip:])
                at += len(entries)
            if until is not None and at != until:
                raise Corrupt(f"{path} offset {end}", f"ends at entry {at}, the next segment begins at {until}")
            if until is None:
                self._files.cut(path, end)  # also what is whole: who wrote it may have been killed before it was synced
                if end < len(data):
                    cut.append((f"{path} offset {end}", len(data) - end))
        return Recovered(found.keys, found.entries, tuple(cut))

    def begin(self, first: int) -> None:
        """Begin a new segment at entry `first`; raises OSError, after which it may be called again."""
        self.close()
        path = self._folder / f"{first:016x}.seg"
        temporary = path.with_name(path.name + ".tmp")
        fd = self._files.create(temporary)
        try:
            self._files.write(fd, SEGMENT_MAGIC + first.to_bytes(8, "big"))
            self._files.sync(fd)
            self._files.rename(temporary, path)
            self._files.sync_dir(self._folder)
        except OSError:
            self._files.close(fd)
            raise
        self._fd, self._size = fd, SEGMENT_HEAD

    def append(self, first: int, payloads: Sequence[bytes]) -> None:
        """Make `payloads`, whose entries begin at `first`, durable. Raises OSError: then none of them counts."""
        if any(len(data) > MAX_FRAME for data in payloads):
            raise ValueError(f"a payload has more than {MAX_FRAME} bytes")
        if self._fd is None or self._size > SEGMENT_BYTES:
            self.begin(first)
        assert self._fd is not None  # begin() has opened it
        data = b"".join(map(frame, payloads))
        try:
            self._files.write(self._fd, data)
            self._files.sync(self._fd)
        except OSError:
            self.close()
            raise
        self._size += len(data)

    def forget(self, integrated: int) -> None:
        """Remove the segments whose entries all lie below `integrated`."""
        segments = self._segments()
        for (_, path), (following, _) in pairwise(segments):
            if following > integrated:
                return
            self._unlink(path)

    def remove(self) -> None:
        """Remove all segments, and their folder when it has nothing else. The last goes first: what a kill leaves is a beginning, whose
        entries get the indexes that they had. An end of it would be taken for entries that come before those that are gone."""
        for _, path in reversed(self._segments()):
            self._unlink(path)
        if not self._files.names(self._folder):
            self._files.rmdir(self._folder)

    def _unlink(self, path: Path) -> None:
        """Durably, so that after a power cut no segment is missing between two."""
        self._files.unlink(path)
        self._files.sync_dir(self._folder)

    def close(self) -> None:
        """Give the descriptor back; the next append begins a segment."""
        fd, self._fd = self._fd, None
        if fd is not None:
            self._files.close(fd)
