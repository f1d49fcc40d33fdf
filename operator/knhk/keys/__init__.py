"""The key service: keys of subjects for the guards and readers of a cluster (formats/keys.md)."""
