"""Questions to a server of ours by a token that lies in a file: of a person or a job, one at a time."""

from __future__ import annotations

import asyncio
import json
import ssl
import time
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path

from knhk.model.faults import Conflict, NotFound, Stalled, Waiting
from knhk_runtime.http1 import Answer, HttpClient, Https, Unreachable

PAUSES_S = (0.0, 1.0, 2.0, 4.0)  # a connection that was idle for too long; too many requests a second; a server that starts anew
_AGAIN = (HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_MANY_REQUESTS)


@dataclass(frozen=True)
class Whom:
    """`url`: https://HOST:PORT; `token`: a file, read anew for each request; `authority`: of the server's certificate; `dial`: where
    connections go in place of HOST:PORT, when the way there is forwarded."""

    url: str
    token: Path
    authority: Path
    dial: tuple[str, int] | None = None


class TokenClient:
    """One thread. What waits is asked again after each of PAUSES_S. `named`: the server, in errors; `audience`: of its tokens."""

    def __init__(self, whom: Whom, named: str, audience: str, within_s: float) -> None:
        """Raises Stalled."""
        try:
            context = ssl.create_default_context(cafile=whom.authority)
        except OSError as error:  # of ssl too
            raise Stalled(f"{named}Authority", f"{whom.authority}: must hold the authority of {whom.url}, PEM: {error}") from error
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        self.server = Https.of(whom.url, lambda: context, whom.dial)
        self._client, self._runner, self._token = HttpClient(self.server), asyncio.Runner(), whom.token
        self._named, self._audience, self._within_s = named, audience, within_s

    def close(self) -> None:
        self._runner.run(self._client.close())
        self._runner.close()

    def asked(self, method: str, target: str, what: str, body: bytes = b"") -> bytes:
        """What a server answers; `what` is asked, in errors. Raises Waiting when it may work later, Stalled for who may not, NotFound and
        Conflict."""
        for pause_s in PAUSES_S:
            try:
                return self._asked_once(method, target, what, body)
            except Waiting:
                time.sleep(pause_s)
        return self._asked_once(method, target, what, body)

    def _asked_once(self, method: str, target: str, what: str, body: bytes) -> bytes:
        try:
            headers = {"Authorization": f"Bearer {self._token.read_text(encoding='ascii').strip()}"}
        except (OSError, UnicodeDecodeError) as error:
            raise Stalled(f"{self._named}Token", f"{self._token}: must hold a token of audience {self._audience}: {error}") from error
        try:
            answer = self._runner.run(self._client.request(method, target, body, headers, self._within_s))
        except Unreachable as error:
            raise Waiting(self._named, str(error), 1.0) from error
        if answer.status == HTTPStatus.OK:
            return answer.body
        said = f"{self.server}: {what}: {_detail(answer)}"
        if answer.status == HTTPStatus.CONFLICT:
            raise Conflict(said)
        if answer.status in _AGAIN or answer.status >= HTTPStatus.INTERNAL_SERVER_ERROR:
            raise Waiting(self._named, said, 1.0)
        raise NotFound(said) if answer.status == HTTPStatus.NOT_FOUND else Stalled(self._named, said)


def _detail(answer: Answer) -> str:
    try:
        return str(json.loads(answer.body)["detail"])[:500]
    except (ValueError, KeyError, TypeError):
        return str(answer.status)
