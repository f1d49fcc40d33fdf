"""Follows DIR/desired: verify, fetch, install, load, then tell Envoy. Whatever fails is told and leaves what runs as it is."""

from __future__ import annotations

import hashlib
import json
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from knhk.model.canonical import canonical, sha256_hex
from knhk.model.consents import BASE
from knhk.model.consents import DOCUMENT as CONSENTS
from knhk.model.faults import Corrupt, Fault, Refused
from knhk_runtime.durable import replace_file
from knhk_runtime.exchange.consents import Consents
from knhk_runtime.exchange.documents import Accepted, Beside, PackRef, Rollout, read_keys, read_rollout
from knhk_runtime.exchange.install import BOOTSTRAP, Installed, Private, discovery_text, discovery_version, fetch, shim_config
from knhk_runtime.exchange.loaded import LoadedPacks
from knhk_runtime.log import log
from knhk_runtime.packstore import PackStore
from knhk_runtime.point import PointConfig, parse_point
from knhk_runtime.subjects import restored_privacy
from knhk_runtime.tiers.digest import evaluator_digest
from knhk_runtime.tiers.errors import ShapeError, Undecided
from knhk_verify.signed import MAX_KEYS_BYTES, Keys

FILES = ("keys.json", "point.json", "rollout.json")
MAX_FILE_BYTES = 1 << 20
MAX_REFUSALS = 32
SETTLE_S = 0.3
Preload = Callable[
    [bytes, bytes, Sequence[str]], tuple[str, ...]
]  # packs of stable and candidate, predicates of the bundle → parts in order
RETRY_S = 2.0


@dataclass(frozen=True)
class Folders:
    """DIR of the agent (formats/agent.md, Folders)."""

    root: Path

    @property
    def desired(self) -> Path:
        return self.root / "desired"

    @property
    def private(self) -> Path:
        return self.root / "private"

    @property
    def state(self) -> Path:
        return self.root / "state"

    @property
    def socket(self) -> Path:
        return self.root / "run" / "agent.sock"

    @property
    def stats(self) -> Path:
        return self.root / "stats.json"


@dataclass(frozen=True)
class Running:
    """What Envoy was told last. `since`: position in the outbox at which this pair began, (segment, offset). `in_wave`: whether this
    instance is in the wave of the document; None where there is none."""

    point: PointConfig
    epoch: int
    stable: str | None
    candidate: str | None
    data: str | None
    since: tuple[int, int]
    in_wave: bool | None = None

    @property
    def pair(self) -> tuple[str | None, str | None]:
        return self.stable, self.candidate


@dataclass
class Tried:
    """Files as they were seen, how often they were tried, and when again (monotonic)."""

    seen: tuple[object, ...]
    attempts: int = 0
    next_s: float = 0.0


class Exchange:
    """One thread calls `look`; the properties may be read from any thread."""

    def __init__(
        self,
        folders: Folders,
        root_public: bytes,
        store: PackStore,
        loaded: LoadedPacks,
        arch: str,
        ring_dir: Path,
        module_path: Path,
        outbox_end: Callable[[], tuple[int, int]],
        preload: Preload,
        instance: str = "",
        *,
        seals: bool = False,
    ) -> None:
        """Takes up the state of the run before. `instance`: who this is among the point's instances; empty: of no wave. `seals`: whether
        this agent has a key store. Raises Corrupt when it was altered."""
        self._folders = folders
        self._root_public = root_public
        self._store = store
        self._loaded = loaded
        self._arch = arch
        self._ring_dir = ring_dir
        self._module_path = module_path
        self._outbox_end = outbox_end
        self._preload = preload
        self._instance = instance
        self._seals = seals
        self._private = Private(folders.private)
        folders.state.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._consents = Consents(folders.desired, folders.private, folders.state)
        self._tried = Tried(())
        self._consents_refused: tuple[Fault, ...] = ()
        self._refused: OrderedDict[Fault, None] = OrderedDict()
        self._seen: tuple[object, ...] = ()
        self._attempts = 0
        self._next_s = 0.0
        self._in_use: list[set[str]] = []
        self.accepted = load_accepted(folders)
        self.running: Running | None = None
        self._restore()

    @property
    def refused(self) -> list[dict[str, str]]:
        """`refused` of stats.json since a document was last applied, the oldest first."""
        return [
            {"what": fault.value, "where": fault.where, "must": fault.must} for fault in (*list(self._refused), *self._consents_refused)
        ]

    def look(self, now_s: float) -> bool:
        """Applies what is new; True when something was applied. `now_s`: monotonic seconds."""
        if self._look_at_consents(now_s):
            self._seen = ()
        *needed, bootstrap = (_stamp(self._folders.desired / name) for name in (*FILES, BOOTSTRAP))
        seen = (*needed, bootstrap)
        if seen != self._seen:
            self._seen, self._attempts, self._next_s = seen, 0, now_s
        elif self._next_s == float("inf") and (altered := self._private.altered()):
            for path in altered:
                self._refuse(Corrupt(str(path), "must be as it was verified: it was altered, and is written anew"))
            self._attempts, self._next_s = 0, now_s
        if now_s < self._next_s or None in needed:
            return False
        self._attempts += 1
        try:
            self._apply()
        except Exception as error:  # whatever it is, what runs goes on and the statistics tell it
            self._next_s = now_s + (SETTLE_S if self._attempts == 1 else RETRY_S)
            if self._attempts > 1:  # files are replaced one by one: a first mismatch may be that
                self._refuse(error)
            return False
        self._refused.clear()
        self._next_s = float("inf")
        return True

    def _look_at_consents(self, now_s: float) -> bool:
        """Takes what is new of them; true when the shim must be told of another table. A withdrawal waits for no rollout document."""
        seen = tuple(_stamp(self._folders.desired / name) for name in (CONSENTS, BASE, *FILES[:2]))
        if seen != self._tried.seen:
            self._tried = Tried(seen, next_s=now_s)
        tried = self._tried
        if now_s < tried.next_s or None in (seen[0], *seen[2:]):
            return False
        tried.attempts += 1
        try:
            another = self._apply_consents()
        except Exception as error:  # as in `look`
            tried.next_s = now_s + (SETTLE_S if tried.attempts == 1 else RETRY_S)
            if tried.attempts > 1:
                self._consents_refused = _faults(error)
            return False
        tried.next_s, self._consents_refused = float("inf"), ()
        return another

    def _apply_consents(self) -> bool:
        data, keys_data, point_data = (_read(self._folders.desired / name) for name in (CONSENTS, *FILES[:2]))
        now, where = datetime.now(UTC), self._folders.desired
        keys = read_keys(keys_data, self._root_public, now, self.accepted, str(where / "keys.json"))
        point = parse_point(point_data, str(where / "point.json"))
        return bool(point.consent_purposes) and self._consents.apply(data, keys, now, point)

    def _refuse(self, error: Exception) -> None:
        for fault in _faults(error):
            if fault not in self._refused:
                log("refused", what=fault.value, where=fault.where, must=fault.must)
                self._refused[fault] = None
        while len(self._refused) > MAX_REFUSALS:
            self._refused.popitem(last=False)

    def _apply(self) -> None:
        keys_data, point_data, rollout_data = (_read(self._folders.desired / name) for name in FILES)
        now = datetime.now(UTC)
        where = self._folders.desired
        keys = read_keys(keys_data, self._root_public, now, self.accepted, str(where / "keys.json"))
        point = parse_point(point_data, str(where / "point.json"))
        must_seal(point, self._seals, str(where / "point.json"))
        beside = Beside(point, read_bootstrap(self._folders))
        rollout = read_rollout(rollout_data, keys, now, beside, self.accepted, str(where / "rollout.json"))
        self._accept(replace(self.accepted, serial=keys.serial, epoch=rollout.epoch, digest=rollout.digest, origin=rollout.origin))
        self._install(rollout, point, keys)

    def _accept(self, accepted: Accepted) -> None:
        """Remembered before anything is done: from here on nothing older is taken, after a crash neither."""
        if accepted != self.accepted:
            replace_file(self._folders.state / "accepted.json", canonical(asdict(accepted)))
            self.accepted = accepted

    def _install(self, signed: Rollout, point: PointConfig, keys: Keys) -> None:
        rollout, in_wave = signed.seen_by(self._instance)
        fetched = fetch(rollout, self._store, self._arch, keys)
        bundle = self._private.put_bundle(fetched.bundle) if fetched.bundle is not None else None
        arms = [self._private.put_pack(*arm) if arm else None for arm in (fetched.stable, fetched.candidate)]
        bytes_of_bundle = (bytes.fromhex(bundle[1]), fetched.bundle) if bundle and fetched.bundle is not None else None
        for arm in arms:
            if arm:
                self._load(arm, bytes_of_bundle)
        running = replace(self._next_running(rollout, point), in_wave=in_wave)
        self._keep(running, arms, bundle)
        consent = self._consents.config(point)
        config = shim_config(rollout, point, arms[0], arms[1], bundle, self._ring_dir, evaluator_digest(), self._order(arms), consent)
        self._private.put_bootstrap(rollout.bootstrap)
        version = discovery_version(config)
        self._private.put_discovery([discovery_text(version, self._module_path, config, blanks) for blanks in range(2)])
        self.running = running
        self._clean(arms, bundle)
        self._private.seal(self._in_use[-1])
        log("applied", epoch=rollout.epoch, mode=rollout.mode, weight=rollout.weight, stable=running.stable, candidate=running.candidate)

    def _order(self, arms: Sequence[Installed | None]) -> tuple[str, ...]:
        """What the shim is to read into memory first."""
        stable, candidate = (bytes.fromhex(arm.ref.digest.removeprefix("sha256:"))[:20] if arm else b"" for arm in arms)
        return self._preload(stable, candidate, arms[0].plan["bundle"]["predicates"] if arms[0] else ())

    def _load(self, arm: Installed, bundle: tuple[bytes, bytes] | None) -> None:
        label = f"{arm.ref.namespace}/{arm.ref.name}@{arm.ref.version}"
        self._loaded.load(arm.ref.digest, label, (arm.so, arm.so_sha256), (arm.plan_digest, arm.plan), bundle)

    def _next_running(self, rollout: Rollout, point: PointConfig) -> Running:
        stable, candidate = (ref.digest if ref else None for ref in (rollout.stable, rollout.candidate))
        before = self.running
        since = before.since if before and before.pair == (stable, candidate) else self._outbox_end()
        return Running(point, rollout.epoch, stable, candidate, rollout.data, since)

    def _clean(self, arms: list[Installed | None], bundle: tuple[Path, str] | None) -> None:
        """Files of this document and of the two before stay."""
        self._in_use.append({arm.so.name for arm in arms if arm} | ({bundle[0].name} if bundle else set()))
        self._in_use = self._in_use[-3:]
        if len(self._in_use) == 3:
            self._private.keep_only(set().union(*self._in_use))

    def _keep(self, running: Running, arms: list[Installed | None], bundle: tuple[Path, str] | None) -> None:
        """What a restarted agent needs when registry or keys are out of reach."""
        packs = [{**asdict(arm.ref), "so": arm.so_sha256, "plan": arm.plan, "planDigest": arm.plan_digest} for arm in arms if arm]
        document = {"running": asdict(running), "packs": packs, "bundle": bundle[1] if bundle else None}
        replace_file(self._folders.state / "running.json", json.dumps(document).encode())

    def _restore(self) -> None:
        path = self._folders.state / "running.json"
        try:
            document = json.loads(path.read_bytes())
            told = document["running"]
            pairs = {name: tuple(map(tuple, told["point"].get(name, ()))) for name in ("attributes", "consent_purposes")}
            privacy = restored_privacy(told["point"].get("privacy"))
            point = PointConfig(**{**told["point"], **pairs, "privacy": privacy})
            running = Running(**{**told, "point": point, "since": tuple(told["since"])})
        except FileNotFoundError:
            return
        except (ValueError, TypeError, KeyError) as error:
            raise Corrupt(str(path), f"must be as the agent wrote it: {error}") from error
        self.running = running
        try:
            self._restore_packs(document)
        except (Corrupt, ShapeError, Undecided, OSError) as error:  # Envoy goes on; the cold tier waits for the documents
            self._refuse(error)

    def _restore_packs(self, document: Mapping[str, Any]) -> None:
        digest = document["bundle"]
        bundle = (bytes.fromhex(digest), _checked(self._folders.private / f"{digest}.bnd", digest)) if digest else None
        for pack in document["packs"]:
            path = self._folders.private / f"{pack['so']}.so"
            _checked(path, pack["so"])
            if sha256_hex(canonical(pack["plan"])) != pack["planDigest"]:
                where = f"{self._folders.state / 'running.json'}: plan of {pack['name']}"
                raise Corrupt(where, f"SHA-256 must be {pack['planDigest']}")
            ref = PackRef(pack["namespace"], pack["name"], pack["version"], pack["digest"], pack.get("durability", "ring"))
            self._load(Installed(ref, path, pack["so"], pack["plan"], pack["planDigest"]), bundle)


def must_seal(point: PointConfig, seals: bool, where: str) -> None:
    """Raises Refused for a point whose records must be sealed, where there is no key store."""
    if point.privacy is not None and not seals:
        raise Refused(
            [
                Fault(
                    f"{where}: privacy",
                    "given",
                    "must not be there: this agent has no key store (--subject-keys and --store-key, or --keys)",
                )
            ]
        )


def load_accepted(folders: Folders) -> Accepted:
    """What was accepted last. Raises Corrupt."""
    path = folders.state / "accepted.json"
    try:
        return Accepted(**json.loads(path.read_bytes()))
    except FileNotFoundError:
        return Accepted()
    except (ValueError, TypeError) as error:
        raise Corrupt(str(path), f"must be as the agent wrote it: {error}") from error


def read_bootstrap(folders: Folders) -> bytes | None:
    """What is desired of Envoy; None where there is nothing. Raises Refused when it is too long."""
    try:
        return _read(folders.desired / BOOTSTRAP)
    except FileNotFoundError:
        return None


def _checked(path: Path, digest: str) -> bytes:
    data = path.read_bytes()
    if hashlib.sha256(data).hexdigest() != digest:
        raise Corrupt(str(path), f"SHA-256 must be {digest}")
    return data


def most_bytes(name: str) -> int:
    """That a file of `desired` may have; keys.json has chapters."""
    return MAX_KEYS_BYTES if name == FILES[0] else MAX_FILE_BYTES


def _stamp(path: Path) -> tuple[int, int, int] | None:
    try:
        status = path.stat()
    except FileNotFoundError:
        return None
    return status.st_ino, status.st_mtime_ns, status.st_size


def _read(path: Path) -> bytes:
    with path.open("rb") as file:
        limit = most_bytes(path.name)
        data = file.read(limit + 1)
    if len(data) > limit:
        raise Refused([Fault(str(path), "too long", f"must have at most {limit} bytes")])
    return data


def _faults(error: Exception) -> tuple[Fault, ...]:
    if isinstance(error, Refused):
        return error.faults
    if isinstance(error, (Corrupt, ShapeError)):
        return (Fault(error.where, error.what, "must be whole and as it was made"),)
    return (Fault("agent", f"{type(error).__name__}: {error}", "must be readable and writable"),)
