"""What leaves a region: roots, leaves, events. Payload and keys stay."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path

import pytest
from privacy_world import ANNA, BOB, Vault

from knhk.adapters.log_reading import of_folder
from knhk.adapters.signer_local import LocalSigner
from knhk.model.faults import Stalled
from knhk.wiring.archive import Options, archive
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


@pytest.mark.parametrize(
    ("published", "store", "within"),
    [
        ("s3://eu/log", "s3://eu/log", True),
        ("s3://eu/log", "s3://eu/log//archive/", True),
        ("s3://eu", "s3://eu/archive", True),
        ("s3://eu/log/", "s3://eu/logs", False),
        ("s3://eu/log", "s3://eu-private/log", False),
        ("s3://eu/archive/log", "s3://eu/archive", False),
        ("published", "published/../published/archive", True),
        ("file://{base}/published", "published/archive", True),
        ("published", "archive", False),
        ("", "published/archive", False),
    ],
)
def test_no_archive_lies_where_other_regions_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, published: str, store: str, within: bool
) -> None:
    """A published store is readable by everybody, a bucket or a CDN before it; records below it would be, too."""
    monkeypatch.chdir(tmp_path)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_REGION"):
        monkeypatch.setenv(name, "none")
    options = Options(tmp_path / "log", store, tmp_path / "state", published=published.format(base=tmp_path))
    (tmp_path / "log" / "observations").mkdir(parents=True)
    with pytest.raises(Stalled, match="records stay in theirs") if within else nullcontext():
        archive(options)
