"""What is no kubeconfig is told as that, not as a bug."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from knhk.cli import main


@pytest.mark.parametrize("text", [None, "", "words", "- a list", "a: b: c", "clusters: [{}]"])
def test_a_file_that_leads_to_no_cluster_is_told(text: str | None, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "kubeconfig"
    if text is None:
        file.mkdir()
    else:
        file.write_text(text)
    assert main(["--home", str(tmp_path / "home"), "get", "policypacks", "--kubeconfig", str(file), "-o", "json"]) == 3
    said = json.loads(capsys.readouterr().err)
    assert said["error"].startswith(f"NoCluster: {file}: must lead to a cluster")
