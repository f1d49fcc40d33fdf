"""The order-to-cash example: an application with a real database, its callers, and the story that `make demo` plays."""
