"""What reaches out of the control plane: servers that are dead, dribble, lie or tell too much."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from contextlib import closing
from email.message import Message
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from git_repo import Repo
from policy_house import REPOSITORY, House
from rollout_world import bundle

from knhk.adapters.forge_gitea import GiteaForge
from knhk.adapters.lanes import Lanes
from knhk.adapters.mirrors_git import GitMirrors
from knhk.model.faults import Stalled, Waiting
from knhk.ports.repository import Remote
from local_http import Answer, serving

pytestmark = [pytest.mark.slow, pytest.mark.server]
HEAD = "ab" * 20


class Server:
    """Answers every request for `path` with a page of `rows`, or with `body` and `code`."""

    def __init__(self) -> None:
        self.url = ""
        self.code, self.body = 200, b""
        self.rows: dict[str, list[Any]] = {}

    def answer(self, path: str, _: Message) -> Answer:
        parts = urlsplit(path)
        asked = {name: value[0] for name, value in parse_qs(parts.query).items()}
        found = next((rows for end, rows in self.rows.items() if parts.path.endswith(end)), None)
        return Answer(self.code, self.body if found is None else json.dumps(page(found, asked)).encode())


def page(rows: list[Any], asked: dict[str, str]) -> Any:
    """At most 30 at once, whatever limit is asked for; one that is no list is whole."""
    if len(rows) == 1 and isinstance(rows[0], dict) and "number" in rows[0]:
        return rows[0]
    first = (int(asked.get("page", "1")) - 1) * 30
    return rows[first : first + 30]


@pytest.fixture
def server() -> Iterator[Server]:
    made = Server()
    with serving(made.answer) as made.url:
        yield made


def forge(server: Server) -> GiteaForge:
    return GiteaForge(server.url, "erp/policies", "t0ken-s3cr3t")


def test_every_review_is_read_the_last_word_on_the_last_page_too(server: Server) -> None:
    pull = {"number": 4, "html_url": "u", "user": {"login": "ann"}, "head": {"sha": HEAD}}
    reviews = [review(n, f"bob{n}", "APPROVED") for n in range(70)]
    reviews += [review(70, "bob3", "REQUEST_CHANGES"), review(71, "ann", "APPROVED")]
    server.rows = {f"commits/{HEAD}/pull": [pull], "pulls/4/reviews": reviews}
    found = forge(server).merged(HEAD)
    assert found is not None
    assert set(found.approvers) == {f"bob{n}" for n in range(70)} - {"bob3"}


def review(number: int, who: str, state: str) -> dict[str, Any]:
    return {"id": number, "user": {"login": who}, "state": state, "dismissed": False, "commit_id": HEAD}


@pytest.mark.parametrize("body", [b"<html>a login page</html>", b"[1, 2]", b"{}", b'{"number": "x"}', b"null"])
def test_an_answer_that_is_none_is_for_a_person_to_mend(server: Server, body: bytes) -> None:
    server.body = body
    with pytest.raises(Stalled, match="must answer as the API of Gitea does"):
        forge(server).merged(HEAD)


@pytest.mark.parametrize("code", [400, 401, 500])
def test_what_a_server_says_stays_out_of_the_status(server: Server, code: int) -> None:
    server.code, server.body = code, b"internal: t0ken-s3cr3t is not for 10.0.0.7"
    with pytest.raises((Stalled, Waiting)) as caught:
        forge(server).open_pulls("main")
    assert f"{code}" in str(caught.value)
    assert not any(word in str(caught.value) for word in ("internal", "10.0.0.7", "s3cr3t"))


def test_what_git_was_told_stays_out_of_the_status(server: Server, tmp_path: Path) -> None:
    server.code, server.body = 500, b"internal 10.0.0.7"
    with pytest.raises(Waiting) as caught:
        GitMirrors(tmp_path, ("http",)).fetch(Remote(f"{server.url}/x.git", {"password": b"s3cr3t"}, insecure=True), "main")
    assert str(caught.value) == f"{server.url}/x.git: must answer without an error of the server"


def test_a_server_that_never_answers_delays_no_other(tmp_path: Path) -> None:
    repo = Repo(tmp_path / "repo")
    head = repo.commit({"a.yaml": "1"})
    mirrors, lanes = GitMirrors(tmp_path / "mirrors", ("http", "file")), Lanes()
    with closing(socket.create_server(("127.0.0.1", 0))) as silent:
        dead = f"http://127.0.0.1:{silent.getsockname()[1]}/x.git"
        stuck = [lanes.of(f"{dead}{n}").submit(mirrors.fetch, Remote(f"{dead}{n}"), "main") for n in range(8)]
        silent.accept()[0].close()  # one of them asks
        connection, _ = silent.accept()
        with connection:
            found = lanes.of(repo.url).submit(mirrors.fetch, Remote(repo.url), "main").result(60)
            assert found.resolve("refs/heads/main") == head
            assert not all(future.done() for future in stuck)
            lanes.close()
    assert [str(future.exception()) for future in stuck if not future.cancelled()] != []


def test_more_servers_than_may_have_threads_share_some() -> None:
    lanes = Lanes()
    assert len({id(lanes.of(f"https://s{n}.example.com/x")) for n in range(100)}) == 32
    assert lanes.of("https://ann@s1.example.com/y") is lanes.of("https://s1.example.com/z")
    lanes.close()


def test_a_copy_goes_with_the_last_that_followed_it(tmp_path: Path) -> None:
    house = House(Repo(tmp_path / "repo" / "erp" / "policies"), tmp_path)
    house.repo.commit({"roles.yaml": bundle()})
    stale = tmp_path / "mirrors" / ("0" * 32)
    stale.mkdir(parents=True)
    house.follow()
    house.follow(name="second")
    house.world.run(6)
    (copy,) = (tmp_path / "mirrors").iterdir()
    house.world.store.delete(REPOSITORY)
    house.world.run(4)
    assert copy.is_dir()
    house.world.store.delete(type(REPOSITORY)("PolicyRepository", "erp", "second"))
    house.world.run(4)
    assert list((tmp_path / "mirrors").iterdir()) == []
