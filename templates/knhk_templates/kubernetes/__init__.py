"""Objects of Kubernetes: what our processes ask an API server to keep.

The templates hold wording only, in YAML. Every value is printed as JSON by the environment itself (`finalize`), so that no value of a
person can become syntax; the result is parsed again before it is returned.
"""

from __future__ import annotations

import json
from typing import Any, Final

import jinja2
import yaml

_TEMPLATES: Final = jinja2.Environment(
    loader=jinja2.PackageLoader("knhk_templates", "kubernetes"),
    undefined=jinja2.StrictUndefined,
    autoescape=False,  # YAML, not HTML
    trim_blocks=True,
    lstrip_blocks=True,
    finalize=lambda value: json.dumps(value, ensure_ascii=True),
)


def render(template: str, **values: Any) -> list[dict[str, Any]]:
    """The objects of a template (its file without .yaml.j2), in order."""
    text = _TEMPLATES.get_template(f"{template}.yaml.j2").render(**values)
    return [document for document in yaml.safe_load_all(text) if document]
