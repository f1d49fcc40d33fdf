"""`python -m knhk.cli`: the same as `knhk`."""

from __future__ import annotations

import sys

from knhk.cli import main

if __name__ == "__main__":
    sys.exit(main())
