"""Which PolicyPacks name an EnforcementPoint."""

from __future__ import annotations

from dataclasses import dataclass, field

from knhk.model.resource import Resource


def points_named(pack: Resource) -> frozenset[str]:
    """Names of the points that a pack has, rolls to or wants, in its namespace."""
    status = pack.status
    parts = ((status.get("live") or {}).get("points", ()), status.get("revision", {}).get("points", ()))
    return frozenset(name for part in parts for name in part) | {target["point"] for target in pack.spec["targets"]}


def data_named(pack: Resource) -> frozenset[str]:
    """Names of the DataBundles that a pack reads, or read when it went live."""
    said = (pack.status.get(part) or {} for part in ("live", "revision"))
    return frozenset(part["data"] for part in said if "data" in part) | {row["name"] for row in pack.spec["dataBundles"]}


@dataclass
class Claims:
    """An index over the packs of a namespace, worked out once for each listing: a store that lists from memory gives the same listing
    until something changes."""

    _of: dict[str, tuple[tuple[Resource, ...], dict[str, list[Resource]]]] = field(default_factory=dict)

    def naming(self, point: str, namespace: str, packs: tuple[Resource, ...]) -> list[Resource]:
        """Those of `packs`, all of `namespace`, that name the point."""
        known = self._of.get(namespace)
        if known is None or known[0] is not packs:
            known = self._of[namespace] = packs, _index(packs)
        return known[1].get(point, [])


def _index(packs: tuple[Resource, ...]) -> dict[str, list[Resource]]:
    found: dict[str, list[Resource]] = {}
    for pack in packs:
        for point in points_named(pack):
            found.setdefault(point, []).append(pack)
    return found
