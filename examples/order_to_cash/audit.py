"""What an auditor does: holds the log against what others wrote down. Needs the log's folder and the verifier, nothing that runs."""

from __future__ import annotations

import base64
import json
import sqlite3
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from knhk_runtime.record import h_o, parse_observation, parse_record, scan_frames
from knhk_runtime.tlog.folder import log_entries
from knhk_verify.leaf import Leaf, parse_leaf

ADMIT, ENFORCED, CANDIDATE = 1, 1, 1


class Differs(Exception):
    """The log does not fit what somebody else holds; the text says what and gives examples."""


@dataclass(frozen=True)
class Books:
    """All of a log: leaves, predicates of policy events in order, and for each receipt the H(O) and body hash of what was recorded."""

    leaves: tuple[Leaf, ...]
    events: tuple[dict[str, Any], ...]
    observed: dict[str, set[tuple[bytes, str]]]

    def versions(self, kind: str) -> list[str]:
        """Versions of packs in the order of their events of one kind."""
        return [event["pack"]["version"] for event in self.events if event["kind"] == kind]


def open_books(log_dir: Path) -> Books:
    """Reads entries and recorded observations. Run the verifier first: this reads, it does not verify."""
    leaves, events = [], []
    for entry in log_entries(log_dir):
        if entry[:1] == b"\x01":
            leaves.append(parse_leaf(entry))
        else:
            payload = base64.b64decode(json.loads(entry)["dsseEnvelope"]["payload"])
            events.append(json.loads(payload)["predicate"])
    observed: dict[str, set[tuple[bytes, str]]] = defaultdict(set)
    for segment in sorted((log_dir / "observations").glob("*/*.seg")):
        frames, _ = scan_frames(segment.read_bytes(), int(segment.stem, 16), str(segment))
        for offset, payload in frames:
            record = parse_record(payload, f"{segment} offset {offset}")
            body = sha256(parse_observation(record.observation).body).hexdigest()
            for leaf in record.leaves:
                observed[parse_leaf(leaf).receipt_id.hex()].add((h_o(record.salt, record.observation), body))
    return Books(tuple(leaves), tuple(events), observed)


def hold_against_rows(books: Books, database: Path) -> int:
    """Each row of the application has exactly one enforced ADMIT leaf, whose H(O) is over the very body that the application got.

    Gives the number of rows; raises Differs."""
    admits = defaultdict(list)
    for leaf in books.leaves:
        if leaf.mode == ENFORCED and leaf.verdict == ADMIT:
            admits[leaf.receipt_id.hex()].append(leaf.h_o)
    with sqlite3.connect(database) as db:
        rows = list(db.execute("SELECT receipt, body_sha256 FROM entries"))
    _none("rows without exactly one ADMIT leaf", (r for r, _ in rows if len(admits[r]) != 1))
    _none("rows whose body is not the recorded one", (r for r, body in rows if (admits[r][0], body) not in books.observed[r]))
    return len(rows)


def hold_against_answers(books: Books, receipts: Iterable[str]) -> None:
    """Each response's receipt has exactly one leaf for each arm that judged it, and one enforced. Raises Differs."""
    arms = Counter((leaf.receipt_id.hex(), leaf.flags & CANDIDATE) for leaf in books.leaves)
    enforced = Counter(leaf.receipt_id.hex() for leaf in books.leaves if leaf.mode == ENFORCED)
    _none("arms with more than one leaf", (receipt for (receipt, _), count in arms.items() if count != 1))
    _none("receipts without exactly one enforced leaf", (receipt for receipt in receipts if enforced[receipt] != 1))


def _none(what: str, found: Iterable[str]) -> None:
    listed = list(found)
    if listed:
        raise Differs(f"{len(listed)} {what}, for example {', '.join(listed[:3])}")
