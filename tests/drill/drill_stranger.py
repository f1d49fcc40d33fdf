"""The figures of a drill by formats/drill.md alone: the standard library, and nothing of ours."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

LEAF = 118


def entries(log: Path, size: int) -> list[bytes]:
    """The first `size` entries of a log folder of at most 256,000, from its tiles."""
    found: list[bytes] = []
    for number in range(-(-size // 256)):
        path = log / f"tile/entries/{number:03}"
        partial = sorted(path.with_name(f"{path.name}.p").glob("*"), key=lambda each: int(each.name))
        data, at = (path if path.exists() else partial[-1]).read_bytes(), 0
        while at < len(data):
            length = int.from_bytes(data[at : at + 2], "big")
            found.append(data[at + 2 : at + 2 + length])
            at += 2 + length
    return found[:size]


def figures(document: dict[str, Any], held: bytes, logs: dict[str, list[bytes]]) -> dict[str, str]:
    """As the event has them. `logs`: entries by name."""
    struck, rows = int(document["struckNs"]), [entry for log in logs.values() for entry in log]
    leaves = {entry for entry in rows if len(entry) == LEAF}
    acknowledged = [held[at : at + LEAF] for at in range(0, len(held), LEAF)]
    lost = [leaf for leaf in acknowledged if leaf not in leaves]
    ids: dict[bytes, set[bytes]] = {}
    for leaf in leaves:
        ids.setdefault(leaf[100:116], set()).add(leaf)
    partitions = [bytes.fromhex(source) for source in document["partitions"]]
    offsets = {source: {int.from_bytes(id_[8:], "big") for id_ in ids if id_[:8] == source} for source in partitions}
    return {
        "rtoMs": ms(max(gap(sorted(time(leaf) for leaf in leaves if leaf[100:108].hex() == each), struck) for each in document["moved"])),
        "rpoMs": ms(max([struck - time(leaf) for leaf in lost], default=0)),
        "acknowledged": str(len(acknowledged)),
        "lost": str(len(lost)),
        "policyMs": ms(min(time(leaf) for leaf in leaves if leaf[72:92].hex() == document["policy"]) - struck),
        "messages": str(sum(map(len, offsets.values()))),
        "messagesMissing": str(sum(max(found) + 1 - len(found) for found in offsets.values() if found)),
        "messagesTwice": str(sum(len(found) > 1 for id_, found in ids.items() if id_[:8] in partitions)),
        "merged": merged(document, logs),
    }


def goals(said: dict[str, str]) -> dict[str, str]:
    """Whether goals were met, as the event has it; `said`: its evidence."""
    return {f"{name}Goal": "met" if int(said[f"{name}Ms"]) <= int(said[f"{name}GoalMs"]) else "missed" for name in ("rto", "rpo")}


def merged(document: dict[str, Any], logs: dict[str, list[bytes]]) -> str:
    rows = []
    for name, log in logs.items():
        now = 0
        for index, entry in enumerate(log):
            now = max(now, time(entry) if len(entry) == LEAF else 0)
            rows.append((now, document["logs"][name]["origin"], index, hashlib.sha256(b"\0" + entry).hexdigest()))
    return hashlib.sha256("".join(f"{origin} {index} {leaf}\n" for _, origin, index, leaf in sorted(rows)).encode()).hexdigest()


def gap(times: list[int], struck: int) -> int:
    first = max(number for number, at in enumerate(times) if at <= struck)
    return max(after - before for before, after in zip(times[first:], times[first + 1 :], strict=False))


def time(leaf: bytes) -> int:
    return int.from_bytes(leaf[92:100], "big")


def ms(ns: int) -> str:
    return str(-(-ns // 1_000_000))
