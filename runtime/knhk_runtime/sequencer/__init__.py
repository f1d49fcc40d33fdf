"""The sequencer: only writer of a region's log; WAL with group commit, C2SP tiles, signed checkpoints (formats/log.md)."""
