"""Why a server was not reached, in words for people. Light: it knows the errors of urllib3 by what they wrap, or by their names."""

from __future__ import annotations

import errno
import json
import socket
import ssl
from collections.abc import Iterator

_NO_WAY = (errno.ENETUNREACH, errno.EHOSTUNREACH, errno.ENETDOWN, errno.EHOSTDOWN, errno.EADDRNOTAVAIL)
_CUT = ("RemoteDisconnected", "IncompleteRead", "ProtocolError", "BadStatusLine")


def why(error: BaseException) -> str:
    """Of an error of sockets, TLS, http.client, urllib or urllib3, whichever wraps which."""
    chain = list(_chain(error))
    last = chain[-1]
    return next((told for each in reversed(chain) if (told := _told(each))), str(getattr(last, "reason", last)) or type(last).__name__)


def _chain(error: BaseException) -> Iterator[BaseException]:
    """From the outermost to the innermost."""
    seen = set[int]()
    found: object = error
    while isinstance(found, BaseException) and id(found) not in seen:
        seen.add(id(found))
        yield found
        inner = (getattr(found, "reason", None), found.__cause__, *found.args[:1])  # of URLError, of what was raised from it, of urllib3
        found = next((each for each in inner if isinstance(each, BaseException)), None)


def _told(error: BaseException) -> str:
    names = {kind.__name__ for kind in type(error).__mro__}
    match error:
        case ssl.SSLCertVerificationError():
            return f"nobody who is trusted here vouches for its certificate ({error.verify_message})"
        case ssl.SSLError() if error.reason in ("WRONG_VERSION_NUMBER", "HTTP_REQUEST", "RECORD_LAYER_FAILURE"):
            return "what listens there does not speak TLS"
        case ssl.SSLError():
            return f"TLS ends there ({(error.reason or str(error)).lower().replace('_', ' ')}): it may want a certificate of ours"
        case socket.gaierror():
            return "its name is not known here"
        case ConnectionRefusedError():
            return "nobody listens there"
        case ConnectionError():
            return "the connection was cut off"
        case OSError() if error.errno in _NO_WAY:
            return "no network leads there from here"
        case json.JSONDecodeError():
            return "what it answers is no JSON"
        case _ if "TimeoutError" in names:
            return "it does not answer in time"
        case _ if names & set(_CUT):
            return "the connection was cut off"
    return ""
