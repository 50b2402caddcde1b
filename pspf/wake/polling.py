"""Waiting by looking: for machines without notifications, and for paths that cannot be watched.

It looks 500 times a second just after a change and ever less often, down to 20 times, while nothing happens.
"""

import os
import select
from time import monotonic, time_ns

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Set

LEAST_PAUSE_S = 0.002
MOST_PAUSE_S = 0.05
# A file's time stands still for up to a tick of the kernel's clock, in which a second write would go unseen.
_TICK_NS = 20_000_000


class Looker:
    """What was last seen of some paths."""

    __slots__ = ("_seen",)

    def __init__(self) -> None:
        self._seen: "dict[str, tuple[int, ...]]" = {}

    def __len__(self) -> int:
        return len(self._seen)

    def add(self, path: str) -> None:
        """Compare ``path`` from now on."""
        if path not in self._seen:
            self._seen[path] = _look(path)

    def changed(self) -> "set[str]":
        """The paths that differ from when they were last looked at."""
        changed = set()
        for path, before in self._seen.items():
            now = _look(path)
            if now != before:
                self._seen[path] = now
                changed.add(path)
        return changed


def _look(path: str) -> "tuple[int, ...]":
    try:
        found = os.stat(path)
    except OSError:
        return ()
    age = time_ns() - found.st_mtime_ns
    # While a change is fresh, each look counts as a change of its own.
    fresh = age if 0 <= age < _TICK_NS else -1
    return (found.st_mtime_ns, found.st_size, found.st_ino, fresh)


class WakePipe:
    """A descriptor that becomes readable when somebody calls :meth:`ring`."""

    __slots__ = ("_write_fd", "fd")

    def __init__(self) -> None:
        self.fd, self._write_fd = os.pipe()
        os.set_blocking(self.fd, False)
        os.set_blocking(self._write_fd, False)

    def ring(self) -> None:
        """From any thread, or a signal handler."""
        try:
            os.write(self._write_fd, b"\0")
        except OSError:
            pass  # full: it rings already; closed: nobody listens any more

    def empty(self) -> None:
        """Forget all rings so far."""
        try:
            while os.read(self.fd, 4096):
                pass
        except BlockingIOError:
            pass

    def close(self) -> None:
        """Close both ends."""
        os.close(self.fd)
        os.close(self._write_fd)


class PollingWaiter:
    """See :class:`pspf.wake.base.Waiter`."""

    __slots__ = ("_looker", "_pause_s", "_pipe", "changed")

    def __init__(self) -> None:
        self.changed: "Set[str] | None" = None
        self._looker = Looker()
        self._pipe = WakePipe()
        self._pause_s = LEAST_PAUSE_S

    def add(self, path: str) -> None:
        """Watch ``path``."""
        self._looker.add(path)

    def wait(self, timeout_s: float, also_fd: "int | None" = None) -> str:
        """``changed``, ``timeout`` or ``hangup``."""
        until = monotonic() + timeout_s
        poll = select.poll()
        poll.register(self._pipe.fd, select.POLLIN)
        if also_fd is not None:
            poll.register(also_fd, 0)
        while True:
            left_s = until - monotonic()
            # First the pause, then the look: a file that is always fresh must not keep a processor busy.
            for fd, _ in poll.poll(max(min(self._pause_s, left_s), 0) * 1000):
                if fd == self._pipe.fd:
                    self._pipe.empty()
                    self.changed = None
                    return "changed"
                return "hangup"
            self._pause_s = min(self._pause_s * 1.5, MOST_PAUSE_S)
            changed = self._looker.changed()
            if changed:
                self.changed = changed
                self._pause_s = LEAST_PAUSE_S
                return "changed"
            if monotonic() >= until:
                return "timeout"

    def wake(self) -> None:
        """Let :meth:`wait` return."""
        self._pipe.ring()

    def close(self) -> None:
        """Let go of all descriptors."""
        self._pipe.close()
