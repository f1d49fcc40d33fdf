"""Log lines: one JSON object a line on stderr; never bodies, attributes or secrets."""

from __future__ import annotations

import json
import sys
import threading
from datetime import UTC, datetime

_lock = threading.Lock()


def log(event: str, **fields: object) -> None:
    """Writes {"time", "event", …}; safe from any thread. A closed stderr is no reason to stop deciding."""
    line = json.dumps({"time": datetime.now(UTC).isoformat(timespec="milliseconds"), "event": event, **fields}, default=str)
    with _lock:
        try:
            sys.stderr.write(line + "\n")
            sys.stderr.flush()
        except (OSError, ValueError):
            return
