"""Strings that a regular expression matches, for the forms that rules use: literals, classes, groups, alternatives, counts. Pure."""

from __future__ import annotations

import re
import string
from typing import Final

MAX_LENGTH: Final = 200
TURNS: Final = 3
_CANDIDATES: Final = string.ascii_uppercase + string.ascii_lowercase + string.digits + " -_./:,;@#+*()"
_COUNT: Final = re.compile(r"\{(\d+)(?:,\d*)?\}\??|[*+?]\??")
_SETS: Final = ("[", "&&", "--", "~~", "||")
"""What engines read in a class in ways of their own."""
_CLASS: Final = re.compile(r"\[\^?\]?(?:\\.|[^\]\\])*\]")


class _Beyond(ValueError):
    """A form that is not made here."""


def matching(pattern: str) -> tuple[str, ...]:
    """Strings that the pattern is found in, by different alternatives; none where a form is not made here."""
    try:
        made = [_Maker(pattern, turn).alternatives() for turn in range(TURNS)]
        return tuple(dict.fromkeys(text for text in made if len(text) <= MAX_LENGTH and re.search(pattern, text)))
    except (_Beyond, re.error, RecursionError, OverflowError):
        return ()


class _Maker:
    """`turn`: which alternative is taken, in turn."""

    def __init__(self, pattern: str, turn: int) -> None:
        self.pattern, self.at, self.turn = pattern, 0, turn

    def next(self) -> str:
        return self.pattern[self.at : self.at + 1]

    def alternatives(self) -> str:
        found = [self.sequence()]
        while self.next() == "|":
            self.at += 1
            found.append(self.sequence())
        return found[self.turn % len(found)]

    def sequence(self) -> str:
        made = ""
        while self.next() not in ("", "|", ")"):
            piece = self.piece()
            count = _COUNT.match(self.pattern, self.at)
            self.at = count.end() if count else self.at
            times = 1 if count is None else int(count[1]) if count[1] else int(count[0][0] == "+")
            made += piece * min(times, MAX_LENGTH + 1)
        return made

    def piece(self) -> str:
        sign = self.next()
        if sign == "(":
            return self.group()
        if sign == "[":
            return self.one_of(_CLASS)
        if sign == "\\":
            return self.one_of(re.compile(r"\\[^0-9pP]"))
        self.at += 1
        return "" if sign in "^$" else "a" if sign == "." else sign

    def group(self) -> str:
        self.at += 3 if self.pattern.startswith("(?:", self.at) else 1
        if self.next() == "?":
            raise _Beyond(self.pattern)
        made = self.alternatives()
        if self.next() != ")":
            raise _Beyond(self.pattern)
        self.at += 1
        return made

    def one_of(self, form: re.Pattern[str]) -> str:
        """A character of a class or an escape."""
        found = form.match(self.pattern, self.at)
        if found is None:
            raise _Beyond(self.pattern)
        self.at = found.end()
        if any(sign in found[0][1:] for sign in _SETS):
            raise _Beyond(self.pattern)
        fits: list[str] = [c for c in (*_CANDIDATES, *found[0]) if re.fullmatch(found[0], c)]
        if not fits:
            raise _Beyond(self.pattern)
        return fits[0]
