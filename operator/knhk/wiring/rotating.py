"""Keys that turn by themselves: rotation.json in a home's folder of keys says how often (formats/signed.md).

A rotation's receipt is signed by the rollout key from before and kept in a file before keys.json is signed, which is the moment that
counts. After a crash the file says what is left to be done: the receipt goes into the log if keys.json names the new key, else nothing
has happened. Appending the same bytes again gives the same index. So it is of a trusted root that is pinned. There is one such file for
both: who writes it has the folder's lock, and first settles what lies there of another, who waits for the lock to do so.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from knhk.adapters import signer_roles
from knhk.adapters.rotation_receipts import FILE as RECEIPTS_FILE
from knhk.adapters.rotation_receipts import PINNED, SIGSTORE, keep, receipts_in
from knhk.adapters.signer_roles import RoleSigner, Rotation
from knhk.lockchain import PolicyEvent, statement
from knhk.model.faults import KnhkError, Stalled
from knhk.ports.log import Log
from knhk.wiring.signing import keys_in, signer_in
from knhk_runtime.durable import replace_file
from knhk_verify.errors import Bad, demand
from knhk_verify.note import Verifier, open_note, parse_vkey
from knhk_verify.signed import ROLES, TIME, member, parse_json

POLICY_FILE, PENDING_FILE = "rotation.json", "rotation.pending"
LOOK_EVERY_S, RETRY_S = 60.0, 5.0
MAX_HOURS = 24
_log = logging.getLogger("knhk.keys")


@dataclass(frozen=True)
class Policy:
    """A key signs for `every`, and counts for `overlap` more."""

    every: timedelta
    overlap: timedelta


def read_policy(folder: Path) -> Policy | None:
    """None where there is no rotation.json. Raises Stalled."""
    path = folder / POLICY_FILE
    if not path.exists():
        return None
    where = str(path)
    try:
        said = parse_json(path.read_bytes(), where)
        every, overlap = (member(said, name, int, where) for name in ("everyHours", "overlapHours"))
        demand(said.keys() == {"everyHours", "overlapHours"}, where, "must have everyHours and overlapHours only")
        demand(1 <= every <= MAX_HOURS, f"{where} everyHours", f"{every}: must be 1 to {MAX_HOURS}")
        demand(1 <= overlap <= MAX_HOURS, f"{where} overlapHours", f"{overlap}: must be 1 to {MAX_HOURS}")
    except OSError as error:
        raise Stalled("Rotation", f"{where}: {error.strerror}") from error
    except Bad as error:
        raise Stalled("Rotation", str(error)) from error
    return Policy(timedelta(hours=every), timedelta(hours=overlap))


def due(folder: Path, policy: Policy, now: datetime) -> tuple[str, ...]:
    """Roles whose key has signed for long enough, log's last, for it is started anew then; of one that keys.json gives no beginning, that
    is so. Raises Corrupt."""
    named, since = signer_roles.keys_of(folder), signer_roles.since_of(folder)
    if named is None:
        return ()
    latest = f"{now - policy.every:{TIME}}"
    roles = sorted(ROLES, key="log".__eq__)
    signing = ((role, id_) for role in roles for id_, key in named.roles.get(role, {}).items() if key.until is None)
    return tuple(role for role, id_ in signing if since.get(id_, "") <= latest)


def rotated(folder: Path, role: str, now: datetime, overlap: timedelta, actor: str, log: Log) -> tuple[Rotation, int]:
    """A new key for `role`, and the index of its receipt. Nothing changes while the log does not answer, or, of its own key, while it
    signs with the one before; and what was left by a crash is done first. Raises Stalled, Waiting, Corrupt."""
    _demand_turnable(folder, role, log)
    finish(folder, log)
    bundles = list[bytes]()

    def pend(made: Rotation) -> None:
        _settle(folder, log)
        _demand_turnable(folder, role, log)
        bundles.append(receipt_of(folder, role, made, now, overlap, actor))
        told = {"role": role, "new": made.new, "bundle": bundles[0].decode()}
        replace_file(folder / PENDING_FILE, json.dumps(told).encode(), 0o600)

    made = signer_roles.rotate(folder, keys_in(folder), role, signer_in(folder).log_origin(), now, overlap, pend=pend)
    return made, _told(folder, log, bundles[0])


def _demand_turnable(folder: Path, role: str, log: Log) -> None:
    """The log answers and, where its own key is to turn, signs with the one of now. Raises Stalled, Waiting."""
    note = log.checkpoint()
    if role == "log" and not _is_by(note, signer_in(folder)):
        must = "a home that runs starts it again within a minute, knhk down and knhk up do at once"
        raise Stalled("LogKey", f"the log signs with the key from before, and would not know its own checkpoints: {must}")


def rotated_apart(folder: Path, role: str, now: datetime, overlap: timedelta, actor: str) -> Rotation:
    """A new key for `role` where no log is at hand: its receipt waits in the folder, for whoever has both. Raises Stalled, Corrupt."""
    signer = signer_in(folder)

    def pend(made: Rotation) -> None:
        keep(folder, receipt_of(folder, role, made, now, overlap, actor))

    return signer_roles.rotate(folder, keys_in(folder), role, signer.log_origin(), now, overlap, pend=pend)


def pinned(folder: Path, trusted_root: bytes, now: datetime, actor: str, log: Log) -> int | None:
    """Pins a sigstore's trusted root, which the caller has looked at; the index of its receipt, None where that one was pinned before.
    Nothing changes while the log does not answer, and what was left by a crash is done first. Raises Stalled, Waiting, Corrupt."""
    log.checkpoint()
    finish(folder, log)
    bundles = list[bytes]()

    def pend(old: str | None, new: str) -> None:
        _settle(folder, log)
        bundles.append(pin_of(folder, old, new, now, actor))
        replace_file(folder / PENDING_FILE, json.dumps({"trustedRoot": new, "bundle": bundles[0].decode()}).encode(), 0o600)

    signer_roles.trust(folder, keys_in(folder), trusted_root, signer_in(folder).log_origin(), now, pend=pend)
    if not bundles:
        finish(folder, log)
        return None
    return _told(folder, log, bundles[0])


def pinned_apart(folder: Path, trusted_root: bytes, now: datetime, actor: str) -> bool:
    """The same where no log is at hand: the receipt waits in the folder, for whoever has both. Whether there is one. Raises Stalled,
    Corrupt."""
    kept = list[str]()

    def pend(old: str | None, new: str) -> None:
        keep(folder, pin_of(folder, old, new, now, actor))
        kept.append(new)

    signer_roles.trust(folder, keys_in(folder), trusted_root, signer_in(folder).log_origin(), now, pend=pend)
    return bool(kept)


def pin_of(folder: Path, old: str | None, new: str, now: datetime, actor: str) -> bytes:
    """TrustedRootPinned, by the rollout key."""
    named = signer_roles.keys_of(folder)
    evidence = {**({"old": old} if old else {}), "serial": 1 + (named.serial if named else 0)}
    event = PolicyEvent(PINNED, (SIGSTORE, new), actor, f"{now:{TIME}}", evidence=evidence)
    return signer_in(folder).bundle("rollout", statement(event))


def receipt_of(folder: Path, role: str, made: Rotation, now: datetime, overlap: timedelta, actor: str) -> bytes:
    """KeyRotated, by the rollout key from before."""
    named = signer_roles.keys_of(folder)
    evidence = {"role": role, "old": made.old, "until": f"{now + overlap:{TIME}}", "serial": 1 + (named.serial if named else 0)}
    return made.by_old(statement(PolicyEvent("KeyRotated", (f"keys/{role}", made.new), actor, f"{now:{TIME}}", evidence=evidence)))


def demand_used(folder: Path, checkpoint: Path | None) -> None:
    """Of a log whose key turned before, and which is not asked: a checkpoint of it by its key of now, in a file. It knows the last two
    keys; turned again before it signed with the newer, it would know the key of none of its checkpoints. Raises Stalled, Bad, OSError."""
    named, how = signer_roles.keys_of(folder), "kubectl get policyreceipt -n NAMESPACE NAME -o jsonpath={.spec.checkpoint}"
    if named is None or all(key.until is None for key in named.roles.get("log", {}).values()):
        return
    if checkpoint is None:
        raise Stalled("LogKey", f"the log's key turned before: --checkpoint must be a file with a checkpoint by its key of now: {how}")
    if not _is_by(checkpoint.read_text("utf-8", "replace"), signer_in(folder)):
        must = "must be by its key of now: apply the new Secrets, start the log anew, and take a newer one"
        raise Stalled("LogKey", f"{checkpoint}: is not signed by the key that keys.json says the log signs with: {must}")


def _is_by(note: str, signer: RoleSigner) -> bool:
    """Whether a checkpoint is signed by the log's key of now. Raises Bad for an altered one."""
    verifier = parse_vkey(signer.vkey(signer.log_origin()))
    return verifier in open_note(note, [verifier])[1]


def finish(folder: Path, log: Log) -> int | None:
    """The receipt of a rotation, or of a trusted root, that keys.json has and the log may not: its index. None when there is none. One that
    is under way in another process is waited for. Raises Waiting."""
    with signer_roles.alone(folder):
        settled = _settle(folder, log)
    return None if settled is None else settled[1]


def _settle(folder: Path, log: Log) -> tuple[bytes, int] | None:
    """The same for who has the folder's lock, with the receipt."""
    path = folder / PENDING_FILE
    if not path.exists():
        return None
    told: dict[str, Any] = json.loads(path.read_bytes())
    bundle: bytes = told["bundle"].encode()
    settled = (bundle, log.append_event(bundle)) if _happened(folder, told) else None
    path.unlink()
    return settled


def _told(folder: Path, log: Log, bundle: bytes) -> int:
    """Index of a receipt that was pending, whoever brought it to the log. The log is asked once: it may be started anew by then."""
    with signer_roles.alone(folder):
        settled = _settle(folder, log)
    return settled[1] if settled is not None and settled[0] == bundle else log.append_event(bundle)


def _happened(folder: Path, told: Mapping[str, Any]) -> bool:
    if "trustedRoot" in told:
        return bool(signer_roles.outside_of(folder).trusted_root == told["trustedRoot"])
    named = signer_roles.keys_of(folder)
    return named is not None and told["new"] in named.roles.get(told["role"], {})


def _is_as_named(note: str, folder: Path) -> bool:
    """Whether a checkpoint is signed by the key that keys.json has the log sign with: then nobody who holds that needs to be asked, a token
    that is slow or away least of all, for this is looked at where rollbacks are done. Raises Corrupt, and Bad for an altered one."""
    named = signer_roles.keys_of(folder)
    using = [Verifier(key.name, key.public) for key in named.roles.get("log", {}).values() if key.until is None] if named else []
    return bool(set(using) & set(open_note(note, using)[1]))


@dataclass
class Rotating:
    """Turns the keys of a home that runs. `published`: gives keys.json to those that verify; `log_turned`: has the log sign with its new
    key, whoever turned it. What fails is said and tried at the next look."""

    folder: Path
    log: Log
    actor: str
    published: Callable[[], object]
    log_turned: Callable[[], None]
    _next_s: float = 0.0

    def turn(self, now_s: float) -> None:
        """Looks now and then."""
        if now_s < self._next_s:
            return
        self._next_s = now_s + LOOK_EVERY_S
        try:
            self._look(datetime.now(UTC))
        except (KnhkError, OSError, ValueError) as error:
            _log.warning("keys do not turn: %s", error)
            self._next_s = now_s + RETRY_S

    def _look(self, now: datetime) -> None:
        if finish(self.folder, self.log) is not None:
            self.published()
        note = self.log.checkpoint()
        if not _is_as_named(note, self.folder) and not _is_by(note, signer_in(self.folder)):
            self.log_turned()  # by somebody else, or just before a crash
        if (policy := read_policy(self.folder)) is None:
            return
        for role in due(self.folder, policy, now):
            made, index = rotated(self.folder, role, now, policy.overlap, self.actor, self.log)
            _log.info("the key of role %s is new: %s, receipt %d", role, made.new[:16], index)
            self.published()
            if role == "log":
                self.log_turned()


@dataclass
class Telling:
    """Brings receipts of what the root signed elsewhere from a folder of keys into the log: each once, and all again after a start,
    for the same bytes have the same index."""

    folder: Path
    log: Log
    _told: frozenset[bytes] = frozenset()
    _done: tuple[bytes, ...] = ()
    _next_s: float = 0.0

    def turn(self, now_s: float) -> None:
        """Looks now and then."""
        if now_s < self._next_s:
            return
        self._next_s = now_s + RETRY_S
        try:
            files = (self.folder / name for name in (RECEIPTS_FILE, "keys.json"))
            if (seen := tuple(path.read_bytes() for path in files if path.exists())) == self._done:
                return
            for bundle in receipts_in(self.folder):
                if bundle not in self._told:
                    _log.info("a receipt of what the root signed is entry %d", self.log.append_event(bundle))
                    self._told |= {bundle}
            self._done = seen
        except (KnhkError, OSError, ValueError) as error:
            _log.warning("receipts of what the root signed wait: %s", error)
            self._next_s = now_s + LOOK_EVERY_S
