"""`knhk catalog`: every noun, verb, argument, output schema and exit code, for people and for programs."""

from __future__ import annotations

from knhk.cli.framework import COMMANDS, NOUNS, Call, Outcome, Table, command
from knhk.cli.schema import anything, array, boolean, mapping, nullable, obj, string

ARGUMENT = obj(
    names=array(string()),
    help=string(),
    required=boolean(),
    repeat=boolean(),
    flag=boolean(),
    choices=array(string()),
    default=nullable(string()),
)
ENTRY = obj(
    noun=string(),
    verb=string(),
    summary=string(),
    detail=string(),
    arguments=array(ARGUMENT),
    output=mapping(anything()),
    exits=mapping(string()),
    examples=array(string()),
)


@command(
    "catalog",
    summary="List every noun, verb, argument, output schema and exit code",
    output=obj(nouns=mapping(string()), commands=array(ENTRY)),
    examples=("knhk catalog", "knhk catalog -o json | jq -r '.commands[] | .noun + \" \" + .verb'"),
)
def catalog(call: Call) -> Outcome:
    entries = [COMMANDS[words].describe() for words in sorted(COMMANDS)]
    rows = tuple(
        (
            f"{e['noun']} {e['verb']}".strip(),
            " ".join(a["names"][0] for a in e["arguments"]),
            e["summary"],
        )
        for e in entries
    )
    return Outcome(
        {"nouns": dict(sorted(NOUNS.items())), "commands": entries},
        tables=(Table("", ("command", "arguments", "what"), rows),),
    )
