"""Which logs and witnesses are trusted, and which of the witnesses are enough (c2sp.org/tlog-policy, formats/witness.md)."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from knhk.model.faults import Stalled
from knhk_verify.errors import Bad, demand
from knhk_verify.note import COSIGNATURE, ED25519, Verifier, parse_vkey

MAX_BYTES = 1 << 20
WITNESSED_BY = {"any": lambda members: 1, "all": len}


@dataclass(frozen=True)
class Group:
    """So many of these members."""

    need: int
    members: tuple[Rule, ...]


Rule = Verifier | Group
NOBODY = Group(0, ())  # quorum none


def enough(rule: Rule, signed: Collection[Verifier]) -> bool:
    """Whether these witnesses fulfil a rule."""
    if isinstance(rule, Verifier):
        return rule in signed
    return sum(enough(member, signed) for member in rule.members) >= rule.need


@dataclass(frozen=True)
class Policy:
    """Logs and witnesses with their URLs (empty: none given), and the quorum."""

    logs: Mapping[Verifier, str]
    witnesses: Mapping[Verifier, str]
    quorum: Rule

    def holds(self, signed: Collection[Verifier]) -> bool:
        """Whether those who signed are a quorum."""
        return enough(self.quorum, signed)

    def keys_of(self, origin: str) -> list[Verifier]:
        """Keys of the log of this name."""
        return [log for log in self.logs if log.name == origin]


@dataclass
class _Read:
    logs: dict[Verifier, str] = field(default_factory=dict)
    witnesses: dict[Verifier, str] = field(default_factory=dict)
    rules: dict[str, Rule] = field(default_factory=lambda: {"none": NOBODY})
    members: set[str] = field(default_factory=set)
    quorums: list[Rule] = field(default_factory=list)

    def line(self, words: Sequence[str], where: str) -> None:
        match words:
            case ["log", vkey, *url] if len(url) < 2:
                self._key(self.logs, parse_vkey(vkey, ED25519, where), url, where)
            case ["witness", name, vkey, *url] if len(url) < 2:
                self._name(name, self._key(self.witnesses, parse_vkey(vkey, COSIGNATURE, where), url, where), where)
            case ["group", name, need, _, *_]:
                self._name(name, self._group(need, words[3:], where), where)
            case ["quorum", name]:
                demand(name in self.rules, where, f"{name}: must be defined above")
                self.quorums.append(self.rules[name])
            case _:
                raise Bad(where, "must be: log VKEY [URL], witness NAME VKEY [URL], group NAME K NAME…, or quorum NAME")

    def _key(self, known: dict[Verifier, str], key: Verifier, url: Sequence[str], where: str) -> Verifier:
        demand(key.public not in {other.public for other in known}, where, f"{key.name}: the same key stands above")
        known[key] = url[0] if url else ""
        return key

    def _name(self, name: str, rule: Rule, where: str) -> None:
        demand(name not in self.rules, where, f"{name}: is defined above")
        self.rules[name] = rule

    def _group(self, need: str, members: Sequence[str], where: str) -> Group:
        for member in members:
            demand(member in self.rules and member != "none", where, f"{member}: must be a witness or group defined above")
            demand(member not in self.members, where, f"{member}: must be a member once, and of one group")
            self.members.add(member)
        number = str(WITNESSED_BY[need](members)) if need in WITNESSED_BY else need
        right = number.isascii() and number.isdecimal() and number[0] != "0" and len(number) < 4 and int(number) <= len(members)
        demand(right, where, f"{need}: must be any, all, or 1 to {len(members)}")
        return Group(int(number), tuple(self.rules[member] for member in members))


def parse_policy(data: bytes, where: str = "policy") -> Policy:
    """Raises Bad with the line."""
    demand(len(data) <= MAX_BYTES, where, f"has more than {MAX_BYTES} bytes")
    demand(all(byte >= 0x20 or byte in b"\t\n" for byte in data) and 0x7F not in data, where, "has a control character")
    read = _Read()
    for number, line in enumerate(data.decode("utf-8", "surrogateescape").split("\n"), 1):
        words = [word for word in line.replace("\t", " ").split(" ") if word]
        if words and not words[0].startswith("#"):
            read.line(words, f"{where} line {number}")
    demand(len(read.quorums) == 1, where, f"has {len(read.quorums)} quorum lines: must have one")
    return Policy(read.logs, read.witnesses, read.quorums[0])


def read_policy(path: Path) -> Policy:
    """Raises Stalled."""
    try:
        return parse_policy(path.read_bytes(), str(path))
    except OSError as error:
        raise Stalled("Policy", f"{path}: {error.strerror}: must be a c2sp.org/tlog-policy file") from error
    except Bad as error:
        raise Stalled("Policy", str(error)) from error
