"""Options that name a key service: for commands that open or erase what guards of a cluster sealed."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from knhk.cli.framework import Argument, Call, Usage

if TYPE_CHECKING:
    from knhk.wiring.privacy import KeyPlace

KEY_SERVICE = (
    Argument("--key-service", help="https://HOST:PORT of a cluster's key service, in place of a home's key store", metavar="URL"),
    Argument("--key-token", help="with --key-service: token of audience keys.knhk.dev", kind=Path, metavar="FILE"),
    Argument("--key-ca", help="with --key-service: ca.crt of ConfigMap knhk-trust", kind=Path, metavar="FILE"),
)
KEY_NAMESPACE = Argument("--key-namespace", help="with --key-service: whose records are opened or erased", metavar="NS")


def key_place(call: Call, namespace: str | None) -> KeyPlace | None:
    """None without --key-service. Raises Usage."""
    from knhk.wiring.privacy import KeyPlace

    args = call.args
    if args.key_service is None:
        return None
    for name, found in (("--key-token", args.key_token), ("--key-ca", args.key_ca), ("--key-namespace", namespace)):
        if not found:
            raise Usage("must be given with --key-service", name)
    return KeyPlace(args.key_service, str(namespace), args.key_token, args.key_ca)
