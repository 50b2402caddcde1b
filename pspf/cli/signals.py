"""Ending by a signal, and stopping cleanly at the first one.

``_signal`` is the C half of ``signal``, whose enums cost more than an append.
"""

import _signal  # type: ignore[import-not-found]

SIGHUP, SIGINT, SIGTERM = 1, 2, 15


class Stop:
    """Whether a signal asked to stop, and which; called between two reads of the input.

    Nothing is raised where the signal arrives: that could be between a write and its acknowledgement.
    """

    __slots__ = ("number",)

    def __init__(self) -> None:
        self.number = 0

    def __call__(self) -> bool:
        return self.number != 0

    def take(self, number: int, _frame: object) -> None:
        """The handler. A second signal ends the process at once, as it would have without us."""
        if self.number:
            die_of(number)
        self.number = number


def stop_cleanly() -> Stop:
    """Catch SIGINT, SIGTERM and SIGHUP from now on. One that the caller has set to be ignored stays so."""
    stop = Stop()
    for number in (SIGINT, SIGTERM, SIGHUP):
        if _signal.getsignal(number) != _signal.SIG_IGN:
            _signal.signal(number, stop.take)
    return stop


def die_of(number: int) -> int:
    """End the process by signal ``number``, as if it had never been caught.

    A shell then ends the loop that the command stands in and shows 128 + ``number``; a plain exit with that
    code would let the loop go on.
    """
    from os import getpid, kill

    _signal.signal(number, _signal.SIG_DFL)
    kill(getpid(), number)
    return 128 + number
