"""How far a long command has got, on a terminal only, and gone without a trace when it is done."""

from __future__ import annotations

from os import isatty
from time import monotonic

from pspf.cli.main import complain

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pspf.cli.main import Invocation

EVERY_S = 0.1
CLEAR = "\r\x1b[K"


class Progress:
    """A line on standard error, for ``update(done, total)``."""

    __slots__ = ("_next", "_shown", "_wanted", "what")

    def __init__(self, cli: Invocation, what: str) -> None:
        self.what = what
        self._wanted = not cli.quiet and isatty(2)
        self._shown = False
        self._next = 0.0

    def update(self, done: int, total: int) -> None:
        """Show how much is done: not within the first tenth of a second, and ten times a second at most."""
        if not self._wanted or not total:
            return
        now = monotonic()
        if not self._next:
            self._next = now + EVERY_S
        if now >= self._next:
            self._next = now + EVERY_S
            self._shown = True
            complain(f"{CLEAR}{self.what} {100 * done // total} %")

    def clear(self) -> None:
        """Take the line away, before anything else is printed."""
        if self._shown:
            self._shown = False
            complain(CLEAR)
