"""What holds for every test: no green skips in CI, one hypothesis profile, untried tiers named."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Generator
from pathlib import Path
from typing import TypeVar

import hypothesis
import pytest

IN_CI = os.environ.get("CI", "").lower() in {"1", "true"}
TESTS = Path(__file__).parent

sys.path.insert(0, str(TESTS))
pytest_plugins = ("soft_hsm",)

# "ci" tries the same examples on each run, so that a red build is red again; "dev" tries new ones.
hypothesis.settings.register_profile("ci", derandomize=True, deadline=None, database=None)
hypothesis.settings.register_profile("dev", deadline=None)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci" if IN_CI else "dev"))


Report = TypeVar("Report", pytest.TestReport, pytest.CollectReport)


def _fail_if_skipped(report: Report) -> Report:
    """In CI a skip is a failure: what was not tested must not look tested."""
    if IN_CI and report.skipped and not hasattr(report, "wasxfail"):
        reason = report.longrepr[-1] if isinstance(report.longrepr, tuple) else report.longrepr
        report.outcome = "failed"
        report.longrepr = f"{report.nodeid}: a skip counts as a failure in CI ({reason})"
    return report


@pytest.hookimpl(wrapper=True, trylast=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    return _fail_if_skipped((yield))


@pytest.hookimpl(wrapper=True, trylast=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    return _fail_if_skipped((yield))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A misspelt `failure` mark would drop a cell of docs/failure-modes.md, one of `cluster` start a cluster for each worker."""
    for item in items:
        for mark in item.iter_markers("failure"):
            if len(mark.args) != 2 or not all(isinstance(arg, str) for arg in mark.args):
                raise pytest.UsageError(f"{item.nodeid}: must be failure(row, column), two strings")
        if "cluster" in item.keywords:
            _belongs_to_its_cluster(item)


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Without looking for garbage: tests that are collected stay, and looking among them is a third of that work."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


def _belongs_to_its_cluster(item: pytest.Item) -> None:
    """What needs the node runs on one worker, what needs the cluster without one on one, beside it."""
    used = {*getattr(item, "fixturenames", ())} & {"node", "cluster"} or {"node", "cluster"}
    groups = {name for mark in item.iter_markers("xdist_group") for name in mark.args}
    if item.get_closest_marker("cluster") is None or not groups & used:
        wanted = " or ".join(f"xdist_group({name!r})" for name in sorted(used))
        raise pytest.UsageError(f"{item.nodeid}: must be marked cluster and {wanted}: all workers share one machine")


def _tier(nodeid: str) -> str | None:
    parts = Path(nodeid.split("::")[0]).parts
    return parts[1] if len(parts) > 2 and parts[0] == TESTS.name else None


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Name the tiers (folders of tests/) of which this run tried nothing."""
    tiers = {path.relative_to(TESTS).parts[0] for path in TESTS.glob("*/**/test_*.py")}
    tried = {
        _tier(report.nodeid)
        for outcome in ("passed", "failed", "xfailed", "xpassed", "error")
        for report in terminalreporter.stats.get(outcome, [])
    }
    untried = sorted(tiers - tried)
    if untried:
        terminalreporter.write_line(f"tiers not run: {', '.join(untried)}")
