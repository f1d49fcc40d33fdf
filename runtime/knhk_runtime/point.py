"""point.json: what an agent must know of its enforcement point (formats/agent.md)."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from knhk.model.consents import MAX_PURPOSES
from knhk.model.faults import Fault, Refused
from knhk_runtime.subjects import Privacy, parse_privacy
from knhk_verify.errors import Bad
from knhk_verify.signed import parse_canonical

_NAME = re.compile(r"[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?/[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?")
_REGION = re.compile(r"[a-z0-9-]{0,63}")
_ATTRIBUTE = re.compile(r"[a-z0-9_.-]{1,63}")
_PURPOSE = re.compile(r"[a-z0-9_.-]{1,48}")
MIN_RING_BYTES, MAX_RING_BYTES = 4 << 20, 1 << 30
MAX_RESIDENT_BYTES = 1 << 40
DURABLE_TIMEOUT_MS = 2000  # of a point that an operator before this release wrote


@dataclass(frozen=True)
class PointConfig:
    """`digest`: SHA-256 of the file, hexadecimal, as the rollout document's `pointConfig`. `attributes`: (name, filter state key).
    `consent_purposes`: (name, IRI); none: nobody asks for consents."""

    point: str
    region: str
    region_index: int
    attributes: tuple[tuple[str, str], ...]
    sticky_attribute: str
    failure: str
    agent_grace_s: int
    park_timeout_ms: int
    ring_bytes: int
    digest: str
    resident_bytes: int = 0
    absent: str = "Decide"
    durable_timeout_ms: int = DURABLE_TIMEOUT_MS
    max_unwitnessed_s: int = 0
    consent_subject: str = ""
    consent_purposes: tuple[tuple[str, str], ...] = ()
    privacy: Privacy | None = None


def parse_point(data: bytes, where: str) -> PointConfig:
    """Raises Refused with every fault."""
    try:
        document = parse_canonical(data, where)
    except Bad as error:
        raise Refused([Fault(error.where, error.what, "must be canonical JSON")]) from error
    faults = [Fault(f"{where}: {name}", repr(value)[:100], must) for name, value, ok, must in _checks(document) if not ok]
    if faults:
        raise Refused(faults)
    return PointConfig(
        point=document["point"],
        region=document["region"],
        region_index=document["regionIndex"],
        attributes=tuple((item["name"], item["filterState"]) for item in document["attributes"]),
        sticky_attribute=document["stickyAttribute"],
        failure=document["failure"],
        agent_grace_s=document["agentGraceSeconds"],
        park_timeout_ms=document["parkTimeoutMs"],
        ring_bytes=document["ringBytes"],
        resident_bytes=document["residency"]["bytes"],
        absent=document["residency"]["absent"],
        durable_timeout_ms=document.get("durableTimeoutMs", DURABLE_TIMEOUT_MS),
        max_unwitnessed_s=document.get("maxUnwitnessedSeconds", 0),
        consent_subject=document.get("consent", {}).get("subject", ""),
        consent_purposes=tuple((row["name"], row["purpose"]) for row in document.get("consent", {}).get("purposes", ())),
        digest=hashlib.sha256(data).hexdigest(),
        privacy=parse_privacy(document["privacy"]) if "privacy" in document else None,
    )


def _checks(document: object) -> list[tuple[str, object, bool, str]]:
    if not isinstance(document, dict):
        return [("file", document, False, "must be an object")]
    attributes = document.get("attributes")
    names = [item["name"] for item in attributes if _is_attribute(item)] if isinstance(attributes, list) else []
    get = document.get
    return [
        ("version", get("version"), get("version") == (2 if "privacy" in document else 1), "must be 1, and 2 for a point with privacy"),
        (
            "privacy",
            get("privacy"),
            "privacy" not in document or parse_privacy(document["privacy"]) is not None,
            "must be subjects, 1 to 16 of {route, attribute} or {route, pointer}, and retentionDays",
        ),
        ("point", get("point"), _matches(_NAME, get("point")), "must be NAMESPACE/NAME"),
        ("region", get("region"), _matches(_REGION, get("region")), f"must match {_REGION.pattern}"),
        ("regionIndex", get("regionIndex"), _between(get("regionIndex"), 0, 65535), "must be 0 to 65535"),
        ("attributes", get("attributes"), _are_attributes(get("attributes"), names), "must be distinct {name, filterState}, at most 63"),
        ("stickyAttribute", get("stickyAttribute"), get("stickyAttribute") in ("", *names), "must be empty or the name of an attribute"),
        ("failure", get("failure"), get("failure") in ("Closed", "Open"), "must be Closed or Open"),
        ("agentGraceSeconds", get("agentGraceSeconds"), _between(get("agentGraceSeconds"), 1, 86400), "must be 1 to 86400"),
        ("parkTimeoutMs", get("parkTimeoutMs"), _between(get("parkTimeoutMs"), 1, 600_000), "must be 1 to 600000"),
        ("durableTimeoutMs", get("durableTimeoutMs"), _between(get("durableTimeoutMs", 1), 1, 600_000), "must be 1 to 600000"),
        (
            "maxUnwitnessedSeconds",
            get("maxUnwitnessedSeconds"),
            _between(get("maxUnwitnessedSeconds", 0), 0, 31_536_000),
            "must be 0 (never) to 31536000",
        ),
        ("ringBytes", get("ringBytes"), _is_ring_size(get("ringBytes")), "must be a power of two, 4 MiB to 1 GiB"),
        (
            "residency",
            get("residency"),
            _is_residency(get("residency")),
            f"must be bytes, 0 to {MAX_RESIDENT_BYTES}, and absent, Decide or Park",
        ),
        (
            "consent",
            get("consent"),
            "consent" not in document or _is_consent(get("consent")),
            f"must be subject, the name of an attribute, and 1 to {MAX_PURPOSES} distinct purposes",
        ),
    ]


def _matches(pattern: re.Pattern[str], value: object) -> bool:
    return isinstance(value, str) and pattern.fullmatch(value) is not None


def _between(value: object, low: int, high: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and low <= value <= high


def _is_ring_size(value: object) -> bool:
    return isinstance(value, int) and _between(value, MIN_RING_BYTES, MAX_RING_BYTES) and value & (value - 1) == 0


def _is_residency(value: object) -> bool:
    return (
        isinstance(value, Mapping)
        and set(value) == {"bytes", "absent"}
        and _between(value["bytes"], 0, MAX_RESIDENT_BYTES)
        and value["absent"] in ("Decide", "Park")
    )


def _is_consent(value: object) -> bool:
    if not isinstance(value, Mapping) or set(value) != {"subject", "purposes"} or not _matches(_ATTRIBUTE, value["subject"]):
        return False
    rows = value["purposes"]
    if not isinstance(rows, list) or not all(map(_is_purpose, rows)):
        return False
    return all(len({row[name] for row in rows}) == len(rows) for name in ("name", "purpose")) and 0 < len(rows) <= MAX_PURPOSES


def _is_purpose(row: object) -> bool:
    fine = isinstance(row, Mapping) and set(row) == {"name", "purpose"} and _matches(_PURPOSE, row["name"])
    return fine and isinstance(row, Mapping) and isinstance(row["purpose"], str) and 0 < len(row["purpose"]) <= 512


def _is_attribute(item: object) -> bool:
    return (
        isinstance(item, Mapping)
        and set(item) == {"name", "filterState"}
        and _matches(_ATTRIBUTE, item["name"])
        and isinstance(item["filterState"], str)
        and 0 < len(item["filterState"]) < 128
    )


def _are_attributes(items: object, names: list[Any]) -> bool:
    return isinstance(items, list) and len(names) == len(items) == len(set(names)) <= 63
