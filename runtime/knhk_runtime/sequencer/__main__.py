"""python -m knhk_runtime.sequencer: run the sequencer of one log until SIGTERM or SIGINT."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import errno
import math
import os
import secrets
import signal
import socket
import ssl
import stat
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import aiohttp
from aiohttp import web

from knhk.model.faults import Corrupt, Deposed, KnhkError, Stalled, Waiting
from knhk.model.regions import regions_of
from knhk_runtime.doors import Bounds, Doors
from knhk_runtime.hsm import read_token_file
from knhk_runtime.keyfile import load_private_key, raw_public
from knhk_runtime.keys_folder import chapters_folder, read_keys_json
from knhk_runtime.objects.opening import open_store
from knhk_runtime.sequencer.core import Log, LogKey, lock
from knhk_runtime.sequencer.files import Disk, put
from knhk_runtime.sequencer.lease import TTL_S, Lease
from knhk_runtime.sequencer.mirrors import MirroringRegions
from knhk_runtime.sequencer.publication import StorePublication
from knhk_runtime.sequencer.server import CHECKPOINT_INTERVAL_S, MAX_UNCOVERED_S, Sequencer, Surface, application, tell
from knhk_runtime.sequencer.tls import Guard, Renewed, TlsFiles
from knhk_runtime.sequencer.wal import terms
from knhk_runtime.sequencer.witnesses import MAX_LINES_BYTES, Witnesses
from knhk_runtime.tlog.notes import format_vkey
from knhk_runtime.tlog.policy import Policy, read_policy
from knhk_verify.errors import Bad
from knhk_verify.note import Verifier, parse_vkey, unb64
from knhk_verify.signed import Key, verify_keys

EXAMPLES = """examples:
  openssl genpkey -algorithm ed25519 -out log.key && chmod 600 log.key
  python -m knhk_runtime.sequencer --dir ./log --socket ./run/sequencer.sock --origin knhk.dev/local --key log.key
  python -m knhk_runtime.sequencer … --listen 0.0.0.0:8445 --tls-cert tls.crt --tls-key tls.key --client-ca ca.crt
  python -m knhk_runtime.sequencer … --store s3://bucket/log   # tiles and checkpoint; keys and endpoint by AWS_… in the environment
  curl --unix-socket ./run/sequencer.sock http://localhost/checkpoint
  knhk log verify ./log

exit status: 0 stopped by a signal, everything covered by a checkpoint; 1 refused to start or stopped by a fault (the message says
what and where); 2 wrong arguments"""


def _or_none(text: str) -> Path | None:
    """A path; none of an empty text, as a manifest has it where there is none."""
    return Path(text) if text else None


def _arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m knhk_runtime.sequencer",
        description="The only writer of a log: acknowledges appends after fdatasync, keeps tiles and signed checkpoints.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--dir", type=Path, required=True, metavar="LOG_DIR", help="folder of the log; made when missing")
    parser.add_argument("--socket", type=Path, required=True, help="Unix socket to serve on, mode 0600")
    parser.add_argument("--origin", required=True, help="name of the log, first line of its checkpoints")
    parser.add_argument(
        "--key",
        type=Path,
        required=True,
        help="Ed25519 private key of role log, PEM (PKCS#8), mode 0600; or token.json, whose token holds it",
    )
    parser.add_argument("--read-port", type=int, metavar="N", help="also serve reading, without appends, on 127.0.0.1:N")
    parser.add_argument("--listen", metavar="HOST:PORT", help="also serve HTTPS there, for clients with a certificate")
    parser.add_argument("--tls-cert", type=Path, metavar="PEM", help="what HTTPS shows; may rotate")
    parser.add_argument("--tls-key", type=Path, metavar="PEM", help="its private key")
    parser.add_argument("--client-ca", type=Path, metavar="PEM", help="authorities that sign clients; may rotate")
    parser.add_argument(
        "--region",
        action="append",
        default=[],
        metavar="NAMES",
        help="regions that leaf.region counts, in order, by commas; a log that is there may get more at the end; default and if empty: "
        "those that it has, local of a new one",
    )
    parser.add_argument("--checkpoint-interval-s", type=float, default=CHECKPOINT_INTERVAL_S, metavar="S", help="default: %(default)s")
    parser.add_argument(
        "--max-uncovered-s",
        type=float,
        default=MAX_UNCOVERED_S,
        metavar="S",
        help="refuse leaves while an acknowledged entry has waited longer for a checkpoint; default: %(default)s",
    )
    parser.add_argument(
        "--witnesses", type=_or_none, metavar="POLICY", help="publish only with its quorum (c2sp.org/tlog-policy); empty: without"
    )
    parser.add_argument("--witness-ca", type=_or_none, metavar="PEM", help="authorities of witnesses' HTTPS beside the system's")
    parser.add_argument(
        "--max-unwitnessed-s",
        type=float,
        default=math.inf,
        metavar="S",
        help="refuse leaves while an entry has waited longer for a quorum; default: never",
    )
    parser.add_argument(
        "--store", metavar="ADDRESS", help="publish tiles and checkpoint there: s3://BUCKET/PREFIX or a folder (default and if empty: DIR)"
    )
    parser.add_argument(
        "--lease-s", type=float, default=TTL_S, metavar="S", help="how long --store is ours after each renewal; default: %(default)s"
    )
    return parser.parse_args(argv)


FORMER, KEYS_JSON = "log.former.key", "keys.json"
KEYS_EVERY_S = 5.0
READERS = Bounds(connections=256, of_one=256)  # at --read-port, whose clients all have one address; a process may often have 1024 files


def load_key(path: Path, origin: str) -> LogKey:
    """The checkpoint key in a PEM file that only its owner may read, or in the token that a token.json names; and the one before, which
    signs, too, until the keys.json beside says otherwise. All that this names are known. Raises Stalled, Waiting."""
    if path.suffix == ".json":
        return _keys_in_token(path, origin)
    key = load_private_key(path)
    older = tuple(Verifier(origin, held.public) for held in _named(path.parent) if held.name == origin)
    found = replace(_log_key(raw_public(key), key.sign, origin), older=older)
    if not (former := path.with_name(FORMER)).exists():
        return found
    old = load_private_key(former)
    return _succeeding(found, _log_key(raw_public(old), old.sign, origin), path.parent)


def _succeeding(key: LogKey, former: LogKey, folder: Path) -> LogKey:
    until = next((held.until for held in _named(folder) if held.public == former.verifier.public), None)
    return replace(key, former=replace(former, counts=lambda: until is not None and datetime.now(UTC) <= until))


def _named(folder: Path) -> tuple[Key, ...]:
    """Keys of role log in the keys.json of a folder, if there is one. Raises Stalled."""
    try:
        root = unb64((folder / "root.pub").read_text("ascii").strip(), "root.pub")
        return tuple(verify_keys(read_keys_json(folder / KEYS_JSON), root).roles.get("log", {}).values())
    except FileNotFoundError:
        return ()
    except (OSError, ValueError, Bad) as error:
        raise Stalled("Keys", f"{folder}: keys.json and root.pub must say which key signs: {error}") from error


def _keys_in_token(path: Path, origin: str) -> LogKey:
    """Of several the one signs that keys.json names as in use; the one that ended last is its former."""
    told = read_token_file(path)
    if "log" not in told.roles:
        raise Stalled("Token", f"{path} roles: the token does not hold role log: must be the file of its key, {path.with_name('log.key')}")
    token, label = told.open(), told.label("log")
    held, named = token.publics(label), _named(path.parent)
    ended = sorted((key.until, key.public) for key in named if key.until is not None and key.public in held)
    current = [key.public for key in named if key.until is None and key.public in held] or list(held)
    if len(current) != 1:
        raise Stalled("Token", f"{path}: the token holds {len(held)} keys of role log: must hold one that keys.json names as in use")

    def key(public: bytes) -> LogKey:
        def sign(data: bytes) -> bytes:
            try:
                return token.sign(label, public, data)
            except (Waiting, Stalled) as error:  # like storage that fails: nothing is published until it works again
                raise OSError(errno.EIO, str(error)) from error

        return _log_key(public, sign, origin)

    return _succeeding(key(current[0]), key(ended[-1][1]), path.parent) if ended else key(current[0])


def _log_key(public: bytes, sign: Callable[[bytes], bytes], origin: str) -> LogKey:
    try:
        return LogKey(parse_vkey(format_vkey(Verifier(origin, public))), sign)
    except Bad as error:
        raise Stalled("Origin", f"--origin {origin!r}: must be a name without spaces and plus signs") from error


def _listen(path: Path) -> socket.socket:
    """Listening Unix socket, mode 0600; one left by a killed sequencer is replaced (the log's lock is held)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.suppress(FileNotFoundError):
        if not stat.S_ISSOCK(path.lstat().st_mode):
            raise Stalled("Socket", f"{path}: is there and is not a socket: give another --socket")
        path.unlink()
    server = socket.socket(socket.AF_UNIX)
    before = os.umask(0o177)
    try:
        server.bind(str(path))
    except OSError as error:
        server.close()
        raise Stalled("Socket", f"{path}: {error.strerror or error}: --socket must be a writable path of at most 107 bytes") from error
    finally:
        os.umask(before)
    return server


async def _serve_tls(args: argparse.Namespace, surface: Surface, doors: Doors, runners: list[web.AppRunner]) -> Coroutine[None, None, None]:
    """Starts HTTPS; gives what follows its files. Raises Stalled."""
    host, _, port = args.listen.rpartition(":")
    if not host or not port.isdecimal() or int(port) > 65535 or None in (args.tls_cert, args.tls_key, args.client_ca):
        raise Stalled("Listen", "--listen: must be HOST:PORT, with --tls-cert, --tls-key and --client-ca beside it")
    files = TlsFiles(args.tls_cert, args.tls_key, args.client_ca)
    context = Renewed(files, doors.dismiss)
    runners.append(web.AppRunner(application(surface.writing() + surface.reading(), doors.watch, Guard().watch), access_log=None))
    await runners[-1].setup()
    try:
        await doors.open(runners[-1], host.strip("[]"), int(port), context)
    except OSError as error:
        raise Stalled("Port", f"--listen {args.listen}: {error.strerror}: choose an address of this machine and a free port") from error
    return context.follow()


def _holder(folder: Path) -> str:
    """Name of a log folder among all machines; made once."""
    path = folder / "holder"
    if not path.exists():
        put(Disk(), path, secrets.token_hex(8).encode())
        Disk().sync_dir(folder)
    return path.read_text()


def _leading(args: argparse.Namespace) -> tuple[StorePublication, Lease]:
    """Waits for the lease of --store. Raises Stalled."""
    store = open_store(args.store)
    last = max((term for term, _ in terms(Disk(), args.dir / "wal")), default=0)
    lease = Lease(store, _holder(args.dir), secrets.token_hex(8), time.monotonic, args.lease_s, last)
    told = False
    while True:
        try:
            wait_s, why = lease.take(), "another writer holds the lease"
        except Waiting as error:
            wait_s, why = error.retry_after_s, str(error)
        if not wait_s:
            return StorePublication(store, lease), lease
        if not told:
            tell(f"{store.name}: {why}; waits for it")
        told = True
        time.sleep(min(wait_s, args.lease_s / 3))


@contextlib.contextmanager
def _renewed(lease: Lease | None) -> Iterator[None]:
    """While a log is opened, which takes longer than a lease lasts when it is long. Whether it was lost is seen by the next renewal."""
    done = threading.Event()

    def renew(lease: Lease) -> None:
        while not done.wait(lease.ttl_s / 3):
            with contextlib.suppress(KnhkError):
                lease.renew()

    thread = threading.Thread(target=renew, args=(lease,), daemon=True)
    if lease is not None:
        thread.start()
    try:
        yield
    finally:
        done.set()
        if lease is not None:
            thread.join()


async def _bounded(answer: aiohttp.StreamReader) -> bytes:
    """A body that may come in pieces; of one that is too long so much that this is seen."""
    data = bytearray()
    async for piece in answer.iter_any():
        data += piece
        if len(data) > MAX_LINES_BYTES:
            break
    return bytes(data)


@contextlib.asynccontextmanager
async def witnesses_of(
    policy: Policy | None, log: Log, key: Verifier, ca: Path | None
) -> AsyncIterator[tuple[Witnesses | None, MirroringRegions | None]]:
    """Who cosigns, and whose regions mirror, over connections that are kept. Raises Stalled."""
    if policy is None:
        yield None, None
        return
    try:
        context = ssl.create_default_context()
        if ca is not None:
            context.load_verify_locations(ca)
    except OSError as error:
        raise Stalled("Tls", f"--witness-ca {ca}: must be a readable PEM file: {error}") from error
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=context)) as session:

        async def post(url: str, body: bytes) -> tuple[int, bytes]:
            try:
                async with session.post(url, data=body, allow_redirects=False) as answer:
                    return answer.status, await _bounded(answer.content)
            except (aiohttp.ClientError, ValueError) as error:
                raise OSError(f"{type(error).__name__}: {error}") from error

        async def get(url: str) -> tuple[int, bytes]:
            try:
                async with session.get(url, allow_redirects=False) as answer:
                    return answer.status, await _bounded(answer.content)
            except (aiohttp.ClientError, ValueError) as error:
                raise OSError(f"{type(error).__name__}: {error}") from error

        yield Witnesses(policy, key, post), MirroringRegions(policy, key, log.root, get)


def _policy(args: argparse.Namespace, key: LogKey) -> Policy | None:
    """Raises Stalled."""
    if args.witnesses is None:
        return None
    policy = read_policy(args.witnesses)
    if not set(key.verifiers()) & set(policy.logs):
        raise Stalled("Policy", f"{args.witnesses}: must have the line: log {format_vkey(key.verifier)}")
    if not policy.holds([witness for witness, url in policy.witnesses.items() if url]):
        raise Stalled("Policy", f"{args.witnesses}: witnesses with a URL must be enough for the quorum")
    return policy


async def _serve(
    args: argparse.Namespace,
    log: Log,
    public: StorePublication | None,
    lease: Lease | None,
    witnesses: Witnesses | None,
    regions: MirroringRegions | None,
) -> None:
    sequencer = Sequencer(log, args.checkpoint_interval_s, lease, args.max_uncovered_s, witnesses, args.max_unwitnessed_s, regions)
    surface = Surface(sequencer, args.key.with_name(KEYS_JSON))
    runners = [web.AppRunner(application(surface.writing() + surface.reading()), access_log=None)]
    readers, doors = Doors(READERS), Doors()
    stop, loop = asyncio.Event(), asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    await runners[0].setup()
    await web.SockSite(runners[0], _listen(args.socket)).start()
    if args.read_port is not None:
        runners.append(web.AppRunner(application(surface.reading(), readers.watch), access_log=None))
        await runners[1].setup()
        try:
            await readers.open_in_clear(runners[1], "127.0.0.1", args.read_port)
        except OSError as error:
            raise Stalled("Port", f"--read-port {args.read_port}: {error.strerror}: choose a free port") from error
    tasks = [asyncio.create_task(await _serve_tls(args, surface, doors, runners))] if args.listen else []
    tasks.append(asyncio.create_task(_follow_keys(args.key, args.origin, sequencer, public)))
    tell(f"{log.durable} entries, serving on {args.socket}{f' and {args.listen}' if args.listen else ''}")
    running, stopping = asyncio.create_task(sequencer.run()), asyncio.create_task(stop.wait())
    await asyncio.wait((running, stopping), return_when=asyncio.FIRST_COMPLETED)
    readers.close()
    doors.close()
    if not running.done():
        for runner in runners:
            await runner.cleanup()
    for task in (running, stopping, *tasks):
        task.cancel()
    try:
        with contextlib.suppress(asyncio.CancelledError):
            await running
        await sequencer.finish()
    except Deposed:
        await sequencer.abandon()
        raise
    finally:
        args.socket.unlink(missing_ok=True)


def _stamps(path: Path) -> tuple[int, ...]:
    files = (path, path.with_name(FORMER), path.with_name(KEYS_JSON), chapters_folder(path.parent))
    return tuple(file.stat().st_mtime_ns for file in files if file.exists())


async def _follow_keys(path: Path, origin: str, sequencer: Sequencer, public: StorePublication | None) -> None:
    """Signs with what lies there, until cancelled: keys turn (formats/signed.md). What cannot be taken now is told, and tried again."""
    seen, told = _stamps(path), ""
    while True:
        await asyncio.sleep(KEYS_EVERY_S)
        try:
            if (now := _stamps(path)) == seen:
                continue
            key = await asyncio.to_thread(load_key, path, origin)
            if public is not None and path.with_name(KEYS_JSON).exists():
                await asyncio.to_thread(public.beside, KEYS_JSON, read_keys_json(path.with_name(KEYS_JSON)))
            await sequencer.turn(key)
            seen, told = now, ""
        except (KnhkError, OSError, Bad) as error:
            if told != (told := str(error)):
                tell(f"keys: {told}; those from before sign")


async def _run(
    args: argparse.Namespace, log: Log, public: StorePublication | None, lease: Lease | None, policy: Policy | None, key: Verifier
) -> None:
    async with witnesses_of(policy, log, key, args.witness_ca) as (witnesses, regions):
        await _serve(args, log, public, lease, witnesses, regions)


def main(argv: list[str] | None = None) -> int:
    """Exit status as in `--help`."""
    args = _arguments(argv)
    try:
        regions = regions_of(",".join(filter(None, args.region)))
        key = load_key(args.key, args.origin)
        try:
            lock(args.dir)
        except BlockingIOError:
            raise Stalled("Locked", f"{args.dir}: another sequencer writes this log: stop it, or give another --dir") from None
        policy = _policy(args, key)
        public, lease = _leading(args) if args.store else (None, None)
        with _renewed(lease):
            log = Log(args.dir, key, Disk(), regions, public, witnessed=policy is not None)
        if public is not None and (named := args.key.with_name(KEYS_JSON)).exists():
            public.beside(KEYS_JSON, read_keys_json(named))
        if log.moved:
            tell(f"{log.moved} entries that an earlier writer acknowledged have other indexes: another machine wrote meanwhile")
        for where, count in log.cut:
            tell(f"{where}: cut {count} bytes of a write that was never acknowledged")
        asyncio.run(_run(args, log, public, lease, policy, key.verifier))
    except Corrupt as error:
        tell(f"refuses to start: {error}")
        return 1
    except KnhkError as error:
        tell(str(error))
        return 1
    except OSError as error:
        tell(f"{error.filename or args.dir}: {error.strerror or error}")
        return 1
    tell(f"stopped; {log.published} entries under the checkpoint")
    return 0


if __name__ == "__main__":
    sys.exit(main())
