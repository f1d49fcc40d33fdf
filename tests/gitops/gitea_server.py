"""A real Gitea on a free port of 127.0.0.1, with its data in a folder of the test run; it signs merges by an SSH key of its own."""

from __future__ import annotations

import base64
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.parse import quote

from git_repo import Person, Repo, person

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from loopback_ports import free_port

ADMIN, PASSWORD = "root", "a-Long-enough-passw0rd"
READY_WITHIN_S = 240.0
KNOWS_WITHIN_S = 240.0
NOBODY_ID = "65534"  # Gitea refuses to run as root

INI = """
APP_NAME = test
RUN_MODE = prod
WORK_PATH = {folder}
[server]
PROTOCOL = http
HTTP_ADDR = 127.0.0.1
HTTP_PORT = {port}
ROOT_URL = http://127.0.0.1:{port}/
STATIC_ROOT_PATH = {static}
OFFLINE_MODE = true
DISABLE_SSH = true
[database]
DB_TYPE = sqlite3
PATH = {folder}/gitea.db
[repository]
ROOT = {folder}/repositories
DEFAULT_BRANCH = main
[repository.signing]
SIGNING_KEY = {key}.pub
SIGNING_NAME = forge
SIGNING_EMAIL = forge@example.com
SIGNING_FORMAT = ssh
MERGES = always
INITIAL_COMMIT = never
CRUD_ACTIONS = never
WIKI = never
[security]
INSTALL_LOCK = true
SECRET_KEY = for-tests-only
INTERNAL_TOKEN = {internal}
PASSWORD_HASH_ALGO = pbkdf2$1000$10
[service]
DISABLE_REGISTRATION = true
[webhook]
ALLOWED_HOST_LIST = loopback
DELIVER_TIMEOUT = 5
[oauth2]
ENABLED = false
[actions]
ENABLED = false
[cron]
ENABLED = false
[indexer]
REPO_INDEXER_ENABLED = false
ISSUE_INDEXER_TYPE = db
[log]
MODE = console
LEVEL = Warn
"""


@dataclass(frozen=True)
class Gitea:
    """`forge` signs merges."""

    url: str
    folder: Path
    forge: Person
    tokens: dict[str, str]

    def call(self, method: str, path: str, body: Any = None, who: str = ADMIN) -> Any:
        """The answer; an HTTPError for what is refused."""
        request = urllib.request.Request(f"{self.url}/api/v1/{path}", method=method)
        pair = base64.b64encode(f"{who}:{PASSWORD}".encode()).decode()
        request.add_header("Authorization", f"Basic {pair}")
        request.add_header("Content-Type", "application/json")
        with urllib.request.urlopen(request, None if body is None else json.dumps(body).encode(), timeout=20) as answer:
            read = answer.read()
        return json.loads(read) if read else None

    def user(self, name: str) -> str:
        """Somebody new, with a token."""
        row = {"username": name, "email": f"{name}@example.com", "password": PASSWORD, "must_change_password": False}
        self.call("POST", "admin/users", row)
        return self.token(name)

    def token(self, name: str) -> str:
        made = self.call("POST", f"users/{name}/tokens", {"name": f"t{time.time_ns()}", "scopes": ["all"]}, name)
        return str(made["sha1"])

    def push(self, repo: Repo, repository: str, who: str, branch: str) -> str:
        """Pushes HEAD as a branch, and returns when Gitea, which takes note of pushes a moment later, knows it. The commit."""
        head = repo.head()
        repo.git("push", "-q", "-f", self.remote(repository, who), f"HEAD:refs/heads/{branch}")
        deadline = time.monotonic() + KNOWS_WITHIN_S
        while time.monotonic() < deadline:
            try:
                if self.call("GET", f"repos/{repository}/branches/{quote(branch, safe='')}")["commit"]["id"] == head:
                    return head
            except HTTPError:
                pass
            time.sleep(0.05)
        raise AssertionError(f"Gitea does not know {branch} at {head}")

    def merge(self, repository: str, number: int, who: str) -> str:
        """Merges a pull request by a merge commit; that commit. An HTTPError when it is blocked."""
        deadline = time.monotonic() + KNOWS_WITHIN_S
        while not self.call("GET", f"repos/{repository}/pulls/{number}")["mergeable"]:  # it looks into that a moment later
            assert time.monotonic() < deadline, "the pull request is not mergeable"
            time.sleep(0.05)
        self.call("POST", f"repos/{repository}/pulls/{number}/merge", {"Do": "merge"}, who)
        return str(self.call("GET", f"repos/{repository}/pulls/{number}")["merge_commit_sha"])

    def remote(self, repository: str, who: str) -> str:
        """The address for pushes of a test."""
        return f"{self.url.replace('://', f'://{who}:{PASSWORD}@')}/{repository}.git"


@contextmanager
def fresh(program: Path, static: Path) -> Iterator[Gitea]:
    """One in a folder of its own, which is gone afterwards."""
    folder = Path(tempfile.mkdtemp(prefix="knhk-gitea-"))
    try:
        with running(program, static, folder / "gitea") as found:
            yield found
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def running(program: Path, static: Path, folder: Path) -> Iterator[Gitea]:
    """While the context lasts. Raises AssertionError with its last words when it does not get ready."""
    folder.mkdir(parents=True)
    key = person("forge", folder)
    port = free_port()
    ini = folder / "app.ini"
    ini.write_text(INI.format(folder=folder, port=port, static=_readable(static, folder), key=key.key, internal="0" * 40))
    _hand_over(folder)
    log = folder / "log.txt"
    with log.open("wb") as out:
        for words in (
            ("migrate",),
            ("admin", "user", "create", "--admin", "--username", ADMIN, "--password", PASSWORD, "--email", "r@example.com"),
        ):
            subprocess.run(_command(program, ini, words), env=_environment(folder), check=True, stdout=out, stderr=out, cwd=folder)
        with subprocess.Popen(_command(program, ini, ("web",)), env=_environment(folder), stdout=out, stderr=out, cwd=folder) as process:
            try:
                gitea = Gitea(f"http://127.0.0.1:{port}", folder, key, {})
                _wait(gitea, process, log)
                yield gitea
            finally:
                process.send_signal(signal.SIGTERM)
                try:
                    process.wait(20)
                except subprocess.TimeoutExpired:
                    process.kill()


def _command(program: Path, ini: Path, words: tuple[str, ...]) -> list[str]:
    drop = ["setpriv", f"--reuid={NOBODY_ID}", f"--regid={NOBODY_ID}", "--clear-groups"] if os.getuid() == 0 else []
    return [*drop, str(ini.parent / "gitea") if drop else str(program), "-c", str(ini), *words]


def _readable(static: Path, folder: Path) -> Path:
    """What a user without rights reads is copied to where it may: templates and program lie below a home otherwise."""
    for name in ("templates", "options", "public"):
        shutil.copytree(static / name, folder / "static" / name)
    return folder / "static"


def _hand_over(folder: Path) -> None:
    if os.getuid() != 0:
        return
    from gitea_binaries import gitea

    shutil.copy(gitea(build=False)[0], folder / "gitea")
    for path in (folder, *folder.rglob("*")):
        os.chown(path, int(NOBODY_ID), int(NOBODY_ID))
    for parent in folder.parents:
        if parent.owner() == "root" and parent != Path("/") and not parent.stat().st_mode & 0o001:
            parent.chmod(parent.stat().st_mode | 0o111)


def _environment(folder: Path) -> dict[str, str]:
    return {"PATH": os.environ["PATH"], "HOME": str(folder), "USER": "nobody", "GITEA_WORK_DIR": str(folder), "TMPDIR": str(folder)}


def _wait(gitea: Gitea, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + READY_WITHIN_S
    while time.monotonic() < deadline and process.poll() is None:
        try:
            gitea.call("GET", "version")
            return
        except (OSError, HTTPError):
            time.sleep(0.1)
    raise AssertionError(f"Gitea is not ready: {log.read_text(errors='replace')[-2000:]}")
