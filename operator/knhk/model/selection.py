"""Which receipts are asked for: their traits, and selectors over traits in the grammar of Kubernetes (`kubectl --field-selector`, `-l`)."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from knhk.model.faults import Fault, Refused

FLAGS = ("stale", "cached", "brownout", "failOpen", "resumed")
# What every decision receipt has, as fields and as labels. Those whose value may be empty are labels only where it is not.
TRAITS = ("pack", "version", "packDigest", "kind", "class", "verdict", "mode", "arm", "region", *FLAGS)
NAMED = {"metadata.name": "name", "metadata.namespace": "namespace"}
INDEXED = {"logIndex": "number"}
FIELDS: Mapping[str, str] = {**NAMED, **INDEXED, **{name: name for name in ("receipt", "event", *TRAITS)}}
LABELS: Mapping[str, str] = {name: name for name in TRAITS}
# What a policy event has; a label has as much of its actor as a label may have. `time=2026-11` is all of that month: a time of less
# precision is an interval (ISO 8601).
EVENT_TRAITS = ("event", "pack", "version", "packDigest", "point", "stage", "verdict", "actor")
EVENT_FIELDS: Mapping[str, str] = {**NAMED, **INDEXED, **{name: name for name in (*EVENT_TRAITS, "time")}}
EVENT_LABELS: Mapping[str, str] = {**{name: name for name in EVENT_TRAITS if name != "version"}, "actor": "actorLabel"}
INTERVAL = "time"
# Traits that have these values and no others, or none (""): who mistypes one would take an empty answer for "there are none".
VALUES: Mapping[str, tuple[str, ...]] = {
    "kind": ("DECISION", "PARK", "UNAVAILABLE", "REFUSED", "POLICY"),
    "class": ("R1", "W1", "C1", "none"),
    "verdict": ("ADMIT", "DENY", "none", "Pass", "Fail", "Undecided"),
    "mode": ("ENFORCED", "OBSERVED"),
    "arm": ("stable", "candidate"),
    **dict.fromkeys(FLAGS, ("true", "false")),
}
SINGLE = ("name", "receipt", "number")
MAX_SELECTOR = 8192  # characters
MAX_REQUIREMENTS = 64  # of a selector
_FIELD = re.compile(r"\s*+([A-Za-z][A-Za-z.]*)\s*+(==|=|!=)((?:[^,\\]|\\.)*)")
_KEY = r"[A-Za-z0-9](?:[A-Za-z0-9._/-]*[A-Za-z0-9])?"
_VALUE = r"(?:[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?)?"
# Whitespace is taken at once (`*+`): who asks chooses the text, and with other ways to read it each space would double the time.
_LABEL = re.compile(
    rf"\s*+(?:(?P<not>!)\s*+(?P<absent>{_KEY})|(?P<key>{_KEY})\s*+(?:(?P<op>==|=|!=)\s*+(?P<value>{_VALUE})"
    rf"|(?<=\s)(?P<set>in|notin)\s*+\((?P<values>\s*+{_VALUE}(?:\s*+,\s*+{_VALUE})*+\s*+)\))?)\s*+(?:,|$)"
)
Traits = Mapping[str, str]


@dataclass(frozen=True)
class Requirement:
    """`trait` is one of `values`, or none of them. `present`: it must be there at all (of labels)."""

    trait: str
    values: frozenset[str]
    wanted: bool = True
    present: bool = False

    def holds(self, traits: Traits) -> bool:
        found = traits.get(self.trait, "")
        if self.present:
            return bool(found) == self.wanted
        if self.trait == INTERVAL:
            return found.startswith(tuple(self.values)) == self.wanted
        return (found in self.values) == self.wanted


Selection = tuple[Requirement, ...]


def holds(selection: Selection, traits: Traits) -> bool:
    """Whether all requirements hold, of traits that many receipts share."""
    return all(requirement.holds(traits) for requirement in selection)


def equal(trait: str, value: str) -> Requirement:
    return Requirement(trait, frozenset((value,)))


def exactly(selection: Selection, trait: str) -> str | None:
    """The one value that a trait must have, when the selection says so."""
    return next((next(iter(r.values)) for r in selection if r.trait == trait and r.wanted and len(r.values) == 1), None)


def field_selector(text: str, where: str = "fieldSelector", known: Mapping[str, str] = FIELDS) -> Selection:
    """`verdict=DENY,pack!=x`; `known`: field → trait. Raises Refused with every fault."""
    return _parsed(text, where, _FIELD, _field, known)


def label_selector(text: str, where: str = "labelSelector", known: Mapping[str, str] = LABELS) -> Selection:
    """`verdict=DENY`, `pack in (a, b)`, `pack notin (a)`, `pack`, `!pack`; `known`: label → trait. Raises Refused."""
    return _parsed(text, where, _LABEL, _label, known)


def _parsed(
    text: str, where: str, pattern: re.Pattern[str], read: Callable[[re.Match[str]], Requirement], known: Mapping[str, str]
) -> Selection:
    if len(text) > MAX_SELECTOR:
        raise Refused([Fault(where, f"{len(text)} characters", f"must have at most {MAX_SELECTOR}")])
    found, faults, at = list[Requirement](), list[Fault](), 0
    while at < len(text) and text[at:].strip():
        match = pattern.match(text, at)
        if match is None or match.end() == at:
            faults.append(Fault(where, text[at : at + 64], "must be KEY=VALUE, KEY!=VALUE, with a comma between two"))
            break
        requirement = read(match)
        if requirement.trait not in known:
            hint = next((f" (say {field})" for field, trait in NAMED.items() if trait == requirement.trait and field in known), "")
            faults.append(Fault(where, f"{requirement.trait}{hint}", f"must be one of {', '.join(sorted(known))}"))
        requirement = replace(requirement, trait=known.get(requirement.trait, requirement.trait))
        if requirement.trait in SINGLE and not requirement.wanted:
            faults.append(Fault(where, match[0], "must be =: one receipt is asked for by it"))
        if (values := VALUES.get(requirement.trait)) is not None:
            unknown = sorted(requirement.values - {"", *values})
            faults += [Fault(where, f"{requirement.trait}={value[:64]}", f"must be {_one_of(values, value)}") for value in unknown]
        found.append(requirement)
        at = match.end() + (text[match.end() : match.end() + 1] == ",")
        if len(found) > MAX_REQUIREMENTS:
            raise Refused([Fault(where, f"{text[:64]}…", f"must have at most {MAX_REQUIREMENTS} requirements")])
    if faults:
        raise Refused(faults)
    return tuple(found)


def _one_of(values: Sequence[str], given: str) -> str:
    meant = next((value for value in values if value.lower() == given.lower()), "")
    return meant or f"one of {', '.join(values)}"


def _field(match: re.Match[str]) -> Requirement:
    return Requirement(match[1], frozenset((re.sub(r"\\(.)", r"\1", match[3]),)), match[2] != "!=")


def _label(match: re.Match[str]) -> Requirement:
    if match["not"]:
        return Requirement(match["absent"], frozenset(), wanted=False, present=True)
    if match["set"]:
        values: Sequence[str] = [value.strip() for value in match["values"].split(",")]
        return Requirement(match["key"], frozenset(values), match["set"] == "in")
    if match["op"]:
        return Requirement(match["key"], frozenset((match["value"],)), match["op"] != "!=")
    return Requirement(match["key"], frozenset(), present=True)


def labels(traits: Traits) -> dict[str, str]:
    """Those traits that are labels of an object."""
    return {name: traits[name] for name in TRAITS if traits.get(name)}
