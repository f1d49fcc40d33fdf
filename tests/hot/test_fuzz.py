"""The fuzz drivers under ASan and UBSan: every kept input, and a fixed number of mutants; `make fuzz` searches (docs/fuzzing.md)."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from fuzz_pack import PLAN, PLANS

from knhk_gen.emit import emit
from knhk_hot import fuzz
from knhk_hot.toolchain import SOURCE

pytestmark = pytest.mark.xdist_group("fuzz-drivers")  # one worker builds them

MUTANTS = 5_000
SMALL = 768 * 1024  # bytes of all kept inputs


@pytest.mark.parametrize("name", PLANS)
def test_the_fuzzed_packs_are_fresh(name: str) -> None:
    """What the emitter makes of the plans: `python tests/hot/fuzz_pack.py` writes them again."""
    assert (SOURCE / "fuzz" / f"{name}.c").read_text() == emit(PLANS[name]).text


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("driver", fuzz.DRIVERS)
def test_kept_inputs_and_mutants_break_no_invariant(driver: str) -> None:
    assert fuzz.replay(driver, MUTANTS) >= len(fuzz.kept(driver)) + MUTANTS


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_broken_invariant_is_seen(tmp_path: Path) -> None:
    """A driver linked with tables in which a route names a mapping after the last reads outside of them."""
    text = (SOURCE / "fuzz" / "pack.c").read_text()
    tables = tmp_path / "tables.c"
    after = len(PLAN.document["mappings"])
    tables.write_text(text.replace("{71,0},\n", f"{{71,{after}}},\n", 1))
    assert tables.read_text() != text
    broken = fuzz.build_driver(fuzz.REPLAY, "decide", tables, tmp_path)
    with pytest.raises(subprocess.CalledProcessError) as raised:
        fuzz.replay("decide", driver=broken)
    assert "AddressSanitizer" in raised.value.stderr


def test_the_corpus_stays_small() -> None:
    kept = [path for driver in fuzz.DRIVERS for path in fuzz.kept(driver)]
    assert all(fuzz.kept(driver) for driver in fuzz.DRIVERS)
    assert max(path.stat().st_size for path in kept) <= fuzz.KEPT_MAX
    assert sum(path.stat().st_size for path in kept) <= SMALL
