"""`pack diff`: sample payloads decided by two packs, and the guards that made the difference."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from knhk.model.expectations import Case
from knhk.model.faults import Refused
from knhk.reconcilers.testing import Seen, Subject

REFUSED = "REFUSED"


@dataclass(frozen=True)
class Changed:
    """A sample whose verdict, or failing guards, changed. `guilty`: guards that fail on one side only; `verdict`: it changed."""

    name: str
    before: str
    after: str
    guilty: tuple[str, ...]
    verdict: bool


def compare(before: Subject, after: Subject, samples: Iterable[Case]) -> Iterator[Changed]:
    """Samples that the two packs decide differently, or for other reasons."""
    for case in samples:
        old, new = _decided(before, case), _decided(after, case)
        verdicts = old.verdict if old else REFUSED, new.verdict if new else REFUSED
        guilty = sorted(_failing(before, old) ^ _failing(after, new))
        if verdicts[0] != verdicts[1] or guilty:
            yield Changed(case.name, *verdicts, tuple(guilty), verdicts[0] != verdicts[1])


def _decided(subject: Subject, case: Case) -> Seen | None:
    """None when the pack does not judge the request."""
    try:
        return subject.decide(case)
    except Refused:
        return None


def _failing(subject: Subject, seen: Seen | None) -> set[str]:
    return set() if seen is None else {subject.plan["guards"][i]["id"] for i in seen.failing}
