"""The kinds, by name. A new kind is one more entry here."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from knhk.api.kinds.approval import APPROVAL
from knhk.api.kinds.consent import CONSENT
from knhk.api.kinds.data_bundle import DATA_BUNDLE
from knhk.api.kinds.enforcement_point import ENFORCEMENT_POINT
from knhk.api.kinds.feature_flag import FEATURE_FLAG
from knhk.api.kinds.hook_registry import HOOK_REGISTRY
from knhk.api.kinds.policy_pack import POLICY_PACK
from knhk.api.kinds.policy_repository import POLICY_REPOSITORY
from knhk.api.kinds.receipt import RECEIPT
from knhk.api.kinds.schema_version import SCHEMA_VERSION
from knhk.api.shape import Kind

_ALL = (
    POLICY_PACK,
    DATA_BUNDLE,
    ENFORCEMENT_POINT,
    RECEIPT,
    SCHEMA_VERSION,
    HOOK_REGISTRY,
    FEATURE_FLAG,
    APPROVAL,
    CONSENT,
    POLICY_REPOSITORY,
)
KINDS: Mapping[str, Kind] = MappingProxyType({kind.kind: kind for kind in _ALL})
