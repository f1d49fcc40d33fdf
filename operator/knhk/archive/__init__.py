"""The writer of the Δ log beside a log: `python -m knhk.archive` (docs/architecture.md)."""
