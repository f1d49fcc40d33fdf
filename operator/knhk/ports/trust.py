"""What administrators said of repositories, forges and people."""

from __future__ import annotations

from typing import Protocol

from knhk.model.trust import Trust


class Trusts(Protocol):
    """Promises: an answer is what is said now. Raises Stalled when it cannot be understood: nothing is believed then."""

    def read(self) -> Trust: ...


class TrustsNobody:
    """Nothing was said."""

    def read(self) -> Trust:
        return Trust()
