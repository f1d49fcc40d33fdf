"""The kinds, by name. A new kind is one more entry here."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from knhk.api.kinds.data_bundle import DATA_BUNDLE
from knhk.api.kinds.enforcement_point import ENFORCEMENT_POINT
from knhk.api.kinds.policy_pack import POLICY_PACK
from knhk.api.kinds.receipt import RECEIPT
from knhk.api.shape import Kind

KINDS: Mapping[str, Kind] = MappingProxyType({kind.kind: kind for kind in (POLICY_PACK, DATA_BUNDLE, ENFORCEMENT_POINT, RECEIPT)})
