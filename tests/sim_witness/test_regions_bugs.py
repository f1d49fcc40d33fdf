"""That the laws of regions bite: bugs kept as patches are each found within a few seeds, by a law that each patch names."""

from __future__ import annotations

from pathlib import Path

import pytest
from planted import Bug, bugs, must_be_found

RUN = Path(__file__).resolve().parents[1] / "sim" / "run.py"
BUDGET = 200


@pytest.mark.slow
@pytest.mark.parametrize("bug", bugs(Path(__file__).with_name("bugs")), ids=lambda bug: bug.path.stem)
def test_a_planted_bug_of_regions_is_found(bug: Bug, tmp_path: Path) -> None:
    must_be_found(bug, "runtime", (str(RUN), "--world", "regions", "--processes", "1"), BUDGET, tmp_path)
