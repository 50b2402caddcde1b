"""What every way of waiting offers. Off the start-up path: only type checkers read this."""

from collections.abc import Set as AbstractSet
from typing import Protocol


class Waiter(Protocol):
    """Waits until one of some files or directories changes.

    A change is a hint: whoever is woken looks for himself, and looks once a second without being woken, since
    notifications get lost (network mounts, full queues). A change between two calls of :meth:`wait` is not
    lost: the second returns at once. Not for several threads at once, except :meth:`wake`.
    """

    changed: "AbstractSet[str] | None"
    """After ``changed``: which of the paths; None when that is not known."""

    def add(self, path: str) -> None:
        """Watch ``path``: a file that is written to, or a directory in which names appear and go.

        A path that is not there yet is watched for. Never fails: what cannot be watched is looked at often.
        """

    def wait(self, timeout_s: float, also_fd: "int | None" = None) -> str:
        """``changed``, ``timeout``, or ``hangup``: the other end of ``also_fd`` was closed."""

    def wake(self) -> None:
        """Make a :meth:`wait` that is under way, or the next one, return ``changed``; from anywhere."""

    def close(self) -> None:
        """Let go of all descriptors."""
