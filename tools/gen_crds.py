"""Writes crds/ from the declared kinds."""

import sys

from knhk.api.crdgen import main

sys.exit(main([]))
