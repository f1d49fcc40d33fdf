"""Figures of the product beside anchors (`make bench`); docs in bench/results/README.md."""
