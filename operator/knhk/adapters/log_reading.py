"""Logs by the paths that they serve: a folder, an object store, or the URL of a server. No network is asked but for what is given."""

from __future__ import annotations

import json
from pathlib import Path

from knhk.model.faults import NotFound, Stalled
from knhk_runtime.objects.opening import open_store
from knhk_runtime.objects.port import ObjectStore
from knhk_runtime.tlog.served import Fetch


def is_store(place: str) -> bool:
    """Whether what lies there is in an object store, by its address."""
    return place.startswith(("s3:", "file:"))


def is_url(place: str) -> bool:
    """Whether a log is asked for over the network."""
    return place.startswith(("http://", "https://"))


def of_place(place: str, ca_file: Path | None = None, certificate: Path | None = None, key: Path | None = None) -> Fetch:
    """A URL, an object store, or a folder. Raises as each of them."""
    if is_url(place):
        from knhk.adapters.log_url import of_url  # TLS and HTTP take a third of the time of a short command

        return of_url(place, ca_file, certificate, key)
    return of_store(open_store(place)) if is_store(place) else of_folder(Path(place))


def of_folder(folder: Path) -> Fetch:
    """Files of a log folder. Raises OSError for what is there and cannot be read."""

    def fetch(path: str) -> bytes | None:
        try:
            return (folder / path).read_bytes()
        except FileNotFoundError:
            return None

    return fetch


def of_store(store: ObjectStore) -> Fetch:
    """Objects of a store. Raises what the store raises."""

    def fetch(path: str) -> bytes | None:
        try:
            return store.get(path).data
        except NotFound:
            return None

    return fetch


def index_at(fetch: Fetch, key: bytes, name: str) -> int:
    """Index of the entry with this idempotency key, as the sequencer tells it. Raises NotFound and Stalled."""
    if (answer := fetch(f"index/{key.hex()}")) is None:
        raise NotFound(f"{name}: no entry of receipt {key[:16].hex()}; a static copy of a log has no index: give the index of the entry")
    try:
        index = json.loads(answer)["index"]
    except (ValueError, TypeError, KeyError) as error:
        raise Stalled("Log", f"{name}: answers no index") from error
    if not isinstance(index, int):
        raise Stalled("Log", f"{name}: answers no index")
    return index
