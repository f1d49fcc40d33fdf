"""How many Receipts are kept where resources live. The log keeps all of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from knhk.model.faults import Fault, Refused

MOST = 1_000_000
FORM = "namespace=N,all=N,days=N, such as namespace=10000,all=30000,days=0 (0: no bound)"


@dataclass(frozen=True)
class Keep:
    """At most so many Receipts in each namespace, in all of them, and for so many days; 0: no bound."""

    namespace: int = 10_000
    all: int = 30_000
    days: int = 0

    @property
    def bounded(self) -> bool:
        return bool(self.namespace or self.all or self.days)


BY_DEFAULT, WITHOUT_BOUND = Keep(), Keep(0, 0, 0)


def keep_of(text: str) -> Keep:
    """What `text` says of the form FORM; what it leaves out is as by default. Raises Refused."""
    found: Mapping[str, str] = dict(part.strip().partition("=")[::2] for part in text.split(",") if part.strip())
    wrong = [Fault(name, value, f"must be of the form {FORM}") for name, value in found.items() if not _fits(name, value)]
    if wrong:
        raise Refused(wrong)
    return Keep(**{name: int(value) for name, value in found.items()})


def _fits(name: str, value: str) -> bool:
    return name in ("namespace", "all", "days") and value.isascii() and value.isdecimal() and int(value[:9]) <= MOST and len(value) < 9
