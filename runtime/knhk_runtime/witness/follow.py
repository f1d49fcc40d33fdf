"""Cross-root sync: a witness looks at the logs of other regions by itself, so that a history that a log shows to readers and not to us is
seen too. What is fetched goes the way of every request: compared, kept, and never believed."""

from __future__ import annotations

import http.client
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from urllib.parse import urlsplit

from knhk_runtime.tlog.notes import size_of
from knhk_runtime.tlog.served import Fetch, Served
from knhk_runtime.witness.core import Cosigned, Refusal
from knhk_verify.errors import Bad

TIMEOUT_S = 10.0
MAX_BYTES = 32 << 20  # a bundle of 256 entries of 64 KiB, with room


def of_url(url: str) -> Fetch:
    """Paths below a URL; raises OSError."""
    if urlsplit(url).scheme not in ("http", "https"):
        raise OSError(f"{url}: must be http or https")

    def fetch(path: str) -> bytes | None:
        try:
            with urllib.request.urlopen(f"{url.rstrip('/')}/{path}", timeout=TIMEOUT_S) as answer:
                data: bytes = answer.read(MAX_BYTES + 1)
        except urllib.error.HTTPError as error:
            with error:
                if error.code == 404:
                    return None
                raise OSError(f"{url}/{path}: answers {error.code}") from error
        except http.client.HTTPException as error:
            raise OSError(f"{url}/{path}: does not answer as HTTP does: {type(error).__name__}") from error
        if len(data) > MAX_BYTES:
            raise OSError(f"{url}/{path}: answers more than {MAX_BYTES} bytes")
        return data

    return fetch


class Followed:
    """Logs by origin, and how each is read. `add`: a request to our own witness. `errors`: what was wrong with each at the last look."""

    def __init__(
        self, logs: Mapping[str, Callable[[], Fetch]], latest: Callable[[str], Cosigned | None], add: Callable[[bytes], str]
    ) -> None:
        self._logs, self._latest, self._add = logs, latest, add
        self.errors = dict.fromkeys(logs, "")

    def look(self) -> None:
        """At every log once; any thread."""
        for origin, fetch in self._logs.items():
            try:
                self.errors[origin] = self._look(origin, fetch())
            except (OSError, Bad, ValueError, IndexError) as error:
                self.errors[origin] = f"{type(error).__name__}: {error}"

    def _look(self, origin: str, fetch: Fetch) -> str:
        if (data := fetch("checkpoint")) is None:
            return "has no checkpoint"
        note, known = data.decode("utf-8", "replace"), self._latest(origin)
        size, old = size_of(note), known.tree.size if known is not None else 0
        if size < old:
            return ""  # what we cosigned last is not published yet
        try:
            self._add(Served(origin, fetch, size).consistency(old, note).encode())
        except Refusal as refusal:
            later = self._latest(origin)
            return "" if later is not None and later.tree.size > old else str(refusal)  # it was asked to cosign a newer one meanwhile
        return ""
