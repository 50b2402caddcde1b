"""Waiting with Linux' inotify, called through ctypes: about a tenth of a millisecond from write to wake-up.

A file that does not exist yet is watched for through the nearest directory that does. What the kernel refuses
to watch (the user's watches are used up) is looked at instead, twenty times a second.
"""

import ctypes
import os
import select
from struct import Struct
from time import monotonic

from pspf.wake.polling import MOST_PAUSE_S, Looker, WakePipe

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Set

IN_MODIFY = 0x2
IN_ATTRIB = 0x4
IN_MOVED_FROM = 0x40
IN_MOVED_TO = 0x80
IN_CREATE = 0x100
IN_DELETE = 0x200
IN_DELETE_SELF = 0x400
IN_MOVE_SELF = 0x800
IN_Q_OVERFLOW = 0x4000
IN_IGNORED = 0x8000
IN_DONT_FOLLOW = 0x02000000
_NONBLOCK_CLOEXEC = os.O_NONBLOCK | os.O_CLOEXEC

# The last link of a deleted file shows as a change of its attributes while somebody has it open: we do.
_FILE = IN_MODIFY | IN_ATTRIB | IN_DELETE_SELF | IN_MOVE_SELF | IN_DONT_FOLLOW
_DIRECTORY = (
    IN_CREATE | IN_MOVED_TO | IN_MOVED_FROM | IN_DELETE | IN_DELETE_SELF | IN_MOVE_SELF | IN_DONT_FOLLOW
)
_EVENT = Struct("iIII")
_READ_BYTES = 1 << 16


class InotifyWaiter:
    """See :class:`pspf.wake.base.Waiter`.

    :raises OSError: the kernel gives no instance.
    """

    __slots__ = (
        "_add_watch",
        "_awaited",
        "_fd",
        "_looker",
        "_paths",
        "_pipe",
        "_poll",
        "_wanted",
        "changed",
    )

    def __init__(self) -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        self._add_watch = libc.inotify_add_watch
        self._add_watch.argtypes = (ctypes.c_int, ctypes.c_char_p, ctypes.c_uint32)
        fd = libc.inotify_init1(_NONBLOCK_CLOEXEC)
        if fd < 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))
        self._fd: int = fd
        self.changed: "Set[str] | None" = None
        self._paths: "dict[int, set[str]]" = {}
        self._wanted: "set[str]" = set()
        self._awaited: "set[str]" = set()
        self._looker = Looker()
        try:
            self._pipe = WakePipe()
        except OSError:
            os.close(fd)
            raise
        self._poll = select.poll()
        self._poll.register(fd, select.POLLIN)
        self._poll.register(self._pipe.fd, select.POLLIN)

    def add(self, path: str) -> None:
        """Watch ``path``, or for it."""
        if path not in self._wanted:
            self._wanted.add(path)
            self._place(path)

    def _place(self, path: str) -> None:
        """Watch ``path`` itself, or the nearest directory above it that is there."""
        place = path
        while True:
            # A directory is watched for names only, not for what is written into its files.
            mask = _DIRECTORY if os.path.isdir(place) else _FILE
            watch = self._add_watch(self._fd, os.fsencode(place), mask)
            if watch >= 0:
                if path in self._awaited:
                    self._awaited.discard(path)
                    for others in self._paths.values():
                        others.discard(path)
                self._paths.setdefault(watch, set()).add(path)
                if place == path:
                    return
                self._awaited.add(path)
                step = path[len(place) :].lstrip("/").partition("/")[0]
                if not os.path.lexists(os.path.join(place, step)):
                    return
                place = path  # it came before its directory was watched, and nothing would tell of it
                continue
            if ctypes.get_errno() not in (2, 20):  # ENOENT, ENOTDIR: not there, or not yet
                self._looker.add(path)
                return
            above = os.path.dirname(place)
            if above in (place, ""):
                self._looker.add(path)
                return
            place = above

    def wait(self, timeout_s: float, also_fd: "int | None" = None) -> str:
        """``changed``, ``timeout`` or ``hangup``."""
        if also_fd is not None:
            self._poll.register(also_fd, 0)  # errors and hang-ups are always told
        try:
            if not self._looker:
                return self._wait(timeout_s)
            until = monotonic() + timeout_s
            while True:
                left_s = until - monotonic()
                reason = self._wait(max(min(left_s, MOST_PAUSE_S), 0))
                changed = self._looker.changed()
                if reason == "hangup" or (reason == "changed" and not changed):
                    return reason
                if changed:
                    if reason == "timeout":
                        self.changed = changed
                    elif self.changed is not None:
                        self.changed = self.changed | changed
                    return "changed"
                if left_s <= 0:
                    return reason
        finally:
            if also_fd is not None:
                self._poll.unregister(also_fd)

    def _wait(self, timeout_s: float) -> str:
        until = monotonic() + timeout_s
        while True:
            left_s = max(until - monotonic(), 0)
            hangup = False
            happened = False
            # Rounded up: a wait of less than a millisecond must not become a busy loop.
            for fd, _ in self._poll.poll(int(left_s * 1000) + (left_s > 0)):
                if fd == self._fd:
                    happened = self._take_events() or happened
                elif fd == self._pipe.fd:
                    self._pipe.empty()
                    self.changed = None
                    return "changed"
                else:
                    hangup = True
            if happened:
                return "changed"
            if hangup:
                return "hangup"
            if left_s <= 0:
                return "timeout"

    def _take_events(self) -> bool:
        """Read what the kernel has to tell into ``changed``; False when it was nothing of ours."""
        changed: "set[str] | None" = set()
        try:
            data = os.read(self._fd, _READ_BYTES)
        except BlockingIOError:
            return False
        at = 0
        again: "set[str]" = set()
        while at < len(data):
            watch, mask, _, length = _EVENT.unpack_from(data, at)
            at += _EVENT.size + length
            if mask & IN_Q_OVERFLOW:
                changed = None
                again |= self._wanted
                continue
            paths = self._paths.get(watch, ())
            if changed is not None:
                changed.update(paths)
            if mask & IN_IGNORED:  # the kernel has dropped the watch: what it watched is gone
                again.update(self._paths.pop(watch, ()))
            elif mask & (IN_MOVE_SELF | IN_ATTRIB):
                again.update(paths)
            else:
                again.update(self._awaited.intersection(paths))
        for path in again:
            self._place(path)
        if changed is None or changed:
            self.changed = changed
            return True
        return False

    def wake(self) -> None:
        """Let :meth:`wait` return."""
        self._pipe.ring()

    def close(self) -> None:
        """Let go of all descriptors."""
        os.close(self._fd)
        self._pipe.close()
