"""Protocols of the world outside, with their promises."""
