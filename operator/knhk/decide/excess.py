"""How much oftener something befalls a request with the candidate than with stable: an anytime-valid test (docs/judge.md).

Each request gives x = [candidate] - [stable], one of -1, 0, 1, with mean d. A gambler with a stake of f wins
in the long run only where d is larger than p (or smaller than e), so the capital

    K(p) = Π (1 + h·(x - p))    h = f/(1+p)     has mean at most 1 at every n when d ≤ p,
    L(e) = Π (1 - h·(x - e))    h = f/(1-e)     has mean at most 1 at every n when d ≥ e,

and P(ever K ≥ 1/a) ≤ a (Ville 1939). Several stakes share the capital, as nobody knows d
(Waudby-Smith and Ramdas, Estimating means of bounded random variables by betting, 2024).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

FOR = ((0.9, 1 / 3), (0.4, 1 / 3), (0.1, 1 / 3))  # (stake, share of the capital)
AGAINST = ((0.98, 0.6), (0.5, 0.2), (0.25, 0.2))
LEAST_GAP = 0.05  # keeps the stake finite where e is 1

Row = tuple[float, float, float, float]


@lru_cache(maxsize=64)
def _for(p: float) -> tuple[Row, ...]:
    """For each stake: ln of its share, and of the factor of x = 1, -1, 0."""
    stakes = [(share, stake / (1 + p)) for stake, share in FOR]
    return tuple((math.log(share), math.log1p(h * (1 - p)), math.log1p(-h * (1 + p)), math.log1p(-h * p)) for share, h in stakes)


@lru_cache(maxsize=64)
def _against(e: float) -> tuple[Row, ...]:
    stakes = [(share, stake / max(1 - e, LEAST_GAP)) for stake, share in AGAINST]
    return tuple((math.log(share), math.log1p(-h * (1 - e)), math.log1p(h * (1 + e)), math.log1p(h * e)) for share, h in stakes)


@dataclass(frozen=True)
class Excess:
    """Of n requests, `more` were met with the candidate only and `less` with stable only."""

    n: int
    more: int
    less: int

    @classmethod
    def of_margins(cls, n: int, candidate: int, stable: int) -> Excess:
        """Where it is not known on how many requests both were met: as few as can be, for then both capitals are smallest."""
        both = max(0, candidate + stable - n)
        return cls(n, candidate - both, stable - both)

    def log_for(self, p: float) -> float:
        """ln K(p): evidence that d is larger than p."""
        return self._log(_for(p))

    def log_against(self, e: float) -> float:
        """ln L(e): evidence that d is smaller than e."""
        return self._log(_against(e))

    def _log(self, rows: tuple[Row, ...]) -> float:
        rest = self.n - self.more - self.less
        logs = [start + self.more * up + self.less * down + rest * same for start, up, down, same in rows]
        most = max(logs)
        return most + math.log(sum(math.exp(x - most) for x in logs))
