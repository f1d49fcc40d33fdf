"""What leaves a region: roots, leaves, events. Payload and keys stay."""

from __future__ import annotations

from privacy_world import ANNA, BOB, Vault

from knhk.adapters.log_reading import of_folder
from knhk.adapters.signer_local import LocalSigner
from knhk_runtime.objects.folder import FolderStore
from knhk_runtime.tlog.follow import follow
from knhk_verify.note import parse_vkey


def test_a_mirror_has_no_payload_no_envelope_and_no_name(vault: Vault) -> None:
    vault.record(ANNA)
    vault.record(BOB, sealed=False)  # not even where nothing was sealed
    vault.yard.archived()
    vault.eraser().erase(ANNA, "GDPR 17(1)(b)")
    vault.yard.log.integrate()
    there = vault.yard.base / "elsewhere"
    verifier = parse_vkey(LocalSigner(vault.yard.base / "keys").vkey("knhk.dev/test"))
    followed = follow("log", of_folder(vault.yard.log_dir), FolderStore(there), verifier)
    assert followed.size == 3
    top = {path.relative_to(there).parts[0] for path in there.rglob("*") if path.is_file()}
    assert top - {".lock"} == {"checkpoint", "tile", "meta.json"}
    for text in (ANNA, BOB, "KNE1", "KNO1", "KNHKSEG1"):
        assert vault.files_with(text, "elsewhere") == []
    assert vault.files_with(BOB)
