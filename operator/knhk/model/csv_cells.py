"""Text in CSV that a spreadsheet opens: no cell of it is a formula (OWASP, CSV Injection)."""

from __future__ import annotations

BEGINS = ("=", "+", "-", "@", "\t", "\r")


def cell(value: object) -> object:
    """The value; text that a spreadsheet would take for a formula with an apostrophe before it. Numbers are none."""
    return f"'{value}" if isinstance(value, str) and value.startswith(BEGINS) else value
