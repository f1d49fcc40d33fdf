"""What a change takes away from what is live: receipts that survive less, doors that stay open. One table. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final

from knhk.model.canonical import canonical, sha256_hex

LEVELS: Final = ("ring", "disk", "log", "region")
DURABILITY, PRIVACY = "receipts.durability", "privacy"
SEALED, CLEAR = "sealed", "clear"


@dataclass(frozen=True)
class Loosened:
    """One field of a spec that promises less than it did: what was and what is."""

    field: str
    was: str | int
    to: str | int

    def __str__(self) -> str:
        return f"{self.field} is to be {self.to}, and was {self.was}"

    def document(self) -> dict[str, str | int]:
        """As events carry it."""
        return {"field": self.field, "was": self.was, "is": self.to}


def lower(level: str, than: str) -> bool:
    """Whether receipts of one durability survive less than those of the other."""
    return LEVELS.index(level) < LEVELS.index(than)


LOOSER: Final[Mapping[str, Callable[[Any, Any], bool]]] = MappingProxyType(
    {
        DURABILITY: lambda was, to: lower(to, was),
        "failure": lambda was, to: (was, to) == ("Closed", "Open"),
        "maxUnwitnessedSeconds": lambda was, to: was != 0 and (to == 0 or to > was),  # 0: for ever
        PRIVACY: lambda was, to: (was, to) == (SEALED, CLEAR),
    }
)


def loosened(was: Mapping[str, Any], to: Mapping[str, Any]) -> tuple[Loosened, ...]:
    """What of these promises is less now, by fields of the table; of what was not promised before nothing is."""
    return tuple(
        Loosened(name, was[name], to[name]) for name, is_looser in LOOSER.items() if name in was and is_looser(was[name], to[name])
    )


def digest_of(of: str, uid: str, generation: int, rows: tuple[Loosened, ...]) -> str:
    """What people approve: these changes of this very spec, so that no word about another change, or another time, counts for it."""
    said = {"of": of, "uid": uid, "generation": generation, "changes": [row.document() for row in rows]}
    return f"sha256:{sha256_hex(canonical(said))}"
