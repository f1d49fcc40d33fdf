"""Receipts for commands: which index serves which log, and what the words of a command line select."""

from __future__ import annotations

import hashlib
from argparse import Namespace
from pathlib import Path

from knhk.adapters.receipt_index import ReceiptIndex
from knhk.model.selection import Selection, equal, field_selector, label_selector
from knhk.wiring import evidence
from knhk.wiring.home import Home
from knhk.wiring.packs import cache_folder


def selection(args: Namespace) -> Selection:
    """Of the arguments SELECTORS. Raises Refused."""
    words = (("namespace", args.namespace), ("pack", args.pack), ("kind", args.kind), ("verdict", args.verdict))
    chosen = tuple(equal(trait, value) for trait, value in words if value is not None)
    return chosen + field_selector(args.field_selector, "--field-selector") + label_selector(args.selector, "--selector")


def followed(home: Home, place: str, ca_file: Path | None = None, certificate: Path | None = None) -> ReceiptIndex:
    """The index of the log in a folder or at a URL, with all that this log has now. Raises as `evidence.opened`."""
    log = evidence.opened(place, ca_file, certificate)
    index = ReceiptIndex(_file(home, place))
    index.follow(log.note.partition("\n")[0], log.served)
    return index


def _file(home: Home, place: str) -> Path:
    if Path(place).absolute() == home.log:
        return home.receipts
    name = place if "://" in place else str(Path(place).absolute())
    return cache_folder().parent / "receipts" / f"{hashlib.sha256(name.encode()).hexdigest()[:32]}.db"
