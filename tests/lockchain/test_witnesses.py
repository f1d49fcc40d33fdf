"""What an event Notarised has of a bundle, and how the bundle comes out of it again (formats/vectors/notarised.json)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from knhk.lockchain import bundle_of, notarised, statement
from knhk_verify.errors import Bad

VECTORS: dict[str, Any] = json.loads((Path(__file__).parents[2] / "formats" / "vectors" / "notarised.json").read_text())
ENTRY, BUNDLE, TOLD = VECTORS["entry"].encode(), VECTORS["bundle"].encode(), VECTORS["statement"]


def test_the_bundle_goes_in_and_comes_out_to_the_byte() -> None:
    predicate = TOLD["predicate"]
    event = notarised(VECTORS["receipt"], ENTRY, VECTORS["logIndex"], BUNDLE, predicate["actor"], predicate["time"])
    assert statement(event) == TOLD
    assert bundle_of(ENTRY, TOLD) == BUNDLE


@pytest.mark.parametrize("case", VECTORS["refused"], ids=lambda case: str(case["name"]))
def test_what_is_about_another_entry_or_altered_is_refused(case: dict[str, Any]) -> None:
    with pytest.raises(Bad) as bad:
        bundle_of(case["entry"].encode(), case["statement"])
    assert bad.value.where == case["where"]
    assert case["says"] in bad.value.what
