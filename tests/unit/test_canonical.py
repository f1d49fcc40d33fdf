"""What canonical JSON does not take, for it would be signed as something else."""

from __future__ import annotations

from typing import Any

import pytest

from knhk.model.canonical import canonical
from knhk.model.resource import Key


@pytest.mark.parametrize("value", [1.5, b"bytes", {1: "a"}, {"a", "b"}, Key("Receipt", "erp", "r")])
def test_what_is_no_json_is_refused_with_its_place(value: Any) -> None:
    with pytest.raises(TypeError, match=r"^\$\.rows\[1\]"):
        canonical({"rows": [0, value]})
