"""One file for each thing outside: SQLite, folders, processes, registries."""
