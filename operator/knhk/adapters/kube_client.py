"""Requests to a Kubernetes API server, in plain JSON; its errors in the words of the ports.

The pinned `kubernetes` client finds the server, the credentials (kubeconfig, service account, exec plug-ins) and renews tokens.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import urllib3
import yaml
from kubernetes import config
from kubernetes.client import ApiClient, Configuration
from kubernetes.client.exceptions import ApiException

from knhk.adapters.unreached import why
from knhk.model.faults import AlreadyExists, Conflict, Fault, Gap, KnhkError, NotFound, Refused, Stalled, Waiting

ANSWERS_WITHIN_S = 30.0
CONNECTS_WITHIN_S = 5.0
RETRY_AFTER_S = 1.0
JSON = "application/json"
METADATA = f"{JSON};as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"  # of a list nothing else
APPLY = "application/apply-patch+yaml"  # JSON is YAML
MERGE = "application/merge-patch+json"
_VALUE = re.compile(r'^Invalid value: (?:("(?:[^"\\]|\\.)*"|-?[0-9.]+|null|true|false): )?(.*)$', re.DOTALL)
_OF_THE_WHOLE = re.compile(r"^(metadata\.name) (must .*)$", re.DOTALL)  # a rule over the object names the field in its words
_UNCHECKED = "some validation rules were not checked"  # no fault: it says that others hide more
_NOT_ALLOWED = re.compile(r'[Uu]ser "[^"]*" cannot ')  # by RBAC; quotas, policies and ending namespaces are told in words of their own
_NOT_LEADING = "must come from the operator that leads"  # manifests/base/admission/leading.yaml
_UNKNOWN = re.compile(r'unknown field "([^"]*)"|\.(\S+): field not declared in schema')


def api_client(kubeconfig: Path | None) -> ApiClient:
    """A client for the cluster that a kubeconfig names; None: the one that this pod runs in. Raises Stalled."""
    found = Configuration()
    load: Any = config  # its functions are not typed
    try:
        if kubeconfig is None:
            load.load_incluster_config(client_configuration=found)
        else:
            load.load_kube_config(str(kubeconfig), client_configuration=found, persist_config=False)
    except (config.ConfigException, yaml.YAMLError, OSError, TypeError, ValueError, AttributeError) as error:  # of what is something else
        what = "this is no pod of one: give --kubeconfig" if kubeconfig is None else _amiss(kubeconfig, error)
        raise Stalled("NoCluster", f"{kubeconfig or 'service account'}: must lead to a cluster: {what}") from error
    found.retries = urllib3.Retry(total=1, connect=1, read=0, redirect=0, status=0, respect_retry_after_header=False)
    found.connection_pool_maxsize = 32
    return ApiClient(found)


def _amiss(file: Path, error: Exception) -> str:
    """What is wrong with a kubeconfig that leads nowhere, and what to give."""
    must = "give a kubeconfig, such as `kubectl config view --minify --flatten` prints"
    if not file.exists():
        return f"it is not there: {must}"
    if file.is_dir():
        return f"it is a folder: {must}"
    try:
        found = yaml.safe_load(file.read_bytes())
    except PermissionError:
        return "this user may not read it"
    except (yaml.YAMLError, ValueError):
        return f"it is no YAML: {must}"
    if not isinstance(found, Mapping) or not found.keys() & {"clusters", "contexts", "current-context"}:
        return f"it is no kubeconfig: {must}"
    return f"{error}: see `kubectl --kubeconfig {file} cluster-info`"


Answered = Callable[[str, str, int], None]


class KubeClient:
    """Any thread. Errors of every request: NotFound, AlreadyExists, Conflict, Refused (all faults), Gap (410), Waiting when trying
    again may help (unreachable, too many requests, 5xx), Stalled when a person must act (no permission, no such kind)."""

    def __init__(self, api: ApiClient, answered: Answered = lambda method, host, status: None) -> None:
        """`answered` is told of every request: its method, the server, and the status of the answer, 0 when there was none."""
        self._api = api
        self._answered = answered

    def call(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None = None,
        body: Any = None,
        media: str = JSON,
        within_s: float = ANSWERS_WITHIN_S,
        accept: str = JSON,
    ) -> dict[str, Any]:
        """The JSON document that answers, after at most `within_s` of silence."""
        with _reached(self._api.configuration.host, path):
            kinds = {"Accept": accept, "Content-Type": media}
            data = self._send(method, path, query or {}, body, kinds, (min(CONNECTS_WITHIN_S, within_s), within_s)).data
            answer: dict[str, Any] = json.loads(data)
            return answer

    def _send(
        self, method: str, path: str, query: Mapping[str, str], body: Any, kinds: Mapping[str, str], timeout: tuple[float, float]
    ) -> urllib3.HTTPResponse:
        headers = {**kinds, "User-Agent": "knhk"}
        self._api.update_params_for_auth(headers, [], ["BearerToken"], path, method, body)
        url = f"{self._api.configuration.host}{path}" + (f"?{urlencode(query)}" if query else "")
        rest: Any = self._api.rest_client  # not typed either
        host, status = self._api.configuration.host.rpartition("/")[2], 0
        try:
            response: urllib3.HTTPResponse = rest.request(method, url, headers=headers, body=body, _request_timeout=timeout).response
            status = response.status
        finally:
            self._answered(method, host, status)
        if response.status >= 400:
            raise meaning(response.status, path, _document(response.data))
        return response


@contextmanager
def _reached(host: str, path: str) -> Iterator[None]:
    """What goes wrong on the way to the server and back, in our words."""
    try:
        yield
    except (urllib3.exceptions.HTTPError, ApiException, OSError, ValueError) as error:
        told = f"the API server {host} does not answer ({path}): {why(error)}: it must be one that is reached from here"
        raise Waiting("ApiServerUnreachable", told, RETRY_AFTER_S) from error


def _document(data: bytes) -> dict[str, Any]:
    try:
        found = json.loads(data)
    except ValueError:
        found = None
    text = "a page for people, as no API server does" if data.lstrip()[:1] == b"<" else data[:500].decode(errors="replace")
    return found if isinstance(found, dict) else {"message": text}


def meaning(status: int, path: str, document: Mapping[str, Any]) -> KnhkError:
    """The error that an answer of the API server (HTTP status and Status document) stands for."""
    reason, message = str(document.get("reason", "")), str(document.get("message", "")).strip()
    details: Mapping[str, Any] = document.get("details") or {}
    said = f"{path}: {message or status}"
    if status == 500 and _UNKNOWN.search(message):  # how server-side apply says it
        return Refused(faults(document))
    match status:
        case 409:
            return AlreadyExists(said) if reason == "AlreadyExists" else Conflict(f"{said}; read again")
        case 404 if not details.get("name"):
            return Stalled("NoSuchKind", f"{said}: the cluster must have the CustomResourceDefinitions of knhk.dev")
        case 404:
            return NotFound(f"{details.get('kind', '')} {details['name']} was not found")
        case 410:
            return Gap(f"{said}; list again")
        case 400 | 422:
            return Refused(faults(document))
        case 401:
            return Stalled(reason or "Unauthorized", f"{said}: the API server must know the user of this process")
        case 403 if _ending(details):
            return NotFound(said)
        case 403 if (
            _NOT_LEADING in message
        ):  # deposed, as its next look at the lease tells; or the API server has yet to hear that it leads
            return Waiting("NotLeading", said, RETRY_AFTER_S)
        case 403 if _NOT_ALLOWED.search(message):
            return Stalled(reason or "Forbidden", f"{said}: the user of this process must be allowed to do this")
        case 429 | 500 | 502 | 503 | 504:
            return Waiting(reason or "ApiServerBusy", said, float(details.get("retryAfterSeconds") or RETRY_AFTER_S))
    return Stalled(reason or "ApiServerRefused", said)


def _ending(details: Mapping[str, Any]) -> bool:
    """Whether a namespace is being deleted: nothing can be made in it any more."""
    return any(cause.get("reason") == "NamespaceTerminating" for cause in details.get("causes") or ())


def faults(document: Mapping[str, Any]) -> tuple[Fault, ...]:
    """The faults of a Status document: where, the value, and what it must be."""
    message = str(document.get("message", ""))
    causes = (document.get("details") or {}).get("causes") or ()
    found = [_fault(cause) for cause in causes if _UNCHECKED not in str(cause.get("message", ""))]
    unknown = (named[1] or named[2] for named in _UNKNOWN.finditer(message))
    found += [Fault(field, "a value", "must not be there: unknown field") for field in unknown]
    return tuple(found) or (Fault("", str(document.get("reason", "")), message),)


def _fault(cause: Mapping[str, Any]) -> Fault:
    where, message = str(cause.get("field", "")).replace("<nil>", ""), str(cause.get("message", ""))
    parts = _VALUE.match(message)
    value, must = (_unquoted(parts[1] or ""), parts[2]) if parts else ("", message)
    named = None if where else _OF_THE_WHOLE.match(must)
    return Fault(named[1], value, named[2]) if named else Fault(where, value, must)


def _unquoted(value: str) -> str:
    """Without the quotes and escapes that an API server puts around a string."""
    try:
        return str(json.loads(value)) if value.startswith('"') else value
    except ValueError:
        return value.strip('"')
