"""`knhk completion bash|zsh|fish`: completion of nouns, verbs, options and values, made from the registered commands."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from knhk.cli.framework import COMMANDS, NOUNS, Argument, Call, Command, Outcome, command, common
from knhk.cli.schema import obj, string

SHELLS = ("bash", "zsh", "fish")


@command(
    "completion",
    summary="Print a completion script for your shell",
    arguments=(Argument("shell", help="bash, zsh or fish", choices=SHELLS),),
    output=obj(shell=string(*SHELLS), script=string()),
    examples=(
        "knhk completion bash > ~/.local/share/bash-completion/completions/knhk",
        'knhk completion zsh > "${fpath[1]}/_knhk"',
        "knhk completion fish > ~/.config/fish/completions/knhk.fish",
    ),
    detail="Try it at once with `source <(knhk completion bash)`. The script is made from the commands of this version: print it anew\n"
    "after an upgrade.",
    formats=("script",),
    default="script",
)
def completion(call: Call) -> Outcome:
    script = {"bash": bash, "zsh": zsh, "fish": fish}[call.args.shell]()
    return Outcome({"shell": call.args.shell, "script": script}, texts={"script": script})


def commands() -> list[Command]:
    """All commands in the order of the catalogue."""
    return [COMMANDS[words] for words in sorted(COMMANDS)]


def tops() -> dict[str, str]:
    """First words and what they are."""
    return {made.noun or made.verb: NOUNS.get(made.noun, "") if made.noun else made.summary for made in commands()}


def verbs(noun: str) -> dict[str, str]:
    """Verbs of a noun."""
    return {made.verb: made.summary for made in commands() if made.noun == noun}


def options(made: Command) -> list[Argument]:
    """Options of a command, those of all commands too."""
    return [a for a in (*made.arguments, *common(made.formats, made.default)) if not a.positional]


def values(argument: Argument) -> str | Sequence[str]:
    """What may stand for an argument: words, or "file", or "" for anything."""
    if argument.choices:
        return argument.choices
    return "file" if argument.kind is Path or argument.metavar in ("DIR", "FILE", "DIR_OR_FILE") else ""


def _positional(made: Command) -> str | Sequence[str]:
    """What the positional arguments may be: the words of the first that has some, else files when any takes one."""
    found = [values(a) for a in made.arguments if a.positional]
    words = next((v for v in found if v and v != "file"), "")
    return words or ("file" if "file" in found else "")


# -- bash --


def bash() -> str:
    """A script for bash; it needs nothing but bash itself."""
    lines = [
        "# bash completion for knhk, made by `knhk completion bash`",
        "_knhk() {",
        '  local cur="${COMP_WORDS[COMP_CWORD]}" prev="${COMP_WORDS[COMP_CWORD-1]}" key="" at word options="" value="" rest=""',
        '  for ((at = 1; at < COMP_CWORD; at++)); do word="${COMP_WORDS[at]}"',
        '    case "$word" in --home|--output|-o) ((at++)) ;; -*) ;; *) key="${key:+$key }$word" ;; esac',
        "  done",
        "  COMPREPLY=()",
        '  case "$key" in',
        f'    "") options="--version --output --home --help"; rest="{" ".join(tops())}" ;;',
    ]
    lines += [f'    {noun}) options="--help"; rest="{" ".join(verbs(noun))}" ;;' for noun in tops() if verbs(noun)]
    for made in commands():
        names = " ".join(name for a in options(made) for name in a.names)
        pattern = f'"{made.words}"|"{made.words} "*'
        lines.append(f'    {pattern}) options="{names} --help"; rest="{_bash_values(_positional(made))}"')
        cases = [f"{'|'.join(a.names)}) value={_bash_value(a)} ;;" for a in options(made) if not a.flag]
        lines.append(f'      case "$prev" in {" ".join(cases)} esac ;;')
    lines += [
        "  esac",
        '  if [[ -n "$value" ]]; then rest="$value"',
        '  elif [[ "$cur" == -* ]]; then rest="$options"; fi',
        '  case "$rest" in',
        '    @file) compopt -o filenames 2>/dev/null; COMPREPLY=($(compgen -f -- "$cur")) ;;',
        "    @any) ;;",
        '    *) COMPREPLY=($(compgen -W "$rest" -- "$cur")) ;;',
        "  esac",
        "}",
        "complete -F _knhk knhk",
    ]
    return "\n".join(lines) + "\n"


def _bash_values(found: str | Sequence[str]) -> str:
    if isinstance(found, str):
        return "@file" if found else "@any"
    return " ".join(found)


def _bash_value(argument: Argument) -> str:
    return f'"{_bash_values(values(argument))}"'


# -- zsh --


def zsh() -> str:
    """A script for zsh, for a folder of $fpath or to be sourced."""
    lines = [
        "#compdef knhk",
        "# zsh completion for knhk, made by `knhk completion zsh`",
        "_knhk() {",
        '  local curcontext="$curcontext" state line',
        "  typeset -A opt_args",
        f"  _arguments -C {_zsh_specs(common())} '--version[print the version and stop]' '1: :->top' '*:: :->rest'",
        '  case "$state" in',
        f"    top) local -a tops=({_zsh_list(tops())}); _describe -t commands command tops ;;",
        '    rest) case "$line[1]" in',
    ]
    for top in tops():
        if not verbs(top):
            lines.append(f"      {top}) {_zsh_arguments(COMMANDS[top])} ;;")
            continue
        lines += [
            f"      {top})",
            f"        if (( CURRENT == 2 )); then local -a verbs=({_zsh_list(verbs(top))}); _describe -t verbs verb verbs",
            '        else shift words; (( CURRENT-- )); case "$words[1]" in',
        ]
        lines += [f"          {verb}) {_zsh_arguments(COMMANDS[f'{top} {verb}'])} ;;" for verb in verbs(top)]
        lines.append("        esac; fi ;;")
    lines += ["    esac ;;", "  esac", "}", 'if [[ "$funcstack[1]" == _knhk ]]; then _knhk "$@"; else compdef _knhk knhk; fi']
    return "\n".join(lines) + "\n"


def _zsh_list(named: dict[str, str]) -> str:
    return " ".join(_zsh_quoted(f"{name}:{told}") for name, told in named.items())


def _zsh_arguments(made: Command) -> str:
    rest = _positional(made)
    return f"_arguments {_zsh_specs(options(made))} '(-h --help)'{{-h,--help}}'[show help]' '*:{_zsh_action(rest)}'"


def _zsh_specs(arguments: Sequence[Argument]) -> str:
    return " ".join(_zsh_spec(a) for a in arguments)


def _zsh_spec(argument: Argument) -> str:
    told = argument.help.replace("\\", "\\\\").replace("[", "\\[").replace("]", "\\]").replace(":", "\\:")
    value = "" if argument.flag else f":{_zsh_action(values(argument))}"
    once = "*" if argument.repeat else f"({' '.join(argument.names)})" if len(argument.names) > 1 else ""
    if len(argument.names) == 1:
        return _zsh_quoted(f"{once}{argument.names[0]}[{told}]{value}")
    return f"{_zsh_quoted(once)}{{{','.join(argument.names)}}}{_zsh_quoted(f'[{told}]{value}')}"


def _zsh_action(found: str | Sequence[str]) -> str:
    if isinstance(found, str):
        return "file:_files" if found else "value: "
    return f"value:({' '.join(found)})"


def _zsh_quoted(text: str) -> str:
    return "'" + text.replace("'", "'\\''") + "'"


# -- fish --


def fish() -> str:
    """A script for fish."""
    return "\n".join(_fish_lines()) + "\n"


def _fish_lines() -> Iterator[str]:
    yield "# fish completion for knhk, made by `knhk completion fish`"
    yield "function __knhk_words"
    yield "    set -l skip 0"
    yield "    for word in (commandline -opc)[2..-1]"
    yield "        if test $skip = 1; set skip 0; continue; end"
    yield "        switch $word"
    yield "            case --home --output -o; set skip 1"
    yield "            case '-*'"
    yield "            case '*'; echo $word"
    yield "        end"
    yield "    end"
    yield "end"
    yield "function __knhk_at"
    yield "    set -l words (__knhk_words)"
    yield '    test "$words" = "$argv"; or string match -q -- "$argv *" "$words"'
    yield "end"
    yield "function __knhk_noun"
    yield "    set -l words (__knhk_words)"
    yield "    test (count $words) -eq 1; and test $words[1] = $argv[1]"
    yield "end"
    yield "complete -c knhk -f"
    for top, told in tops().items():
        yield f"complete -c knhk -n 'test (count (__knhk_words)) -eq 0' -a {top} -d {_fish_quoted(told)}"
        for verb, about in verbs(top).items():
            yield f"complete -c knhk -n '__knhk_noun {top}' -a {verb} -d {_fish_quoted(about)}"
    for made in commands():
        at = f"complete -c knhk -n '__knhk_at {made.words}'"
        rest = _positional(made)
        if rest:
            yield f"{at} {'-F' if rest == 'file' else _fish_words(rest)}"
        for argument in options(made):
            names = " ".join(f"-l {n[2:]}" if n.startswith("--") else f"-s {n[1:]}" for n in argument.names)
            yield f"{at} {names}{_fish_value(argument)} -d {_fish_quoted(argument.help)}"


def _fish_value(argument: Argument) -> str:
    found = values(argument)
    if argument.flag:
        return ""
    return " -r -F" if found == "file" else f" -x {_fish_words(found)}" if found else " -x"


def _fish_words(found: str | Sequence[str]) -> str:
    return f"-a {_fish_quoted(' '.join(found))}"


def _fish_quoted(text: str) -> str:
    if "'" not in text:
        return "'" + text.replace("\\", "\\\\") + "'"
    for special in ("\\", '"', "$"):
        text = text.replace(special, "\\" + special)
    return f'"{text}"'
