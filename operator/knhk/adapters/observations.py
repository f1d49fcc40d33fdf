"""Recorded decisions of an archive (formats/delta.md) as a table for questions, without payloads: Arrow reads a segment when a question
needs it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from threading import Condition
from typing import Any

import pyarrow as pa
from pyarrow import dataset, fs, parquet

from knhk.adapters.delta_parquet import SCHEMA, buffered
from knhk.model.faults import Fault, Refused

ANY = "region=*/*/*/*.parquet"
# Columns of the archive that a question may see. Not the bytes of O and A themselves, and the salts that would let them be guessed; nor
# what later versions write there, of which nobody has said yet that it is no payload.
OBSERVED = (
    *("log_index", "receipt", "time", "time_ns", "kind", "verdict", "class", "mode", "arm"),
    *("stale", "cached", "brownout", "fail_open", "resumed", "pack", "point", "route", "actor", "key", "bundle", "evaluator"),
    *("guards", "failing", "leaf", "sealed", "subject", "erased", "source", "segment", "offset"),
)
_PARTS = pa.schema([("region", pa.string()), ("date", pa.date32()), ("hour", pa.int32())])
_SCHEMA = pa.schema([*map(SCHEMA.field, OBSERVED), *_PARTS])


class Reading:
    """What Arrow's threads read of a store, ahead of what is asked for. `failed`: what was raised; then there is no answer."""

    def __init__(self) -> None:
        self.failed = list[BaseException]()
        self._quiet, self._busy, self._over = Condition(), 0, False

    def opened(self, read: Callable[[], bytes]) -> pa.NativeFile:
        """What is read, or nothing once that failed or ended."""
        with self._quiet:
            self._busy += 1
        try:
            return buffered(_nothing() if self.failed or self._over else read())
        except BaseException as error:  # an interrupt, too
            self.failed.append(error)
            return buffered(_nothing())
        finally:
            with self._quiet:
                self._busy -= 1
                self._quiet.notify_all()

    def end(self) -> None:
        """Waits for what is being read; nothing is read after that. A process that ends while a thread of Arrow is here is aborted."""
        with self._quiet:
            self._over = True
            self._quiet.wait_for(lambda: not self._busy)


@dataclass(frozen=True)
class Archive:
    """`place`: a folder, or a store's address. `segments`: paths below it; None: all that a folder has. `read`: all bytes of a segment by
    its path, for a store; None: Arrow reads files of the folder."""

    place: str
    segments: Sequence[str] | None = None
    read: Callable[[str], bytes] | None = None
    reading: Reading = field(default_factory=Reading)

    def table(self) -> dataset.Dataset:
        """What a segment has not is NULL. A store's is fetched for each reading of it, if what is asked of region, date and hour does not
        leave it out. Raises Refused."""
        if self.read is None:
            return self._of(self._files(), "must be a folder with segments of the Δ log", partition_base_dir=str(Path(self.place)))
        files = fs.PyFileSystem(_Segments(self.read, self.reading))
        return self._of(sorted(self.segments or ()), "must be an archive with segments that are committed", filesystem=files)

    def _files(self) -> list[str]:
        folder = Path(self.place)
        if self.segments is None:
            return sorted(map(str, folder.glob(ANY)))
        for name in self.segments:
            if not (folder / name).is_file():
                raise Refused([Fault("--archive", name, "must be there, as it is committed: where it was merged meanwhile, ask again")])
        return sorted(str(folder / name) for name in self.segments)

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

    def __init__(self, read: Callable[[str], bytes], reading: Reading) -> None:
        super().__init__(None)
        self._read, self._reading = read, reading

    def get_type_name(self) -> str:
        return "segments"

    def open_input_file(self, path: str) -> pa.NativeFile:
        return self._reading.opened(lambda: self._read(path))


def _nothing() -> bytes:
    sink = pa.BufferOutputStream()
    parquet.write_table(_SCHEMA.empty_table(), sink)
    return bytes(sink.getvalue())
