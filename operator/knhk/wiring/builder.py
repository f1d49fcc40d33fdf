"""The builder's process: which adapters it is made of, and what is renewed while it runs."""

from __future__ import annotations

import logging
import os
import ssl
import sys
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from aiohttp import web

from knhk.adapters.build_workers import BuildWorkers
from knhk.adapters.certificate_files import CertificateFiles
from knhk.adapters.registry_oci import OciRegistry
from knhk.adapters.system import SystemClock
from knhk.model.faults import Stalled
from knhk.reconcilers.workshop import Retirement
from knhk.wiring import build_worker, packs
from knhk.wiring.renewing import Shown, halt_asked, looking
from knhk.wiring.signing import signer_in

PASSED_ON = ("KNHK_CACHE", "KNHK_PROOF_CASES", "KNHK_PROOF_SECONDS", "HOME", "TMPDIR")

_log = logging.getLogger("knhk.builder")


@dataclass(frozen=True)
class Options:
    """The command line."""

    keys: Path
    registry: str
    auth: Path | None
    authorities: Path | None
    scratch: Path | None
    workers: int
    queue: int
    seconds: float
    grace_s: float
    address: str
    port: int
    health_port: int
    certificates: CertificateFiles

    def worker(self) -> build_worker.Options:
        compiled = self.scratch / "objects" if self.scratch else packs.cache_folder()
        auth, authorities = (None if path is None else str(path) for path in (self.auth, self.authorities))
        return build_worker.Options(str(self.keys), self.registry, auth, authorities, str(compiled))


class Door:
    """TLS: what is shown, and whose clients may come in at all; both looked at again and again, for new connections."""

    def __init__(self, files: CertificateFiles) -> None:
        self._files, self._shown = files, Shown(files, _log)
        self._authority = b""
        self.context = self._shown.context
        self.context.verify_mode = ssl.CERT_REQUIRED

    def look(self) -> None:
        """Raises Stalled for what is no certificate."""
        authority = self._shown.renew().authority
        if authority != self._authority:
            try:
                self.context.load_verify_locations(cadata=authority.decode())
            except (ssl.SSLError, ValueError) as error:
                raise Stalled("NoCertificate", f"{self._files.authority}: must hold authorities in PEM: {error}") from error
            self._authority = authority


Orders = Callable[[BuildWorkers, Callable[[Mapping[str, Collection[str]], Callable[[], bool]], tuple[str, ...]]], web.Application]
Health = Callable[[BuildWorkers, Callable[[], bool]], web.Application]


async def serve(options: Options, orders: Orders, health: Health, told: Callable[[str], None]) -> None:
    """Runs until SIGTERM or SIGINT: builds that run may end. `told` gets the addresses when requests can come. Raises Stalled."""
    halt = halt_asked()
    signer = signer_in(options.keys)
    _log.info("keys: build %s, data %s", signer.keyid("build")[:16], signer.keyid("data")[:16])
    door = Door(options.certificates)
    door.look()
    repository = options.worker().repository()
    registry = OciRegistry(repository, options.grace_s)
    workers = BuildWorkers(
        (sys.executable, "-P", "-m", "knhk.wiring.build_worker", options.worker().argument()),
        _environment(options.scratch),
        options.workers,
        options.queue,
        options.seconds,
    )
    workers.start()
    runners = [
        web.AppRunner(app, access_log=None)
        for app in (orders(workers, Retirement(registry, SystemClock(), options.grace_s).sweep), health(workers, halt.is_set))
    ]
    try:
        async with looking(door.look, _log):
            for runner in runners:
                await runner.setup()
            await web.TCPSite(runners[0], options.address, options.port, ssl_context=door.context, shutdown_timeout=1.0).start()
            await web.TCPSite(runners[1], options.address, options.health_port, shutdown_timeout=1.0).start()
            told(f"https://{options.address}:{runners[0].addresses[0][1]} http://{options.address}:{runners[1].addresses[0][1]}")
            await halt.wait()
    finally:
        await workers.close()
        for runner in runners:
            await runner.cleanup()
        repository.close()


def _environment(scratch: Path | None) -> dict[str, str]:
    """What workers get of this process's environment. With a scratch folder all they write lies in it; what was built before is linked."""
    found = {name: os.environ[name] for name in PASSED_ON if name in os.environ}
    if scratch is None:
        return found
    built, native = packs.cache_folder().parent / "native", scratch / "native"
    for folder in (native, scratch / "tmp", scratch / "objects"):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    for path in built.iterdir() if built.is_dir() else ():
        if path.name != "zig" and not (native / path.name).exists():
            (native / path.name).symlink_to(path)
    return found | {"KNHK_CACHE": str(scratch), "TMPDIR": str(scratch / "tmp")}
