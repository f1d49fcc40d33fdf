"""Which adapters work on PolicyRepositories."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from knhk.adapters.forge_gitea import GiteaForge
from knhk.adapters.lanes import Lanes
from knhk.adapters.mirrors_git import GitMirrors
from knhk.adapters.namespaces import ChosenNamespaces
from knhk.adapters.review_process import ReviewProcess
from knhk.adapters.webhook_server import Hooks, serving
from knhk.model.faults import Stalled
from knhk.model.times import rfc3339_ns
from knhk.model.trust import TrustedForge
from knhk.ports.clock import Clock
from knhk.ports.forge import Forge
from knhk.ports.secrets import Secrets
from knhk.ports.store import Store
from knhk.ports.trust import Trusts
from knhk.reconcilers.pulling import Git
from knhk.wiring.leading import FORGE, always, fence


@dataclass(frozen=True)
class Access:
    """Where secrets are, whom administrators believe, and which protocols may be fetched by."""

    secrets: Secrets
    trusts: Trusts
    protocols: tuple[str, ...]


EMBEDDED = ("https", "http", "ssh", "file")
CLUSTER = ("https", "http", "ssh")  # a path of the operator's own disk is nobody's repository


@contextmanager
def git(folder: Path, access: Access, check: Callable[[], None] = always) -> Iterator[Git]:
    """Mirrors and checks in `folder`, which is private; what runs when the context ends is waited for, bounded as it is. `check` raises
    Deposed unless this process may act: it is asked before anything is done to a forge."""
    mirrors = GitMirrors(folder / "mirrors", access.protocols)
    checks = ReviewProcess(mirrors, folder / "checks")
    lanes = Lanes()
    try:
        yield Git(mirrors, access.secrets, access.trusts, lambda *asked: fence(forge(*asked), FORGE, check), checks, lanes.of)
    finally:
        lanes.close()
        checks.close()


@contextmanager
def webhooks(store: Store, access: Access, clock: Clock) -> Iterator[int | None]:
    """Takes signed webhooks at the address that KNHK_WEBHOOK names, HOST:PORT; without it there are none. Gives the port. Raises Stalled
    for what is no address."""
    address = os.environ.get("KNHK_WEBHOOK", "")
    if not address:
        yield None
        return
    found = re.fullmatch(r"\[?([^\]]+)\]?:([0-9]{1,5})", address)
    if found is None:
        raise Stalled("Settings", f"KNHK_WEBHOOK={address}: must be HOST:PORT, such as 127.0.0.1:8090")
    with serving(Hooks(store, access.secrets, lambda: rfc3339_ns(clock.now_ns())), found[1], int(found[2])) as port:
        yield port


def namespaces() -> ChosenNamespaces:
    """The namespaces of the embedded home that enforce merged commits only: KNHK_REQUIRE_MERGED_COMMIT, names with commas between, or *."""
    named = os.environ.get("KNHK_REQUIRE_MERGED_COMMIT", "")
    return ChosenNamespaces(frozenset(name.strip() for name in named.split(",") if name.strip()))


def forge(told: TrustedForge, repository: str, secret: Mapping[str, bytes]) -> Forge:
    """The adapter of a kind of forge. Raises Stalled for one that there is none for yet, and for a token that would go over plain http."""
    if told.kind != "Gitea":
        raise Stalled(
            "NoForge", f"{told.kind}: must be Gitea: the API of {told.kind} is not spoken yet; status by `knhk pack check --git` in its CI"
        )
    if told.url.startswith("http:") and not told.insecure:
        raise Stalled("Insecure", f"forge {told.url}: must be https, for a token goes there")
    token = secret.get("token", b"").decode().strip()
    if not token:
        raise Stalled("NoSecret", "the secret of the forge must have the key token")
    authority = secret.get("ca.crt")
    return GiteaForge(told.url, repository, token, None if authority is None else authority.decode())
