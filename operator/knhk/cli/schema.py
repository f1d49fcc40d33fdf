"""Short spelling of JSON Schema for the outputs that `knhk catalog` lists."""

from __future__ import annotations

from typing import Any

Schema = dict[str, Any]


def string(*values: str) -> Schema:
    """Text; one of `values` when any are given."""
    return {"type": "string", "enum": list(values)} if values else {"type": "string"}


def integer() -> Schema:
    """A whole number."""
    return {"type": "integer"}


def boolean() -> Schema:
    """true or false."""
    return {"type": "boolean"}


def anything() -> Schema:
    """Any JSON value."""
    return {}


def nullable(schema: Schema) -> Schema:
    """`schema` or null."""
    return {"anyOf": [schema, {"type": "null"}]}


def array(items: Schema) -> Schema:
    """A list of `items`."""
    return {"type": "array", "items": items}


def mapping(values: Schema) -> Schema:
    """An object whose members are all `values`."""
    return {"type": "object", "additionalProperties": values}


def obj(**members: Schema) -> Schema:
    """An object with exactly these members."""
    return {
        "type": "object",
        "properties": members,
        "required": list(members),
        "additionalProperties": False,
    }


FAULTS = array(obj(where=string(), value=string(), must=string()))
