"""Logs for commands: a folder, an object store, or a URL. Light: a list of receipts needs nothing else of the wiring."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from knhk.adapters import log_reading
from knhk.model.faults import NotFound
from knhk.reconcilers.evidence import size_of
from knhk_runtime.tlog.served import Fetch, Served


@dataclass(frozen=True)
class Opened:
    """A log and its newest checkpoint, which nothing has verified."""

    fetch: Fetch
    served: Served
    note: str


def opened(place: str, ca_file: Path | None = None, certificate: Path | None = None) -> Opened:
    """The log of a folder, s3://BUCKET/PREFIX, or URL. Raises NotFound, Bad, Waiting, Stalled."""
    fetch = _fetch(place, ca_file, certificate)
    if (note := fetch("checkpoint")) is None:
        raise NotFound(f"{place}: has no checkpoint: must be a log folder, or the URL of a log")
    text = note.decode("utf-8", "replace")
    return Opened(fetch, Served(place, fetch, size_of(text, f"{place}/checkpoint")), text)


def _fetch(place: str, ca_file: Path | None, certificate: Path | None) -> Fetch:
    if log_reading.is_url(place):
        return log_reading.of_url(place, ca_file, certificate)
    return log_reading.of_store(place) if log_reading.is_store(place) else log_reading.of_folder(Path(place))
