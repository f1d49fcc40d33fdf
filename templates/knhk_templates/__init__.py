"""Jinja templates: wording, never decisions."""
