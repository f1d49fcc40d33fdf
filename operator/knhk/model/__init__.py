"""Frozen values, one named type per arrow, phases, errors. Standard library only."""
