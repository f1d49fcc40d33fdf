"""A log behind the URL of a server."""

from __future__ import annotations

import http.client
import ssl
import urllib.error
import urllib.request
from pathlib import Path

from knhk.adapters.unreached import why
from knhk.model.faults import Stalled, Waiting
from knhk_runtime.tlog.served import Fetch

MAX_ANSWER_BYTES = 32 << 20  # a bundle of 256 entries of 64 KiB, with room
TIMEOUT_S = 20.0


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
            raise Waiting("Log", f"{place}: no answer: {why(error)}", 1.0) from error
        if len(data) > MAX_ANSWER_BYTES:
            raise Stalled("Log", f"{place}: answers more than {MAX_ANSWER_BYTES} bytes")
        return data

    return fetch
