"""Names of the regions that leaf.region counts (formats/leaf.md): one list of a log and of its points, which only grows."""

from __future__ import annotations

import re

from knhk.model.faults import Fault, Refused

MUST = "must be other names, by commas, each of at most 63 lower-case letters, digits and hyphens, such as local,eu,us"


def regions_of(text: str) -> tuple[str, ...]:
    """Names by commas, in order; none of an empty text. Raises Refused."""
    names = tuple(part.strip() for part in text.split(",")) if text.strip() else ()
    wrong = [name for at, name in enumerate(names) if not re.fullmatch(r"[a-z0-9-]{1,63}", name) or name in names[:at]]
    if wrong:
        raise Refused([Fault("regions", repr(name), MUST) for name in wrong])
    return names
