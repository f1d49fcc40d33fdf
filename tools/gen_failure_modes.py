"""Writes docs/failure-modes.md from the tests that carry `@pytest.mark.failure(row=…, column=…)`.

A cell of the table names the tests that show it; an empty cell is a failure that nothing shows yet, and it is counted.
"""

from __future__ import annotations

import ast
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
OUT = ROOT / "docs" / "failure-modes.md"
ROWS = (
    "Envoy", "agent", "sequencer", "registry", "signer", "API server", "operator", "admission", "witness", "region",
    "clock", "disk", "memory", "upstream", "Kafka",
)  # fmt: skip
COLUMNS = {
    "traffic": "traffic",
    "receipts": "receipts",
    "rollout": "rollout",
    "seen": "what the operator sees",
    "act": "what a person must do",
}
BANNER = "<!-- Written by tools/gen_failure_modes.py from the tests; do not edit. -->"


def marks(path: Path) -> list[tuple[str, str, str, str]]:
    """(row, column, test, first line of its docstring) for each failure mark in a test file."""
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            continue
        for decorator in node.decorator_list:
            if isinstance(decorator, ast.Call) and ast.unparse(decorator.func) == "pytest.mark.failure":
                given = {k.arg: ast.literal_eval(k.value) for k in decorator.keywords}
                given |= dict(zip(("row", "column"), map(ast.literal_eval, decorator.args), strict=False))
                row, column = given["row"], given["column"]
                if row not in ROWS or column not in COLUMNS:
                    raise SystemExit(
                        f"{path}:{node.lineno}: failure({row!r}, {column!r}): row must be one of {ROWS}, column one of {tuple(COLUMNS)}"
                    )
                says = (ast.get_docstring(node) or "").split("\n")[0]
                found.append((row, column, f"{path.relative_to(ROOT)}::{node.name}", says))
    return found


def page(found: list[tuple[str, str, str, str]]) -> str:
    """The Markdown of the table and of the list of what each test shows."""
    numbered = {test: number for number, test in enumerate(sorted({test for _, _, test, _ in found}), 1)}
    cells: dict[tuple[str, str], set[int]] = {}
    for row, column, test, _ in found:
        cells.setdefault((row, column), set()).add(numbered[test])
    lines = [
        BANNER,
        "# Failure modes",
        "",
        "What happens when a part fails. Each number is a test that shows the cell; an empty cell is shown by no test yet.",
        f"{len(cells)} of {len(ROWS) * len(COLUMNS)} cells are shown.",
        "",
        "| fails | " + " | ".join(COLUMNS.values()) + " |",
        "|---" * (len(COLUMNS) + 1) + "|",
    ]
    for row in ROWS:
        shown = (", ".join(str(n) for n in sorted(cells.get((row, column), ()))) for column in COLUMNS)
        lines.append(f"| {row} | " + " | ".join(shown) + " |")
    lines += ["", "## What the tests show", ""]
    says = {test: text for _, _, test, text in found}
    lines += [f"{number}. `{test}`: {says[test] or 'see the test'}" for test, number in numbered.items()]
    return "\n".join(lines) + "\n"


def main() -> int:
    found = [mark for path in sorted((ROOT / "tests").rglob("test_*.py")) for mark in marks(path)]
    OUT.parent.mkdir(exist_ok=True)
    OUT.write_text(page(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
