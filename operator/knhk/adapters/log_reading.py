"""Logs by the paths that they serve: a folder, an object store, or the URL of a server. No network is asked but for what is given."""

from __future__ import annotations

import http.client
import json
import ssl
import urllib.error
import urllib.request
from pathlib import Path

from knhk.model.faults import NotFound, Stalled, Waiting
from knhk_runtime.objects.opening import open_store
from knhk_runtime.objects.port import ObjectStore
from knhk_runtime.tlog.served import Fetch

MAX_ANSWER_BYTES = 32 << 20  # a bundle of 256 entries of 64 KiB, with room
TIMEOUT_S = 20.0


def is_store(place: str) -> bool:
    """Whether what lies there is in an object store, by its address."""
    return place.startswith(("s3:", "file:"))


def is_url(place: str) -> bool:
    """Whether a log is asked for over the network."""
    return place.startswith(("http://", "https://"))


def of_place(place: str, ca_file: Path | None = None, certificate: Path | None = None, key: Path | None = None) -> Fetch:
    """A URL, an object store, or a folder. Raises as each of them."""
    if is_url(place):
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


def of_url(url: str, ca_file: Path | None = None, certificate: Path | None = None, key: Path | None = None) -> Fetch:
    """What a server answers below `url`. `ca_file`: whom to trust (None: this machine's); `certificate`: our own, PEM, with its key unless
    that is in `key`.

    Raises Stalled for an answer that will not change by itself, Waiting when none came."""
    try:
        context = ssl.create_default_context(cafile=str(ca_file) if ca_file else None)
        if certificate:
            context.load_cert_chain(certificate, key)
    except (OSError, ssl.SSLError) as error:
        raise Stalled("Certificate", f"{ca_file or certificate}: {error}: must be PEM") from error
    base = url.rstrip("/")

    def fetch(path: str) -> bytes | None:
        place = f"{base}/{path}"
        try:
            with urllib.request.urlopen(place, timeout=TIMEOUT_S, context=context if base.startswith("https:") else None) as answer:
                data: bytes = answer.read(MAX_ANSWER_BYTES + 1)
        except urllib.error.HTTPError as error:
            with error:
                if error.code == 404:
                    return None
                if error.code >= 500 or error.code == 429:
                    raise Waiting("Log", f"{place}: answers {error.code}", 1.0) from error
                raise Stalled("Log", f"{place}: answers {error.code}: must let us read") from error
        except (OSError, ValueError, http.client.HTTPException) as error:
            raise Waiting("Log", f"{place}: no answer: {error}", 1.0) from error
        if len(data) > MAX_ANSWER_BYTES:
            raise Stalled("Log", f"{place}: answers more than {MAX_ANSWER_BYTES} bytes")
        return data

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
