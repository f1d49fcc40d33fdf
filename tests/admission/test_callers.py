"""Who may ask, by the certificate that was shown and by where it comes from."""

from __future__ import annotations

import ssl
from pathlib import Path

import pytest

from knhk.admission.__main__ import main
from knhk.admission.callers import Callers, networks
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
    doubt = Callers(Path("ca.crt"), frozenset(names)).doubt(certificate, "10.0.0.1")
    assert why in doubt
    assert bool(why) == bool(doubt)


@pytest.mark.parametrize(
    ("where", "address", "may"),
    [
        ("", "10.244.1.7", True),
        ("172.16.0.0/28", "172.16.0.2", True),
        ("172.16.0.0/28", "::ffff:172.16.0.2", True),
        ("172.16.0.0/28, fd00::/64", "fd00::2%eth0", True),
        ("172.16.0.0/28,192.0.2.7", "192.0.2.7", True),
        ("172.16.0.0/28", "10.244.1.7", False),
        ("172.16.0.0/28", "172.16.0.16", False),
        ("172.16.0.0/28", "fd00::2", False),
    ],
)
def test_where_questions_may_come_from(where: str, address: str, may: bool) -> None:
    doubt = Callers(networks=networks(where)).doubt(None, address)
    assert (doubt == "") == may
    assert may or f"not from {address}" in doubt


def test_who_comes_from_there_must_show_a_certificate_too_where_both_are_wanted() -> None:
    both = Callers(Path("ca.crt"), networks=networks("172.16.0.0/28"))
    assert "must be shown" in both.doubt(None, "172.16.0.2")
    assert "must come from" in both.doubt(API_SERVER, "10.244.1.7")
    assert both.doubt(API_SERVER, "172.16.0.2") == ""


@pytest.mark.parametrize("text", ["everywhere", "10.0.0.1/8", "10.0.0.0/8,"])
def test_networks_that_are_none_let_nobody_start(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["serve", "--image=example.com/knhk-agent", f"--client-networks={text}"])
    assert ended.value.code == 2
    assert "--client-networks" in capsys.readouterr().err


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
