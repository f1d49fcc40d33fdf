"""keys.json and rollout documents: signatures, form, point, origin and the rules of epochs (formats/signed.md). No I/O."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from knhk.model.faults import Fault, Refused
from knhk.model.waves import POSITIONS, is_in
from knhk_runtime.point import PointConfig
from knhk_runtime.signatures import ROLLOUT, verify_document
from knhk_verify.errors import Bad
from knhk_verify.signed import Keys, canonical, parse_time, verify_keys

_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_SALT = re.compile(r"[0-9a-f]{32}")
_MODES = ("Stable", "Shadow", "Canary")
_PACK_MEMBERS = frozenset({"name", "namespace", "version", "digest"})
_DURABILITIES = ("disk", "log", "region")  # said where it is more than the ring
_DATA_MEMBERS = frozenset({"name", "digest"})
_MEMBERS = frozenset(
    "version point epoch origin issued notAfter mode weight salt baseline stable candidate data flags pointConfig bootstrap".split()  # noqa: SIM905
)

_OPTIONAL = frozenset({"wave"})


@dataclass(frozen=True)
class PackRef:
    """A pack that a rollout document names."""

    namespace: str
    name: str
    version: str
    digest: str
    durability: str = "ring"


@dataclass(frozen=True)
class Rollout:
    """A verified rollout document. `digest`: SHA-256 of its canonical bytes, hexadecimal; `data`: digest of the bundle artifact;
    `bootstrap`: the bytes of envoy.json, which are those that it signs."""

    epoch: int
    origin: str
    digest: str
    not_after_ns: int
    mode: str
    weight: int
    salt: str
    baseline: str
    stable: PackRef | None
    candidate: PackRef | None
    data: str | None
    bootstrap: bytes | None
    wave: int | None = None

    def seen_by(self, instance: str) -> tuple[Rollout, bool | None]:
        """What the document says to one instance, and whether that is in its wave; None where there is none."""
        if self.wave is None:
            return self, None
        if is_in(self.salt, instance, self.wave):
            return self, True
        return replace(self, mode="Stable", weight=0, candidate=None), False


@dataclass(frozen=True)
class Accepted:
    """The newest that was ever accepted; what is older is refused. Serial and epoch 0: nothing yet."""

    serial: int = 0
    epoch: int = 0
    digest: str = ""
    origin: str = ""


def read_keys(data: bytes, root_public: bytes, now: datetime, accepted: Accepted, where: str) -> Keys:
    """Raises Refused."""
    try:
        return verify_keys(data, root_public, now, accepted.serial, where)
    except Bad as error:
        raise _refused(error, "must be keys.json signed by the pinned root, not expired, not older than the last") from error


@dataclass(frozen=True)
class Beside:
    """What lies beside a rollout document and must be what it signs: point.json, and envoy.json where there is one."""

    point: PointConfig
    bootstrap: bytes | None

    @property
    def bootstrap_digest(self) -> str | None:
        """`bootstrap` of the document."""
        return None if self.bootstrap is None else hashlib.sha256(self.bootstrap).hexdigest()


def read_rollout(data: bytes, keys: Keys, now: datetime, beside: Beside, accepted: Accepted, where: str) -> Rollout:
    """Raises Refused with what is wrong; a document of an older epoch, or another one of the same epoch, is refused."""
    try:
        document = verify_document(data, ROLLOUT, keys.of("rollout", now), where)
    except Bad as error:
        raise _refused(error, "must be a rollout document in canonical form, signed by a key of role rollout") from error
    faults = [Fault(f"{where}: {name}", repr(value)[:120], must) for name, value, ok, must in _checks(document) if not ok]
    if faults:
        raise Refused(faults)
    rollout = _rollout(document, beside, where)
    faults = [
        Fault(f"{where}: {name}", str(value)[:120], must)
        for name, value, ok, must in _rules(document, rollout, keys, beside, accepted)
        if not ok
    ]
    if faults:
        raise Refused(faults)
    return rollout


def _refused(error: Bad, must: str) -> Refused:
    return Refused([Fault(error.where, error.what, must)])


def _is_pack(value: object) -> bool:
    if isinstance(value, dict) and "durability" in value:
        return value["durability"] in _DURABILITIES and _is_pack({k: v for k, v in value.items() if k != "durability"})
    return value is None or (_texts(value, _PACK_MEMBERS) and _is_digest(value))


def _is_data(value: object) -> bool:
    return value is None or (_texts(value, _DATA_MEMBERS) and _is_digest(value))


def _texts(value: object, members: frozenset[str]) -> bool:
    return (
        isinstance(value, dict) and set(value) == members and all(isinstance(text, str) and 0 < len(text) <= 253 for text in value.values())
    )


def _is_digest(value: object) -> bool:
    return isinstance(value, dict) and _DIGEST.fullmatch(value["digest"]) is not None


def _is_count(value: object, most: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= most


def _checks(d: dict[str, Any]) -> list[tuple[str, object, bool, str]]:
    """Form only."""
    get = d.get
    return [
        (
            "members",
            ", ".join(sorted((set(d) - _OPTIONAL) ^ _MEMBERS)),
            set(d) - _OPTIONAL == _MEMBERS,
            f"must be exactly {', '.join(sorted(_MEMBERS))}, and may be {', '.join(_OPTIONAL)}",
        ),
        ("version", get("version"), get("version") == 1, "must be 1"),
        ("epoch", get("epoch"), _is_count(get("epoch"), 2**63), "must be 0 or more"),
        ("origin", get("origin"), isinstance(get("origin"), str) and bool(get("origin")), "must be the log's origin"),
        ("mode", get("mode"), get("mode") in _MODES, f"must be one of {', '.join(_MODES)}"),
        ("weight", get("weight"), _is_count(get("weight"), 1000), "must be 0 to 1000"),
        (
            "wave",
            get("wave"),
            "wave" not in d or (d.get("mode") == "Canary" and _is_count(d["wave"], POSITIONS)),
            f"must be 0 to {POSITIONS}, and in mode Canary only",
        ),
        ("salt", get("salt"), _SALT.fullmatch(str(get("salt"))) is not None, "must be 32 hexadecimal digits"),
        ("baseline", get("baseline"), get("baseline") in ("Deny", "Admit"), "must be Deny or Admit"),
        ("stable", get("stable"), _is_pack(get("stable")), "must be null or name, namespace, version and digest of a pack"),
        ("candidate", get("candidate"), _is_pack(get("candidate")), "must be null or name, namespace, version and digest of a pack"),
        ("data", get("data"), _is_data(get("data")), "must be null or name and digest of a data bundle"),
        ("flags", get("flags"), isinstance(get("flags"), dict), "must be an object"),
        ("issued", get("issued"), isinstance(get("issued"), str), "must be a time"),
        ("notAfter", get("notAfter"), isinstance(get("notAfter"), str), "must be a time"),
    ]


def _rules(d: dict[str, Any], rollout: Rollout, keys: Keys, beside: Beside, accepted: Accepted) -> list[tuple[str, object, bool, str]]:
    point, bootstrap = beside.point, beside.bootstrap_digest
    origins = sorted({key.name for key in keys.roles.get("log", {}).values()})
    same = rollout.epoch == accepted.epoch
    return [
        ("point", d["point"], d["point"] == point.point, f"must be {point.point}"),
        (
            "pointConfig",
            d["pointConfig"],
            d["pointConfig"] in (point.digest, f"sha256:{point.digest}"),
            f"must be the SHA-256 of point.json, {point.digest}",
        ),
        ("bootstrap", d["bootstrap"], d["bootstrap"] == bootstrap, f"must be the SHA-256 of envoy.json, {bootstrap or 'null for none'}"),
        ("origin", rollout.origin, rollout.origin in origins, f"must be the name of a log key: {', '.join(origins) or 'none'}"),
        ("origin", rollout.origin, accepted.origin in ("", rollout.origin), f"must be {accepted.origin}, as in the epoch before"),
        ("epoch", rollout.epoch, rollout.epoch >= accepted.epoch, f"must be {accepted.epoch} or more: an older document is refused"),
        (
            "epoch",
            rollout.epoch,
            not same or accepted.digest in ("", rollout.digest),
            "must be used once: ALARM, another document of this epoch was accepted",
        ),
    ]


def _rollout(d: dict[str, Any], beside: Beside, where: str) -> Rollout:
    try:
        parse_time(d["issued"], f"{where}: issued")
        not_after = parse_time(d["notAfter"], f"{where}: notAfter")
    except Bad as error:
        raise _refused(error, "must be a time in UTC") from error
    return Rollout(
        epoch=d["epoch"],
        origin=d["origin"],
        digest=hashlib.sha256(canonical(d)).hexdigest(),
        not_after_ns=int(not_after.timestamp()) * 10**9,
        mode=d["mode"],
        weight=d["weight"],
        salt=d["salt"],
        baseline=d["baseline"],
        stable=_pack(d["stable"]),
        candidate=_pack(d["candidate"]),
        data=d["data"]["digest"] if d["data"] else None,
        bootstrap=beside.bootstrap,
        wave=d.get("wave"),
    )


def _pack(value: dict[str, str] | None) -> PackRef | None:
    return PackRef(**value) if value else None
