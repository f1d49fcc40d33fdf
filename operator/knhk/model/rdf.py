"""What an RDF file says."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

TURTLE = ".ttl"
_TAGS = re.compile(r"""(?:["']@|xml:lang=["']|"@language"\s*:\s*")([A-Za-z]{1,8}(?:-[A-Za-z0-9]{1,8})*)""")


@dataclass(frozen=True)
class RdfFile:
    """What a file says. `lines`: canonical N-Triples, sorted, distinct, blank nodes named PREFIXn in the order of the text."""

    path: Path
    text: str
    uri: str
    lines: tuple[str, ...]
    classes: tuple[str, ...]  # those of the lines that are rdfs:subClassOf

    @property
    def is_turtle(self) -> bool:
        return self.path.suffix.lower() == TURTLE

    @property
    def ntriples(self) -> str:
        return "".join(self.lines)

    @property
    def tags(self) -> dict[str, str]:
        """Language tags with capitals by their lower case, as the file spells them first."""
        found: dict[str, str] = {}
        for tag in _TAGS.findall(self.text):
            found.setdefault(tag.lower(), tag)
        return {low: tag for low, tag in found.items() if low != tag}
