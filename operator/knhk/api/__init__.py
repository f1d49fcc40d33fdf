"""Resource spelling <-> model: one declaration per kind gives the CRD, the parser and the documentation."""

from __future__ import annotations

from knhk.api.conditions import condition, with_condition
from knhk.api.convert import hook_sources, is_selected, points_of_stages, said, to_flag, to_rollout, to_sources, with_hooks, with_origin
from knhk.api.kinds import KINDS
from knhk.api.parse import (
    check_status,
    check_update,
    from_document,
    parse,
    to_document,
)
from knhk.model.resource import API_VERSION, GROUP, VERSION, Key, Resource

__all__ = [
    "API_VERSION",
    "GROUP",
    "KINDS",
    "VERSION",
    "Key",
    "Resource",
    "check_status",
    "check_update",
    "condition",
    "from_document",
    "hook_sources",
    "is_selected",
    "parse",
    "points_of_stages",
    "said",
    "to_document",
    "to_flag",
    "to_rollout",
    "to_sources",
    "with_condition",
    "with_hooks",
    "with_origin",
]
