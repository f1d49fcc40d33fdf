"""Bytes by key, in a folder or in any S3: what the log's tiles, recorded observations and archives are kept in."""
