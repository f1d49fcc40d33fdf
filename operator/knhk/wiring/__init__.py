"""The only rooms that see both wings: which adapter serves which port, in which home."""
