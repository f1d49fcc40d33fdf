"""Port Forge by the API of Gitea (1.19 or newer) and Forgejo."""

from __future__ import annotations

import base64
import http.client
import json
import logging
import ssl
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import wraps
from http import HTTPStatus
from typing import Any, Concatenate, ParamSpec, TypeVar
from urllib.error import HTTPError, URLError
from urllib.parse import quote, urlencode
from urllib.request import HTTPRedirectHandler, HTTPSHandler, ProxyHandler, Request, build_opener

from knhk.model.faults import KnhkError, NotFound, Stalled, Waiting
from knhk.ports.forge import Check, CheckState, PullRequest, Reversal

ANSWERS_WITHIN_S = 15.0
MAX_ANSWER = 8 << 20
RETRY_S = 5.0
PULLS = 50
COMMENTS = 50
PAGES = 40
_APPROVED = "APPROVED"
_VERDICTS = (_APPROVED, "REQUEST_CHANGES")
_log = logging.getLogger("knhk.repositories")


class _NoRedirect(HTTPRedirectHandler):
    """The token goes where it was meant to go."""

    def redirect_request(self, *_: Any) -> None:
        return None


P = ParamSpec("P")
R = TypeVar("R")


def _understood(asks: Callable[Concatenate[GiteaForge, P], R]) -> Callable[Concatenate[GiteaForge, P], R]:
    """An answer that is none of this API is a person's to mend: it will be the same at once."""

    @wraps(asks)
    def asked(self: GiteaForge, /, *args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return asks(self, *args, **kwargs)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            _log.warning("%s: %s", self.url, repr(error)[:200].replace(self.token, "…"))
            raise Stalled("ForgeRefused", f"{self.url}: must answer as the API of Gitea does: is it the address of one?") from error

    return asked


@dataclass(frozen=True)
class GiteaForge:
    """`url`: address of the server; `repository`: OWNER/NAME. Any thread."""

    url: str
    repository: str
    token: str = field(repr=False)
    authority: str | None = None

    @_understood
    def open_pulls(self, base: str) -> tuple[PullRequest, ...]:
        rows = self._get("pulls", state="open", sort="oldest", limit=str(PULLS), base_branch=base)
        return tuple(_pull(row) for row in rows if row["base"]["ref"] == base)

    @_understood
    def merged(self, commit: str) -> PullRequest | None:
        try:
            row = self._get(f"commits/{quote(commit)}/pull")
        except NotFound:
            return None
        pull = _pull(row)
        return PullRequest(pull.number, pull.url, pull.author, pull.head, self._approvers(pull))

    @_understood
    def check(self, commit: str, context: str) -> Check | None:
        rows = self._get(f"commits/{quote(commit)}/statuses", sort="recentupdate", limit=str(COMMENTS))
        mine = [row for row in rows if row["context"] == context]
        if not mine:
            return None
        newest = max(mine, key=lambda row: int(row["id"]))  # the forge's own order knows seconds only
        return Check(context, CheckState(newest["status"]), newest["description"], newest["target_url"])

    @_understood
    def report(self, commit: str, check: Check) -> None:
        body = {"context": check.context, "state": check.state.value, "description": check.description, "target_url": check.url}
        self._call("POST", f"statuses/{quote(commit)}", body)

    @_understood
    def comment(self, number: int, marker: str, text: str) -> None:
        mine = next((row for row in self._comments(number) if row["body"].startswith(marker)), None)
        body = {"body": f"{marker}\n{text}"}
        if mine is None:
            self._call("POST", f"issues/{number}/comments", body)
        elif mine["body"] != body["body"]:
            self._call("PATCH", f"issues/comments/{int(mine['id'])}", body)

    @_understood
    def revert(self, reversal: Reversal) -> str:
        known = self._reverting(reversal)
        if known is not None:
            return known
        if not self._has_branch(reversal.branch):
            self._commit(reversal)
        asked = {"base": reversal.base, "head": reversal.branch, "title": reversal.title, "body": reversal.body}
        return str(self._call("POST", "pulls", asked)["html_url"])

    # ---- pieces ----

    def _approvers(self, pull: PullRequest) -> tuple[str, ...]:
        """Who approved the very commit that was merged, and did not take it back."""
        last: dict[str, bool] = {}
        for row in sorted(self._pages(f"pulls/{pull.number}/reviews"), key=lambda row: int(row["id"])):
            who = (row.get("user") or {}).get("login", "")
            if row["state"] in _VERDICTS and not row["dismissed"]:
                last[who] = row["state"] == _APPROVED and row["commit_id"] == pull.head
        return tuple(sorted(who for who, approves in last.items() if approves and who not in ("", pull.author)))

    def _comments(self, number: int) -> Iterator[Mapping[str, Any]]:
        """Comments of the user whose token this is: nobody else's is ever changed."""
        me = self._call("GET", "", None, root="user")["login"]
        rows = self._get(f"issues/{number}/comments")
        yield from (row for row in rows if (row.get("user") or {}).get("login") == me)

    def _reverting(self, reversal: Reversal) -> str | None:
        """The pull request of this branch, whatever became of it."""
        try:
            row = self._get(f"pulls/{quote(reversal.base, safe='')}/{quote(reversal.branch, safe='')}")
            return str(row["html_url"])
        except NotFound:
            pass
        for row in self._pages("pulls", state="closed", sort="recentupdate"):
            if (row["head"]["ref"], row["base"]["ref"]) == (reversal.branch, reversal.base):
                return str(row["html_url"])
        return None

    def _has_branch(self, name: str) -> bool:
        try:
            self._get(f"branches/{quote(name, safe='')}")
        except NotFound:
            return False
        return True

    def _commit(self, reversal: Reversal) -> None:
        files = [_change(path, data, reversal.now.get(path)) for path, data in sorted(reversal.files.items())]
        body = {"branch": reversal.base, "new_branch": reversal.branch, "message": reversal.title, "files": files}
        self._call("POST", "contents", body)

    def _pages(self, path: str, **query: str) -> Iterator[Mapping[str, Any]]:
        """Every row, whatever the server thinks is a page. Raises Stalled when there is no end to them."""
        for page in range(1, PAGES + 1):
            rows = self._get(path, **query, limit=str(PULLS), page=str(page))
            if not rows:
                return
            yield from rows
        raise Stalled("ForgeRefused", f"{self.url} {self.repository}: {path}: must have fewer than {PAGES} pages")

    def _get(self, path: str, **query: str) -> Any:
        return self._call("GET", path + (f"?{urlencode(query)}" if query else ""))

    def _call(self, method: str, path: str, body: Mapping[str, Any] | None = None, root: str = "") -> Any:
        place = root or f"repos/{quote(self.repository)}/{path}".rstrip("/")
        request = Request(f"{self.url.rstrip('/')}/api/v1/{place}", method=method)
        request.add_header("Accept", "application/json")
        request.add_unredirected_header("Authorization", f"token {self.token}")
        data = None
        if body is not None:
            data = json.dumps(body).encode()
            request.add_header("Content-Type", "application/json")
        context = ssl.create_default_context(cadata=self.authority)
        opener = build_opener(ProxyHandler({}), HTTPSHandler(context=context), _NoRedirect())
        try:
            with opener.open(request, data, timeout=ANSWERS_WITHIN_S) as answer:
                read = answer.read(MAX_ANSWER + 1)
        except HTTPError as error:
            raise self._meaning(error, f"{self.url} {self.repository}: {method} {place}") from None
        except (URLError, OSError, http.client.HTTPException) as error:
            _log.warning("%s: %s", self.url, error)
            raise Waiting("ForgeUnreachable", f"{self.url}: must answer; the log says why it does not", RETRY_S) from error
        if len(read) > MAX_ANSWER:
            raise Stalled("ForgeRefused", f"{self.url}: {place}: must answer with at most {MAX_ANSWER >> 20} MiB")
        return json.loads(read) if read else None

    def _meaning(self, error: HTTPError, where: str) -> KnhkError:
        """In our words; those of the server, which may be anybody's, go to the log."""
        with error:
            said = error.read(500).decode(errors="replace").strip()
        _log.warning("%s: %d %r", where, error.code, said.replace(self.token, "…"))
        told = f"{where}: {error.code} {_phrase(error.code)}"
        match error.code:
            case 404:
                return NotFound(told)
            case 401 | 403:
                return Stalled("ForgeRefused", f"{told}: the token must be allowed to do this")
            case 408 | 409 | 423 | 429 | 500 | 502 | 503 | 504:
                return Waiting("ForgeBusy", told, RETRY_S)
        return Stalled("ForgeRefused", told)


def _pull(row: Mapping[str, Any]) -> PullRequest:
    return PullRequest(int(row["number"]), str(row["html_url"]), str((row.get("user") or {}).get("login", "")), str(row["head"]["sha"]))


def _change(path: str, data: bytes | None, now: str | None) -> dict[str, str]:
    if data is None:
        return {"operation": "delete", "path": path, "sha": now or ""}
    change = {"operation": "create" if now is None else "update", "path": path, "content": base64.b64encode(data).decode()}
    return change if now is None else {**change, "sha": now}


def _phrase(code: int) -> str:
    try:
        return HTTPStatus(code).phrase
    except ValueError:
        return ""
