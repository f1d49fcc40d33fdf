"""Cross-root sync: a witness looks at the logs of other regions by itself, so that a history that a log shows to readers and not to us is
seen too. What is fetched goes the way of every request: compared, kept, and never believed."""

from __future__ import annotations

import http.client
import ssl
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from urllib.parse import urlsplit

from knhk_runtime.tlog.notes import size_of
from knhk_runtime.tlog.served import Fetch, Served
from knhk_runtime.witness.core import Cosigned, Refusal
from knhk_verify.errors import Bad
from knhk_verify.signed import MAX_KEYS_BYTES

TIMEOUT_S = 10.0  # from byte to byte
ANSWER_WITHIN_S = 60.0  # the whole of an answer
LOOK_WITHIN_S = 120.0  # whoever takes longer is looked at no more until that look has ended
MAX_BYTES = 32 << 20  # a bundle of 256 entries of 64 KiB, with room
KEYS_JSON = "keys.json"
CHUNK_BYTES = 256 << 10


def of_url(url: str, trusting: ssl.SSLContext | None = None) -> Fetch:
    """Paths below a URL, of HTTPS by these authorities (None: the system's); raises OSError."""
    if urlsplit(url).scheme not in ("http", "https"):
        raise OSError(f"{url}: must be http or https")

    def fetch(path: str) -> bytes | None:
        try:
            with urllib.request.urlopen(f"{url.rstrip('/')}/{path}", timeout=TIMEOUT_S, context=trusting) as answer:
                data = _whole(answer, f"{url}/{path}", MAX_KEYS_BYTES if path == KEYS_JSON else MAX_BYTES)
        except urllib.error.HTTPError as error:
            with error:
                if error.code == 404:
                    return None
                raise OSError(f"{url}/{path}: answers {error.code}") from error
        except http.client.HTTPException as error:
            raise OSError(f"{url}/{path}: does not answer as HTTP does: {type(error).__name__}") from error
        return data

    return fetch


def _whole(answer: http.client.HTTPResponse, where: str, limit: int) -> bytes:
    """Raises OSError for an answer that is too large, or drips."""
    data, end_s = bytearray(), time.monotonic() + ANSWER_WITHIN_S
    while chunk := answer.read1(CHUNK_BYTES):
        data += chunk
        if len(data) > limit:
            raise OSError(f"{where}: answers more than {limit} bytes")
        if time.monotonic() > end_s:
            raise OSError(f"{where}: has not answered whole within {ANSWER_WITHIN_S:g} s")
    if answer.length:
        raise http.client.IncompleteRead(bytes(data), answer.length)
    return bytes(data)


class Followed:
    """Logs by origin, and how each is read. `add`: a request to our own witness; `learn`: before that, by which keys the log signs.
    `errors`: what was wrong with each at the last look."""

    def __init__(
        self,
        logs: Mapping[str, Callable[[], Fetch]],
        latest: Callable[[str], Cosigned | None],
        add: Callable[[bytes], str],
        learn: Callable[[str, Fetch], None] = lambda origin, fetch: None,
        within_s: float = LOOK_WITHIN_S,
    ) -> None:
        self._logs, self._latest, self._add, self._learn, self._within_s = logs, latest, add, learn, within_s
        self._under_way = dict[str, threading.Thread]()
        self.errors = dict.fromkeys(logs, "")

    def look(self) -> None:
        """At every log once, at all of them together; any thread. One that takes too long holds up nobody: it is told, and is not looked at
        again until that look has ended."""
        self._under_way = {origin: thread for origin, thread in self._under_way.items() if thread.is_alive()}
        for origin in self._logs:
            if origin not in self._under_way:
                self._under_way[origin] = threading.Thread(target=self.look_at, args=(origin,), name="follow", daemon=True)
                self._under_way[origin].start()
        end_s = time.monotonic() + self._within_s
        for origin, thread in self._under_way.items():
            thread.join(max(0.0, end_s - time.monotonic()))
            if thread.is_alive():
                self.errors[origin] = f"has not been read within {self._within_s:g} s: the look goes on"

    def look_at(self, origin: str) -> None:
        """At one log once, in this thread."""
        try:
            self.errors[origin] = self._look(origin, self._logs[origin]())
        except (OSError, Bad, ValueError, IndexError) as error:
            self.errors[origin] = f"{type(error).__name__}: {error}"

    def _look(self, origin: str, fetch: Fetch) -> str:
        self._learn(origin, fetch)
        if (data := fetch("checkpoint")) is None:
            return "has no checkpoint"
        note, known = data.decode("utf-8", "replace"), self._latest(origin)
        size, old = size_of(note), known.tree.size if known is not None else 0
        if size < old:
            return ""  # what we cosigned last is not published yet
        try:
            self._add(Served(origin, fetch, size).consistency(old, note, known.tree.root if known is not None else b"").encode())
        except Refusal as refusal:
            later = self._latest(origin)
            return "" if later is not None and later.tree.size > old else str(refusal)  # it was asked to cosign a newer one meanwhile
        return ""
