"""SPARQL text as tokens."""

from __future__ import annotations

import re
from dataclasses import dataclass

_TOKEN = re.compile(
    r"""(?P<space>\s+|\#[^\n]*)|(?P<iri><[^<>"{}|^`\\\x00-\x20]*>)"""
    r"""|(?P<string>\"\"\"(?:[^"\\]|\\.|"{1,2}(?!"))*\"\"\"|'''(?:[^'\\]|\\.|'{1,2}(?!'))*'''|"(?:[^"\\\n]|\\.)*"|'(?:[^'\\\n]|\\.)*')"""
    r"""|[?$](?P<var>\w+)|(?P<name>[^\W\d_](?:[\w.-]*[\w-])?)?:(?:[\w:%.\\~-]*[\w:%\\~-])?|(?P<word>\w+)|(?P<mark>[\s\S])"""
)


@dataclass(frozen=True)
class Token:
    """A token of a query: its text, and as what it counts (`word` in lower case, `var`, `mark`; empty for other tokens)."""

    text: str
    word: str = ""
    var: str = ""
    mark: str = ""
    blank: bool = False


def tokens(text: str) -> list[Token]:
    """The whole text in tokens, white space and comments included."""
    return [
        Token(m.group(), (m["word"] or "").lower(), m["var"] or "", m["mark"] or "", m["space"] is not None) for m in _TOKEN.finditer(text)
    ]
