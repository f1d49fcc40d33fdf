"""The agent's write-ahead log: records of decisions, durable here before anything else forgets them (formats/frame.md)."""
