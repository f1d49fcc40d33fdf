"""What is looked at again while a server runs, such as the certificate that it shows; and until when it runs."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import ssl
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from knhk.adapters.certificate_files import CertificateFiles, Served, load
from knhk.model.faults import KnhkError, Stalled, Waiting

LOOK_EVERY_S = 5.0


class Shown:
    """The certificate that a server shows. `context` for the server."""

    def __init__(self, files: CertificateFiles, log: logging.Logger) -> None:
        self._files, self._log = files, log
        self.served: Served | None = None
        self.context = _context()

    def renew(self) -> Served:
        """What new connections get from now on. Raises Stalled for what is no certificate."""
        found = self._files.current()
        if found != self.served:
            load(self.context, found)
            self.served = found
            self._log.info("a certificate is served")
        return found

    def believing(self, authorities: str) -> None:
        """From now on who shows a certificate must have it from these (PEM), and from none that were believed before; who has none may
        come. It is another context, since to one authorities can only be added. Raises Stalled for authorities that are none."""
        made = _context()
        made.verify_mode = ssl.CERT_OPTIONAL
        try:
            made.load_verify_locations(cadata=authorities)
        except (ssl.SSLError, ValueError) as error:
            raise Stalled("NoAuthority", f"the authorities must be PEM: {error}") from error
        if self.served is not None:
            load(made, self.served)
        self.context = made


def _context() -> ssl.SSLContext:
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    made.minimum_version = ssl.TLSVersion.TLSv1_2
    return made


def halt_asked() -> asyncio.Event:
    """Is set by SIGTERM or SIGINT from now on."""
    halt, loop = asyncio.Event(), asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, halt.set)
    return halt


def look_until(there: Callable[[], bool], look: Callable[[], None], log: logging.Logger) -> None:
    """What must be there before anything is answered is waited for. Raises what `look` does, but for Waiting."""
    while not there():
        try:
            look()
        except Waiting as waiting:
            log.warning("%s", waiting)
            time.sleep(waiting.retry_after_s)


@asynccontextmanager
async def looking(look: Callable[[], None], log: logging.Logger) -> AsyncIterator[None]:
    """Within, `keep_looking` runs."""
    task = asyncio.create_task(keep_looking(look, log))
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


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
