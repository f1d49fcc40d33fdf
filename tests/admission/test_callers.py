"""Who may ask, by the certificate that was shown."""

from __future__ import annotations

import ssl
from pathlib import Path

import pytest

from knhk.admission.__main__ import main
from knhk.admission.callers import Callers
from knhk.model.faults import Stalled

API_SERVER = {"subject": ((("organizationName", "system:masters"),), (("commonName", "webhooks"),))}


@pytest.mark.parametrize(
    ("names", "certificate", "why"),
    [
        ((), API_SERVER, ""),
        (("webhooks",), API_SERVER, ""),
        (("other",), API_SERVER, "must be of other, not 'webhooks'"),
        ((), None, "must be shown"),
        ((), {}, "must be shown"),
        (("webhooks",), {"subject": ()}, "must be of webhooks, not ''"),
    ],
)
def test_who_may_ask(names: tuple[str, ...], certificate: dict[str, object] | None, why: str) -> None:
    doubt = Callers(Path("ca.crt"), frozenset(names)).doubt(certificate)
    assert why in doubt
    assert bool(why) == bool(doubt)


def test_an_authority_that_is_none_is_told(tmp_path: Path) -> None:
    (tmp_path / "ca.crt").write_text("nothing")
    for path in (tmp_path / "ca.crt", tmp_path / "none.crt"):
        with pytest.raises(Stalled, match="must be a readable PEM file of authorities"):
            Callers(path).ask(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER))


def test_names_without_an_authority_let_nobody_start(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Else whoever thinks that the port is closed leaves it open."""
    files = [f"--{name}={tmp_path / name}" for name in ("certificate", "key", "authority")]
    with pytest.raises(SystemExit) as ended:
        main(["serve", *files, "--image=example.com/knhk-agent", f"--kubeconfig={tmp_path / 'none'}", "--client-name=webhooks"])
    assert ended.value.code == 2
    assert "--client-name must come with --client-ca" in capsys.readouterr().err
