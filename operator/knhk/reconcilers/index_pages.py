"""Pages that tell a person what is in a folder of evidence: HTML that any browser shows, without scripts and without a network. No
evidence: what a log says is shown as text, and never becomes part of the page itself."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape

_STYLE = (
    "body{font:16px/1.5 system-ui,sans-serif;max-width:72rem;margin:2rem auto;padding:0 1rem;color:#1a1a1a;background:#fff}"
    "pre{background:#f2f2f2;padding:.75rem 1rem;overflow-x:auto}"
    "code,pre,td{font-family:ui-monospace,monospace;font-size:.875rem}"
    ".wide{overflow-x:auto}table{border-collapse:collapse;width:100%}"
    "th,td{text-align:left;vertical-align:top;padding:.35rem .6rem;border-bottom:1px solid #ddd;overflow-wrap:anywhere}"
    "th{white-space:nowrap}td:first-child{white-space:nowrap}"
)


@dataclass(frozen=True)
class Link:
    """A cell that leads to a file of the folder."""

    path: str
    text: str


Cell = str | Link


def page(title: str, *parts: str) -> str:
    """The whole page; `parts` as the functions below make them."""
    policy = "default-src 'none'; style-src 'unsafe-inline'"
    head = f'<meta charset="utf-8"><meta http-equiv="Content-Security-Policy" content="{policy}">'
    head += f'<meta name="viewport" content="width=device-width"><title>{escape(title)}</title><style>{_STYLE}</style>'
    body = "\n".join((f"<h1>{escape(title)}</h1>", *parts))
    return f'<!doctype html>\n<html lang="en"><head>{head}</head>\n<body>\n{body}\n</body></html>\n'


def heading(text: str) -> str:
    return f"<h2>{escape(text)}</h2>"


def paragraph(text: str) -> str:
    return f"<p>{_coded(text)}</p>"


def listed(items: Iterable[str], *, ordered: bool = False) -> str:
    name = "ol" if ordered else "ul"
    return f"<{name}>{''.join(f'<li>{_coded(item)}</li>' for item in items)}</{name}>"


def commands(*lines: str) -> str:
    return f"<pre>{escape(chr(10).join(lines))}</pre>"


def table(columns: Sequence[str], rows: Iterable[Sequence[Cell]]) -> str:
    head = "".join(f"<th>{escape(name)}</th>" for name in columns)
    body = "\n".join(f"<tr>{''.join(f'<td>{_cell(cell)}</td>' for cell in row)}</tr>" for row in rows)
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>\n{body}\n</tbody></table></div>'


def how_to_check() -> str:
    """Steps for a person who has never seen such a folder."""
    steps = (
        "Get the root key, `root.pub` (44 characters), from the owner of the log, on a way that you trust. It is not in here on "
        "purpose: who alters a folder could alter a key in it, too.",
        "Have Python 3.11 or newer, and its package `cryptography` (`pip install cryptography`). Nothing else, and no network.",
        "Best take the verifier that you have from elsewhere. Else look what is in `verifier`: the folder `knhk_verify` alone, and in it "
        "eight files that end in `.py`. Do not run it when there is anything else, `__pycache__` or another module too: Python would run "
        "that in place of what you read. Read these files, at most 600 lines, or compare them with those that you know. Then, in this "
        "folder:",
    )
    return "\n".join(
        (
            heading("Check it yourself"),
            listed(steps, ordered=True),
            commands("cd verifier", "python3 -B -m knhk_verify --root /path/to/root.pub .."),
            paragraph(
                "Each line begins with `ok` or `BAD` and says what was checked, and against which key. Exit status 0 (`echo $?`): all "
                "verifies; 1: something does not, and the line says what and where; 2: a file or the command is wrong. Believe what "
                "it prints: the table below is for reading only."
            ),
        )
    )


def _cell(cell: Cell) -> str:
    return f'<a href="{escape(cell.path)}">{escape(cell.text)}</a>' if isinstance(cell, Link) else escape(cell)


def _coded(text: str) -> str:
    """What stands between backticks is code; all else is text."""
    return "".join(f"<code>{escape(part)}</code>" if at % 2 else escape(part) for at, part in enumerate(text.split("`")))
