"""Jinja templates: wording, never decisions."""

from __future__ import annotations

from knhk_templates.envoy import attribute_sources, point_faults, render_bootstrap

__all__ = ["attribute_sources", "point_faults", "render_bootstrap"]
