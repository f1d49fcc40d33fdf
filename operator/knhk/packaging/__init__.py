"""Pure assembly of what goes into a registry: pack images, data bundles, SBOM, provenance, signatures (formats/pack.md)."""
