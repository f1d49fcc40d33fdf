"""`knhk pack check --git`: what a range of commits changes, in a real repository; and repositories that were made to harm."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
from pydantic_sarif.model import StaticAnalysisResultsFormatSarifVersion210JsonSchema as Sarif
from tests.cli.conftest import PACK

SHARED_OBJECTS = True
PROGRAMS = (
    *("filter.evil.smudge", "filter.evil.process", "diff.evil.command", "diff.evil.textconv"),
    *("diff.external", "core.fsmonitor", "core.sshCommand", "gpg.program", "core.pager"),
)
LIMIT = "sh:maxInclusive 1000"
GUARD = "shapes.OrderShape.total.maxInclusive"
TESTS = """require: {coverage: 0, mutation: 0}
cases:
  - {name: a small order, payload: payloads/small.json, verdict: ADMIT, attributes: {sub: a}}
  - {name: a large order, payload: payloads/large.json, verdict: %s, attributes: {sub: a}}
"""


class Repo:
    """A repository with one commit for each call of `commit`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.git("init", "-q", "-b", "main", str(folder), at=folder.parent)

    def git(self, *words: str, at: Path | None = None, given: bytes = b"") -> str:
        env = {"PATH": os.environ["PATH"], "GIT_CONFIG_GLOBAL": "/dev/null", "GIT_CONFIG_NOSYSTEM": "1", "HOME": "/nonexistent"}
        who = {f"GIT_{role}_{what}": f"{what.lower()}@example.com" for role in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
        done = subprocess.run(["git", *words], cwd=at or self.folder, env=env | who, input=given, capture_output=True, check=True)
        return done.stdout.decode().strip()

    def commit(self, **files: str | None) -> str:
        """Writes files (None: removes) whose names have __ for / and _ for a dot, and commits."""
        for name, text in files.items():
            path = self.folder / name.replace("__", "/").replace("_", ".")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.unlink() if text is None else path.write_text(text)
        self.git("add", "-A")
        self.git("commit", "-q", "--allow-empty", "-m", "a change")
        return self.git("rev-parse", "HEAD")

    def entry(self, mode: str, name: str, text: bytes = b"x") -> str:
        """A commit on top of HEAD with one more entry, as only a hostile program writes it."""
        blob = self.git("rev-parse", "HEAD") if mode == "160000" else self.git("hash-object", "-w", "--stdin", given=text)
        tree = self.git("ls-tree", "HEAD").encode() + f"\n{mode} {'commit' if mode == '160000' else 'blob'} {blob}\t{name}\n".encode()
        made = self.git("mktree", "--missing", given=tree)
        return self.git("commit-tree", made, "-p", "HEAD", "-m", "hostile")


@pytest.fixture
def repo(tmp_path: Path) -> Repo:
    made = Repo(tmp_path / "repo")
    made.commit(
        pack_yaml=PACK,
        tests_yaml=TESTS % "ADMIT",
        payloads__small_json='{"id": "1", "currency": "EUR", "total": 10}',
        payloads__large_json='{"id": "2", "currency": "EUR", "total": 900}',
        notes_yaml="a: file of somebody else\n",
    )
    return made


def stricter(text: str = PACK) -> str:
    return text.replace(LIMIT, "sh:maxInclusive 500")


def check(knhk: Any, repo: Repo, *words: object, of: str = "HEAD~1..HEAD") -> Any:
    return knhk("pack", "check", "--git", of, "--repository", repo.folder, *words)


def test_a_changed_limit_is_previewed_and_a_missed_expectation_is_red(knhk: Any, repo: Repo) -> None:
    repo.commit(pack_yaml=stricter())
    answer = check(knhk, repo)
    assert answer.exit == 1
    changes = answer.out["changes"]
    (pack,) = changes["packs"]
    assert pack["samples"] == {
        "all": 2,
        "changed": [{"name": "a large order", "before": "ADMIT", "after": "DENY", "guards": [GUARD], "verdict": True}],
    }
    assert answer.out["faults"] == [
        {"where": "tests.yaml:4", "value": "a large order", "must": "verdict is DENY, expected ADMIT"},
    ]
    assert changes["files"] == ["pack.yaml"]
    assert changes["failed"]


def test_an_intended_change_passes_and_is_previewed(knhk: Any, repo: Repo) -> None:
    repo.commit(pack_yaml=stricter(), tests_yaml=TESTS % "DENY")
    answer = check(knhk, repo)
    assert answer.exit == 0
    assert [c["name"] for c in answer.out["changes"]["packs"][0]["samples"]["changed"]] == ["a large order"]
    assert check(knhk, repo, "--fail-on", "verdicts").exit == 1
    assert check(knhk, repo, "--fail-on", "admits").exit == 0


def test_what_is_not_touched_is_not_compiled_again(knhk: Any, repo: Repo) -> None:
    second = PACK.replace("small", "second")
    repo.commit(other__pack_yaml=second)
    repo.commit(other__pack_yaml=stricter(second))
    answer = check(knhk, repo)
    assert [p["pack"] for p in answer.out["changes"]["packs"]] == ["erp/second@1.0.0"]
    assert answer.out["changes"]["packs"][0]["cases"] is not None, "expectations lie one folder above"


def test_a_changed_payload_alone_is_decided_again(knhk: Any, repo: Repo) -> None:
    repo.commit(payloads__large_json='{"id": "2", "currency": "EUR", "total": 2000}')
    assert check(knhk, repo).exit == 1


def test_paths_are_filters(knhk: Any, repo: Repo) -> None:
    repo.commit(pack_yaml="apiVersion: knhk.dev/v1alpha1\nkind: Nothing\n", other__pack_yaml=PACK)
    answer = check(knhk, repo, "other")
    assert answer.exit == 0
    assert answer.out["changes"]["files"] == ["other/pack.yaml"]
    assert check(knhk, repo).exit == 1


def test_all_faults_of_all_files_are_told_with_file_and_line(knhk: Any, repo: Repo) -> None:
    repo.commit(
        pack_yaml=PACK.replace("sh:minCount 1", "sh:minCount x").replace("version: 1.0.0", "version: one"),
        b_yaml=PACK.replace("point: gate", "pint: gate").replace("name: small", "name: b"),
        c_yaml=PACK.replace("name: small", "name: c").replace("ex:total ;", "ex:total ; sh:pattern 5 ;"),
    )
    answer = check(knhk, repo)
    assert answer.exit == 1
    places = {fault["where"].rsplit(":", 1)[0] for fault in answer.out["faults"]}
    assert places == {"pack.yaml", "b.yaml", "c.yaml"}
    assert [f["where"] for f in answer.out["faults"] if not f["where"].rsplit(":", 1)[1][0].isdigit()] == []


def test_a_name_that_two_files_give_is_told(knhk: Any, repo: Repo) -> None:
    repo.commit(z_yaml=PACK)
    (fault,) = check(knhk, repo).out["faults"]
    assert fault["where"] == "z.yaml"
    assert "must be given once in the repository (first in pack.yaml)" in fault["must"]


def test_three_dots_begin_at_the_common_ancestor(knhk: Any, repo: Repo) -> None:
    repo.git("branch", "side")
    repo.commit(pack_yaml=stricter(), tests_yaml=TESTS % "DENY")
    repo.git("checkout", "-q", "side")
    repo.commit(more_yaml=PACK.replace("name: small", "name: more"))
    assert check(knhk, repo, of="main...side").out["changes"]["files"] == ["more.yaml"]
    assert "pack.yaml" in check(knhk, repo, of="main..side").out["changes"]["files"]


def test_removed_resources_are_told(knhk: Any, repo: Repo) -> None:
    repo.commit(pack_yaml=None)
    answer = check(knhk, repo)
    assert answer.exit == 0
    assert answer.out["changes"]["removed"] == ["PolicyPack erp/small"]


def test_a_proof_can_be_asked_for(knhk: Any, repo: Repo) -> None:
    repo.commit(pack_yaml=stricter(), tests_yaml=TESTS % "DENY")
    answer = check(knhk, repo, "--prove", "--cases", "50")
    assert answer.out["proofs"]["erp/small@1.0.0"]["cases"] >= 50


def test_sarif_follows_its_published_structure_and_names_lines(knhk: Any, repo: Repo) -> None:
    repo.commit(pack_yaml=stricter())
    answer = check(knhk, repo, "-o", "sarif")
    assert answer.exit == 1
    (run,) = Sarif.model_validate_json(answer.text).runs
    places = {
        (
            r.ruleId,
            r.level.value,
            r.locations[0].physicalLocation.artifactLocation.uri,
            getattr(r.locations[0].physicalLocation.region, "startLine", None),
        )
        for r in run.results
    }
    assert places == {("expectation", "error", "tests.yaml", 4), ("verdict", "note", "pack.yaml", None)}
    assert [run.tool.driver.rules[r.ruleIndex].id for r in run.results] == [r.ruleId for r in run.results]


def test_markdown_quotes_what_strangers_wrote(knhk: Any, repo: Repo) -> None:
    nasty = "a large order ` | <img src=x> @admin [x](http://evil)"
    repo.commit(pack_yaml=stricter(), tests_yaml=(TESTS % "DENY").replace("a large order", json.dumps(nasty)))
    answer = check(knhk, repo, "-o", "markdown")
    assert answer.exit == 0
    assert answer.text.startswith("## Policy check: passed")
    (line,) = [line for line in answer.text.splitlines() if "evil" in line]
    assert "`` a large order ` \\| <img" in line, "one code span, and one cell"


@pytest.mark.parametrize(
    "of",
    [
        "--upload-pack=touch${IFS}pwned..HEAD",
        "HEAD..--output=pwned",
        "main..$(touch pwned)",
        "HEAD@{upstream}..HEAD",
        "x..y..z",
        "HEAD",
        "..HEAD",
    ],
)
def test_a_range_is_never_an_option_or_a_program(knhk: Any, repo: Repo, of: str) -> None:
    answer = knhk("pack", "check", f"--git={of}", "--repository", repo.folder)
    assert answer.exit in (1, 2)
    assert answer.text == ""
    assert not (repo.folder / "pwned").exists()


@pytest.mark.parametrize(
    ("mode", "name", "text", "must"),
    [
        ("120000", "evil.yaml", b"/etc/passwd", "must be a plain file"),
        ("160000", "evil.yaml", b"", "must be a plain file"),
        ("100644", "evil\t.yaml", b"x", "must be printable"),
        ("100644", "large.yaml", b"x" * ((4 << 20) + 1), "must have at most 4194304 bytes"),
    ],
)
def test_what_no_policy_repository_needs_is_refused(knhk: Any, repo: Repo, mode: str, name: str, text: bytes, must: str) -> None:
    hostile = repo.entry(mode, json.dumps(name) if "\t" in name else name, text)
    answer = check(knhk, repo, of=f"HEAD..{hostile}")
    assert answer.exit == 1
    assert answer.out is None
    assert [fault["must"][: len(must)] for fault in answer.err["faults"]] == [must]


def test_a_chosen_path_that_is_a_link_is_refused(knhk: Any, repo: Repo) -> None:
    hostile = repo.entry("120000", "policies", b"/etc")
    answer = check(knhk, repo, "policies", of=f"HEAD..{hostile}")
    assert answer.exit == 1
    assert "must be a plain file" in answer.err["faults"][0]["must"]


@pytest.mark.parametrize("payload", ["/etc/hostname", "../../../../../../../../etc/hostname"])
def test_expectations_cannot_name_files_outside(knhk: Any, repo: Repo, payload: str) -> None:
    repo.commit(tests_yaml=(TESTS % "ADMIT").replace("payloads/large.json", payload))
    answer = check(knhk, repo)
    assert answer.exit == 1
    assert [f["must"] for f in answer.out["faults"]] == ["must be a file inside the repository"]


def test_settings_of_the_repository_start_nothing(knhk: Any, repo: Repo) -> None:
    """Neither filters, external programs, hooks nor signature programs that its configuration names."""
    (repo.folder / ".gitattributes").write_text("* filter=evil diff=evil\n")
    run = f"touch {repo.folder}/pwned; cat"
    for name in PROGRAMS:
        repo.git("config", name, run)
    blob = repo.git("hash-object", "-w", "--no-filters", "--stdin", given=stricter().encode())
    tree = repo.git("ls-tree", "HEAD").replace(repo.git("rev-parse", "HEAD:pack.yaml"), blob)
    head = repo.git("commit-tree", repo.git("mktree", given=tree.encode() + b"\n"), "-p", "HEAD", "-m", "x")
    (repo.folder / "pwned").unlink(missing_ok=True)
    assert check(knhk, repo, of=f"HEAD..{head}").exit == 1
    assert not (repo.folder / "pwned").exists()


def test_a_bare_repository_serves_too_and_is_not_written(knhk: Any, repo: Repo, tmp_path: Path) -> None:
    repo.commit(pack_yaml=stricter(), tests_yaml=TESTS % "DENY")
    repo.git("clone", "-q", "--bare", str(repo.folder), str(tmp_path / "bare"), at=tmp_path)
    before = sorted((p, p.stat().st_mtime_ns) for p in (tmp_path / "bare").rglob("*"))
    assert knhk("pack", "check", "--git", "main~1..main", "--repository", tmp_path / "bare").exit == 0
    assert sorted((p, p.stat().st_mtime_ns) for p in (tmp_path / "bare").rglob("*")) == before


@pytest.mark.parametrize("words", [(), ("--repository", "."), ("-o", "sarif", "x")])
def test_without_a_range_its_options_are_a_mistake(knhk: Any, words: tuple[str, ...]) -> None:
    assert knhk("pack", "check", *words).exit == 2
