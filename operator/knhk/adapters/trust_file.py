"""Port Trusts: a file of an administrator, in the home or from a ConfigMap. Without it nobody is believed."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

from knhk.api.trust import read_trust
from knhk.model.faults import Refused, Stalled
from knhk.model.trust import Trust


@dataclass
class FileTrusts:
    """Read again when it was changed or replaced. Any thread."""

    file: Path
    _known: tuple[tuple[int, int, int], Trust] | None = field(default=None, compare=False)

    def read(self) -> Trust:
        try:
            status = os.stat(self.file)
            state = (status.st_ino, status.st_mtime_ns, status.st_size)
            known = self._known
            if known is None or known[0] != state:
                known = self._known = (state, read_trust(self.file.read_bytes(), str(self.file)))
            return known[1]
        except FileNotFoundError:
            return Trust()
        except OSError as error:
            raise Stalled("NotTrusted", f"{self.file}: must be readable: {error.strerror}") from error
        except Refused as refused:
            raise Stalled("NotTrusted", f"an administrator must mend {refused.faults[0]}") from refused
