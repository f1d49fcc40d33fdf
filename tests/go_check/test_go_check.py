"""The committed vectors, read by Go: its own transparency-log packages, and parsers written from the pages."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from go_binaries import GoProject

HERE = Path(__file__).parent
VECTORS = HERE.parents[1] / "formats" / "vectors"
PROJECT = GoProject("go-check", HERE, {"go-check": "."}, (), cgo=False, tells="go-check", about="the check by Go (half a minute)")
pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def go_check(vectors: Path) -> subprocess.CompletedProcess[str]:
    program = PROJECT.built(("go-check",), build=True)["go-check"]
    return subprocess.run([program, str(vectors)], capture_output=True, text=True, check=False)


def test_go_verifies_the_vectors() -> None:
    done = go_check(VECTORS)
    assert (done.returncode, done.stdout) == (0, "all vectors verify\n"), done.stderr


@pytest.mark.parametrize(
    ("file", "part", "says"),
    [("log.json", "checkpoint", "checkpoint signature"), ("log.json", "vkey", "vkey"), ("signed.json", "event", "bundle of role rollout")],
)
def test_go_refuses_what_was_altered(tmp_path: Path, file: str, part: str, says: str) -> None:
    shutil.copytree(VECTORS, tmp_path / "vectors")
    path = tmp_path / "vectors" / file
    vectors = json.loads(path.read_bytes())
    value, at = vectors[part], vectors[part].index("66000") if part == "checkpoint" else 60
    if part == "event":
        at = value.index('"sig":"') + 10
    vectors[part] = value[:at] + ("7" if value[at] != "7" else "8") + value[at + 1 :]
    path.write_text(json.dumps(vectors))
    done = go_check(tmp_path / "vectors")
    assert done.returncode == 1
    assert says in done.stderr


EDGES = json.loads((VECTORS / "edges.json").read_bytes())


@pytest.mark.parametrize("part", ["observation", "action", "frame"])
def test_go_knows_what_is_accepted_from_what_is_refused(tmp_path: Path, part: str) -> None:
    """A refused row among the accepted is told, and the other way round."""
    shutil.copytree(VECTORS, tmp_path / "vectors")
    good, bad = EDGES[part]["accepted"][0], EDGES[part]["refused"][0]
    for rows, says in (({"accepted": [good | {"bytes": bad["bytes"]}]}, "must have"), ({"refused": [good]}, "was accepted")):
        (tmp_path / "vectors" / "edges.json").write_text(json.dumps(EDGES | {part: EDGES[part] | rows}))
        done = go_check(tmp_path / "vectors")
        assert done.returncode == 1
        assert says in done.stderr


@pytest.mark.parametrize("part", ["log", "signed"])
def test_go_tells_evidence_that_verifies_from_what_does_not(tmp_path: Path, part: str) -> None:
    """A refused case that is said to be accepted is told, by name."""
    shutil.copytree(VECTORS, tmp_path / "vectors")
    path = tmp_path / "vectors" / "receipt.json"
    vectors = json.loads(path.read_bytes())
    case = next(case for case in vectors["cases"] if case.get("part") == part)
    case["verdict"] = "accepted"
    path.write_text(json.dumps(vectors))
    done = go_check(tmp_path / "vectors")
    assert done.returncode == 1
    assert case["name"] in done.stderr
