"""Writes pack.yaml beside each pack.in.yaml: `inline: {file: NAME}` becomes the text of NAME.

`kubectl apply` and `knhk apply` take one file; authors keep one file for each source.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

_FILE = re.compile(r"^(?P<indent> *)inline: \{file: (?P<name>[\w.-]+)\}$", re.MULTILINE)


def assembled(template: Path) -> str:
    """The text of pack.yaml for a pack.in.yaml."""

    def block(match: re.Match[str]) -> str:
        indent = match["indent"]
        lines = (template.parent / match["name"]).read_text(encoding="utf-8").splitlines()
        body = "\n".join(f"{indent}  {line}" if line else "" for line in lines)
        return f"{indent}inline: |\n{body}"

    banner = f"# Made from {template.name} and the sources beside it by examples/packs/assemble.py.\n"
    return banner + _FILE.sub(block, template.read_text(encoding="utf-8"))


def main() -> int:
    """Writes every pack.yaml below this folder."""
    for template in sorted(Path(__file__).parent.rglob("pack.in.yaml")):
        (template.parent / "pack.yaml").write_text(assembled(template), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
