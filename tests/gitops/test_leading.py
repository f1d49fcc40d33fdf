"""Only a leader acts on a forge: work that runs beside the loop when the lease is lost does no more."""

from __future__ import annotations

from pathlib import Path

import pytest

from knhk.adapters.secrets_folder import FolderSecrets
from knhk.adapters.trust_file import FileTrusts
from knhk.model.faults import Deposed
from knhk.model.trust import TrustedForge
from knhk.ports.forge import Check, CheckState, Reversal
from knhk.wiring.git import EMBEDDED, Access, git


def test_who_leads_no_longer_does_nothing_to_a_forge(tmp_path: Path) -> None:
    def check() -> None:
        raise Deposed("another leads")

    access = Access(FolderSecrets(tmp_path / "secrets"), FileTrusts(tmp_path / "trusts"), EMBEDDED)
    with git(tmp_path / "git", access, check) as found:
        forge = found.forge(TrustedForge("Gitea", "https://127.0.0.1:9"), "erp/policies", {"token": b"x"})
        with pytest.raises(Deposed):
            forge.report("ab" * 20, Check("knhk", CheckState.SUCCESS, "all is well"))
        with pytest.raises(Deposed):
            forge.comment(1, "knhk", "all is well")
        with pytest.raises(Deposed):
            forge.revert(Reversal("knhk/revert-1", "main", "Revert", "", {}, {}))
