"""Draining the rings that Envoy fills (formats/ring.md)."""
