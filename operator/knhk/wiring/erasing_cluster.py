"""Erasing on a cluster: keys by the key service, records beside the log, events by the operator, each by the right of who asks; here is
what decides, and neither a key of ours nor a copy."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from knhk.adapters.erasures_remote import RemoteErasures
from knhk.adapters.system import SystemClock, SystemRandom
from knhk.adapters.token_client import Whom
from knhk.model.faults import NotFound, Stalled
from knhk.model.ranges import Ranges, count
from knhk.ports.caller import ERASURES_AUDIENCE, KEYS_AUDIENCE
from knhk.ports.recorded import Found, Recorded
from knhk.reconcilers.erasing import Eraser, Surroundings
from knhk.wiring.privacy import KeyPlace, opened
from knhk_runtime.subjects import parse_privacy

OWN, ACCOUNT, TRUST, ERASER, EXPORTER = "knhk-system", "knhk-eraser", "knhk-trust", "knhk-key-eraser", "knhk-key-exporter"
TOKEN_S = 3600
KEYS, BESIDE = ("knhk-keys-0", "knhk-keys", 8448), ("knhk-log-0", "knhk-erasures", 8449)  # pod, service, port
Say = Callable[[str], None]


@dataclass(frozen=True)
class Told:
    """`Recorded`, which says what it is at."""

    there: Recorded
    say: Say

    def of_subject(self, tag: bytes, subject: str) -> Found:
        self.say("looking for the subject's records, in the copies of outboxes and in the archive")
        return self.there.of_subject(tag, subject)

    def older(self, point: str, before_ns: int, held: Collection[bytes], after: int) -> Ranges:
        self.say(f"looking for what is older than the retention of {point}" + (f", after entry {after}" if after >= 0 else ""))
        return self.there.older(point, before_ns, held, after)

    def free(self, targets: Ranges, held: Collection[bytes]) -> Ranges:
        self.say("a hold was placed meanwhile: looking for whose it is")
        return self.there.free(targets, held)

    def digest(self, targets: Ranges) -> str:
        return self.there.digest(targets)

    def rewrite(self, targets: Ranges) -> tuple[int, int]:
        self.say(f"the keys are destroyed; rewriting copies of {count(targets)} entries")
        return self.there.rewrite(targets)


@contextmanager
def erasing_there(keys: KeyPlace, beside: Whom, say: Say) -> Iterator[Eraser]:
    """Erases in a namespace of a cluster, by the tokens at hand. Raises as the two servers say."""
    with ExitStack() as stack:
        store = opened(keys)
        stack.callback(store.close)
        remote = RemoteErasures(beside, keys.namespace)
        stack.callback(remote.close)
        user, documents = remote.user()
        privacy = {point: found for point, document in documents.items() if (found := parse_privacy(document)) is not None}
        yield Eraser(
            Surroundings(
                keys=store,
                recorded=Told(remote, say),
                events=_nothing,
                sign=remote.sign,
                append=remote.append,
                clock=SystemClock(),
                chance=SystemRandom(),
                actor=user,
                privacy=privacy,
            )
        )


def _nothing() -> NoReturn:
    raise Stalled("Log", "erasing again by the log's events must be done where the log is at hand: `knhk restore`, or without --erasures")


@contextmanager
def erasing_in(kubeconfig: Path, namespace: str, account: str, say: Say) -> Iterator[Eraser]:
    """The same as an account of the namespace. Raises as `ways`, too."""
    with ways(kubeconfig, namespace, account, ERASER) as (keys, beside), erasing_there(keys, beside, say) as eraser:
        yield eraser


@contextmanager
def ways(kubeconfig: Path, namespace: str, account: str, role: str) -> Iterator[tuple[KeyPlace, Whom]]:
    """To the key service, and to what lies beside the log, as an account of the namespace, in whose name the kubeconfig's user may ask,
    through what the API server forwards. `role`: what the account must be bound to. Raises Stalled for what is missing, with what to do."""
    from knhk.adapters.kube_client import KubeClient, api_client
    from knhk.adapters.port_forward_kube import forwarded

    client = KubeClient(api_client(kubeconfig))
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="knhk-erasing-")))
        authority = _kept(folder / "ca.crt", _trusted(client, namespace))
        places = []
        for (pod, service, port), audience in ((KEYS, KEYS_AUDIENCE), (BESIDE, ERASURES_AUDIENCE)):
            token = _kept(folder / service, _token(client, namespace, account, audience, role))
            dial = stack.enter_context(forwarded(lambda: api_client(kubeconfig), OWN, pod, port))
            places.append(Whom(f"https://{service}.{OWN}.svc:{port}", token, authority, dial))
        at, beside = places
        yield KeyPlace(at.url, namespace, at.token, at.authority, at.dial), beside


def _trusted(client: Any, namespace: str) -> str:
    try:
        return str(client.call("GET", f"/api/v1/namespaces/{namespace}/configmaps/{TRUST}")["data"]["ca.crt"])
    except (NotFound, KeyError) as error:
        raise Stalled("NoTrust", f"{namespace}: must have ConfigMap {TRUST}, as each namespace with an EnforcementPoint has") from error


def _token(client: Any, namespace: str, account: str, audience: str, role: str) -> str:
    body = {
        "apiVersion": "authentication.k8s.io/v1",
        "kind": "TokenRequest",
        "spec": {"audiences": [audience], "expirationSeconds": TOKEN_S},
    }
    try:
        answer = client.call("POST", f"/api/v1/namespaces/{namespace}/serviceaccounts/{account}/token", body=body)
    except NotFound as error:
        bound = f"kubectl create rolebinding {account} -n {namespace} --clusterrole={role} --serviceaccount={namespace}:{account}"
        made = f"kubectl create serviceaccount {account} -n {namespace}; {bound}"
        raise Stalled("NoAccount", f"{namespace}: must have ServiceAccount {account} bound to {role}: {made}") from error
    return str(answer["status"]["token"])


def _kept(path: Path, text: str) -> Path:
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(handle, "w") as file:
        file.write(text)
    return path
