"""Logs for commands: a folder, an object store, or a URL. Light: a list of receipts needs nothing else of the wiring."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from knhk.adapters import log_reading
from knhk.model.faults import Stalled, Waiting
from knhk.reconcilers.evidence import size_of
from knhk_runtime.tlog.served import Fetch, Served


@dataclass(frozen=True)
class Opened:
    """A log and its newest checkpoint, which nothing has verified."""

    fetch: Fetch
    served: Served
    note: str


def opened(place: str, ca_file: Path | None = None, certificate: Path | None = None) -> Opened:
    """The log of a folder, s3://BUCKET/PREFIX, file:///FOLDER, or URL. Raises Bad, Waiting, Stalled (nothing there, too)."""
    fetch = log_reading.of_place(place, ca_file, certificate)
    try:
        note = fetch("checkpoint")
    except Waiting as error:
        told = f"the log is not reached: {error}: must be the place of a log that is reached from here, by who may read it"
        raise Waiting(error.reason, told, error.retry_after_s) from error
    if note is None:
        raise no_log(place)
    text = note.decode("utf-8", "replace")
    return Opened(fetch, Served(place, fetch, size_of(text, f"{place}/checkpoint")), text)


def no_log(place: str) -> Stalled:
    """What is told of a place where no log is."""
    return Stalled("NoLog", f"{place}: has no checkpoint: must be a log folder, a store that a log is published in, or the URL of a log")
