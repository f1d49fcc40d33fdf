"""Registries that cut, lie, dawdle, fail or ask for credentials: a clear error, nothing half, and the next try goes on."""

from __future__ import annotations

import base64
import json
import secrets
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from registry_between import Between, Reply, Request, between
from registry_contract import artifact, image

from knhk.adapters.registry_oci import OciRegistry
from knhk.model.faults import Corrupt, KnhkError, Stalled, Waiting
from knhk.model.oci import INDEX, MANIFEST, PREDICATE, SIGNATURE_PREDICATE, SIGNED, Artifact, Blob
from knhk.packaging.image import layer, manifest
from knhk_runtime.distribution import REFERRERS_ASKED_EVERY_S, Repository, fallback_tag
from knhk_runtime.layout import Layout, children
from knhk_runtime.pull import Stop, prune, pull

pytestmark = pytest.mark.server
ONE = artifact(b"one " * 4000)
# A process of its own, in which nothing but the pull allocates: it says the most bytes that were held at a time.
PULLED = """
import sys, tracemalloc
from pathlib import Path
from knhk_runtime.pull import pull
tracemalloc.start()
pull(sys.argv[1], sys.argv[2], Path(sys.argv[3]), auth=None, tls=None)
print(tracemalloc.get_traced_memory()[1])
"""


def signature(subject: Artifact) -> Artifact:
    blob = Blob(SIGNED, b"{}")
    return manifest(SIGNED, [layer(blob, "bundle")], (blob,), subject, {PREDICATE: SIGNATURE_PREDICATE})


@pytest.fixture
def middle(debian: str) -> Iterator[Between]:
    with between(debian) as found:
        yield found


@pytest.fixture
def name(debian: str) -> str:
    """A repository with ONE and its signature in it."""
    found = f"knhk/{secrets.token_hex(8)}"
    repository = Repository(f"{debian}/{found}")
    OciRegistry(repository).publish((ONE, signature(ONE)), "erp/one:1")
    repository.close()
    return found


def read(url: str, **more: object) -> bytes:
    repository = Repository(url, **more)  # type: ignore[arg-type]
    try:
        return OciRegistry(repository).read(ONE.digest)
    finally:
        repository.close()


def of(kind: str, what: Callable[[Reply], Reply | None]) -> Callable[[Request, Callable[[], Reply]], Reply | None]:
    """Meddles with the answers to requests for manifests or blobs that are there."""

    def meddle(request: Request, ask: Callable[[], Reply]) -> Reply | None:
        reply = ask()
        return what(reply) if f"/{kind}/" in request.path and request.method == "GET" and reply.status == 200 else reply

    return meddle


def other(reply: Reply) -> Reply:
    """As many bytes, one of them another."""
    return Reply(200, reply.headers, bytes([reply.body[0] ^ 1]) + reply.body[1:])


def endless(reply: Reply) -> Reply:
    return Reply(200, reply.headers, reply.body + b" " * (5 << 20))


def dribble(reply: Reply) -> Reply:
    return Reply(200, reply.headers, reply.body, tuple(reply.body[i : i + 1] for i in range(len(reply.body))))


LIES: list[tuple[Callable[[Reply], Reply | None], type[KnhkError], str]] = [
    (other, Corrupt, "digest is sha256:"),
    (endless, Corrupt, "must have at most"),
    (lambda reply: Reply(200, reply.headers, reply.body, cut=True), Waiting, "IncompleteRead"),
    (lambda _: None, Waiting, "does not answer"),
    (lambda _: Reply(503, {"retry-after": "7"}, b""), Waiting, "503"),
    (lambda _: Reply(500, {}, b'{"errors":[{"code":"UNKNOWN","message":"disk"}]}'), Waiting, "500 UNKNOWN disk"),
    (lambda _: Reply(403, {}, b'{"errors":[{"code":"DENIED","message":"no"}]}'), Stalled, "403 DENIED no.*must be allowed"),
    (lambda _: Reply(307, {"location": "file:///etc/passwd"}, b""), Stalled, "must be https"),
]


@pytest.mark.failure("registry", "rollout")
@pytest.mark.parametrize("kind", ["manifests", "blobs"])
@pytest.mark.parametrize(("lie", "error", "says"), LIES)
def test_a_pull_from_a_registry_that_fails_leaves_nothing_and_the_next_one_goes_on(
    middle: Between,
    name: str,
    tmp_path: Path,
    kind: str,
    lie: Callable[[Reply], Reply | None],
    error: type[KnhkError],
    says: str,
) -> None:
    """Pods keep what they run; what was asked for is listed whole or not at all."""
    middle.meddle = of(kind, lie)
    with pytest.raises(error, match=says):
        pull(f"{middle.url}/{name}", ONE.digest, tmp_path, auth=None, tls=None)
    assert Layout(tmp_path).entries() == ()
    middle.meddle = None
    pull(f"{middle.url}/{name}", ONE.digest, tmp_path, auth=None, tls=None)
    assert {entry.digest for entry in Layout(tmp_path).entries()} == {ONE.digest, signature(ONE).digest}
    for blob in (*ONE.blobs, ONE.root):
        assert Layout(tmp_path).read(blob.digest) == blob.data


def test_a_registry_that_dribbles_is_given_up(middle: Between, name: str) -> None:
    middle.meddle = of("blobs", dribble)
    repository = Repository(f"{middle.url}/{name}", patience_s=0.3, tries=1)
    with pytest.raises(Waiting, match=r"only [0-9]+ bytes came within 0.3 s"):
        repository.blob(ONE.blobs[1].digest)
    repository.close()


@pytest.mark.parametrize("kind", ["manifests", "blobs"])
def test_a_pull_that_dribbles_is_ended_in_its_time_or_when_nobody_wants_it(middle: Between, name: str, tmp_path: Path, kind: str) -> None:
    """A byte now and then is an answer to no time-out of a socket."""
    asked, ended = threading.Event(), threading.Event()

    def endless_headers(request: Request, ask: Callable[[], Reply]) -> Reply | None:
        if f"/{kind}/" in request.path:
            asked.set()
            ended.wait(60)
        return ask()

    middle.meddle = endless_headers
    with pytest.raises(Waiting, match=r"must be done within 0\.2 s"):
        pull(f"{middle.url}/{name}", ONE.digest, tmp_path, auth=None, tls=None, within_s=0.2)
    asked.clear()
    stop = Stop()
    with ThreadPoolExecutor(1) as aside:
        waits = aside.submit(pull, f"{middle.url}/{name}", ONE.digest, tmp_path, auth=None, tls=None, stop=stop)
        assert asked.wait(60)
        stop.set()
        with pytest.raises(Waiting, match="nobody wants it"):
            waits.result(60)
    ended.set()
    assert Layout(tmp_path).entries() == ()


def test_who_may_push_keeps_no_image_from_being_pulled(debian: str, middle: Between, name: str, tmp_path: Path) -> None:
    """Listed beside the signature: what refers to another image, what is not there, and more than anybody reads."""
    repository, other = Repository(f"{debian}/{name}"), artifact(b"another")
    OciRegistry(repository).publish((other, signature(other)))
    repository.close()

    def noisy(request: Request, ask: Callable[[], Reply]) -> Reply:
        reply = ask()
        if not request.path.endswith(f"manifests/{fallback_tag(ONE.digest)}"):
            return reply
        listed = json.loads(reply.body)
        strangers = [{"mediaType": MANIFEST, "digest": f"sha256:{n:064x}", "size": 7} for n in range(300)]
        strangers += [{"mediaType": MANIFEST, "digest": signature(other).digest, "size": len(signature(other).root.data)}]
        return Reply(200, reply.headers, json.dumps({**listed, "manifests": strangers + listed["manifests"]}).encode())

    middle.meddle = noisy
    pull(f"{middle.url}/{name}", ONE.digest, tmp_path, auth=None, tls=None)
    assert {entry.digest for entry in Layout(tmp_path).entries()} == {ONE.digest, signature(ONE).digest}


def test_no_blob_of_an_image_is_in_memory_as_a_whole(debian: str, name: str, tmp_path: Path) -> None:
    """A guard has little memory, and an image may be larger."""
    blob = Blob("text/plain", secrets.token_bytes(48 << 20))
    large = manifest("application/vnd.test", [layer(blob, "file")], (blob,))
    repository = Repository(f"{debian}/{name}")
    OciRegistry(repository).publish([large])
    repository.close()
    command = [sys.executable, "-c", PULLED, f"{debian}/{name}", large.digest, str(tmp_path)]
    told = subprocess.run(command, capture_output=True, text=True, check=False)
    assert told.returncode == 0, told.stderr
    assert int(told.stdout) < 8 << 20
    assert Layout(tmp_path).holds(next(iter(children(Layout(tmp_path).read_json(large.digest), ""))))


def test_a_registry_that_is_away_for_a_moment_is_asked_again(middle: Between, name: str, tmp_path: Path) -> None:
    seen = set[str]()

    def once(request: Request, ask: Callable[[], Reply]) -> Reply | None:
        """Each request fails the first time: without an answer, or as too busy."""
        if (key := f"{request.method} {request.path}") in seen:
            return ask()
        seen.add(key)
        return None if len(seen) % 2 else Reply(503, {}, b"")

    middle.meddle = once
    pull(f"{middle.url}/{name}", ONE.digest, tmp_path, auth=None, tls=None)
    assert len(Layout(tmp_path).entries()) == 2


def test_a_blob_that_the_registry_does_not_see_for_a_moment_costs_no_publishing(debian: str, middle: Between) -> None:
    """docker-registry, while another client brings the same blob: seen with many writers."""
    name, other = f"knhk/{secrets.token_hex(8)}", artifact(b"other")
    refused = list[str]()
    said = [
        {"code": "DIGEST_INVALID", "message": "provided digest did not match uploaded content"},
        {"code": "MANIFEST_BLOB_UNKNOWN", "message": "blob unknown to registry"},
    ]

    def blind_once(request: Request, ask: Callable[[], Reply]) -> Reply | None:
        if request.method == "PUT" and "/manifests/" in request.path and request.path not in refused:
            refused.append(request.path)
            return Reply(400, {}, json.dumps({"errors": said}).encode())
        return ask()

    middle.meddle = blind_once
    registry = OciRegistry(Repository(f"{middle.url}/{name}"))
    registry.publish((other, signature(other)), "erp/other:1")
    assert len(refused) >= 3
    assert registry.resolve("erp/other:1") == other.digest
    assert [found.artifact_type for found in registry.referrers(other.digest)] == [SIGNED]
    registry.repository.close()


def test_a_manifest_of_blobs_that_never_came_is_refused_in_the_registrys_words(debian: str) -> None:
    repository = Repository(f"{debian}/knhk/{secrets.token_hex(8)}")
    with pytest.raises(Stalled, match="MANIFEST_BLOB_UNKNOWN"):
        repository.request("PUT", "manifests/one", body=ONE.root.data, media=MANIFEST, expect=(201,))
    repository.close()


def test_what_lies_there_already_is_not_fetched_again_and_new_signatures_come(middle: Between, name: str, tmp_path: Path) -> None:
    url = f"{middle.url}/{name}"
    pull(url, ONE.digest, tmp_path, auth=None, tls=None)
    middle.meddle = of("blobs", lambda _: Reply(500, {}, b""))
    pull(url, ONE.digest, tmp_path, auth=None, tls=None)


def test_a_fallback_list_carries_what_it_lists(middle: Between, name: str) -> None:
    """Each paper of an image would else be a question more."""
    middle.meddle = of("manifests/sha256:", lambda _: Reply(500, {}, b""))
    repository = Repository(f"{middle.url}/{name}")
    (found,) = OciRegistry(repository).referrers(ONE.digest)
    assert (found.digest, found.data) == (signature(ONE).digest, signature(ONE).root.data)
    repository.close()


@pytest.mark.parametrize("carried", ["e30=", "no base64", 7, None], ids=["another", "broken", "no text", "nothing"])
def test_what_a_fallback_list_carries_is_believed_by_its_digest_alone(debian: str, name: str, carried: object) -> None:
    repository = Repository(f"{debian}/{name}")
    tag = fallback_tag(ONE.digest)
    told = json.loads(repository.tagged(tag) or b"")
    told["manifests"][0]["data"] = carried
    repository.request("PUT", f"manifests/{tag}", body=json.dumps(told).encode(), media=INDEX, expect=(201,))
    (found,) = OciRegistry(repository).referrers(ONE.digest)
    assert found.data == signature(ONE).root.data
    repository.close()


def test_a_registry_that_is_upgraded_meanwhile_is_asked_for_referrers_again(
    middle: Between, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    late = signature(artifact(b"another"))

    def upgraded(request: Request, ask: Callable[[], Reply]) -> Reply | None:
        told = json.dumps({"schemaVersion": 2, "manifests": [late.root.descriptor(artifactType=SIGNED)]}).encode()
        return Reply(200, {}, told) if "/referrers/" in request.path else ask()

    repository = Repository(f"{middle.url}/{name}")
    assert [entry.digest for entry in repository.referring(ONE.digest)] == [signature(ONE).digest]
    middle.meddle = upgraded
    assert [entry.digest for entry in repository.referring(ONE.digest)] == [signature(ONE).digest]
    now_s = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now_s + REFERRERS_ASKED_EVERY_S)
    assert [entry.digest for entry in repository.referring(ONE.digest)] == [late.digest]
    monkeypatch.undo()
    repository.close()


def test_only_what_is_kept_stays_in_a_pruned_layout(middle: Between, name: str, tmp_path: Path) -> None:
    two, repository = artifact(b"two"), Repository(f"{middle.url}/{name}")
    OciRegistry(repository).publish((two, signature(two)))
    repository.close()
    for digest in (ONE.digest, two.digest):
        pull(f"{middle.url}/{name}", digest, tmp_path, auth=None, tls=None)
    prune(tmp_path, {two.digest})
    assert {entry.digest for entry in Layout(tmp_path).entries()} == {two.digest, signature(two).digest}
    assert not Layout(tmp_path).blob_path(ONE.digest).exists()
    assert Layout(tmp_path).read(two.digest) == two.root.data


@pytest.mark.failure("registry", "rollout")
@pytest.mark.parametrize("persisted", [False, True], ids=["lost", "persisted"])
def test_a_publishing_that_is_cut_off_at_any_request_lists_all_or_nothing_and_is_repeated(
    debian: str, middle: Between, persisted: bool
) -> None:
    """The request fails before the registry saw it, or after; the builder repeats the whole."""
    made = image(b"amd64")
    whole = (made, artifact(b"bill", made), signature(made))
    number = 0
    while True:
        number += 1
        name, begun = f"knhk/{secrets.token_hex(8)}", middle.count
        direct, cut = Repository(f"{debian}/{name}"), Repository(f"{middle.url}/{name}", tries=1)

        def meddle(request: Request, ask: Callable[[], Reply], last: int = begun + number) -> Reply | None:
            if request.number < last:
                return ask()
            if request.number == last and persisted:
                ask()
            return None

        middle.meddle = meddle
        try:
            OciRegistry(cut).publish(whole, "erp/one:1")
            finished = True
        except Waiting:
            finished = False
        seen = OciRegistry(direct)
        assert {told.digest for told in seen.listed()} in (set(), {part.digest for part in whole})
        if seen.resolve("erp/one:1"):
            assert len(seen.listed()) == 3
        middle.meddle = None
        OciRegistry(cut).publish(whole, "erp/one:1")
        assert len(seen.listed()) == 3
        assert seen.tags() == {"erp/one:1": made.digest}
        direct.close()
        cut.close()
        if finished:
            assert number > 10
            return


def test_a_removal_that_is_cut_off_at_any_request_is_finished_by_the_next(debian: str, middle: Between) -> None:
    """Meanwhile it is listed, or gone; and never named by a tag with its signature only half there."""
    made = artifact(b"one")
    number = 0
    while True:
        number += 1
        name, begun = f"knhk/{secrets.token_hex(8)}", 0
        direct, cut = Repository(f"{debian}/{name}"), Repository(f"{middle.url}/{name}", tries=1)
        seen = OciRegistry(direct, grace_s=0)
        seen.publish((made, signature(made)), "erp/one:1")
        begun = middle.count
        middle.meddle = lambda request, ask, last=begun + number: ask() if request.number < last else None
        try:
            OciRegistry(cut, grace_s=0).remove(made.digest)
            finished = True
        except Waiting:
            finished = False
        middle.meddle = None
        OciRegistry(cut, grace_s=0).remove(made.digest)
        assert seen.listed() == ()
        assert seen.tags() == {}
        assert seen.referrers(made.digest) == ()
        direct.close()
        cut.close()
        if finished:
            assert number > 3
            return


# ---- credentials and TLS ---------------------------------------------------------------------------


def config(folder: Path, host: str, **row: str) -> Path:
    path = folder / "config.json"
    path.write_text(json.dumps({"auths": {host: row}}))
    return path


def basic(user: str, password: str) -> str:
    return base64.b64encode(f"{user}:{password}".encode()).decode()


def asks_basic(request: Request, ask: Callable[[], Reply]) -> Reply:
    if request.headers.get("authorization") == f"Basic {basic('ada', 's3cret')}":
        return ask()
    return Reply(401, {"www-authenticate": 'Basic realm="registry"'}, b'{"errors":[{"code":"UNAUTHORIZED","message":"who?"}]}')


def test_basic_credentials_come_from_a_docker_config_that_may_change(middle: Between, name: str, tmp_path: Path) -> None:
    middle.meddle = asks_basic
    host = middle.url.removeprefix("http://")
    wrong = config(tmp_path, host, auth=basic("ada", "guess"))
    with pytest.raises(Stalled, match="401 UNAUTHORIZED who"):
        read(f"{middle.url}/{name}", auth=wrong)
    assert read(f"{middle.url}/{name}", auth=config(tmp_path, host, username="ada", password="s3cret")) == ONE.root.data
    assert read(f"{middle.url}/{name}", auth=config(tmp_path, f"https://{host}/v1/", auth=basic("ada", "s3cret"))) == ONE.root.data


def test_without_credentials_it_says_where_they_must_be(middle: Between, name: str, tmp_path: Path) -> None:
    middle.meddle = asks_basic
    with pytest.raises(Stalled, match=r"docker config\.json must hold some"):
        read(f"{middle.url}/{name}")
    with pytest.raises(Stalled, match=r"config\.json must hold some"):
        read(f"{middle.url}/{name}", auth=config(tmp_path, "elsewhere.example", auth=basic("ada", "s3cret")))
    (tmp_path / "config.json").write_text('{"auths": {}, "credsStore": "desktop"}')
    with pytest.raises(Stalled, match="helpers are not run"):
        read(f"{middle.url}/{name}", auth=tmp_path / "config.json")
    (tmp_path / "config.json").write_text("[]")
    with pytest.raises(Stalled, match=r"must be a docker config\.json"):
        read(f"{middle.url}/{name}", auth=tmp_path / "config.json")


@pytest.mark.parametrize("row", [{"auth": basic("ada", "s3cret")}, {"identitytoken": "long-lived"}])
def test_bearer_tokens_are_fetched_for_the_scope_asked_and_used_until_they_end(
    middle: Between, name: str, tmp_path: Path, row: dict[str, str]
) -> None:
    given: list[str] = []

    def token_service(request: Request, ask: Callable[[], Reply]) -> Reply:
        if request.path.startswith("/token"):
            told = request.headers.get("authorization") == f"Basic {basic('ada', 's3cret')}" or request.method == "POST"
            given.append(request.path if told else "refused")
            return Reply(200, {}, json.dumps({"token": f"t{len(given)}", "expires_in": 300}).encode())
        if request.headers.get("authorization") in [f"Bearer t{i + 1}" for i in range(len(given))]:
            return ask()
        challenge = f'Bearer realm="{middle.url}/token",service="registry",scope="repository:{name}:pull"'
        return Reply(401, {"www-authenticate": challenge}, b"")

    middle.meddle = token_service
    auth = config(tmp_path, middle.url.removeprefix("http://"), **row)
    pull(f"{middle.url}/{name}", ONE.digest, tmp_path / "layout", auth=auth, tls=None)
    assert len(given) == 1
    assert "refused" not in given


def test_credentials_do_not_follow_a_redirect_to_another_server(debian: str, middle: Between, name: str, tmp_path: Path) -> None:
    with between(debian) as store:
        leaked: list[str] = []

        def storage(request: Request, ask: Callable[[], Reply]) -> Reply:
            leaked.extend(request.headers.get("authorization", "").split())
            return ask()

        def leads_away(request: Request, ask: Callable[[], Reply]) -> Reply:
            reply = asks_basic(request, ask)
            moved = reply.status == 200 and "/blobs/" in request.path
            return Reply(307, {"location": f"{store.url}{request.path}"}, b"") if moved else reply

        store.meddle, middle.meddle = storage, leads_away
        auth = config(tmp_path, middle.url.removeprefix("http://"), auth=basic("ada", "s3cret"))
        pull(f"{middle.url}/{name}", ONE.digest, tmp_path / "layout", auth=auth, tls=None)
        assert leaked == []
        assert store.count > 0


def test_where_a_redirect_leads_nobody_is_given_credentials_that_he_asks_for(
    debian: str, middle: Between, name: str, tmp_path: Path
) -> None:
    with between(debian) as store:
        leaked: list[str] = []

        def greedy(request: Request, ask: Callable[[], Reply]) -> Reply:
            leaked.extend(request.headers.get("authorization", "").split())
            challenge = f'Bearer realm="{store.url}/token",service="registry",scope="repository:{name}:pull"'
            return Reply(401, {"www-authenticate": challenge}, b"")

        def leads_away(request: Request, ask: Callable[[], Reply]) -> Reply:
            moved = "/blobs/" in request.path
            return Reply(307, {"location": f"{store.url}{request.path}"}, b"") if moved else asks_basic(request, ask)

        store.meddle, middle.meddle = greedy, leads_away
        auth = config(tmp_path, middle.url.removeprefix("http://"), auth=basic("ada", "s3cret"))
        with pytest.raises(Stalled, match="401"):
            pull(f"{middle.url}/{name}", ONE.digest, tmp_path / "layout", auth=auth, tls=None)
        assert leaked == []
        assert store.count > 0


def test_credentials_are_not_sent_in_the_clear(tmp_path: Path) -> None:
    """Neither when they were there from the beginning, nor when they come later."""
    later = Repository("http://registry.example/knhk", auth=tmp_path / "config.json")
    auth = config(tmp_path, "registry.example", auth=basic("ada", "s3cret"))
    with pytest.raises(Stalled, match="must be https"):
        Repository("http://registry.example/knhk", auth=auth)
    with pytest.raises(Stalled, match="must be https"):
        later._met('Basic realm="registry"')


@pytest.mark.parametrize(
    "url", ["ftp://registry.example/knhk", "https:///knhk", "registry.example", "https://ada:pw@registry.example/a", "https://r/UPPER"]
)
def test_an_address_that_is_none_is_told(url: str) -> None:
    with pytest.raises(Stalled, match="must"):
        Repository(url)
