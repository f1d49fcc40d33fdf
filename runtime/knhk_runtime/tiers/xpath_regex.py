"""Regular expressions of XPath (fn:matches, which sh:pattern and SPARQL REGEX name), translated to Python's `re`.

Source: XPath and XQuery Functions and Operators 3.1, section 5.6.1, and XML Schema Part 2, appendix G. Character classes become explicit
ranges, so that subtraction and \\p{…} mean the same here as there. What cannot be translated is refused when the shape is loaded.
"""

from __future__ import annotations

import re
import sys
import unicodedata
from collections.abc import Callable, Iterable
from functools import lru_cache

from knhk_runtime.tiers.literals import NAME_CHARS, NAME_START_CHARS

Ranges = tuple[tuple[int, int], ...]
MAX_PATTERN_CHARS = 10_000
_LAST = sys.maxunicode
_FLAGS = {"s": re.DOTALL, "m": re.MULTILINE, "i": re.IGNORECASE}


class PatternError(ValueError):
    """A pattern that XPath does not allow or that Python cannot run the same way; says position and reason."""


def compile_pattern(pattern: str, flags: str = "") -> re.Pattern[str]:
    """The pattern for use with `.search`. Raises PatternError."""
    if len(pattern) > MAX_PATTERN_CHARS:
        raise PatternError(f"pattern of {len(pattern)} characters, at most {MAX_PATTERN_CHARS}")
    unknown = set(flags) - set("smixq")
    if unknown:
        raise PatternError(f"flag {sorted(unknown)[0]!r} is not one of s, m, i, x, q")
    python_flags = 0
    for flag in set(flags) & set(_FLAGS):
        python_flags |= _FLAGS[flag]
    text = re.escape(pattern) if "q" in flags else _Translator(pattern, flags).translate()
    try:
        return re.compile(text, python_flags)
    except (re.error, OverflowError, RecursionError) as error:
        raise PatternError(f"{pattern!r}: {error}") from error


def _merge(pairs: Iterable[tuple[int, int]]) -> Ranges:
    merged: list[tuple[int, int]] = []
    for low, high in sorted(pairs):
        if merged and low <= merged[-1][1] + 1:
            merged[-1] = (merged[-1][0], max(merged[-1][1], high))
        else:
            merged.append((low, high))
    return tuple(merged)


def _complement(ranges: Ranges) -> Ranges:
    out = []
    start = 0
    for low, high in ranges:
        if low > start:
            out.append((start, low - 1))
        start = high + 1
    if start <= _LAST:
        out.append((start, _LAST))
    return tuple(out)


def _minus(left: Ranges, right: Ranges) -> Ranges:
    return _complement(_merge((*_complement(left), *right)))


@lru_cache(maxsize=1)
def _by_category() -> dict[str, Ranges]:
    """General categories of the interpreter's Unicode version, with their one-letter unions."""
    pairs: dict[str, list[tuple[int, int]]] = {}
    for code in range(_LAST + 1):
        name = unicodedata.category(chr(code))
        runs = pairs.setdefault(name, [])
        if runs and runs[-1][1] == code - 1:
            runs[-1] = (runs[-1][0], code)
        else:
            runs.append((code, code))
    exact = {name: tuple(runs) for name, runs in pairs.items()}
    groups = {letter: _merge(pair for name, runs in exact.items() if name[0] == letter for pair in runs) for letter in "LMNPZSC"}
    return {**exact, **groups}


def _category(name: str) -> Ranges:
    return _by_category()[name]


def _of_class(text: str) -> Ranges:
    """Ranges of a plain character class body such as "a-z_"; no escapes but \\-."""
    out = []
    chars = list(re.finditer(r"\\-|.", text, re.DOTALL))
    codes = [match.group()[-1] for match in chars]
    i = 0
    while i < len(codes):
        if i + 2 < len(codes) and codes[i + 1] == "-" and chars[i + 1].group() == "-":
            out.append((ord(codes[i]), ord(codes[i + 2])))
            i += 3
        else:
            out.append((ord(codes[i]), ord(codes[i])))
            i += 1
    return _merge(out)


_SPACE: Ranges = ((9, 10), (13, 13), (32, 32))
_MULTI: dict[str, Callable[[], Ranges]] = {
    "s": lambda: _SPACE,
    "d": lambda: _category("Nd"),
    "w": lambda: _complement(_merge((*_category("P"), *_category("Z"), *_category("C")))),
    "i": lambda: _merge((*_of_class(NAME_START_CHARS), (58, 58))),
    "c": lambda: _merge((*_of_class(NAME_CHARS), (58, 58))),
}
_SINGLE = {"n": 10, "r": 13, "t": 9, **{char: ord(char) for char in "\\|.-^?*+{}()[]$"}}
_BLOCKS: dict[str, tuple[int, int]] = {
    "BasicLatin": (0x0, 0x7F),
    "Latin-1Supplement": (0x80, 0xFF),
    "LatinExtended-A": (0x100, 0x17F),
    "LatinExtended-B": (0x180, 0x24F),
    "IPAExtensions": (0x250, 0x2AF),
    "Greek": (0x370, 0x3FF),
    "GreekandCoptic": (0x370, 0x3FF),
    "Cyrillic": (0x400, 0x4FF),
    "Armenian": (0x530, 0x58F),
    "Hebrew": (0x590, 0x5FF),
    "Arabic": (0x600, 0x6FF),
    "Devanagari": (0x900, 0x97F),
    "Thai": (0xE00, 0xE7F),
    "HangulJamo": (0x1100, 0x11FF),
    "LatinExtendedAdditional": (0x1E00, 0x1EFF),
    "GreekExtended": (0x1F00, 0x1FFF),
    "GeneralPunctuation": (0x2000, 0x206F),
    "CurrencySymbols": (0x20A0, 0x20CF),
    "Hiragana": (0x3040, 0x309F),
    "Katakana": (0x30A0, 0x30FF),
    "CJKUnifiedIdeographs": (0x4E00, 0x9FFF),
    "HangulSyllables": (0xAC00, 0xD7AF),
}
_QUANTITY = re.compile(r"\{([0-9]{1,5})(,([0-9]{0,5}))?\}")
_MOST_REPEATS = 10_000


def _code(value: int) -> str:
    return f"\\U{value:08x}"


def _emit(ranges: Ranges) -> str:
    if not ranges:
        return "(?!)"
    return "[" + "".join(_code(low) if low == high else f"{_code(low)}-{_code(high)}" for low, high in ranges) + "]"


class _Translator:
    """One pass over the pattern; `at` is the position, faults name it."""

    def __init__(self, pattern: str, flags: str) -> None:
        self.pattern = _without_space(pattern) if "x" in flags else pattern
        self.dot_all = "s" in flags
        self.multi_line = "m" in flags
        self.at = 0
        self.open: list[int] = []  # group numbers still open; 0 for those that do not capture
        self.groups = 0

    def fault(self, reason: str) -> PatternError:
        return PatternError(f"{self.pattern!r} at {self.at}: {reason}")

    def peek(self) -> str:
        return self.pattern[self.at : self.at + 1]

    def take(self) -> str:
        char = self.peek()
        if not char:
            raise self.fault("ends too early")
        self.at += 1
        return char

    def translate(self) -> str:
        out: list[str] = []
        can_repeat = False
        while self.at < len(self.pattern):
            char = self.peek()
            if char in "*+?{":
                if not can_repeat:
                    raise self.fault(f"{char!r} has nothing to repeat")
                out.append(self.quantifier())
                can_repeat = False
                continue
            piece, can_repeat = self.piece()
            out.append(piece)
        if self.open:
            raise self.fault("a group is not closed")
        return "".join(out)

    def piece(self) -> tuple[str, bool]:
        """One atom or anchor, and whether a quantifier may follow."""
        char = self.take()
        if char == "(":
            return self.group(), False
        if char == ")":
            if not self.open:
                raise self.fault("')' without '('")
            self.open.pop()
            return ")", True
        if char == "|":
            return "|", False
        if char == "^":
            return "^", False
        if char == "$":
            return ("$" if self.multi_line else "\\Z"), False
        if char == ".":
            return ("." if self.dot_all else "[^\\n\\r]"), True
        if char == "[":
            return _emit(self.character_class()), True
        if char == "\\":
            return self.escape(), True
        if char in "]}":
            raise self.fault(f"{char!r} must be escaped")
        return re.escape(char), True

    def group(self) -> str:
        if self.peek() != "?":
            self.groups += 1
            self.open.append(self.groups)
            return "("
        if not self.pattern.startswith("?:", self.at):
            raise self.fault("only (?: is a group of XPath; look-around is not")
        self.at += 2
        self.open.append(0)
        return "(?:"

    def quantifier(self) -> str:
        char = self.peek()
        if char == "{":
            found = _QUANTITY.match(self.pattern, self.at)
            if not found:
                raise self.fault("a quantity must be {n}, {n,} or {n,m}")
            low, high = int(found[1]), int(found[3]) if found[3] else int(found[1])
            if high < low or high > _MOST_REPEATS:
                raise self.fault(f"a quantity must rise and be at most {_MOST_REPEATS}")
            self.at = found.end()
            text = found[0]
        else:
            text = self.take()
        if self.peek() == "?":
            self.at += 1
            text += "?"
        return text

    def escape(self) -> str:
        char = self.peek()
        if char.isdigit() and char != "0":
            return self.back_reference()
        return _emit(self.escaped_ranges())

    def back_reference(self) -> str:
        number = int(self.take())
        while self.peek().isdigit() and number * 10 + int(self.peek()) <= self.groups:
            number = number * 10 + int(self.take())
        if number > self.groups or number in self.open:
            raise self.fault(f"\\{number} must name a group that is closed before it")
        return f"(?:\\{number})"

    def escaped_ranges(self) -> Ranges:
        char = self.take()
        if char in _SINGLE:
            return ((_SINGLE[char], _SINGLE[char]),)
        if char in "pP":
            return self.property_ranges(negative=char == "P")
        reader = _MULTI.get(char.lower())
        if reader is None:
            raise self.fault(f"\\{char} is not an escape of XPath")
        return _complement(reader()) if char.isupper() else reader()

    def property_ranges(self, negative: bool) -> Ranges:
        end = self.pattern.find("}", self.at)
        if self.peek() != "{" or end < 0:
            raise self.fault("\\p must be followed by {name}")
        name = self.pattern[self.at + 1 : end]
        self.at = end + 1
        if name.startswith("Is"):
            block = _BLOCKS.get(name[2:])
            if block is None:
                raise self.fault(f"block {name[2:]!r} is not supported")
            ranges: Ranges = (block,)
        elif name in _by_category() or name == "Cn":
            ranges = _by_category().get(name, ())
        else:
            raise self.fault(f"category {name!r} is unknown")
        return _complement(ranges) if negative else ranges

    def character_class(self) -> Ranges:
        """The class whose '[' was just read."""
        negative = self.peek() == "^"
        self.at += negative
        pairs: list[tuple[int, int]] = []
        first = True
        while True:
            char = self.take()
            if char == "]":
                if first:
                    raise self.fault("an empty class")
                ranges = _merge(pairs)
                return _complement(ranges) if negative else ranges
            if char == "-" and self.peek() == "[" and not first:
                self.at += 1
                removed = self.character_class()
                if self.take() != "]":
                    raise self.fault("a subtraction must end the class")
                ranges = _merge(pairs)
                return _minus(_complement(ranges) if negative else ranges, removed)
            pairs.extend(self.class_item(char, first))
            first = False

    def class_item(self, char: str, first: bool) -> Ranges:
        """A character, range or escape inside a class."""
        if char == "[":
            raise self.fault("'[' must be escaped inside a class")
        if char == "\\":
            ranges = self.escaped_ranges()
            if len(ranges) != 1 or ranges[0][0] != ranges[0][1]:
                return ranges
            low = ranges[0][0]
        elif char == "-" and not first and self.peek() != "]":
            raise self.fault("'-' must be first, last or escaped")
        else:
            low = ord(char)
        if self.peek() != "-" or self.pattern[self.at + 1 : self.at + 2] in ("]", "["):
            return ((low, low),)
        self.at += 1
        high = self.range_end()
        if high < low:
            raise self.fault("a range must rise")
        return ((low, high),)

    def range_end(self) -> int:
        char = self.take()
        if char == "[":
            raise self.fault("'[' must be escaped inside a class")
        if char != "\\":
            return ord(char)
        ranges = self.escaped_ranges()
        if len(ranges) != 1 or ranges[0][0] != ranges[0][1]:
            raise self.fault("a range must end in one character")
        return ranges[0][0]


def _without_space(pattern: str) -> str:
    """Flag x: white space outside character classes is removed."""
    out, depth, i = [], 0, 0
    while i < len(pattern):
        char = pattern[i]
        if char == "\\" and i + 1 < len(pattern):
            out.append(pattern[i : i + 2])
            i += 2
            continue
        depth += (char == "[") - (char == "]" and depth > 0)
        if depth or char not in "\t\n\r ":
            out.append(char)
        i += 1
    return "".join(out)
