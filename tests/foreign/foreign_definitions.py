"""CustomResourceDefinitions of others that manifests of ours may use, from the Go modules that this folder pins. Nothing is built."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from go_binaries import CannotBuild, GoProject

__all__ = ["CannotBuild", "definitions"]
MODULES = GoProject("foreign", Path(__file__).resolve().parent, {}, (), cgo=False, tells="foreign", about="definitions of others")


def definitions() -> list[Path]:
    """Those of cert-manager, and of the Gateway API's standard channel. Raises CannotBuild."""
    cert_manager = MODULES.module_folder("github.com/cert-manager/cert-manager") / "deploy" / "crds"
    gateways = MODULES.module_folder("sigs.k8s.io/gateway-api") / "config" / "crd" / "standard"
    return [*sorted(cert_manager.glob("cert-manager.io_*.yaml")), *sorted(gateways.glob("gateway.networking.k8s.io_httproutes.yaml"))]
