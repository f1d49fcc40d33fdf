"""amd64 = arm64: the engine for arm64, plain and NEON, run by qemu-user, gives the A of this machine's variants."""

from __future__ import annotations

import shutil
import struct
import subprocess
from pathlib import Path
from typing import Any

import pytest
from hot_guards import CASES, MAP
from hot_plans import EX, guard, plan
from hot_wire import observation

from knhk.api.convert import to_sources
from knhk.api.parse import parse
from knhk.model.arrows import GuardPlan
from knhk_gen.emit import emit
from knhk_gen.lower import lower
from knhk_hot.pack import Pack
from knhk_hot.toolchain import COMPILE, HOST, SOURCE, TARGETS, artifacts, link_pack, run_zig

PACKS = Path(__file__).parents[2] / "examples" / "packs"
GOLDEN = sorted(str(path.parent.relative_to(PACKS)) for path in PACKS.rglob("pack.yaml") if path.parent.name != "faulty")
ATTRIBUTES = ({"sub": "jane", "action": "create"}, {"sub": "x", "action": "update"})


Said = tuple[str, int, str]  # variant or "batch", status, A in hex


def by_arm64(made: GuardPlan, inputs: list[bytes], folder: Path) -> list[list[Said]]:
    """What each variant says of each input, alone and in a batch of all."""
    qemu = shutil.which("qemu-aarch64")
    assert qemu, "qemu-aarch64 is needed (Debian: apt-get install qemu-user)"
    (folder / "pack.c").write_text(emit(made).text)
    program, host = folder / "host", Path(__file__).parent / "arm64_host.c"
    target, engine = ["cc", "-target", TARGETS["arm64"]], [str(path) for path in artifacts().engine["arm64"]]
    for source, out in ((str(host), "host.o"), ("pack.c", "pack.o")):
        run_zig([*target, *COMPILE, "-Wno-unused", "-fno-builtin", f"-I{SOURCE / 'include'}", "-c", source, "-o", out], folder)
    run_zig([*target, "-nostdlib", "-static", "-Wl,--gc-sections", "host.o", "pack.o", *engine, "-o", str(program)], folder)
    given = b"".join(struct.pack("<I", len(o)) + o for o in inputs)
    lines = subprocess.run([qemu, str(program)], input=given, capture_output=True, check=True).stdout.decode().splitlines()
    said = [(name, int(status), a) for name, status, a in (line.split(" ") for line in lines)]
    n, alone = len(inputs), said[: len(said) // 2]
    variants = len(alone) // n
    return [alone[i * variants : (i + 1) * variants] + said[len(alone) + i :: n] for i in range(n)]


def by_this(made: GuardPlan, inputs: list[bytes]) -> list[set[tuple[int, str]]]:
    """For each input: what the variants of this machine say."""
    native = Pack.load(link_pack(emit(made), HOST))
    bindings = [native.bind(kernel=name) for name in native.variants]
    return [{(d.status, d.a.hex()) for d in (binding.decide(o) for binding in bindings)} for o in inputs]


def compare(made: GuardPlan, inputs: list[bytes], folder: Path) -> set[int]:
    """Asserts that all are the same; the statuses that occurred."""
    here = by_this(made, inputs)
    for o, mine, theirs in zip(inputs, here, by_arm64(made, inputs, folder), strict=True):
        assert [name for name, _, _ in theirs] == ["neon", "scalar", "batch", "batch"]
        assert mine == {(status, a) for _, status, a in theirs}, o
    return {status for each in here for status, _ in each}


def test_every_form_gives_the_same_action(tmp_path: Path) -> None:
    """All forms of guards in one pack, over all inputs that their tests have."""
    bodies: list[Any] = [body for case in CASES for part in case.values[1:] for body in part]  # type: ignore[union-attr]
    targets = [{"kind": "class", "classes": [EX + "Thing"]}, {"kind": "class", "classes": [EX + "Part"]}]
    made = plan([guard(f"g{i:03}", case.values[0]) for i, case in enumerate(CASES)], [MAP], targets)  # type: ignore[arg-type]
    statuses = compare(made, [observation(body, attributes={"action": "create"}) for body in bodies], tmp_path)
    assert {0, 2} <= statuses
    assert len(bodies) > 150


@pytest.mark.slow
@pytest.mark.parametrize("name", GOLDEN)
def test_golden_packs_give_the_same_action(name: str, tmp_path: Path) -> None:
    file = PACKS / name / "pack.yaml"
    (resource,) = (found for found in parse(file.read_text(encoding="utf-8"), str(file)) if found.kind == "PolicyPack")
    made = lower(to_sources(resource))
    payloads = [path.read_bytes() for path in sorted([*file.parent.rglob("payloads/**/*.*"), *PACKS.parent.glob("payloads/*.json")])][:24]
    assert payloads
    inputs = [observation(body, route, attributes=who) for route in made.document["routes"] for body in payloads for who in ATTRIBUTES]
    compare(made, inputs, tmp_path)
