"""Entries of a log with what can be asked for."""

from __future__ import annotations

from dataclasses import dataclass

from knhk.lockchain.receipts import receipt_name
from knhk.model.selection import Traits
from knhk_verify.leaf import Leaf, parse_leaf

_RECEIPT = slice(100, 116)


@dataclass(frozen=True)
class Row:
    """An entry: its index in the log, what it shares with others, and its bytes (of a policy event the statement, canonical)."""

    number: int
    traits: Traits
    data: bytes

    @property
    def leaf(self) -> Leaf:
        return parse_leaf(self.data, f"entry {self.number}")

    @property
    def name(self) -> str:
        """As an object: of a decision one for each arm of a request; of a policy event that of its Receipt."""
        if self.traits.get("kind") == "POLICY":
            return receipt_name(self.traits["event"], self.number)
        return name_of(self.data)


def name_of(leaf: bytes) -> str:
    return leaf[_RECEIPT].hex() + ("-candidate" if leaf[5] & 1 else "")
