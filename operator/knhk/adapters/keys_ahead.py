"""Keys made ahead: ahead.json.xz in a folder of keys (formats/ahead.md).

The root signs, in one sitting, the keys.json of each turn to come, over keys that are made with it. Each role's private keys are sealed
with a password that only its own process gets, so whoever brings the turns into force can sign nothing.
"""

from __future__ import annotations

import json
import lzma
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from knhk.adapters import signer_roles
from knhk.adapters.rotation_receipts import FILE as RECEIPTS_FILE
from knhk.adapters.rotation_receipts import receipts_in
from knhk.adapters.signer_local import FileKeys, LocalSigner
from knhk.adapters.signer_roles import OUTSIDE, SIGNERS, Rotation
from knhk.lockchain import chapters
from knhk.model.canonical import canonical
from knhk.model.faults import Corrupt, Fault, Refused, Stalled
from knhk_runtime.durable import replace_file
from knhk_runtime.keyfile import read_private
from knhk_verify.errors import Bad, demand
from knhk_verify.signed import ROLES, TIME, Keys, member, parse_json, parse_time, verify_keys

FILE, STATE_FILE = "ahead.json.xz", "turn.json"
KEPT = timedelta(days=8)  # turns that came are kept so long: their receipts may not be in the log yet
VALID_DAYS = 14  # of each keys.json from its turn on
MARGIN = timedelta(minutes=30)  # a turn takes a look to be seen, and some minutes to be known everywhere
MAX_BYTES = 1 << 26
OPENERS = {"build": ("build", "data"), "rollout": ("rollout",), "log": ("log",)}  # process → roles; its password is unlock.PROCESS.key


@dataclass(frozen=True)
class Step:
    """A turn: when, keys.json from then on, the sealed files of keys that sign a little later, and receipts, bundles KeyRotated."""

    at: datetime
    keys_json: bytes
    files: Mapping[str, bytes]
    receipts: tuple[bytes, ...]


@dataclass(frozen=True)
class Supply:
    """Turns in order; the first is what was in force when the rest was made."""

    steps: tuple[Step, ...]

    @property
    def ends(self) -> datetime:
        """When the last of them comes; from then on nothing turns."""
        return self.steps[-1].at

    def due(self, now: datetime) -> Step:
        """What is to be in force."""
        return next((step for step in reversed(self.steps) if step.at <= now), self.steps[0])

    def since(self, time: datetime) -> tuple[Step, ...]:
        """Turns from what was to be in force then."""
        return self.steps[self.steps.index(self.due(time)) :]

    def receipts(self, step: Step) -> tuple[bytes, ...]:
        """Of all turns up to this one."""
        return tuple(receipt for each in self.steps if each.at <= step.at for receipt in each.receipts)


@dataclass(frozen=True)
class State:
    """turn.json beside keys that are in force: since when keys.json names them, whose turn it is, and when the last turn comes."""

    named: datetime
    at: datetime
    ends: datetime

    def written(self) -> bytes:
        """As `state_in` takes it."""
        return canonical({name: f"{time:{TIME}}" for name, time in (("named", self.named), ("at", self.at), ("ends", self.ends))})


def state_in(data: bytes, where: str = STATE_FILE) -> State:
    """Raises Corrupt."""
    try:
        said = parse_json(data, where)
        return State(*(parse_time(member(said, name, str, where), f"{where} {name}") for name in ("named", "at", "ends")))
    except Bad as error:
        raise Corrupt(error.where, error.what) from error


def in_force(step: Step, supply: Supply, named: datetime) -> dict[str, bytes]:
    """Files of a turn, as processes find them beside what opens their keys."""
    receipts = canonical([json.loads(bundle) for bundle in supply.receipts(step)])
    state = State(named, step.at, supply.ends).written()
    return {"keys.json": step.keys_json, RECEIPTS_FILE: receipts, STATE_FILE: state, **step.files}


def opener(process: str) -> str:
    """File of the password of a process."""
    return f"unlock.{process}.key"


def key_files(process: str) -> tuple[str, ...]:
    """Files of private keys that a process may have."""
    found = [f"{role}{end}.key" for role in OPENERS[process] for end in ("", OUTSIDE) if end == "" or role in SIGNERS]
    return (*found, "log.former.key") if process == "log" else tuple(found)


def read(data: bytes, where: str) -> Supply:
    """Raises Corrupt."""
    try:
        unpacking = lzma.LZMADecompressor(memlimit=MAX_BYTES * 2)
        text = unpacking.decompress(data, MAX_BYTES)
        demand(unpacking.eof, where, f"is cut off, or more than {MAX_BYTES} bytes")
        document = {"chapters": []} | member({"turns": json.loads(text)}, "turns", dict, where)
        former = member(document, "chapters", list, where)
        steps = tuple(_step(row, former, where) for row in member(document, "steps", list, where))
    except (lzma.LZMAError, ValueError, Bad) as error:
        raise Corrupt(where, f"must be turns made ahead: {error}") from error
    if not steps or any(a.at >= b.at for a, b in pairwise(steps)):
        raise Corrupt(where, "must have turns, in order of time")
    return Supply(steps)


def _step(row: Any, former: list[str], where: str) -> Step:
    files = member(row, "keys", dict, where)
    receipts = tuple(canonical(bundle) for bundle in member(row, "receipts", list, where))
    at = parse_time(member(row, "at", str, where), f"{where} at")
    keys_json = chapters.together(member(row, "keysJson", str, where).encode(), former, where)
    return Step(at, keys_json, {name: str(pem).encode() for name, pem in files.items()}, receipts)


def written(supply: Supply) -> bytes:
    """As `read` takes it. Chapters are there once."""
    parted = [chapters.apart(step.keys_json) for step in supply.steps]
    former = dict.fromkeys(text for _, held in parted for text in held)
    rows = [
        {
            "at": f"{step.at:{TIME}}",
            "keysJson": bare.decode(),
            "keys": {name: pem.decode() for name, pem in step.files.items()},
            "receipts": [json.loads(bundle) for bundle in step.receipts],
        }
        for step, (bare, _) in zip(supply.steps, parted, strict=True)
    ]
    return lzma.compress(canonical({"version": 1, "steps": rows} | ({"chapters": list(former)} if former else {})))


def fitted(supply: Supply, limit: int) -> Supply:
    """With the newest chapters of each keys.json for which `limit` bytes have room."""
    return Supply(tuple(replace(step, keys_json=chapters.newest(step.keys_json, limit)) for step in supply.steps))


def held(folder: Path) -> Supply | None:
    """Of a folder of keys, if any was made. Raises Corrupt."""
    path = folder / FILE
    return read(path.read_bytes(), str(path)) if path.exists() else None


def demand_no_turns(folder: Path, instead: str) -> None:
    """Of a folder whose turns were made ahead: what else the root signed there would be older than what is to come. Raises Refused."""
    if (path := folder / FILE).exists():
        raise Refused([Fault(str(path), "is there", f"must be no folder whose keys turn by themselves: {instead}")])


def keys_in(step: Step, root_public: bytes, where: str = "keys.json") -> Keys:
    """Raises Corrupt."""
    try:
        return verify_keys(step.keys_json, root_public, where=where)
    except Bad as error:
        raise Corrupt(error.where, error.what) from error


@dataclass(frozen=True)
class Making:
    """Makes turns in a folder of keys with its root.key. `every`: how long a key signs at most; `overlap`: how long it counts after its
    turn; `receipt`: (folder, role, rotation, at) → bundle."""

    folder: Path
    origin: str
    every: timedelta
    overlap: timedelta
    receipt: Callable[[Path, str, Rotation, datetime], bytes]

    def make(self, now: datetime, until: datetime, at_once: bool = False) -> Supply:
        """Turns to come until `until`, after those that there are; one write at the end keeps all of it. `at_once`: in place of those to
        come, with new keys now, and an end of all others. Raises Stalled when the root's key is away."""
        before = held(self.folder)
        if at_once and before is None:
            raise Stalled("Keys", f"{self.folder / FILE}: must be there; without turns made ahead: knhk keys rotate")
        if before is None:
            for process in OPENERS:
                replace_file(self.folder / opener(process), os.urandom(32).hex().encode(), 0o600)
        steps = list(before.since(now - KEPT)) if before else [self._base(now)]
        with TemporaryDirectory(dir=self.folder, prefix=".ahead-") as scratch:
            if before and at_once:
                last = keys_in(steps[-1], signer_roles.read_root_pub(self.folder / "root.pub"))
                self._lay(Path(scratch), before.due(now))  # what it does not name was never used
                steps = [*(step for step in steps if step.at < now), self._anew(Path(scratch), now, last.serial)]
            else:
                self._lay(Path(scratch), steps[-1])
            at = max(now, steps[-1].at + self.every - MARGIN) if before else self._first(now)
            while at <= until:
                steps.append(self._turn(Path(scratch), at))
                at += self.every - MARGIN
        made = Supply(tuple(steps))
        replace_file(self.folder / FILE, written(made), 0o600)
        return made

    def _base(self, now: datetime) -> Step:
        """What is in force before the first turn."""
        return Step(now, (self.folder / "keys.json").read_bytes(), self._sealed(self.folder), receipts_in(self.folder))

    def _first(self, now: datetime) -> datetime:
        """When the oldest key has signed for long enough, or now."""
        named, since = signer_roles.keys_of(self.folder), signer_roles.since_of(self.folder)
        roles = named.roles.values() if named else ()
        began = min((since.get(id_, "") for keys in roles for id_, key in keys.items() if key.until is None), default="")
        soon = now + timedelta(seconds=1)
        return max(soon, parse_time(began, "since") + self.every - MARGIN) if began else soon

    def _turn(self, scratch: Path, at: datetime) -> Step:
        receipts = list[bytes]()
        for role in sorted(ROLES, key="log".__eq__):

            def pend(made: Rotation, role: str = role) -> None:
                receipts.append(self.receipt(scratch, role, made, at))

            signer_roles.rotate(scratch, FileKeys(scratch), role, self.origin, at, self.overlap, VALID_DAYS, pend)
        keys_json = (scratch / "keys.json").read_bytes()
        return Step(at, keys_json, self._sealed(scratch), tuple(receipts))

    def _anew(self, scratch: Path, now: datetime, last: int) -> Step:
        """All keys anew. The serial is above `last`, of all turns that were made, whoever has those; the receipts are by the new key."""
        was = signer_roles.replace_all(scratch, FileKeys(scratch), self.origin, now, VALID_DAYS, last)
        (scratch / "log.former.key").unlink(missing_ok=True)
        signer = LocalSigner(scratch)
        made = {role: Rotation(old, signer.keyid(role), partial(signer.bundle, "rollout")) for role, old in was.items()}
        receipts = tuple(self.receipt(scratch, role, rotation, now) for role, rotation in made.items())
        return Step(now, (scratch / "keys.json").read_bytes(), self._sealed(scratch), receipts)

    def _lay(self, scratch: Path, step: Step) -> None:
        """A folder of keys as it will be after a turn."""
        (scratch / "root.key").symlink_to((self.folder / "root.key").absolute())
        (scratch / "root.pub").write_bytes((self.folder / "root.pub").read_bytes())
        (scratch / "keys.json").write_bytes(step.keys_json)
        for name, password in self._passwords():
            if name in step.files:
                key: Any = load_pem_private_key(step.files[name], password)
                replace_file(scratch / name, key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()), 0o600)

    def _sealed(self, folder: Path) -> dict[str, bytes]:
        found = dict[str, bytes]()
        for name, password in self._passwords():
            if (folder / name).exists():
                key: Any = load_pem_private_key(read_private(folder / name, "a private key in PEM"), None)
                found[name] = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(password))
        return found

    def _passwords(self) -> Iterator[tuple[str, bytes]]:
        for process in OPENERS:
            password = read_private(self.folder / opener(process), f"the password of {process}")
            yield from ((name, password) for name in key_files(process))


def in_utc() -> datetime:
    """Now, to the second, as keys.json says times."""
    return datetime.now(UTC).replace(microsecond=0)
