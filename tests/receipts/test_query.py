"""SQL and exports say what the log says, and reach nothing else."""

from __future__ import annotations

import csv
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any

import duckdb
import ocsf.v1_7_0.events
import pyarrow as pa
import pytest
from pyarrow import parquet

sys.path.insert(0, str(Path(__file__).parent))
from log_of_entries import CONTROLS, LIMITS, OTHERS, PACKS, Written, leaf

from knhk.adapters import delta_parquet, receipt_index
from knhk.adapters.observations import OBSERVED, Archive
from knhk.adapters.receipt_index import ReceiptIndex
from knhk.adapters.receipt_query import query
from knhk.cli import main
from knhk.model.faults import Corrupt, Refused
from knhk.reconcilers.exporting_events import ACTIVITIES

ROOT, HIDDEN = Path(__file__).parents[2], ("salt", "observation", "action")
ROLLED = {"reason": "newDenials of guard limit", "evidence": {"judgedNs": "17"}}


@pytest.fixture
def knhk(written: Written, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Any:
    """`knhk receipt …` on a log with 12 decisions of three packs in two namespaces, four of them denied, and their events."""
    monkeypatch.setenv("KNHK_CACHE", str(tmp_path / "cache"))
    written.add(
        *(written.event("Signed", pack) for pack in PACKS),
        written.event("Approved", actor="ann", stage="production", time="2026-11-20T11:00:00Z"),
        written.event("Promoted", time="2026-11-20T12:00:00Z", evidence={"approvedBy": ["ann"]}),
        *(leaf(n, verdict=2 if n < 4 else 1, flags=16 if n == 9 else 8 if n == 8 else 0) for n in range(10)),
        leaf(20, ring=b"RING0002", pack=LIMITS),
        leaf(21, ring=b"RING0003", pack=OTHERS),
        written.event("RolledBack", LIMITS, time="2026-11-21T10:00:00Z", **ROLLED),
        written.event("Promoted", OTHERS, time="2026-11-22T12:00:00Z", evidence={"unreviewed": True}),
    )

    def call(*words: object) -> Any:
        code = main(["--home", str(tmp_path / "home"), "receipt", *map(str, words), "--log", str(written.folder), "-o", "json"])
        said = capsys.readouterr()
        return code, json.loads(said.out) if said.out else json.loads(said.err)

    return call


def rows(answer: tuple[int, Any]) -> list[list[Any]]:
    code, said = answer
    assert code == 0, said
    return list(said["rows"])


def test_decisions_events_and_what_was_live_are_tables(knhk: Any) -> None:
    assert rows(knhk("query", "SELECT namespace, pack, verdict, count(*) FROM decisions GROUP BY ALL ORDER BY ALL")) == [
        ["crm", "leads", "ADMIT", 1],
        ["erp", "invoice-controls", "ADMIT", 6],
        ["erp", "invoice-controls", "DENY", 4],
        ["erp", "limits", "ADMIT", 1],
    ]
    assert rows(knhk("query", "SELECT pack, reason, evidence->>'judgedNs' FROM events WHERE event = 'RolledBack'")) == [
        ["limits", "newDenials of guard limit", "17"]
    ]
    assert rows(knhk("query", "SELECT pack, version, since, until, approved_by FROM live WHERE pack = 'invoice-controls'")) == [
        ["invoice-controls", "1.0.0", "2026-11-20T12:00:00.000000Z", None, ["ann"]]
    ]
    assert rows(knhk("query", "SELECT what, how, pack FROM overrides ORDER BY log_index")) == [
        ["decision", "brownout", "invoice-controls"],
        ["decision", "fail-open", "invoice-controls"],
        ["event", "Promoted", "leads"],
    ]
    assert rows(knhk("query", "-n", "crm", "SELECT count(*) FROM decisions")) == [[1]]


@pytest.mark.parametrize(
    ("sql", "says"),
    [
        ("SELECT * FROM read_csv('/etc/passwd')", "disabled"),
        ("SELECT * FROM read_text('{log}/keys.json')", "disabled"),
        ("SELECT * FROM glob('/*')", "disabled"),
        ("SELECT * FROM '/etc/hostname'", "must be"),
        ("SELECT * FROM read_parquet('https://example.com/x.parquet')", "must be"),
        ("COPY decisions TO '/tmp/x.csv'", "one SELECT"),
        ("ATTACH '/tmp/x.db'", "one SELECT"),
        ("INSTALL httpfs", "one SELECT"),
        ("SET enable_external_access = true", "one SELECT"),
        ("SELECT 1; SELECT 2", "one SELECT"),
        ("DROP TABLE events", "one SELECT"),
        ("WITH x AS (DELETE FROM events RETURNING *) SELECT * FROM x", "one SELECT"),
        ("SELECT * FROM (WITH x AS (COPY decisions TO '/tmp/x.csv') SELECT 1)", "one SELECT"),
        ("CREATE TABLE x AS PIVOT decisions ON verdict USING count(*)", "one SELECT"),
        ("COPY (PIVOT decisions ON verdict USING count(*)) TO '/tmp/x.csv'", "one SELECT"),
        ("WITH x AS (DELETE/**/FROM events RETURNING *) FROM (PIVOT x ON event USING count(*))", "one SELECT"),
        ("PIVOT decisions ON verdict USING count(*); SELECT 1", "one SELECT"),
        ("SELEC 1", "must be SQL"),
        ("SELECT colour FROM decisions", "colour"),
    ],
)
def test_nothing_else_is_read_and_nothing_is_written(knhk: Any, written: Written, sql: str, says: str) -> None:
    code, said = knhk("query", sql.format(log=written.folder))
    assert code == 1
    assert says in json.dumps(said)


def test_an_archive_is_read_without_payloads_and_nothing_beside_it(knhk: Any, tmp_path: Path) -> None:
    archive = tmp_path / "delta"
    part = archive / "region=local" / "date=2026-11-20" / "hour=10"
    part.mkdir(parents=True)
    table = pa.table(
        {"receipt": ["aa"], "actor": ["clerk"], "failing": [[1]], "salt": [b"s"], "observation": [b"secret"], "action": [b"a"]}
    )
    parquet.write_table(table, part / "0000000000000000.parquet")
    code, said = knhk("query", "SELECT * FROM observations", "--archive", archive)
    assert code == 0, said
    told = dict(zip(said["columns"], said["rows"][0], strict=True))
    assert not set(HIDDEN) & set(told)
    shown = ("receipt", "actor", "failing", "region", "date", "hour", "verdict")
    assert [told[name] for name in shown] == ["aa", "clerk", [1], "local", "2026-11-20", 10, None]
    asked = "SELECT receipt FROM observations WHERE date = DATE '2026-11-20' AND hour = 10"
    assert rows(knhk("query", asked, "--archive", archive)) == [["aa"]]
    for reading in (f"read_parquet('{part}/*.parquet')", f"'{part}/0000000000000000.parquet'", f"glob('{archive}/**')"):
        code, said = knhk("query", f"SELECT * FROM {reading}", "--archive", archive)
        assert (code, "isabled" in json.dumps(said)) == (1, True), said
    code, said = knhk("query", "SELECT observation FROM observations", "--archive", archive)
    assert (code, "not found" in json.dumps(said)) == (1, True)
    code, said = knhk("query", "SELECT * FROM read_text('/etc/hostname')", "--archive", archive)
    assert (code, "disabled" in json.dumps(said)) == (1, True)
    code, said = knhk("query", f"COPY decisions TO '{archive}/x.csv'", "--archive", archive)
    assert code == 1
    assert not (archive / "x.csv").exists()
    code, said = knhk("query", f"WITH x AS (COPY (SELECT 1) TO '{archive}/x.csv') SELECT 1", "--archive", archive)
    assert (code, "one SELECT" in json.dumps(said)) == (1, True)
    assert not (archive / "x.csv").exists()


def test_a_table_that_is_none_and_an_archive_that_is_none_are_said(knhk: Any, tmp_path: Path) -> None:
    code, said = knhk("query", "SELECT * FROM observations")
    assert (code, "from decisions, events, live, overrides; with --archive observations: " in json.dumps(said)) == (1, True), said
    code, said = knhk("query", "SELECT * FROM decisions", "--archive", tmp_path / "nowhere")
    assert code == 1
    assert [fault["must"] for fault in said["faults"]] == ["must be a folder with segments of the Δ log"]


@pytest.mark.parametrize(
    "sql",
    [
        "WITH a AS (SELECT 1 AS n) SELECT n FROM a UNION ALL SELECT 2",
        "WITH RECURSIVE a(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM a WHERE n < 2) FROM a",
        "WITH a AS MATERIALIZED (SELECT 1 AS n) (SELECT n FROM a) UNION SELECT 'COPY_QUERY_NODE'.length() - 13",
    ],
)
def test_what_only_reads_is_answered(knhk: Any, sql: str) -> None:
    assert sorted(rows(knhk("query", sql))) == [[1], [2]]


@pytest.mark.parametrize(
    "sql",
    [
        "PIVOT decisions ON verdict USING count(*) GROUP BY pack ORDER BY pack",
        "FROM (PIVOT decisions ON verdict IN ('ADMIT', 'DENY') USING count(*) GROUP BY pack) ORDER BY pack",
        "WITH p AS (PIVOT decisions ON verdict USING count(*) GROUP BY pack) FROM p ORDER BY pack",
    ],
)
def test_a_pivot_only_reads(knhk: Any, sql: str) -> None:
    assert rows(knhk("query", sql)) == [["invoice-controls", 6, 4], ["leads", 1, 0], ["limits", 1, 0]]


def test_segments_of_before_a_column_have_none_of_it(knhk: Any, tmp_path: Path) -> None:
    """Regions are not all of one release: which one's name comes last says nothing of which is the newest."""
    archive, newer = tmp_path / "delta", {"receipt": ["bb"], "actor": ["clerk"], "transcript": ["what a later release keeps of O"]}
    for region, hour, columns in (("us", "09", {"receipt": ["aa"]}), ("eu", "10", newer)):
        part = archive / f"region={region}" / "date=2026-11-20" / f"hour={hour}"
        part.mkdir(parents=True)
        parquet.write_table(pa.table({**columns, "salt": [b"s"]}), part / "0000000000000000.parquet")
    asked = rows(knhk("query", "SELECT receipt, actor, region, hour FROM observations ORDER BY receipt", "--archive", archive))
    assert asked == [["aa", None, "us", 9], ["bb", "clerk", "eu", 10]]
    assert "transcript" not in knhk("query", "SELECT * FROM observations", "--archive", archive)[1]["columns"]


def test_of_each_column_of_the_archive_it_is_said_whether_a_question_may_see_it() -> None:
    assert set(OBSERVED).isdisjoint(HIDDEN)
    assert {*OBSERVED, *HIDDEN} == set(delta_parquet.NAMES)


def test_a_segment_that_is_none_is_named(knhk: Any, tmp_path: Path) -> None:
    part = tmp_path / "delta" / "region=eu" / "date=2026-11-20" / "hour=10"
    part.mkdir(parents=True)
    (part / "0000000000000000.parquet").write_bytes(b"junk")
    code, said = knhk("query", "SELECT receipt FROM observations", "--archive", tmp_path / "delta")
    assert (code, "hour=10/0000000000000000.parquet" in json.dumps(said)) == (1, True), said


SLOW = """
import sys, time
from pathlib import Path
from knhk.adapters.observations import Archive
from knhk.adapters.receipt_query import query

data = Path(sys.argv[1]).read_bytes()

def read(path):
    time.sleep(0.15)
    return data

names = [f"region=eu/date=2026-11-20/hour={n}/0000000000000000.parquet" for n in range(16)]
print(query(sys.argv[2], (), (), Archive("s3://audit", names, read)).num_rows)
"""


@pytest.mark.parametrize(("sql", "ends"), [("FROM observations LIMIT 1", 0), ("SELECT error('x') FROM observations", 1)])
def test_a_question_that_stops_early_is_no_crash_where_a_store_is_slow(tmp_path: Path, sql: str, ends: int) -> None:
    """A process that ends while a thread of Arrow, which reads ahead, is in Python's code is aborted."""
    parquet.write_table(pa.table({"receipt": ["aa"]}), tmp_path / "segment")
    ran = subprocess.run([sys.executable, "-c", SLOW, str(tmp_path / "segment"), sql], capture_output=True, text=True, check=False)
    assert (ran.returncode, ran.stdout, "Fatal" in ran.stderr) == (ends, "1\n" if ends == 0 else "", False), ran.stderr


def test_a_committed_segment_that_is_gone_from_a_folder_is_told(tmp_path: Path) -> None:
    names = [f"region=eu/date=2026-11-20/hour=1{n}/0000000000000000.parquet" for n in range(2)]
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True)
        parquet.write_table(pa.table({"receipt": ["aa"]}), tmp_path / name)
    assert query("SELECT count(*) AS n FROM observations", (), (), Archive(str(tmp_path), names)).to_pylist() == [{"n": 2}]
    (tmp_path / names[1]).unlink()
    with pytest.raises(Refused, match=f"{names[1]}.*is committed"):
        query("FROM observations", (), (), Archive(str(tmp_path), names))


def test_regions_that_a_guard_makes_up_are_told_as_they_are(knhk: Any, written: Written) -> None:
    """And packs that no event names, however many: none of them is one more of what rows share."""
    made = [bytearray(leaf(100 + n)) for n in range(1, 20)]
    for region, each in enumerate(made, 1):
        each[6:8] = region.to_bytes(2, "big")
    written.add(*map(bytes, made))
    assert rows(knhk("query", "SELECT count(DISTINCT region), max(region) FROM decisions")) == [[20, 19]]
    few = rows(knhk("query", "SELECT count(*) FROM shapes"))[0][0]
    strangers = [bytes((200, n)) * 16 for n in range(100)]
    written.add(*(leaf(300 + n, pack=pack) for n, pack in enumerate(strangers)), leaf(500, pack=bytes(32), ring=b"LIAR0001"))
    named, unnamed = ([pack[:20].hex() for pack in packs] for packs in ((CONTROLS, LIMITS, OTHERS), strangers))
    told = dict(rows(knhk("query", "SELECT pack_digest, count(*) FROM decisions GROUP BY ALL")))
    assert told == dict(zip(named, (29, 1, 1), strict=True)) | dict.fromkeys(["", *unnamed], 1)
    assert rows(knhk("query", "SELECT count(*) FROM shapes")) == [[few + 2]]


def test_nothing_of_where_one_stands_is_read(knhk: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """DuckDB would spill into .tmp there, and let a question read it."""
    (tmp_path / ".tmp").mkdir()
    (tmp_path / ".tmp" / "secret").write_text("secret")
    monkeypatch.chdir(tmp_path)
    code, said = knhk("query", "SELECT * FROM read_text('.tmp/secret')")
    assert (code, "disabled" in json.dumps(said)) == (1, True)


def test_tables_behind_the_views_are_not_empty(knhk: Any) -> None:
    assert rows(knhk("query", "SELECT (SELECT count(*) FROM decision_rows), (SELECT count(DISTINCT pack) FROM shapes)")) == [[12, 3]]


def test_a_time_that_no_table_holds_spoils_no_question(knhk: Any, written: Written) -> None:
    odd = bytearray(leaf(30))
    odd[92:100] = b"\xff" * 8
    written.add(bytes(odd))
    assert rows(knhk("query", "SELECT count(*), max(time_ns) FROM decisions")) == [[13, (1 << 63) - 1]]


@pytest.mark.parametrize("name", ["receipt", "metadata.name"])
def test_no_name_is_no_receipt_and_not_all(knhk: Any, tmp_path: Path, name: str) -> None:
    code, said = knhk("export", "--format", "jsonl", "--out", tmp_path / "none.jsonl", "--field-selector", f"{name}=")
    assert (code, said["written"]) == (0, 0)


def test_a_list_has_as_many_as_were_asked_for_however_few_a_page_finds(knhk: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OWN", "MISSES"):
        monkeypatch.setattr(receipt_index, name, 1)
    denied = ("--verdict", "DENY", "--pack", "invoice-controls")
    code, said = knhk("list", *denied, "--limit", 3)
    assert (code, [row["index"] for row in said["receipts"]]) == (0, [8, 7, 6])
    code, said = knhk("list", *denied, "--limit", 3, "--continue", said["continue"])
    assert (code, [row["index"] for row in said["receipts"]], said["continue"], said["total"]) == (0, [5], None, None)
    assert [row["index"] for row in knhk("list", "--field-selector", "failOpen=true")[1]["receipts"]] == [14]


@pytest.mark.parametrize("form", ["csv", "jsonl", "parquet"])
def test_an_answer_goes_into_a_file(knhk: Any, tmp_path: Path, form: str) -> None:
    file = tmp_path / f"answer.{form}"
    code, said = knhk("query", "SELECT verdict, count(*) AS n FROM decisions GROUP BY ALL ORDER BY ALL", "--out", file)
    assert (code, said["written"]) == (0, 2)
    assert duckdb.execute(f"SELECT verdict, n FROM '{file}' ORDER BY ALL").fetchall() == [("ADMIT", 8), ("DENY", 4)]


@pytest.mark.parametrize("words", [("export", "--format", "csv"), ("export", "--format", "parquet"), ("query", "SELECT * FROM decisions")])
def test_what_fails_leaves_the_file_of_before(knhk: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...]) -> None:
    """A log that is cut off in the middle makes no half file that looks whole, and takes no good one away."""
    file, cut = tmp_path / f"kept.{'parquet' if 'parquet' in words else 'csv'}", ReceiptIndex.rows
    file.write_text("of yesterday")

    def broken(index: ReceiptIndex, selection: Any) -> Iterator[Any]:
        yield from islice(cut(index, selection), 3)
        raise Corrupt("log", "its tiles end here")

    with monkeypatch.context() as patched:
        patched.setattr(ReceiptIndex, "rows", broken)
        code, said = knhk(*words, "--out", file)
    assert (code, "its tiles end here" in json.dumps(said)) == (1, True)
    assert (file.read_text(), [path.name for path in tmp_path.glob("*kept*")]) == ("of yesterday", [file.name])
    file.chmod(0o640)
    assert knhk(*words, "--out", file)[0] == 0
    assert (file.read_bytes() != b"of yesterday", file.stat().st_mode & 0o777) == (True, 0o640)


def test_an_answer_goes_into_a_pipe_as_it_is(knhk: Any, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.csv")
    with ThreadPoolExecutor(1) as other:
        read = other.submit((tmp_path / "pipe.csv").read_text)
        assert knhk("query", "SELECT 1 AS n", "--out", tmp_path / "pipe.csv")[0] == 0
        assert read.result(60).split() == ["n", "1"]
    assert (tmp_path / "pipe.csv").is_fifo()


def test_no_text_is_a_formula_to_a_spreadsheet(knhk: Any, tmp_path: Path) -> None:
    """OWASP, CSV Injection. Numbers stay numbers, and other forms have no formulas."""
    sql = "SELECT '=HYPERLINK(1)' AS \"=a\", -1 AS n, '@x' AS b, 'a=b' AS c, '-' || 'y' AS d"
    for form, first, rest in (("csv", "'=HYPERLINK(1)", ["-1", "'@x", "a=b", "'-y"]), ("jsonl", "=HYPERLINK(1)", [-1, "@x", "a=b", "-y"])):
        file = tmp_path / f"answer.{form}"
        assert knhk("query", sql, "--out", file)[0] == 0
        head, *rows = csv.reader(file.read_text().splitlines()) if form == "csv" else [list(json.loads(file.read_text()).values())] * 2
        assert rows == [[first, *rest]]
        assert form != "csv" or head[0] == "'=a"


@pytest.mark.parametrize("form", ["csv", "jsonl", "parquet"])
def test_exports_hold_the_same_decisions(knhk: Any, tmp_path: Path, form: str) -> None:
    file = tmp_path / f"denied.{form}"
    code, said = knhk("export", "--format", form, "--out", file, "--verdict", "DENY")
    assert (code, said["written"]) == (0, 4)
    found = {
        "csv": lambda: list(csv.DictReader(file.read_text().splitlines())),
        "jsonl": lambda: [json.loads(line) for line in file.read_text().splitlines()],
        "parquet": lambda: parquet.read_table(file).to_pylist(),
    }[form]()
    assert [(row["receipt"], row["pack"], str(row["log_index"]), str(row["brownout"]).lower()) for row in found] == [
        ((b"RING0001" + n.to_bytes(8, "big")).hex(), "invoice-controls", str(5 + n), "false") for n in range(4)
    ]


def test_ocsf_is_what_its_schema_says(knhk: Any, tmp_path: Path) -> None:
    """Held against the published schema of 1.7.0, as classes (pydantic-ocsf)."""
    file = tmp_path / "decisions.ocsf.jsonl"
    code, said = knhk("export", "--format", "ocsf", "--out", file)
    assert (code, said["written"]) == (0, 12)
    events = [json.loads(line) for line in file.read_text().splitlines()]
    for event in events:
        ocsf.v1_7_0.events.ApiActivity.model_validate(event, strict=False)
    denied = [event for event in events if event["status"] == "Failure"]
    assert [event["actor"]["authorizations"][0]["policy"]["name"] for event in denied] == ["invoice-controls"] * 4
    assert len({event["metadata"]["uid"] for event in events}) == 12
    broken = {**events[0], "severity_id": "loud"}
    with pytest.raises(ValueError, match="severity_id"):
        ocsf.v1_7_0.events.ApiActivity.model_validate(broken)


SCHEMA: dict[str, Any] = json.loads((Path(ocsf.__file__).parent / "schemas" / "v1_7_0.json").read_text())


def demand_constraints(event: dict[str, Any]) -> None:
    """What the schema asks for beside types: of some members at least one."""
    for member, kind in (("actor", "actor"), ("entity", "managed_entity")):
        if member in event:
            assert event[member].keys() & set(SCHEMA["objects"][kind]["constraints"]["at_least_one"]), (member, event[member])


def test_policy_events_are_ocsf_too(knhk: Any, written: Written, tmp_path: Path) -> None:
    """Of class Entity Management; a pack is the policy that decisions name."""
    kinds = [*ACTIVITIES, "Approved", "Drifted", "Refused"]
    written.add(*(written.event(kind, reason="why", stage="production", step=1) for kind in kinds), written.nobodys("KeyRotated"))
    code, said = knhk("export", "--format", "ocsf", "--out", tmp_path / "events.jsonl", "--kind", "POLICY")
    events = [json.loads(line) for line in (tmp_path / "events.jsonl").read_text().splitlines()]
    assert (code, said["written"]) == (0, len(events))
    assert len(events) == 7 + len(kinds) + 1
    for event in events:
        ocsf.v1_7_0.events.EntityManagement.model_validate(event, strict=False)
        demand_constraints(event)
        assert event["type_uid"] == 300_400 + event["activity_id"]
    captions = SCHEMA["events"]["entity_management"]["attributes"]["activity_id"]["enum"]
    for event in events:
        told = captions.get(str(event["activity_id"]), {"caption": event["metadata"]["event_code"]})
        assert event["activity_name"] == told["caption"]
    assert {event["activity_name"] for event in events} >= {
        "Drifted",
        "Approved",
        *(captions[str(n)]["caption"] for n in ACTIVITIES.values()),
    }
    rolled = next(event for event in events if event["metadata"]["event_code"] == "RolledBack")
    assert (rolled["activity_name"], rolled["severity"], rolled["comment"]) == ("Deactivate", "Medium", "newDenials of guard limit")
    assert rolled["entity"]["policy"]["name"] == "limits"
    assert rolled["unmapped"]["evidence"] == {"judgedNs": "17"}
    (gone,) = [event for event in events if event["metadata"]["event_code"] == "Deleted"]
    assert gone["activity_name"] == "Delete"
    (turned,) = [event for event in events if event["entity"]["name"] == "keys/build"]
    assert (turned["entity"]["type"], turned["entity"]["type_id"], turned["activity_name"]) == ("keys", 99, "Update")
    code, _ = knhk("export", "--format", "ocsf", "--out", tmp_path / "decisions.jsonl", "--pack", "limits")
    (decided,) = [json.loads(line) for line in (tmp_path / "decisions.jsonl").read_text().splitlines()]
    demand_constraints(decided)
    assert decided["actor"]["authorizations"][0]["policy"]["uid"] == rolled["entity"]["policy"]["uid"]
    code, said = knhk("export", "--format", "csv", "--out", tmp_path / "events.csv", "--kind", "POLICY")
    assert (code, "FROM events" in json.dumps(said)) == (2, True)
    code, said = knhk(
        "export", "--format", "ocsf", "--out", tmp_path / "one.jsonl", "--kind", "POLICY", "--field-selector", "event=RolledBack"
    )
    assert (code, said["written"]) == (0, 2)


@pytest.mark.parametrize(("table", "words"), [("decisions", ()), ("events", ("--kind", "POLICY"))])
def test_an_answer_with_the_columns_of_receipts_is_the_ocsf_of_an_export(
    knhk: Any, written: Written, tmp_path: Path, table: str, words: tuple[str, ...]
) -> None:
    more = written.event("StepAdvanced", LIMITS, step=2, weight=25, point="gate")
    written.add(leaf(40, ring=b"RING0002", pack=LIMITS, flags=1, verdict=2), more)
    assert knhk("export", "--format", "ocsf", "--out", tmp_path / "exported", *words)[0] == 0
    code, said = knhk("query", f"FROM {table} ORDER BY log_index", "--out", tmp_path / "asked", "--format", "ocsf")
    exported, asked = ([json.loads(line) for line in (tmp_path / name).read_text().splitlines()] for name in ("exported", "asked"))
    for event in exported:
        for only_the_leaf in ("hO", "hA"):
            event["unmapped"].pop(only_the_leaf, None)
    assert (code, said["written"]) == (0, len(asked))
    assert asked == exported


@pytest.mark.parametrize(
    ("sql", "musts"),
    [
        ("SELECT verdict, count(*) AS n FROM decisions GROUP BY ALL", ["has no column log_index, time, receipt, namespace, kind, class,"]),
        ("SELECT * EXCLUDE (mode, brownout) FROM decisions", ["has no column mode, brownout"]),
        ("SELECT * EXCLUDE (evidence) FROM events", ["has no column evidence"]),
        (
            "SELECT * REPLACE ('x' AS time, NULL::VARCHAR AS pack) FROM decisions",
            ["column time is text", "column pack is NULL in some rows"],
        ),
    ],
)
def test_an_answer_without_them_is_no_ocsf_and_says_what_it_lacks(knhk: Any, tmp_path: Path, sql: str, musts: list[str]) -> None:
    code, said = knhk("query", sql, "--out", tmp_path / "asked", "--format", "ocsf")
    assert code == 1
    values = sorted(fault["value"] for fault in said["faults"])
    assert [value.startswith(must) for value, must in zip(values, sorted(musts), strict=True)] == [True] * len(musts), values
    assert not (tmp_path / "asked").exists()


def test_a_form_without_a_file_is_told(knhk: Any, tmp_path: Path) -> None:
    code, said = knhk("query", "FROM decisions", "--format", "ocsf")
    assert (code, "--format: must come with --out" in said["error"]) == (2, True)
    code, said = knhk("query", "FROM decisions", "--out", tmp_path / "x.txt")
    assert (code, "or come with --format" in said["error"]) == (2, True)
    assert knhk("query", "FROM decisions", "--out", tmp_path / "x.txt", "--format", "csv")[0] == 0
    assert (tmp_path / "x.txt").read_text().startswith("log_index,time,")


def test_one_receipt_is_exported_by_its_id(knhk: Any, tmp_path: Path) -> None:
    receipt = (b"RING0001" + (3).to_bytes(8, "big")).hex()
    code, said = knhk("export", "--format", "jsonl", "--out", tmp_path / "one.jsonl", "--field-selector", f"receipt={receipt}")
    assert (code, said["written"]) == (0, 1)
    assert CONTROLS[:20].hex() in (tmp_path / "one.jsonl").read_text()


def test_the_question_of_guards_is_answered_from_an_archive(knhk: Any, tmp_path: Path) -> None:
    """Number 11 of docs/risk.md: of a pack of four guards two fired, in one decision each."""
    (sql,) = re.findall(r"^## 11\. .*?```sql\n(.*?)```", (ROOT / "docs" / "risk.md").read_text(), re.DOTALL | re.MULTILINE)
    part = tmp_path / "delta" / "region=local" / "date=2026-11-20" / "hour=10"
    part.mkdir(parents=True)
    columns = {"pack": ["ab", "ab", ""], "guards": [4, 4, None], "failing": [[1], [3], None], **{key: [b"", b"", b""] for key in HIDDEN}}
    parquet.write_table(pa.table(columns), part / "0000000000000000.parquet")
    assert rows(knhk("query", sql, "--archive", tmp_path / "delta")) == [["ab", 0], ["ab", 2]]


def test_a_log_of_more_decisions_than_are_read_at_once(knhk: Any, written: Written) -> None:
    written.leaves(leaf(n) for n in range(100, 100 + (1 << 17)))
    assert rows(knhk("query", "SELECT verdict, count(*) FROM decisions GROUP BY ALL ORDER BY ALL")) == [
        ["ADMIT", 8 + (1 << 17)],
        ["DENY", 4],
    ]
