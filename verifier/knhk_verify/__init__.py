"""Verification arithmetic, once; depends on `cryptography` alone."""
