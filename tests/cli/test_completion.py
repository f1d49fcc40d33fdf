"""Completion scripts know every command, option and choice; bash, which make needs anyway, is asked for real."""

from __future__ import annotations

import itertools
import json
import shlex
import shutil
import subprocess
from typing import Any

import pytest

from knhk.cli import load
from knhk.cli.completion import SHELLS, bash, fish, zsh
from knhk.cli.framework import COMMANDS

load()
ASK = """
source "$1"; shift
COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1))
_knhk; printf '%s\\n' "${COMPREPLY[@]}"
"""


def ask(tmp_path: Any, *words: str) -> list[str]:
    """What bash offers for the last word."""
    script = tmp_path / "knhk.bash"
    script.write_text(bash())
    done = subprocess.run(["bash", "-c", ASK, "bash", script, *words], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert done.stderr == ""
    return done.stdout.split()


def test_bash_offers_nouns_verbs_options_and_values(tmp_path: Any) -> None:
    assert {"pack", "hook", "catalog", "up"} <= set(ask(tmp_path, "knhk", ""))
    assert ask(tmp_path, "knhk", "pac") == ["pack"]
    assert {"check", "decide", "test", "diff", "explain"} <= set(ask(tmp_path, "knhk", "pack", ""))
    assert ask(tmp_path, "knhk", "hook", "execute", "CO") == ["COUNT", "COMPARE"]
    assert ask(tmp_path, "knhk", "hook", "execute", "ASK_SP", "--pre") == ["--predicate"]
    assert ask(tmp_path, "knhk", "hook", "execute", "--kernel", "av") == ["avx2", "avx512"]
    assert ask(tmp_path, "knhk", "pack", "explain", "-o", "d") == ["dot"]
    assert ask(tmp_path, "knhk", "pack", "check", "-o", "d") == []
    assert ask(tmp_path, "knhk", "-o", "json", "pack", "che") == ["check"]
    (tmp_path / "my pack.yaml").write_text("")
    assert ask(tmp_path, "knhk", "pack", "check", "my") == ["my", "pack.yaml"]


@pytest.mark.parametrize("words", sorted(COMMANDS))
def test_bash_knows_every_option(tmp_path: Any, words: str) -> None:
    names = {name for a in COMMANDS[words].arguments if not a.positional for name in a.names} | {"--output", "-o", "--home", "--help"}
    assert names <= set(ask(tmp_path, "knhk", *words.split(), "-"))


def test_fish_lines_are_whole_and_name_every_option() -> None:
    lines = [line for line in fish().splitlines() if line.startswith("complete ")]
    split = [shlex.split(line) for line in lines]
    for words, made in COMMANDS.items():
        mine = [args for args in split if f"__knhk_at {words}" in args]
        told = {arg for args in mine for flag, arg in itertools.pairwise(args) if flag in ("-l", "-s")}
        assert {name.lstrip("-") for a in made.arguments if not a.positional for name in a.names} <= told


@pytest.mark.parametrize("name", ["zsh", "fish"])
def test_other_shells_read_their_script_without_a_word(name: str, tmp_path: Any) -> None:
    script = tmp_path / f"knhk.{name}"
    script.write_text({"zsh": zsh, "fish": fish}[name]())
    found = shutil.which(name)
    if found is None:  # the text is held against the commands above and below; only the shell's own reading is left out
        assert script.read_text().count("knhk") > len(COMMANDS)
        return
    done = subprocess.run([found, "-n", script], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_zsh_names_every_command_and_option() -> None:
    text = zsh()
    for made in COMMANDS.values():
        assert f" {made.verb}) _arguments " in text
        for argument in made.arguments:
            assert argument.positional or argument.names[0] in text


@pytest.mark.parametrize("shell", SHELLS)
def test_the_script_is_printed_as_it_is_and_as_json_when_asked(knhk: Any, shell: str) -> None:
    plain, asked = knhk("completion", shell), knhk("completion", shell, "-o", "json")
    assert plain.exit == asked.exit == 0
    assert json.loads(asked.text)["script"] == plain.text
