"""A witness of logs: cosigns a checkpoint only when the one that it cosigned before is its beginning (formats/witness.md)."""
