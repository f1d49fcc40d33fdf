"""`knhk pack check --git BASE..HEAD`: what a range of commits changes, for a person, a pull request, or a code scanner."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, NamedTuple

from knhk.cli.framework import FAULTS, OK, Argument, Call, Outcome, Table, Usage
from knhk.cli.pack_diff import CHANGED, FAIL_ON
from knhk.cli.schema import array, boolean, integer, mapping, nullable, obj, string

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from knhk.reconcilers.reviewing import Finding, Review, Reviewed, Reviewer

SARIF_SCHEMA = "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json"
MAX_ROWS = 50
MAX_CELL = 300
MAX_MARKDOWN = 60_000
RULES = {
    "fault": "a resource must be well-formed, and a pack must compile",
    "expectation": "a pack must decide its expectations as they say",
    "proof": "a compiled pack must decide as its sources say",
    "verdict": "a sample payload is decided otherwise than before",
}


class Range(NamedTuple):
    """BASE..HEAD, or from their common ancestor: BASE...HEAD."""

    base: str
    head: str
    from_ancestor: bool


def git_range(text: str) -> Range:
    """Raises ValueError."""
    found = re.fullmatch(r"(.+?)(\.{2,3})(.*)", text)
    if found is None or ".." in found[3]:
        raise ValueError("must be BASE..HEAD, or BASE...HEAD to begin at their common ancestor")
    return Range(found[1], found[3] or "HEAD", found[2] == "...")


REVIEWING = (
    Argument("--git", help="check what these commits change; paths are filters then (default: all)", kind=git_range, metavar="BASE..HEAD"),
    Argument("--repository", help="a Git checkout or bare repository (default: here)", metavar="DIR"),
    Argument("--mutants", help="with --git: hold packs to the mutation score that their expectations require, too", flag=True),
    Argument("--fail-on", help="with --git: which preview ends with exit 1, too (default never)", choices=FAIL_ON, default="never"),
)
CHANGES = obj(
    base=string(),
    head=string(),
    files=array(string()),
    packs=array(
        obj(
            pack=string(),
            file=string(),
            before=nullable(string()),
            cases=nullable(obj(all=integer(), wrong=integer(), coverage={"type": "number"}, mutation=nullable({"type": "number"}))),
            guards=nullable(obj(added=array(string()), removed=array(string()), changed=mapping(array(CHANGED)))),
            samples=obj(
                all=integer(),
                changed=array(obj(name=string(), before=string(), after=string(), guards=array(string()), verdict=boolean())),
            ),
        )
    ),
    others=array(string()),
    removed=array(string()),
    findings=array(obj(rule=string(*RULES), where=string(), value=string(), must=string())),
    failed=boolean(),
)


def reviewed(call: Call, reviewer: Reviewer) -> Outcome:
    """The outcome of a review in the repository that the call names. Raises Refused for commits or files that cannot be read."""
    import tempfile
    from pathlib import Path

    from knhk.adapters.commit_files import write_out
    from knhk.adapters.repository_git import checkout

    args = call.args
    repository = checkout(Path(args.repository or "."))
    base, head = repository.resolve(args.git.base), repository.resolve(args.git.head)
    if args.git.from_ancestor:
        base = repository.merge_base(base, head)
    chosen = [str(path) for path in args.path]
    changed = repository.changed(base, head, chosen)
    call.say(f"{len(changed)} files changed from {base[:12]} to {head[:12]}")
    with tempfile.TemporaryDirectory(prefix="knhk-review-") as made:
        folder = Path(made).resolve()
        before = write_out(repository, base, chosen, folder / "base")
        seen = reviewer.review(before, write_out(repository, head, chosen, folder / "head"), changed)
    failed = any(f.rule != "verdict" for f in seen.findings) or _previewed(seen, args.fail_on)
    told = _told(seen, base, head, failed)
    tables = tuple(_tables(told))
    data = {"digest": None, "guards": [], "faults": _faults(seen), "proofs": _proofs(seen), "conflicts": [], "changes": told}
    texts = {"markdown": _markdown(told, tables), "sarif": _sarif(told)}
    return Outcome(data, FAULTS if failed else OK, tables, texts)


def refuse_without_git(call: Call) -> None:
    """Arguments that mean something with --git only. Raises Usage."""
    if not call.args.path:
        raise Usage("DIR_OR_FILE or --git BASE..HEAD must be given; see `knhk pack check --help`", "path")
    given = [name for name, on in (("--repository", call.args.repository), ("--mutants", call.args.mutants)) if on]
    if given:
        raise Usage("must come with --git BASE..HEAD", given[0])
    if call.args.output in ("markdown", "sarif"):
        raise Usage(f"{call.args.output} must come with --git BASE..HEAD", "--output")


def _previewed(seen: Review, fail_on: str) -> bool:
    changed = [c for pack in seen.packs for c in pack.changed]
    return {
        "verdicts": any(c.verdict for c in changed),
        "admits": any(c.verdict and c.after == "ADMIT" for c in changed),
        "guards": bool(changed) or any(p.difference is None or not p.difference.empty for p in seen.packs),
        "never": False,
    }[fail_on]


def _faults(seen: Review) -> list[dict[str, str]]:
    return [{"where": f.where, "value": f.value, "must": f.must} for f in seen.findings if f.rule != "verdict"]


def _proofs(seen: Review) -> dict[str, Any]:
    return {_name(pack): dict(pack.proof) for pack in seen.packs if pack.proof is not None}


def _name(reviewed: Reviewed) -> str:
    pack = reviewed.pack
    return f"{pack.namespace}/{pack.name}@{pack.spec['version']}"


def _told(seen: Review, base: str, head: str, failed: bool) -> dict[str, Any]:
    return {
        "base": base,
        "head": head,
        "files": list(seen.files),
        "packs": [_pack(pack) for pack in seen.packs],
        "others": [str(key) for key in seen.others],
        "removed": [str(key) for key in seen.removed],
        "findings": [_finding(finding) for finding in seen.findings],
        "failed": failed,
    }


def _finding(finding: Finding) -> dict[str, str]:
    return {"rule": finding.rule, "where": finding.where, "value": finding.value, "must": finding.must}


def _pack(made: Reviewed) -> dict[str, Any]:
    report, difference = made.report, made.difference
    cases = None
    if report is not None:
        cases = {"all": len(report.seen), "wrong": len(report.wrong), "coverage": report.coverage, "mutation": report.mutation}
    guards = None
    if difference is not None:
        guards = {
            "added": list(difference.added),
            "removed": list(difference.removed),
            "changed": {
                name: [{"what": c.what, "before": c.before, "after": c.after} for c in changes]
                for name, changes in difference.changed.items()
            },
        }
    return {
        "pack": _name(made),
        "file": made.pack.path,
        "before": None if made.before is None else str(made.before.spec["version"]),
        "cases": cases,
        "guards": guards,
        "samples": {
            "all": made.samples,
            "changed": [
                {"name": c.name, "before": c.before, "after": c.after, "guards": list(c.guilty), "verdict": c.verdict} for c in made.changed
            ],
        },
    }


def _tables(told: Mapping[str, Any]) -> Iterator[Table]:
    wrong = [f for f in told["findings"] if f["rule"] != "verdict"]
    if wrong:
        rows = tuple((f["rule"], f["where"], f["value"], f["must"]) for f in wrong)
        yield Table("what must be mended", ("", "where", "value", "must"), rows)
    yield Table("packs", ("pack", "before", "file", "expectations", "guards"), tuple(_row(pack) for pack in told["packs"]))
    for pack in told["packs"]:
        samples = pack["samples"]
        changed = [c for c in samples["changed"] if c["verdict"]]
        if samples["all"]:
            lines = tuple((c["name"], c["before"], c["after"], "\n".join(c["guards"])) for c in changed)
            title = f"{pack['pack']}: {len(changed)} of {samples['all']} samples change their verdict"
            yield Table(title, ("sample", "before", "after", "guards responsible"), lines)
    rest = [(name, "changed") for name in told["others"]] + [(name, "removed") for name in told["removed"]]
    if rest:
        yield Table("other resources", ("object", ""), tuple(rest))


def _row(pack: Mapping[str, Any]) -> tuple[str, ...]:
    cases, guards = pack["cases"], pack["guards"]
    tested = "none" if cases is None else f"{cases['all'] - cases['wrong']} of {cases['all']}"
    counts = "" if guards is None else ", ".join(f"{len(guards[what])} {what}" for what in guards if guards[what]) or "none differs"
    return (pack["pack"], pack["before"] or "new", pack["file"], tested, counts)


# -- for a pull request --


def _markdown(told: Mapping[str, Any], tables: Sequence[Table]) -> str:
    """The same tables. All that comes from the commits stands in code spans: nobody is mentioned, and nothing is a link."""
    verdicts = sum(c["verdict"] for pack in told["packs"] for c in pack["samples"]["changed"])
    head = "must be mended" if told["failed"] else "passed"
    lines = [f"## Policy check: {head}", "", f"{_span(told['base'][:12])} → {_span(told['head'][:12])}, {verdicts} changed verdicts"]
    for table in tables:
        lines += ["", f"### {_span(table.title)}", ""]
        if not table.rows:
            lines.append("none")
            continue
        lines += ["| " + " | ".join(table.columns) + " |", "|" + "---|" * len(table.columns)]
        lines += ["| " + " | ".join(_span(cell) for cell in row) + " |" for row in table.rows[:MAX_ROWS]]
        if len(table.rows) > MAX_ROWS:
            lines += ["", f"and {len(table.rows) - MAX_ROWS} more"]
    text = "\n".join(lines)
    return text if len(text) <= MAX_MARKDOWN else f"{text[: text.rindex(chr(10), 0, MAX_MARKDOWN)]}\n\n(shortened)"


def _span(text: str) -> str:
    """A code span that its text cannot leave."""
    flat = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    if not flat:
        return ""
    cut = flat if len(flat) <= MAX_CELL else f"{flat[:MAX_CELL]}…"
    fence = "`" * (max((len(run) for run in re.findall("`+", cut)), default=0) + 1)
    return f"{fence} {cut} {fence}".replace("|", "\\|")


# -- for a code scanner --


def _sarif(told: Mapping[str, Any]) -> str:
    """SARIF 2.1.0 (OASIS). Faults are errors; verdicts that change are notes, or errors when they end the check."""
    import json
    from importlib.metadata import version

    rules = [{"id": name, "shortDescription": {"text": text}} for name, text in RULES.items()]
    driver = {"name": "knhk", "version": version("reflex-enterprise"), "informationUri": "https://knhk.dev", "rules": rules}
    results = [_result(finding) for finding in told["findings"]]
    run = {
        "tool": {"driver": driver},
        "columnKind": "unicodeCodePoints",
        "versionControlProvenance": [],
        "properties": {"base": told["base"], "head": told["head"]},
        "results": results,
    }
    return json.dumps({"$schema": SARIF_SCHEMA, "version": "2.1.0", "runs": [run]})


def _result(finding: Mapping[str, str]) -> dict[str, Any]:
    from urllib.parse import quote

    path, line = _place(finding["where"])
    physical: dict[str, Any] = {"artifactLocation": {"uri": quote(path, safe="/")}}
    if line:
        physical["region"] = {"startLine": line}
    return {
        "ruleId": finding["rule"],
        "ruleIndex": list(RULES).index(finding["rule"]),
        "level": "note" if finding["rule"] == "verdict" else "error",
        "message": {"text": f"{finding['value']}: {finding['must']}"},
        "locations": [{"physicalLocation": physical}],
    }


def _place(where: str) -> tuple[str, int]:
    """Path and line (0: none) of PATH:LINE, PATH:LINE:COLUMN or PATH."""
    found = re.fullmatch(r"(.+?):([1-9][0-9]{0,8})(?::[0-9]+)?(?:[ ].*)?", where)
    return (found[1], int(found[2])) if found else (where, 0)
