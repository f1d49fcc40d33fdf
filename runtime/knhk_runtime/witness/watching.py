"""Whom a witness watches: policy, roots and authorities in files that others change while it runs, as a ConfigMap's are.

What is new is taken as a whole, as a start takes it, while no checkpoint is judged: what was cosigned of a log is read from its file, so
that no line of a policy, taken away and put back, makes a witness forget. What a start would refuse is told, and what was before stays.
"""

from __future__ import annotations

import ssl
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from knhk.model.faults import KnhkError, Stalled
from knhk_runtime.objects.opening import open_store
from knhk_runtime.sequencer.files import Disk
from knhk_runtime.tlog.policy import parse_policy
from knhk_runtime.tlog.served import Fetch
from knhk_runtime.witness.core import Witness, WitnessKey, name_of
from knhk_runtime.witness.follow import of_url
from knhk_runtime.witness.keys import LogKeys, parse_roots
from knhk_runtime.witness.mirror import KeysNow, Mirror, Mirrors
from knhk_verify.errors import Bad

Texts = tuple[bytes, bytes, bytes]  # of the policy, of roots, of authorities


@dataclass(frozen=True)
class Files:
    """c2sp.org/tlog-policy; root keys of its logs; authorities of their HTTPS beside the system's (PEM). None: there is none."""

    policy: Path
    roots: Path | None
    authorities: Path | None

    def texts(self) -> Texts:
        """What they hold now. Raises Stalled."""
        try:
            roots, authorities = (b"" if path is None else path.read_bytes() for path in (self.roots, self.authorities))
            return self.policy.read_bytes(), roots, authorities
        except OSError as error:
            raise Stalled("Policy", f"{error.filename}: {error.strerror}: must be a readable file") from error


@dataclass(frozen=True)
class Watched:
    """What one policy makes. `sources`: of the logs that have a URL."""

    witness: Witness
    keys: LogKeys
    sources: Mapping[str, Callable[[], Fetch]]
    mirrors: Mirrors


class Watching:
    """Of one folder of a witness, whose lock the caller has. `mirrors_at`: where logs that have a URL are copied to; empty: nowhere."""

    def __init__(self, folder: Path, key: WitnessKey, files: Files, mirrors_at: str = "") -> None:
        """Raises Stalled, Corrupt."""
        self._folder, self._key, self._files, self._mirrors_at = folder, key, files, mirrors_at.rstrip("/")
        self._mirrors = dict[str, Mirror]()  # that ever were: of each log one writes its copy
        self._texts, self.error = files.texts(), ""
        self.now = self._made(self._texts, None)

    def look(self) -> bool:
        """Takes what the files hold, where that is new; whether it did. `error`: why not. No checkpoint may be judged meanwhile."""
        try:
            if (found := self._files.texts()) == self._texts:
                self.error = ""  # what was wrong is as it was
                return False
            self.now = self._made(found, self.now.keys)
        except (KnhkError, OSError) as error:
            self.error = str(error)
            return False
        self._texts, self.error = found, ""
        return True

    def _made(self, texts: Texts, before: LogKeys | None) -> Watched:
        policy_text, roots_text, authorities = texts
        try:
            policy = parse_policy(policy_text, str(self._files.policy))
        except Bad as error:
            raise Stalled("Policy", str(error)) from error
        roots = parse_roots(roots_text, str(self._files.roots))
        trusting = _trusting(authorities, str(self._files.authorities))
        logs = {log.name: policy.keys_of(log.name) for log in policy.logs}
        keys = LogKeys(self._folder, logs, roots, Disk(), lambda: datetime.now(UTC), before)
        witness = Witness(self._folder, self._key, keys, Disk(), lambda: int(time.time()), keys.ever())
        sources = {key.name: partial(of_url, url, trusting) for key, url in policy.logs.items() if url}
        return Watched(witness, keys, sources, {origin: self._mirror(origin) for origin in sources} if self._mirrors_at else {})

    def _mirror(self, origin: str) -> Mirror:
        if origin not in self._mirrors:
            store = open_store(f"{self._mirrors_at}/{name_of(origin)}")
            self._mirrors[origin] = Mirror(origin, partial(self._source, origin), store, partial(self._keys, origin))
        return self._mirrors[origin]

    def _source(self, origin: str) -> Fetch:
        if (source := self.now.sources.get(origin)) is None:
            raise OSError(f"{origin}: has no URL in the policy any more")
        return source()

    def _keys(self, origin: str) -> KeysNow:
        keys = self.now.keys
        if origin not in keys:
            raise OSError(f"{origin}: is no log of the policy any more")
        return keys[origin], keys.over(origin)


def _trusting(authorities: bytes, where: str) -> ssl.SSLContext:
    """The system's authorities, and these. Raises Stalled."""
    context = ssl.create_default_context()
    try:
        if authorities:
            context.load_verify_locations(cadata=authorities.decode("ascii"))
    except (OSError, UnicodeError) as error:
        raise Stalled("Tls", f"--log-ca {where}: must be authorities in PEM: {error}") from error
    return context
