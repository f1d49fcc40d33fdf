"""Which keys of a log keys.json names, for those who follow it."""

from __future__ import annotations

from datetime import UTC, datetime
from heapq import nlargest

from knhk_verify.note import Verifier
from knhk_verify.signed import Keys

MAX_ORIGIN = 255  # of what a checkpoint that nothing has verified is of; names of logs are shorter
_ALWAYS = datetime.max.replace(tzinfo=UTC)


def newest_of(keys: Keys, origin: str, most: int) -> Keys:
    """With no other keys than those of this log, and of these so many, the newest; what is left out counts as away, as a chapter does."""
    held = keys.roles.get("log", {})
    kept = nlargest(most, (id_ for id_, key in held.items() if key.name == origin), lambda id_: held[id_].until or _ALWAYS)
    lost = sum(key.name == origin for key in held.values()) - len(kept)
    return keys._replace(roles={"log": {id_: held[id_] for id_ in kept}}, away=keys.away + lost)


def keys_of(keys: Keys, origin: str, at: datetime) -> tuple[list[Verifier], list[Verifier]]:
    """Those of this log that count at that time, the newest first, and those that are over: by these only what was signed before counts."""
    named = [key for key in keys.roles.get("log", {}).values() if key.name == origin]
    newest = sorted(named, key=lambda key: key.until or _ALWAYS, reverse=True)
    now = [Verifier(origin, key.public) for key in newest if key.until is None or at <= key.until]
    count = frozenset(now)
    return now, [verifier for key in newest if (verifier := Verifier(origin, key.public)) not in count]
