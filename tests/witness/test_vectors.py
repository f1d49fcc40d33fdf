"""The committed vectors, by the verifier and the witness; and quorums as the verifier counts them where nothing else is installed."""

from __future__ import annotations

import json
from pathlib import Path

import evidence_vectors
import pytest
import witness_vectors as given
from witness_world import witness_key

from knhk_runtime.tlog.notes import cosign, format_vkey, is_mirrored
from knhk_verify.__main__ import main
from knhk_verify.errors import Bad
from knhk_verify.note import COSIGNATURE, open_note, parse_vkey

VECTORS = json.loads(given.VECTORS.read_bytes())
WITNESSES = [parse_vkey(row["vkey"], COSIGNATURE) for row in VECTORS["witnesses"]]


def test_the_vectors_are_fresh(tmp_path: Path) -> None:
    assert given.made(tmp_path) == given.VECTORS.read_bytes(), "run python tests/witness/witness_vectors.py and review the diff"


@pytest.mark.parametrize("row", VECTORS["notes"], ids=lambda row: row["name"])
def test_who_cosigned_is_told(row: dict[str, str | list[str] | None]) -> None:
    verifiers = [parse_vkey(VECTORS["log"]), *WITNESSES]
    if row["signed"] is None:
        with pytest.raises(Bad, match="is wrong"):
            open_note(str(row["note"]), verifiers)
        return
    _, signed = open_note(str(row["note"]), verifiers)
    assert sorted(key.name for key in signed if key.kind == COSIGNATURE) == row["signed"]


@pytest.mark.parametrize("row", VECTORS["mirrors"], ids=lambda row: row["name"])
def test_who_mirrors_is_told(row: dict[str, str | bool | None]) -> None:
    if row["mirrored"] is None:
        with pytest.raises(Bad, match="is wrong"):
            is_mirrored(str(row["note"]), WITNESSES[0])
        return
    assert is_mirrored(str(row["note"]), WITNESSES[0]) is row["mirrored"]
    open_note(str(row["note"]), [parse_vkey(VECTORS["log"]), *WITNESSES])  # whoever knows cosignatures alone skips it


CASES = [
    ((40, 41), 2, 0, "2 of 3 witnesses"),
    ((40, 41, 42), 2, 0, "2 of 3 witnesses"),
    ((40,), 2, 1, "must be by 2 of these witnesses"),
    ((40, 40), 2, 1, "must be by 2 of these witnesses"),
    ((40, 43), 2, 1, "must be by 2 of these witnesses"),
    ((), 1, 1, "cosigned by nobody"),
]


@pytest.mark.parametrize(("signers", "quorum", "code", "says"), CASES)
def test_the_verifier_counts_witnesses(
    signers: tuple[int, ...], quorum: int, code: int, says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    keys = {number: witness_key(number, f"w.example/{number}") for number in (40, 41, 42, 43)}
    note = evidence_vectors.GOOD.checkpoint(13)
    lines = "".join(cosign(note.rpartition("\n\n")[0] + "\n", keys[n].verifier, at, keys[n].sign) for at, n in enumerate(signers))
    (tmp_path / "keys.json").write_text(evidence_vectors.keys_json())
    (tmp_path / "checkpoint").write_text(note + lines)
    words = [word for n in (40, 41, 42) for word in ("--witness", format_vkey(keys[n].verifier))]
    root = evidence_vectors.b64(evidence_vectors.public(evidence_vectors.ROOT))
    told = main([str(tmp_path / "checkpoint"), "--root", root, "--at", evidence_vectors.AT, "--quorum", str(quorum), *words])
    assert (told, says in capsys.readouterr().out) == (code, True)


def test_one_key_under_two_names_is_one_witness(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one, two = (witness_key(40, name) for name in ("w.example/a", "w.example/b"))
    note = evidence_vectors.GOOD.checkpoint(13)
    lines = "".join(cosign(note.rpartition("\n\n")[0] + "\n", key.verifier, 1, key.sign) for key in (one, two))
    (tmp_path / "keys.json").write_text(evidence_vectors.keys_json())
    (tmp_path / "checkpoint").write_text(note + lines)
    words = [word for key in (one, two) for word in ("--witness", format_vkey(key.verifier))]
    root = evidence_vectors.b64(evidence_vectors.public(evidence_vectors.ROOT))
    assert main([str(tmp_path / "checkpoint"), "--root", root, "--at", evidence_vectors.AT, *words]) == 1
    assert "must be by 2" in capsys.readouterr().out


def test_a_quorum_without_witnesses_is_never_reached(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "keys.json").write_text(evidence_vectors.keys_json())
    (tmp_path / "checkpoint").write_text(evidence_vectors.GOOD.checkpoint(13))
    root = evidence_vectors.b64(evidence_vectors.public(evidence_vectors.ROOT))
    assert main([str(tmp_path / "checkpoint"), "--root", root, "--at", evidence_vectors.AT, "--quorum", "1"]) == 1
    assert "cosigned by nobody" in capsys.readouterr().out
