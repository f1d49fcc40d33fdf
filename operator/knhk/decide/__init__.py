"""Decisions: facts in, verdict or action out. No I/O, no clock."""
