"""Waiting with watchfiles, where there is no inotify: macOS and others. Wakes within some milliseconds."""

import os
import select
from threading import Event
from time import monotonic

from watchfiles import watch

from pspf.wake.polling import WakePipe

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Generator, Set

    from watchfiles.main import FileChange

# So long a hang-up, or a wake-up by hand, may go unnoticed: watchfiles waits for files only.
_LOOK_MS = 50
_GATHER_MS = 5
_STEP_MS = 1


class WatchingWaiter:
    """See :class:`pspf.wake.base.Waiter`.

    Which of the paths changed is never said: the names that the system reports need not be those that were
    given (``/tmp`` is ``/private/tmp`` on a Mac).
    """

    __slots__ = ("_changes", "_pipe", "_places", "_stop", "_wanted", "changed")

    def __init__(self) -> None:
        self.changed: "Set[str] | None" = None
        self._wanted: "set[str]" = set()
        self._places: "set[str]" = set()
        self._changes: "Generator[set[FileChange], None, None] | None" = None
        self._stop = Event()
        self._pipe = WakePipe()

    def add(self, path: str) -> None:
        """Watch ``path``, through the nearest directory that is there."""
        if path not in self._wanted:
            self._wanted.add(path)
            self._end()

    def _end(self) -> None:
        if self._changes is not None:
            self._changes.close()
            self._changes = None

    def wait(self, timeout_s: float, also_fd: "int | None" = None) -> str:
        """``changed``, ``timeout`` or ``hangup``."""
        poll = select.poll()
        poll.register(self._pipe.fd, select.POLLIN)
        if also_fd is not None:
            poll.register(also_fd, 0)
        until = monotonic() + timeout_s
        while True:
            for fd, _ in poll.poll(0):
                if fd == self._pipe.fd:
                    self._pipe.empty()
                    return "changed"
                return "hangup"
            if monotonic() >= until:
                return "timeout"
            if self._happened():
                return "changed"

    def _happened(self) -> bool:
        new = self._changes is None
        if self._changes is None:
            self._places = set(map(_nearest_directory, self._wanted))
            self._changes = watch(
                *self._places,
                watch_filter=None,
                debounce=_GATHER_MS,
                step=_STEP_MS,
                rust_timeout=_LOOK_MS,
                yield_on_timeout=True,
                stop_event=self._stop,
                recursive=False,
            )
        happened = next(self._changes, None)
        if happened is None or (happened and set(map(_nearest_directory, self._wanted)) != self._places):
            self._end()  # what was waited for has come, or what was watched is gone
        # What came before it was watched is found by looking.
        return new or bool(happened)

    def wake(self) -> None:
        """Let :meth:`wait` return."""
        self._pipe.ring()

    def close(self) -> None:
        """Let go of all descriptors."""
        self._end()
        self._pipe.close()


def _nearest_directory(path: str) -> str:
    while not os.path.isdir(path):
        above = os.path.dirname(path)
        if above in ("", path):
            return "."
        path = above
    return path
