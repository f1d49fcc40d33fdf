"""What every command owes its caller: help with examples, JSON for programs, one clear line or object for each error."""

from __future__ import annotations

import json
import os
import pty
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from knhk.cli import load
from knhk.cli.framework import COMMANDS, command, parser

load()
WORDS = sorted(COMMANDS)
HEAVY = ("yaml", "rich", "rdflib", "cryptography", "aiohttp", "kopf", "kubernetes", "sigstore", "jinja2", "pyoxigraph", "sqlite3")


@pytest.mark.parametrize("words", WORDS)
def test_help_shows_examples_that_parse_and_exit_codes(words: str, capsys: pytest.CaptureFixture[str]) -> None:
    made = COMMANDS[words]
    with pytest.raises(SystemExit) as ended:
        parser().parse_args([*words.split(), "--help"])
    told = capsys.readouterr().out
    assert ended.value.code == 0
    assert made.examples
    assert "exit codes:" in told
    for example in made.examples:
        assert example in told
        argv = shlex.split(re.split(r" [|>] ", example)[0])
        assert argv[0] == "knhk"
        assert parser().parse_args(argv[1:])._command is made


def test_help_of_a_noun_shows_an_example_of_each_verb(capsys: pytest.CaptureFixture[str]) -> None:
    for made in COMMANDS.values():
        if made.noun:
            with pytest.raises(SystemExit):
                parser().parse_args([made.noun, "--help"])
            assert made.examples[0] in capsys.readouterr().out


def test_the_catalog_lists_every_command_with_what_it_takes_and_gives(knhk: Any) -> None:
    answer = knhk("catalog")
    assert answer.exit == 0
    listed = {f"{e['noun']} {e['verb']}".strip(): e for e in answer.out["commands"]}
    assert sorted(listed) == WORDS
    for entry in listed.values():
        assert set(entry) == {"noun", "verb", "summary", "detail", "arguments", "output", "exits", "examples"}
        assert {"0", "1", "2", *(() if "failure" in entry["exits"]["2"] else ("3",))} <= set(entry["exits"])
        assert entry["output"]["type"] == "object"
        assert {name for a in entry["arguments"] for name in a["names"]} >= {"--output", "--home"}
    assert {e["noun"] for e in listed.values() if e["noun"]} <= set(answer.out["nouns"])


@pytest.mark.parametrize("argv", [("catalog", "-o", "json"), ("completion", "bash"), ("completion", "zsh"), ("completion", "fish")])
def test_a_process_of_its_own_tells_of_every_command(argv: tuple[str, ...]) -> None:
    """It reads no more modules than it is asked for; here that is all of them."""
    told = subprocess.run([sys.executable, "-m", "knhk.cli", *argv], capture_output=True, text=True, check=True).stdout
    assert {word for words in WORDS for word in words.split()} <= {*re.findall(r"[a-z-]+", told)}


def test_help_imports_nothing_heavy() -> None:
    """Start-up stays fast because it stays light: the modules that cost are not there yet."""
    script = "import sys, knhk.cli as c\ntry: c.main(['--help'])\nexcept SystemExit: pass\nprint(*sys.modules, file=sys.stderr)"
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    loaded = {name.split(".")[0] for name in ran.stderr.split()}
    assert loaded.isdisjoint(HEAVY), sorted(loaded & set(HEAVY))


@pytest.mark.parametrize(
    ("argv", "told"),
    [
        ([], "a command is missing"),
        (["nonsense"], "nonsense"),
        (["pack"], "VERB"),
        (["pack", "nonsense"], "nonsense"),
        (["pack", "check"], "DIR_OR_FILE"),
        (["pack", "check", "x", "--nonsense"], "--nonsense"),
        (["catalog", "-o", "xml"], "xml"),
        (["pack", "status", "noslash"], "NAMESPACE/NAME"),
        (["receipt", "list", "--limit", "many"], "many"),
        (["receipt", "list", "--limit", "-1"], "--limit: '-1' must be a whole number from 1 on"),
        (["receipt", "list", "--lmit", "3"], "--lmit 3; did you mean --limit?; see `knhk receipt list --help`"),
        (["receipt", "verify", "0", "--at", "yesterday"], "--at: 'yesterday' must be a time like 2027-01-01T00:00:00Z"),
        (["log", "state", "--at", "yesterday"], "--at: 'yesterday' must be a time like 2027-01-01T00:00:00Z"),
        (["receipt", "lineage", "anna", "--pointer", "name"], "--pointer: 'name' must be a JSON pointer"),
        (["drill", "run"], "--out: must be given"),
        (["keys", "rotate", "rolout"], "did you mean rollout?"),
        (["keys", "rotate", "root"], "choose from 'build', 'rollout', 'data', 'log'"),
        (["log", "replay", "--shard", "0/2"], "--shard: must come with an archive"),
        (["consent", "list", "J\udcfcrgen"], "'J\\udcfcrgen' must be text in the encoding of this locale"),
        (["receipt", "lineage", "J\udcfcrgen"], "'J\\udcfcrgen' must be text in the encoding of this locale"),
        (["receipt", "hold", "J\udcfcrgen", "--reference", "1"], "'J\\udcfcrgen' must be text in the encoding of this locale"),
    ],
)
def test_a_wrong_command_line_exits_2_and_says_what_is_wrong(knhk: Any, argv: list[str], told: str) -> None:
    answer = knhk(*argv)
    assert answer.exit == 2
    assert answer.text == ""
    assert set(answer.err) == {"error", "faults"}
    assert told in answer.err["error"]
    assert answer.error_text.count("\n") == 1


def test_yaml_and_tables_on_request(knhk: Any, pack: Path) -> None:
    assert knhk("pack", "check", pack, "-o", "yaml").text.startswith("digest: ")
    table = knhk("pack", "check", pack, "-o", "table").text
    assert "shapes.OrderShape" in table
    assert "{" not in table.splitlines()[0]


def test_a_terminal_gets_tables_and_plain_errors(pack: Path, tmp_path: Path) -> None:
    good = _on_terminal(["pack", "check", str(pack)])
    assert "shapes.OrderShape" in good
    assert not good.lstrip().startswith("{")
    bad = _on_terminal(["pack", "build", str(tmp_path / "nowhere")])
    assert "knhk: " in bad
    assert "must be a PolicyPack file" in bad
    assert '"error"' not in bad


WIDE = "SELECT 'kept whole, word for word' AS one, 'DENY' AS two, '' AS three, range AS four, 'five words of some length' AS five, "
WIDE += "'and so on and so forth' AS six, 'until the end of the row' AS seven FROM range(2)"


def test_a_table_too_wide_for_a_terminal_has_each_row_below_the_other(log: Any) -> None:
    """Columns of a few characters each are read by nobody."""
    shown = _on_terminal(["receipt", "query", WIDE, "--log", str(log.dir), "-o", "table"])
    words = [line.split(maxsplit=1) for line in re.sub(r"\x1b\[[0-9;]*m", "", shown).splitlines() if line.strip()]
    assert [name for name, _ in words] == ["one", "two", "four", "five", "six", "seven"] * 2
    assert words[0][1].strip() == "kept whole, word for word"
    none = _on_terminal(["receipt", "query", "FROM events WHERE false", "--log", str(log.dir), "-o", "table"])
    assert "no rows" in none
    assert "log_index, time, event, namespace," in none


def test_a_list_of_receipts_is_read_on_a_terminal_of_80_columns(log: Any) -> None:
    """No id or time is broken, and no line is longer."""
    shown = re.sub(r"\x1b\[[0-9;]*m", "", _on_terminal(["receipt", "list", "--log", str(log.dir), "-o", "table"], 80))
    for receipt in log.receipts:
        assert receipt in shown
    assert max(map(len, shown.splitlines())) <= 80


def test_a_table_that_no_terminal_shows_is_as_wide_as_it_is(knhk: Any, log: Any) -> None:
    """Into a file or a pipe, such as `less -S` or `grep`."""
    (head, _, *rows) = (line for line in knhk("receipt", "query", WIDE, "--log", log.dir, "-o", "table").text.splitlines() if line.strip())
    assert head.split() == ["one", "two", "three", "four", "five", "six", "seven"]
    assert ["kept whole, word for word" in row and "and so on and so forth" in row for row in rows] == [True, True]


def _on_terminal(argv: list[str], columns: int = 100) -> str:
    """What a terminal so wide shows of the command."""
    ours, theirs = pty.openpty()
    try:
        process = subprocess.Popen(
            [sys.executable, "-m", "knhk.cli", *argv],
            stdout=theirs,
            stderr=theirs,
            stdin=theirs,
            env={**os.environ, "COLUMNS": str(columns)},
        )
        os.close(theirs)
        shown = b""
        while True:
            try:
                piece = os.read(ours, 65_536)
            except OSError:
                break
            if not piece:
                break
            shown += piece
        process.wait()
    finally:
        os.close(ours)
    return shown.decode()


def test_the_same_words_cannot_be_registered_twice() -> None:
    with pytest.raises(ValueError, match="registered twice"):
        command("catalog", summary="again", output={}, examples=())(lambda call: pytest.fail("never called"))


def test_a_reader_that_leaves_early_is_no_crash(pack: Path) -> None:
    argv = f"{shlex.quote(sys.executable)} -m knhk.cli catalog | head -c 1"
    ran = subprocess.run(["bash", "-c", argv], capture_output=True, text=True, check=False)
    assert "Traceback" not in ran.stderr


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_what_an_encoding_has_not_is_escaped_and_no_crash(log: Any, encoding: str) -> None:
    """Without this a command that had done its work ended with exit status 3 and no answer."""
    argv = [sys.executable, "-m", "knhk.cli", "--home", str(log.dir.parent), "receipt", "query"]
    settings = {**os.environ, "PYTHONIOENCODING": encoding}
    helped = subprocess.run([*argv, "--help"], capture_output=True, check=True, env=settings)
    assert b"an archive of the " in helped.stdout
    asked = "SELECT 'Zürich → Δ' AS word"
    for output in ("json", "yaml", "table"):
        told = subprocess.run([*argv, asked, "-o", output], capture_output=True, check=True, env=settings).stdout.decode(encoding)
        assert "rich" in told
        if output != "table":
            assert yaml.safe_load(told)["rows"] == [["Zürich → Δ"]], "JSON and YAML have escapes of their own"
    wrong = subprocess.run([*argv[:-1], "show", "Zoë"], capture_output=True, check=False, env=settings)
    assert (wrong.returncode, json.loads(wrong.stderr.decode(encoding))["faults"][0]["value"]) == (1, "Zoë")


def test_data_matches_the_schema_that_the_catalog_states(knhk: Any, pack: Path, log: Any, tmp_path: Path) -> None:
    calls = {
        "catalog": (),
        "doctor": (),
        "pack check": (pack,),
        "pack explain": (pack,),
        "log verify": (),
        "log replay": (),
        "log checkpoint": (),
        "receipt list": (),
        "receipt show": (log.receipts[0],),
        "receipt verify": (log.receipts[0],),
        "log prove": (log.receipts[0], "--out", tmp_path / "evidence"),
        "log diff": (log.dir, log.dir),
    }
    for words, arguments in calls.items():
        answer = knhk(*words.split(), *arguments)
        assert answer.out is not None, answer.error_text
        _conforms(answer.out, COMMANDS[words].output, words)


def _conforms(value: Any, schema: Any, where: str) -> None:
    """The part of JSON Schema that knhk.cli.schema writes."""
    if "anyOf" in schema:
        if value is not None:
            _conforms(value, schema["anyOf"][0], where)
        return
    kinds: dict[str, Any] = {"string": str, "integer": int, "number": (int, float), "boolean": bool, "array": list, "object": dict}
    if "type" in schema:
        assert isinstance(value, kinds[schema["type"]]), f"{where}: {json.dumps(value)[:80]} is no {schema['type']}"
    assert value in schema.get("enum", [value]), where
    if isinstance(value, list):
        for i, item in enumerate(value):
            _conforms(item, schema["items"], f"{where}[{i}]")
    if isinstance(value, dict) and "properties" in schema:
        assert set(value) == set(schema["required"]), where
        for name, member in value.items():
            _conforms(member, schema["properties"][name], f"{where}.{name}")


@pytest.mark.parametrize(
    ("words", "meant"),
    [
        (("pack", "tset"), "test"),
        (("hok", "list"), "hook"),
        (("hook", "execute", "ASK_PS"), "ASK_SP"),
        (("receipt", "list", "--verdict", "deny"), "DENY"),
        (("receipt", "prove", "0"), "`knhk log prove`"),
    ],
)
def test_a_mistyped_word_is_answered_with_the_one_that_was_meant(knhk: Any, words: tuple[str, ...], meant: str) -> None:
    answer = knhk(*words)
    assert answer.exit == 2
    assert f"did you mean {meant}?" in answer.err["error"]
