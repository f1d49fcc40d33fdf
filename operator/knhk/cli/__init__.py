"""The `knhk` command: each module of this package registers its commands with `knhk.cli.framework`."""

from __future__ import annotations

import importlib
import pkgutil
import sys
from collections.abc import Sequence

FRAME = frozenset({"__main__", "arguments", "framework", "schema"})
OF_ALL = frozenset({"catalog", "completion"})  # what these print is made of every command
VALUED = frozenset({"--home", "--output", "-o"})  # options of every command that take the next word


def load(noun: str = "") -> None:
    """Import modules of commands, so that each registers itself: every one, or those that are named for a noun (log, log_replay …)."""
    for module in pkgutil.iter_modules(__path__):
        if module.name not in FRAME and (not noun or module.name == noun or module.name.startswith(f"{noun}_")):
            importlib.import_module(f"{__name__}.{module.name}")


def _named(argv: Sequence[str]) -> list[str]:
    """The first two words of a command line that are no options."""
    found, words = list[str](), iter(argv)
    while len(found) < 2 and (word := next(words, None)) is not None:
        if word in VALUED:
            next(words, None)
        elif not word.startswith("-"):
            found.append(word)
    return found


def _load_for(argv: Sequence[str]) -> None:
    """What this command line needs: most of the time of a short command is reading modules of others."""
    from knhk.cli.framework import COMMANDS

    named = _named(argv)
    if named:
        load(named[0])
    if OF_ALL & {*named} or not {" ".join(named), " ".join(named[:1])} & COMMANDS.keys():
        load()


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of `knhk`; returns the exit code."""
    from knhk.cli.framework import run

    words = sys.argv[1:] if argv is None else argv
    _load_for(words)
    return run(words)
