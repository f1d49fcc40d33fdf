"""The fuzz drivers under ASan and UBSan, for a short time; `make fuzz` runs them longer."""

from __future__ import annotations

import pytest
from fuzz_pack import PLAN

from knhk_gen.emit import emit
from knhk_hot import fuzz
from knhk_hot.toolchain import SOURCE

SECONDS = 5


def test_the_fuzzed_pack_is_fresh() -> None:
    """hot_c/fuzz/pack.c is what the emitter makes of the plan: `python tests/hot/fuzz_pack.py` writes it again."""
    assert (SOURCE / "fuzz" / "pack.c").read_text() == emit(PLAN).text


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("driver", fuzz.DRIVERS)
def test_mutated_inputs_break_no_invariant(driver: str) -> None:
    said = fuzz.fuzz(driver, SECONDS, seed=1)
    assert int(said.split()[0]) > len(fuzz.corpus(driver))
