"""Recorded decisions of an archive (formats/delta.md) as a table for questions, without payloads: Arrow reads a segment when a question
needs it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
from pyarrow import dataset, fs, parquet

from knhk.adapters.delta_parquet import SCHEMA, buffered
from knhk.model.faults import Fault, Refused

ANY = ("region=*/*/*/*.parquet",)
# Columns of the archive that a question may see. Not the bytes of O and A themselves, and the salts that would let them be guessed; nor
# what later versions write there, of which nobody has said yet that it is no payload.
OBSERVED = (
    *("log_index", "receipt", "time", "time_ns", "kind", "verdict", "class", "mode", "arm"),
    *("stale", "cached", "brownout", "fail_open", "resumed", "pack", "point", "route", "actor", "key", "bundle", "evaluator"),
    *("guards", "failing", "leaf", "sealed", "subject", "erased", "source", "segment", "offset"),
)
_PARTS = pa.schema([("region", pa.string()), ("date", pa.date32()), ("hour", pa.int32())])
_SCHEMA = pa.schema([*map(SCHEMA.field, OBSERVED), *_PARTS])


@dataclass(frozen=True)
class Archive:
    """`place`: a folder, or a store's address. `segments`: paths below it, of a folder patterns too. `read`: all bytes of a segment by its
    path, for a store; None: Arrow reads files of the folder. `failed`: what `read` raised first: then an answer is none."""

    place: str
    segments: Sequence[str] = ANY
    read: Callable[[str], bytes] | None = None
    failed: list[BaseException] = field(default_factory=list)

    def table(self) -> dataset.Dataset:
        """What a segment has not is NULL. A store's is fetched for each reading of it, if what is asked of region, date and hour does not
        leave it out. Raises Refused."""
        if self.read is None:
            folder = Path(self.place)
            paths = sorted(str(path) for pattern in self.segments for path in folder.glob(pattern))
            return self._of(paths, "must be a folder with segments of the Δ log", partition_base_dir=str(folder))
        files = fs.PyFileSystem(_Segments(self.read, self.failed))
        return self._of(sorted(self.segments), "must be an archive with segments that are committed", filesystem=files)

    def _of(self, paths: list[str], must: str, **more: Any) -> dataset.Dataset:
        if not paths:
            raise Refused([Fault("--archive", self.place, must)])
        try:
            return dataset.dataset(paths, _SCHEMA, format="parquet", partitioning=dataset.HivePartitioning(_PARTS), **more)
        except (pa.ArrowException, OSError) as error:
            raise Refused([Fault("--archive", self.place, f"{must}: {error}")]) from error


class _Segments(fs.FSSpecHandler):  # type: ignore[misc]
    """Of a file system what Arrow calls to read a file by its path. Never raises: an error of Python that DuckDB meets in a stream of Arrow
    hangs the process. What comes in place of a segment that cannot be read has no rows."""

    def __init__(self, read: Callable[[str], bytes], failed: list[BaseException]) -> None:
        super().__init__(None)
        self._read, self._failed = read, failed

    def get_type_name(self) -> str:
        return "segments"

    def open_input_file(self, path: str) -> pa.NativeFile:
        try:
            return buffered(_nothing() if self._failed else self._read(path))
        except BaseException as error:  # an interrupt, too
            self._failed.append(error)
            return buffered(_nothing())


def _nothing() -> bytes:
    sink = pa.BufferOutputStream()
    parquet.write_table(_SCHEMA.empty_table(), sink)
    return bytes(sink.getvalue())
