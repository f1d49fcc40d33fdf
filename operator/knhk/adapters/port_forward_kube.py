"""Ways through an API server to the ports of a pod: what passes there is TLS from end to end, which nobody on the way can read."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http import HTTPStatus
from typing import Any

import urllib3
from kubernetes.client import ApiClient, CoreV1Api
from kubernetes.client.exceptions import ApiException
from kubernetes.stream import portforward

from knhk.adapters.kube_client import meaning
from knhk.adapters.unreached import why
from knhk.model.faults import KnhkError, Stalled, Waiting

CHUNK_BYTES = 64 << 10


@contextmanager
def forwarded(api: Callable[[], ApiClient], namespace: str, pod: str, port: int) -> Iterator[tuple[str, int]]:
    """Loopback address whose connections go to a port of a pod while the context lasts. `api`: a client for each of them, which is used
    for nothing else. Raises Stalled for who may not, or when the pod does not listen, and Waiting."""
    _opened(api, namespace, pod, port).close()
    listener = socket.create_server(("127.0.0.1", 0))
    thread = threading.Thread(target=_accept, args=(listener, lambda: _opened(api, namespace, pod, port)), name=f"to {pod}", daemon=True)
    thread.start()
    try:
        host, free = listener.getsockname()
        yield host, free
    finally:
        with suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)  # wakes who accepts
        listener.close()
        thread.join()


def _opened(api: Callable[[], ApiClient], namespace: str, pod: str, port: int) -> Any:
    """A socket of the pod's port."""
    where = f"pod {namespace}/{pod}, port {port}"
    try:
        way = portforward(CoreV1Api(api()).connect_get_namespaced_pod_portforward, pod, namespace, ports=str(port))
    except ApiException as error:
        status, said = _refusal(error)
        if status == HTTPStatus.NOT_FOUND:
            raise Stalled("NoPod", f"{where}: must be there: is the component installed?") from error
        raise meaning(status, where, {"message": said}) from error
    except (urllib3.exceptions.HTTPError, OSError, ValueError) as error:
        raise Waiting("ApiServerUnreachable", f"{where}: no way there: {why(error)}", 1.0) from error
    return way.socket(port)


def _refusal(error: ApiException) -> tuple[int, str]:
    """Status and words of the answer that was no way; the client keeps both in the error that it met (of websocket-client), if any."""
    met = error.__context__
    status, body = getattr(met, "status_code", None), getattr(met, "resp_body", None)
    try:
        said = str(json.loads(body or b"")["message"])
    except (ValueError, KeyError, TypeError):
        said = str(error.reason)
    return status or HTTPStatus.SERVICE_UNAVAILABLE, said


def _accept(listener: socket.socket, open_way: Callable[[], Any]) -> None:
    while True:
        try:
            here, _ = listener.accept()
        except OSError:
            return
        try:
            there = open_way()
        except KnhkError:  # whatever the API server answered: who asked meets a closed connection, and asks again
            here.close()
            continue
        for one, other in ((here, there), (there, here)):
            threading.Thread(target=_pump, args=(one, other), daemon=True).start()


def _pump(one: Any, other: Any) -> None:
    """Until one of them ends: then both do."""
    with suppress(OSError):
        while data := one.recv(CHUNK_BYTES):
            other.sendall(data)
    for each in (one, other):
        with suppress(OSError):
            each.shutdown(socket.SHUT_RDWR)
        each.close()
