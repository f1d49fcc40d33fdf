"""python -m knhk_runtime.witness: run a witness until SIGTERM or SIGINT."""

from __future__ import annotations

import argparse
import asyncio
import signal
import ssl
import sys
from pathlib import Path

from aiohttp import web

from knhk.model.faults import KnhkError, Stalled
from knhk_runtime.keyfile import load_private_key, raw_public
from knhk_runtime.log import log
from knhk_runtime.sequencer.core import lock
from knhk_runtime.tlog.notes import format_vkey
from knhk_runtime.witness.core import WitnessKey
from knhk_runtime.witness.server import Surface
from knhk_runtime.witness.watching import Files, Watching
from knhk_verify.errors import Bad
from knhk_verify.note import COSIGNATURE, Verifier, parse_vkey

EXAMPLES = """examples:
  openssl genpkey -algorithm ed25519 -out witness.key && chmod 600 witness.key
  python -m knhk_runtime.witness --dir ./witness --name witness.example.org/eu --key witness.key --vkey
  python -m knhk_runtime.witness --dir ./witness --name witness.example.org/eu --key witness.key --policy policy --listen 127.0.0.1:8446

exit status: 0 stopped by a signal, or --vkey; 1 refused to start (the message says what and where); 2 wrong arguments"""


def _or_none(text: str) -> Path | None:
    """A path; none of an empty text, as a manifest has it where there is none."""
    return Path(text) if text else None


def _arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m knhk_runtime.witness",
        description="Cosigns checkpoints of the logs in its policy, each only when the one before is its beginning.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--dir", type=Path, required=True, help="folder of the witness, made when missing; never bring it back from a backup"
    )
    parser.add_argument("--name", required=True, help="name in its cosignatures, a URL without a scheme")
    parser.add_argument("--key", type=Path, required=True, help="Ed25519 private key of this witness alone, PEM (PKCS#8), mode 0600")
    parser.add_argument("--policy", type=Path, help="c2sp.org/tlog-policy file: its `log` lines are served; looked at every 5 s")
    parser.add_argument("--listen", metavar="HOST:PORT", help="where to serve")
    parser.add_argument("--tls-cert", type=Path, metavar="PEM", help="serve HTTPS with this certificate")
    parser.add_argument("--tls-key", type=Path, metavar="PEM", help="its private key")
    parser.add_argument(
        "--roots", type=_or_none, metavar="FILE", help="root keys of logs, whose keys.json then says by which keys they sign; empty: none"
    )
    parser.add_argument("--log-ca", type=_or_none, metavar="PEM", help="authorities of the logs' HTTPS beside the system's; empty: none")
    parser.add_argument("--follow-s", type=float, metavar="S", help="look at logs that have a URL every S seconds (default: never)")
    parser.add_argument(
        "--mirror",
        metavar="ADDRESS",
        help="keep copies of the logs that have a URL there: s3://BUCKET/PREFIX or a folder; each in a folder of its own; empty: none",
    )
    parser.add_argument("--vkey", action="store_true", help="print the verifier key of this witness, and end")
    return parser.parse_args(argv)


def load_key(path: Path, name: str) -> WitnessKey:
    """Raises Stalled."""
    private = load_private_key(path)
    try:
        verifier = parse_vkey(format_vkey(Verifier(name, raw_public(private), COSIGNATURE)), COSIGNATURE)
    except Bad as error:
        raise Stalled("Name", f"--name {name!r}: must be a name without spaces and plus signs") from error
    return WitnessKey(verifier, private.sign)


def _context(args: argparse.Namespace) -> ssl.SSLContext | None:
    if args.tls_cert is None and args.tls_key is None:
        return None
    try:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.load_cert_chain(args.tls_cert, args.tls_key)
    except (OSError, TypeError) as error:
        raise Stalled("Tls", f"--tls-cert, --tls-key: must be readable PEM files: {error}") from error
    return context


async def _serve(args: argparse.Namespace, watching: Watching, context: ssl.SSLContext | None) -> None:
    host, _, port = args.listen.rpartition(":")
    stop, loop = asyncio.Event(), asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    surface = Surface(watching, args.follow_s)
    runner = web.AppRunner(surface.application(), access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, host.strip("[]"), int(port), ssl_context=context)
    try:
        await site.start()
    except OSError as error:
        raise Stalled("Port", f"--listen {args.listen}: {error.strerror}: choose an address of this machine and a free port") from error
    log("witness serves", listen=f"{host}:{runner.addresses[0][1]}", logs=watching.now.witness.sizes())
    running = [asyncio.create_task(surface.renew())]
    running += [asyncio.create_task(surface.follow(args.follow_s))] if args.follow_s is not None else []
    await stop.wait()
    for task in running:
        task.cancel()
    await runner.cleanup()


def main(argv: list[str] | None = None) -> int:
    """Exit status as in `--help`."""
    args = _arguments(argv)
    try:
        key = load_key(args.key, args.name)
        if args.vkey:
            print(format_vkey(key.verifier))
            return 0
        if args.policy is None or args.listen is None or not args.listen.rpartition(":")[2].isdecimal():
            raise Stalled("Arguments", "--policy and --listen HOST:PORT: must be given")
        try:
            lock(args.dir)
        except BlockingIOError:
            raise Stalled("Locked", f"{args.dir}: another witness runs on this folder: stop it, or give another --dir") from None
        watching = Watching(args.dir, key, Files(args.policy, args.roots, args.log_ca), args.mirror or "")
        asyncio.run(_serve(args, watching, _context(args)))
    except KnhkError as error:
        log("witness ends", what=str(error))
        return 1
    except OSError as error:
        log("witness ends", what=f"{error.filename or args.dir}: {error.strerror or error}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
