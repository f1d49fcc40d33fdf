"""Sets of numbers as ranges, first and last, ascending and apart: of many entries of a log a few of these."""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator

Ranges = tuple[tuple[int, int], ...]
_RUN = re.compile(rb"\xff+|[^\x00\xff]")


def merged(pairs: Iterable[tuple[int, int]]) -> Ranges:
    """Of ranges in any order, which may overlap."""
    return tuple(_joined(sorted(pairs)))


def minus(left: Ranges, right: Iterable[tuple[int, int]]) -> Ranges:
    """What is in the first and not in the second."""
    found, others, at = list[tuple[int, int]](), merged(right), 0
    for first, last in left:
        while at < len(others) and others[at][0] <= last:
            low, high = others[at]
            if first < low:
                found.append((first, low - 1))
            first = max(first, high + 1)
            if high > last:
                break
            at += 1
        if first <= last:
            found.append((first, last))
    return tuple(found)


def count(ranges: Iterable[tuple[int, int]]) -> int:
    """How many numbers."""
    return sum(last - first + 1 for first, last in ranges)


def numbers_of(ranges: Iterable[tuple[int, int]]) -> Iterator[int]:
    """Ascending."""
    for first, last in ranges:
        yield from range(first, last + 1)


class Within:
    """Asks of numbers whether they are in these ranges."""

    def __init__(self, ranges: Ranges) -> None:
        self._firsts, self._lasts = [first for first, _ in ranges], [last for _, last in ranges]

    def has(self, number: int) -> bool:
        at = bisect_left(self._lasts, number)
        return at < len(self._lasts) and self._firsts[at] <= number

    def meets(self, first: int, last: int) -> bool:
        """Whether any of these numbers is between two, both included."""
        return bisect_left(self._lasts, first) < bisect_right(self._firsts, last)


class Marks:
    """A set of numbers below `size`, one bit each."""

    def __init__(self, size: int = 0) -> None:
        self.size, self._bits = size, bytearray(-(-size // 8))

    def reach(self, size: int) -> None:
        """Takes numbers below this size, too."""
        self.size = max(self.size, size)
        self._bits.extend(bytes(-(-self.size // 8) - len(self._bits)))

    def add(self, number: int) -> bool:
        """Whether it is new and in range."""
        if not 0 <= number < self.size or self.has(number):
            return False
        self._bits[number >> 3] |= 1 << (number & 7)
        return True

    def has(self, number: int) -> bool:
        return bool(self._bits[number >> 3] >> (number & 7) & 1)

    def ranges(self, after: int = -1) -> Iterator[tuple[int, int]]:
        """Those after a number, ascending and apart."""
        return _joined((max(first, after + 1), last) for first, last in self._runs(max(0, after + 1) >> 3) if last > after)

    def _runs(self, byte: int) -> Iterator[tuple[int, int]]:
        for run in _RUN.finditer(self._bits, byte):
            first, bits = run.start() << 3, run[0][0]
            if bits == 0xFF:
                yield first, (run.end() << 3) - 1
            else:
                yield from ((first + bit, first + bit) for bit in range(8) if bits >> bit & 1)


def _joined(pairs: Iterable[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """Of pairs in the order of their firsts."""
    first, last = 0, -1
    for low, high in pairs:
        if last < first or low > last + 1:
            if first <= last:
                yield first, last
            first, last = low, high
        else:
            last = max(last, high)
    if first <= last:
        yield first, last
