"""Reflex Enterprise: model, decisions, ports, adapters, reconcilers and the `knhk` command."""
