"""Logs that mean ill take neither a witness's memory nor its time, and it says which keys.json it does not read."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable
from email.message import Message
from pathlib import Path

import pytest
import yaml
from witness_options import options
from witness_world import FakeLog, Running, private

from hostile_keys import ROOT_PUBLIC, UNSIGNED, of_the_root
from knhk_runtime.tlog.notes import format_vkey
from knhk_verify.note import b64
from local_http import Answer, serving

LOOKS = 4  # each leaves some of its memory to the next, and the most that was had grows for a while


def memory_mib() -> int:
    """The limit of a witness's pod."""
    manifest = Path(__file__).resolve().parents[2] / "manifests/components/witness/statefulset.yaml"
    (container,) = next(yaml.safe_load_all(manifest.read_text()))["spec"]["template"]["spec"]["containers"]
    return int(container["resources"]["limits"]["memory"].removesuffix("Mi"))


def peak_mib(witness: Running) -> int:
    status = Path(f"/proc/{witness.process.pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in status if line.startswith("VmHWM")) >> 10


def until(holds: Callable[[], bool]) -> None:
    end_s = time.monotonic() + 120
    while not holds():
        assert time.monotonic() < end_s, "it has not come within 120 s"
        time.sleep(0.05)


@pytest.mark.server
def test_three_logs_with_a_root_that_mean_ill_leave_a_witness_its_memory(run: Callable[..., Running], tmp_path: Path, log: FakeLog) -> None:
    made = [of_the_root("a.example/log"), of_the_root("b.example/log"), UNSIGNED["empty objects"]()]
    words, looks = options(tmp_path, log), Counter[str]()
    logs = [FakeLog(f"{name}.example/log", private(60 + number)) for number, name in enumerate("abc")]
    by_path = {f"/{each.origin[0]}/keys.json": data for each, data in zip(logs, made, strict=True)}

    def answer(path: str, _headers: Message) -> Answer:
        looks[path] += 1
        return Answer(200, by_path[path]) if path in by_path else Answer(404)

    with serving(answer) as url:
        lines = [f"log {format_vkey(log.verifier)}"]
        lines += [f"log {format_vkey(each.verifier)} {url}/{each.origin[0]}" for each in logs]
        (tmp_path / "policy").write_text("\n".join([*lines, "quorum none", ""]))
        (tmp_path / "roots").write_text("".join(f"{each.origin} {b64(ROOT_PUBLIC)}\n" for each in logs))
        witness = run(*words, "--roots", "roots", "--follow-s", "0.05")

        def followed() -> dict[str, str]:
            return dict(json.loads(witness.get("/health")[1])["followed"])

        until(lambda: all(followed().values()) and min(looks[path] for path in by_path) > LOOKS)
        assert followed()["a.example/log"] == followed()["b.example/log"] == "has no checkpoint"
        assert "brackets, braces and commas" in followed()["c.example/log"]
        kept = {path.name for path in (tmp_path / "w" / "keys").iterdir()}
        assert len(kept) == 2
        assert witness.post(log.asks(0, 5))[0] == 200
        for asked in (logs[0], logs[1]):
            assert witness.post(asked.asks(0, 5))[0] == 403  # of whose keys the policy's is none now
        assert peak_mib(witness) < memory_mib(), f"{peak_mib(witness)} MiB"


@pytest.mark.server
@pytest.mark.parametrize("follows", [[], ["--follow-s", "60"]])
def test_a_root_of_a_log_that_is_not_followed_is_told(
    run: Callable[..., Running], tmp_path: Path, log: FakeLog, follows: list[str]
) -> None:
    words = options(tmp_path, log)  # its policy has no URL of the log
    (tmp_path / "roots").write_text(f"{log.origin} {b64(ROOT_PUBLIC)}\n")
    witness = run(*words, "--roots", "roots", *follows)
    assert witness.process.stderr is not None
    told = json.loads(witness.process.stderr.readline())
    assert told["event"] == "keys.json is not read"
    assert told["origin"] == log.origin
    assert "--follow-s" in told["what"]
