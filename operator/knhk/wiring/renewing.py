"""What is looked at again while a server runs, such as the certificate that it shows."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from knhk.model.faults import KnhkError

LOOK_EVERY_S = 5.0


async def keep_looking(look: Callable[[], None], log: logging.Logger) -> None:
    """Calls `look` in a thread every LOOK_EVERY_S, until this is cancelled. What fails is told and tried again."""
    while True:
        await asyncio.sleep(LOOK_EVERY_S)
        try:
            await asyncio.to_thread(look)
        except KnhkError as error:
            log.warning("%s", error)
        except Exception:  # were this to end, a certificate would run out weeks later, and nobody told
            log.exception("the look failed")
