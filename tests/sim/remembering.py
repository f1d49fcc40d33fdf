"""What the worlds of tests/sim* remember, so that a seed takes less time: who signed what, which is the same whenever it is asked."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from unittest.mock import patch

from knhk_verify import note


@contextmanager
def signatures_remembered() -> Iterator[None]:
    """Each signature is verified once by each run: key, signature and text alone decide."""
    with patch.object(note, "ed25519_ok", lru_cache(maxsize=None)(note.ed25519_ok)):
        yield
