"""The noun–verb frame of `knhk`: commands register themselves, say what they take and give, and the frame does the rest.

How to add a command
--------------------
Make or extend a module in `operator/knhk/cli/` (each module there is found and imported by itself). Import only the
standard library and this frame at its top; import everything else inside the function, so that `knhk --help` stays fast.

    from knhk.cli.framework import Argument, Call, Outcome, Table, command
    from knhk.cli.schema import array, obj, string

    @command(
        "get",                                   # one word: a verb of its own; ("pack", "check"): noun and verb
        summary="Show resources and their status",
        arguments=(
            Argument("kind", help="PolicyPack, DataBundle …"),
            Argument("--namespace", "-n", help="only this namespace", default="default"),
            Argument("--watch", help="go on until interrupted", flag=True),
            Argument("--attr", help="name=value", repeat=True),     # a tuple of strings
        ),
        output=obj(items=array(obj(name=string()))),               # JSON Schema of the data
        examples=("knhk get PolicyPack", "knhk get PolicyPack -n erp -o json"),
    )
    def get(call: Call) -> Outcome:
        from knhk.adapters.store_sqlite import SqliteStore          # heavy imports here
        call.say("reading the store")                               # what it does, standard error, terminal only
        call.far("items", 10, 100)                                  # how far it is, as often as you like: knhk.cli.progress
        items = [...]
        return Outcome({"items": items}, tables=(Table("", ("name",), tuple((i["name"],) for i in items)),))

`call.args.namespace` holds the values, `call.home` the home folder
(--home, $KNHK_HOME, else ./.knhk; `knhk.wiring.home.Home` names what lies in it). Without `tables`
the frame makes one from the data. Return `Outcome(data, exit=FAULTS)` for violations that are the answer itself. `formats=("dot",)`
of `command` adds outputs of its own, whose text is in `Outcome(data, texts={"dot": …})`. Raise for errors, never print them:
`Refused`, `Corrupt`, `NotFound`, `Conflict` and `knhk_verify`'s `Bad` end with exit 1 and every fault on standard error; `Stalled`,
`Waiting`, `Failure` and OSError with exit 3; `Usage` with exit 2. Output is JSON unless standard output is a terminal;
`-o json|table|yaml` overrides.
"""

from __future__ import annotations

import argparse
import difflib
import errno
import io
import json
import os
import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn, TextIO

from knhk.cli.progress import Meter
from knhk.model.faults import (
    Conflict,
    Corrupt,
    Fault,
    KnhkError,
    NotFound,
    Refused,
    Stalled,
    Waiting,
)
from knhk.model.progress import Far
from knhk.wiring.home import DEFAULT_HOME, find_home

OK, FAULTS, USAGE, FAILURE, INTERRUPTED = 0, 1, 2, 3, 130
EXITS: Mapping[int, str] = {
    OK: "done",
    FAULTS: "faults or violations, each listed",
    USAGE: "the command line is wrong",
    FAILURE: "the environment failed: no home, a missing tool or key, files, network, or a bug",
    INTERRUPTED: "interrupted",
}
OUTPUTS = ("json", "table", "yaml")


class Usage(KnhkError):
    """The command line is wrong; `where` names the argument."""

    def __init__(self, message: str, where: str = "") -> None:
        super().__init__(f"{where}: {message}" if where else message)


class Failure(KnhkError):
    """The environment failed; `must` says what a person can do about it."""

    def __init__(self, where: str, what: str, must: str) -> None:
        self.fault = Fault(where, what, must)
        super().__init__(f"{where}: {what}: {must}")


@dataclass(frozen=True, init=False)
class Argument:
    """One argument: a positional ("path") or an option ("--registry", "-r").

    `kind` turns the text into a value and raises ValueError with what it must be; `flag` options take no value; `repeat` gives a
    list (a positional: one or more); `optional` lets a positional be left out (one that repeats: an empty list)."""

    names: tuple[str, ...]
    help: str
    default: Any
    kind: Callable[[str], Any]
    choices: tuple[str, ...]
    metavar: str
    flag: bool
    repeat: bool
    required: bool
    optional: bool

    def __init__(
        self,
        *names: str,
        help: str,
        default: Any = None,
        kind: Callable[[str], Any] = str,
        choices: Iterable[str] = (),
        metavar: str = "",
        flag: bool = False,
        repeat: bool = False,
        required: bool = False,
        optional: bool = False,
    ) -> None:
        values = dict(locals())
        del values["self"]
        values["choices"] = tuple(choices)
        for name, value in values.items():
            object.__setattr__(self, name, value)

    @property
    def positional(self) -> bool:
        return not self.names[0].startswith("-")

    def add_to(self, parser: argparse.ArgumentParser) -> None:
        """Declare the argument to argparse."""
        if self.flag:
            parser.add_argument(*self.names, help=self.help, action="store_true")
            return
        rest: dict[str, Any] = {"help": self.help, "type": _told(self.kind), "default": self.default}
        if self.choices:
            rest["choices"] = self.choices
        elif self.metavar:
            rest["metavar"] = self.metavar
        if self.repeat and self.positional:
            rest["nargs"] = "+"
        elif self.repeat:
            rest |= {"action": "append", "default": []}
        if self.positional and self.optional:
            rest["nargs"] = "*" if self.repeat else "?"
        if not self.positional:
            rest["required"] = self.required
        parser.add_argument(*self.names, **rest)

    def describe(self) -> dict[str, Any]:
        """What `knhk catalog` says of it."""
        return {
            "names": list(self.names),
            "help": self.help,
            "required": self.required or (self.positional and not self.optional),
            "repeat": self.repeat,
            "flag": self.flag,
            "choices": list(self.choices),
            "default": None if self.default is None else str(self.default),
        }


def _told(kind: Callable[[str], Any]) -> Callable[[str], Any]:
    """`kind`, whose ValueError argparse would swallow; types of Python tell enough by their names."""
    if isinstance(kind, type):
        return kind

    def convert(text: str) -> Any:
        try:
            return kind(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(f"{text!r} {error}") from error

    return convert


@dataclass(frozen=True)
class Table:
    """What a terminal shows: a title (may be empty), column names and rows of text."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Outcome:
    """What a command answers: `data` (JSON values), an exit code, tables for terminals, and `texts`: what the command's own output
    formats print. `data` None: nothing to say. `notes`: what its reader must know of the answer, on standard error."""

    data: Any
    exit: int = OK
    tables: tuple[Table, ...] = ()
    texts: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Call:
    """One call of a command: its arguments, the home folder; `say` tells what it does, `far` how far it is."""

    args: argparse.Namespace
    home: Path
    say: Callable[[str], None]
    far: Far


Handler = Callable[[Call], Outcome]


@dataclass(frozen=True)
class Command:
    """A registered command; `noun` is empty for a verb of its own."""

    noun: str
    verb: str
    summary: str
    arguments: tuple[Argument, ...]
    output: Mapping[str, Any]
    examples: tuple[str, ...]
    handler: Handler
    exits: Mapping[int, str] = field(default_factory=dict)
    detail: str = ""
    formats: tuple[str, ...] = ()
    default: str = ""
    failure: int | None = None

    @property
    def all_exits(self) -> Mapping[int, str]:
        """Exit codes and what they mean."""
        usual = EXITS if self.failure is None else {OK: EXITS[OK], INTERRUPTED: EXITS[INTERRUPTED]}
        return dict(sorted({**usual, **self.exits}.items()))

    @property
    def words(self) -> str:
        return f"{self.noun} {self.verb}".strip()

    def describe(self) -> dict[str, Any]:
        """One entry of `knhk catalog`."""
        return {
            "noun": self.noun,
            "verb": self.verb,
            "summary": self.summary,
            "detail": self.detail,
            "arguments": [a.describe() for a in (*self.arguments, *common(self.formats, self.default))],
            "output": dict(self.output),
            "exits": {str(code): text for code, text in self.all_exits.items()},
            "examples": list(self.examples),
        }


COMMANDS: dict[str, Command] = {}
NOUNS: dict[str, str] = {}


def common(formats: tuple[str, ...] = (), default: str = "") -> tuple[Argument, ...]:
    """The options of every command; `formats` are output formats of one command besides those of all, `default` the one without -o."""
    names = ", ".join((*OUTPUTS, *formats)[:-1])
    last = (*OUTPUTS, *formats)[-1]
    told = f"{names} or {last} (default: {default or 'table on a terminal, else json'})"
    return (
        Argument("--output", "-o", help=told, choices=(*OUTPUTS, *formats)),
        Argument("--home", help=f"home folder (default $KNHK_HOME, else ./{DEFAULT_HOME})", metavar="DIR"),
    )


def noun(name: str, summary: str) -> None:
    """Say what a noun is, for `knhk --help`."""
    NOUNS[name] = summary


def command(
    words: str | tuple[str, str],
    *,
    summary: str,
    arguments: Sequence[Argument] = (),
    output: Mapping[str, Any],
    examples: Sequence[str],
    exits: Mapping[int, str] | None = None,
    detail: str = "",
    formats: Sequence[str] = (),
    default: str = "",
    failure: int | None = None,
) -> Callable[[Handler], Handler]:
    """Register the function below as a command (see the top of this file); `formats` names outputs of its own, whose text the
    outcome gives, `default` the one without -o, for what other programs read; `failure` is the exit code of every error, where a
    standard gives the command codes of its own. Raises ValueError when the words are taken."""
    noun_, verb = ("", words) if isinstance(words, str) else words

    def register(handler: Handler) -> Handler:
        made = Command(
            noun_,
            verb,
            summary,
            tuple(arguments),
            output,
            tuple(examples),
            handler,
            exits or {},
            detail,
            tuple(formats),
            default,
            failure,
        )
        known = COMMANDS.setdefault(made.words, made)
        if known is not made:
            raise ValueError(f"`knhk {made.words}` is registered twice, by {known.handler.__module__} and {handler.__module__}")
        return handler

    return register


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise Usage(f"{_with_hint(message)}; see `{self.prog} --help`")


def _with_hint(message: str) -> str:
    """argparse's message, with the word that was probably meant."""
    wrong = re.search(r"invalid choice: '(.*?)' \(choose from (.*)\)", message)
    if wrong is None:
        return message
    known = {word.lower(): word for word in re.findall(r"[\w-]+", wrong[2])}
    close = [known[word] for word in difflib.get_close_matches(wrong[1].lower(), known, n=1)]
    if not close and message.startswith("argument VERB:"):  # of another noun, perhaps
        close = [f"`knhk {made.words}`" for made in COMMANDS.values() if made.noun and made.verb == wrong[1]]
    return f"{message}; did you mean {' or '.join(close)}?" if close else message


def _unknown(rest: Sequence[str], made: Command | None) -> str:
    """What no argument of the command takes, with the option that was probably meant."""
    names = [name for argument in (*made.arguments, *common()) for name in argument.names if name.startswith("--")] if made else []
    close = difflib.get_close_matches(rest[0].partition("=")[0], names, n=1)
    hint = f"; did you mean {close[0]}?" if close else ""
    words = f"knhk {made.noun} {made.verb}".replace("  ", " ") if made else "knhk"
    return f"unrecognized arguments: {' '.join(rest)}{hint}; see `{words} --help`"


def _epilog(lines: Sequence[str], exits: Mapping[int, str], detail: str) -> str:
    parts = [detail, ""] if detail else []
    parts += ["examples:", *(f"  {line}" for line in lines)]
    parts += ["", "exit codes:", *(f"  {code:<4} {text}" for code, text in exits.items())]
    return "\n".join(parts)


def _add_common(parser: argparse.ArgumentParser, default: Any, made: Command | None = None) -> None:
    output, home = common() if made is None else common(made.formats, made.default)
    parser.add_argument(*output.names, choices=output.choices, default=default, help=output.help)
    parser.add_argument(*home.names, metavar=home.metavar, default=default, help=home.help)


def parser() -> argparse.ArgumentParser:
    """The argparse tree of all registered commands."""
    form = argparse.RawDescriptionHelpFormatter
    root = _Parser(
        prog="knhk",
        description="Policies written in RDF, compiled to branchless C, enforced in front of business systems, with receipts.",
        epilog=_epilog(
            (
                "knhk doctor",
                "knhk pack check examples/packs/invoice-controls/1.0.0",
                "knhk pack --help",
                "knhk catalog -o json",
            ),
            EXITS,
            "",
        ),
        formatter_class=form,
        allow_abbrev=False,
    )
    root.add_argument("--version", action="store_true", help="print the version and stop")
    _add_common(root, None)
    tops = root.add_subparsers(dest="_noun", metavar="COMMAND", title="commands", parser_class=_Parser)
    branches: dict[str, Any] = {}
    for made in sorted(COMMANDS.values(), key=lambda c: (c.noun or c.verb, c.verb)):
        if made.noun and made.noun not in branches:
            told = NOUNS.get(made.noun, "")
            of_noun = (each.examples[0] for each in COMMANDS.values() if each.noun == made.noun)
            epilog = _epilog(tuple(of_noun), EXITS, "")
            branch = tops.add_parser(made.noun, help=told, description=told, epilog=epilog, formatter_class=form, allow_abbrev=False)
            branches[made.noun] = branch.add_subparsers(dest="_verb", metavar="VERB", title="verbs", required=True, parser_class=_Parser)
        leaf = (branches[made.noun] if made.noun else tops).add_parser(
            made.verb,
            help=made.summary,
            description=made.summary + ".",
            epilog=_epilog(made.examples, made.all_exits, made.detail),
            formatter_class=form,
            allow_abbrev=False,
        )
        for argument in made.arguments:
            argument.add_to(leaf)
        _add_common(leaf, argparse.SUPPRESS, made)
        leaf.set_defaults(_command=made)
    return root


def _chosen(args: argparse.Namespace) -> Command | None:
    return getattr(args, "_command", None)


def run(argv: Sequence[str]) -> int:
    """Parse, call, render; the one exit of `knhk`. Never raises for what a user can cause."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # an encoding may lack what is told: what is done is done, and must be told
    made: Command | None = None
    try:
        args, rest = parser().parse_known_args(argv)
        made = _chosen(args)
        if rest:
            raise Usage(_unknown(rest, made))
        if args.version:
            _print(_version())
            return OK
        if made is None:
            raise Usage("a command is missing; see `knhk --help`")
        meter = Meter(sys.stderr)
        try:
            outcome = made.handler(Call(args, find_home(args.home).root, meter.say, meter))
        finally:
            meter.clear()
        show(outcome, args.output or made.default)
        return outcome.exit
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILURE
    except KeyboardInterrupt:
        return _fail(INTERRUPTED, "interrupted", ())
    except Exception as error:  # the border: each kind becomes one exit code and clear lines
        if os.environ.get("KNHK_TRACE"):
            raise
        code, headline, faults = judge(error)
        return _fail(made.failure if made is not None and made.failure is not None else code, headline, faults)


_MUST: Mapping[int, str] = {
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT), "must have room: nothing that was there before is lost"),
    errno.EISDIR: "must be a file",
    errno.ENOTDIR: "must be a folder",
}


def judge(error: Exception) -> tuple[int, str, tuple[Fault, ...]]:
    """Exit code, headline and faults of an error."""
    match error:
        case Usage():
            return USAGE, str(error), ()
        case Refused():
            return FAULTS, "refused", error.faults
        case Corrupt():
            return FAULTS, "corrupt", (Fault(error.where, "", error.what),)
        case Stalled():
            return FAILURE, f"{error.reason}: {error}", ()
        case NotFound():
            return FAULTS, str(error), ()
        case Conflict():
            return FAULTS, f"{error}; run the command again", ()
        case Waiting():
            return FAILURE, f"{error.reason}: {error}; try again in {error.retry_after_s:g} s", ()
        case Failure():
            return FAILURE, str(error), (error.fault,)
        case OSError():
            where = str(error.filename or "system")
            told = error.strerror or str(error)
            return FAILURE, f"{where}: {told}", (Fault(where, told, _MUST.get(error.errno or 0, "must be there and be permitted")),)
        case KnhkError():
            return FAULTS, str(error), ()
        case _ if (bad := _unverified(error)) is not None:
            return FAULTS, "does not verify", (bad,)
        case _ if _names(error, "knhk_hot.toolchain", "NotBuilt"):
            return FAILURE, str(error), ()
        case _:
            told = f"{type(error).__name__}: {error}"
            return FAILURE, f"{told} (set KNHK_TRACE=1 for the trace)", ()


def _unverified(error: Exception) -> Fault | None:
    """The fault in an error of the verifier."""
    if not _names(error, "knhk_verify.errors", "Bad"):
        return None
    return Fault(getattr(error, "where", ""), "", getattr(error, "what", str(error)))


def _names(error: Exception, module: str, name: str) -> bool:
    """Whether the error is of a class of a module that only what has imported it can raise: the frame itself stays light."""
    loaded = sys.modules.get(module)
    return loaded is not None and isinstance(error, getattr(loaded, name))


def _fail(code: int, headline: str, faults: tuple[Fault, ...]) -> int:
    if sys.stderr.isatty():
        lines = [str(fault) for fault in faults] or [headline]
        text = "\n".join(f"knhk: {line}" for line in lines)
    else:
        told = [{"where": f.where, "value": f.value, "must": f.must} for f in faults]
        text = json.dumps({"error": headline, "faults": told}, ensure_ascii=_lacks(sys.stderr))
    sys.stderr.write(_printable(text) + "\n")
    return code


def _lacks(stream: TextIO) -> bool:
    """Whether its encoding lacks characters: formats that have escapes of their own must use them."""
    return not (stream.encoding or "utf-8").lower().startswith("utf")


def show(outcome: Outcome, output: str | None) -> None:
    """Write the data to standard output: JSON, YAML, or tables; notes to standard error."""
    for note in outcome.notes:
        told = f"knhk: {note}" if sys.stderr.isatty() else json.dumps({"note": note}, ensure_ascii=_lacks(sys.stderr))
        sys.stderr.write(_printable(told) + "\n")
    if outcome.data is None:
        return
    form = output or ("table" if sys.stdout.isatty() else "json")
    if form in outcome.texts:
        _print(outcome.texts[form].rstrip("\n"))
    elif form == "json":
        _print(json.dumps(outcome.data, indent=2 if sys.stdout.isatty() else None, ensure_ascii=_lacks(sys.stdout)))
    elif form == "yaml":
        import yaml

        _print(yaml.safe_dump(outcome.data, sort_keys=False, allow_unicode=not _lacks(sys.stdout)).rstrip("\n"))
    else:
        _show_tables(outcome.tables or tables_of(outcome.data))


def tables_of(data: Any, title: str = "") -> tuple[Table, ...]:
    """Tables for data that came without: scalars as rows of name and value, lists of objects as a table each."""
    if isinstance(data, list):
        rows = [item if isinstance(item, dict) else {"value": item} for item in data]
        columns = tuple(dict.fromkeys(key for row in rows for key in row))
        return (Table(title, columns, tuple(tuple(text_of(row.get(c)) for c in columns) for row in rows)),)
    if not isinstance(data, dict):
        return (Table(title, ("value",), ((text_of(data),),)),)
    nested = {key: value for key, value in data.items() if isinstance(value, list) and value and isinstance(value[0], dict)}
    plain = tuple((key, text_of(value)) for key, value in data.items() if key not in nested)
    first = (Table(title, ("", ""), plain),) if plain else ()
    return first + tuple(table for key, value in nested.items() for table in tables_of(value, key))


def text_of(value: Any) -> str:
    """One cell: nothing for None, yes or no for booleans, JSON for what is nested."""
    match value:
        case None:
            return ""
        case bool():
            return "yes" if value else "no"
        case str():
            return value
        case _:
            return json.dumps(value, ensure_ascii=False)


STYLES: Mapping[str, str] = {
    "ADMIT": "green", "DENY": "red", "REFUSED": "red", "ok": "green", "missed": "bold red", "fail": "bold red", "warn": "yellow",
    "R1": "green", "W1": "yellow", "C1": "magenta", "added": "green", "removed": "red", "changed": "yellow", "create": "green",
    "True": "green", "False": "red", "Live": "green", "RolledBack": "red", "Aborted": "red", "Stalled": "red",
}  # fmt: skip


READABLE = 20  # characters that a column keeps when it is folded, if it has so many


def _show_tables(tables: Iterable[Table]) -> None:
    """As wide as they are into a file or a pipe; on a terminal folded, or, where too many columns would leave each a few characters, with
    the columns of each row one below another."""
    from rich.console import Console

    for table in tables:
        widths = [max(map(_cells, texts)) for texts in zip(table.columns, *table.rows, strict=True)]
        between = 3 * len(widths) + 1
        console = Console(file=sys.stdout, highlight=False)
        if not sys.stdout.isatty():
            console.width = max(sum(widths) + between, _cells(table.title), 1)
        is_wide = sum(min(width, READABLE) for width in widths) + between > console.width
        console.print(_stacked(table) if is_wide else _drawn(table))


def _cells(text: str) -> int:
    """Columns of a terminal that the longest line takes."""
    from rich.cells import cell_len

    return max(map(cell_len, text.splitlines()), default=0)


def _drawn(table: Table) -> Any:
    from rich import box
    from rich.table import Table as Drawn
    from rich.text import Text

    drawn = Drawn(title=Text(table.title) if table.title else None, box=box.SIMPLE_HEAD, show_header=any(table.columns))
    for column in table.columns:
        drawn.add_column(Text(column), overflow="fold")
    for row in table.rows:
        drawn.add_row(*(_styled(cell) for cell in row))
    return drawn


def _stacked(table: Table) -> Any:
    """What is empty is left out, but for a table without rows, of which its columns are named."""
    from rich import box
    from rich.table import Table as Drawn
    from rich.text import Text

    drawn = Drawn(title=Text(table.title) if table.title else None, box=box.SIMPLE, show_header=False)
    drawn.add_column(no_wrap=True)
    drawn.add_column(overflow="fold")
    if not table.rows:
        drawn.add_row(Text("no rows"), Text(", ".join(table.columns)))
    for row in table.rows:
        for column, cell in zip(table.columns, row, strict=True):
            if cell:
                drawn.add_row(Text(column), _styled(cell))
        drawn.add_section()
    return drawn


def _styled(cell: str) -> Any:
    from rich.text import Text

    return Text(cell, STYLES.get(cell, ""))


def _printable(text: str) -> str:
    """File names that are no UTF-8 reach us as lone surrogates, which no stream takes."""
    return text.encode("utf-8", "backslashreplace").decode()


def _print(text: str) -> None:
    sys.stdout.write(_printable(text) + "\n")
    sys.stdout.flush()


def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return f"knhk {version('reflex-enterprise')}"
    except PackageNotFoundError:
        return "knhk (not installed)"
