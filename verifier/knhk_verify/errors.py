"""The one error of the verifier."""


class Bad(ValueError):
    """Something does not verify: `where` names the file, entry or field, `what` says what is wrong there."""

    def __init__(self, where: str, what: str) -> None:
        self.where, self.what = where, what
        super().__init__(f"{where}: {what}")


def demand(holds: bool, where: str, what: str) -> None:
    """Raises Bad unless it holds."""
    if not holds:
        raise Bad(where, what)
