"""The table of Envoy's ABI against the Envoy that is installed."""

from __future__ import annotations

import runpy
import subprocess
import sys
from pathlib import Path

import pytest
from shim_native import ROOT, SHIM, envoy_binary

TOOL = ROOT / "tools" / "gen_envoy_abi.py"


def test_the_header_is_made_from_the_table() -> None:
    tool = runpy.run_path(str(TOOL))
    assert (SHIM / "abi.h").read_text() == tool["header"]((SHIM / "abi.tsv").read_text())


def test_the_installed_envoy_has_all_that_the_table_names() -> None:
    subprocess.run([sys.executable, str(TOOL), "--check", str(envoy_binary())], check=True)


@pytest.mark.parametrize(
    ("row", "lack"),
    [
        ("callback\thttp_filter_teleport\tvoid\tvoid *f\t-", "callback envoy_dynamic_module_callback_http_filter_teleport"),
        ("hook\thttp_filter_teleported\tvoid\tvoid *f\tvoid (*)(void *)", "hook envoy_dynamic_module_on_http_filter_teleported"),
        ("hook\thttp_filter_new\tvoid\tint a\tvoid (*)(teleport)", "type void (*)(teleport)"),
    ],
)
def test_what_an_envoy_lacks_is_named(row: str, lack: str) -> None:
    missing = runpy.run_path(str(TOOL))["missing"](row, Path(envoy_binary()).read_bytes())
    assert [text for text in missing if text.startswith(lack)]
