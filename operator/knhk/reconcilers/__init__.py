"""Steps: gather, decide, act, one concern per file; what is outside comes by ports."""
