"""Says on standard error who holds a lock that has not come for five seconds.

A blocked ``flock`` cannot time out by itself, so one thread per process looks at what is being waited for.
It is started when a lock is first contended; a process that never waits never pays for it.
"""

import os
import sys
from _thread import allocate_lock, start_new_thread
from fcntl import LOCK_EX, LOCK_NB, flock
from itertools import count
from time import monotonic, sleep

PATIENCE_S = 5.0
_LOOK_S = 1.0

_waiting: dict[int, tuple[int, float]] = {}
_guard = allocate_lock()
_numbers = count()
_started = False


def _forget_in_child() -> None:
    """The child waits for nothing, has no watching thread, and one of the parent's may hold the guard."""
    global _guard, _started
    _guard = allocate_lock()
    _started = False
    _waiting.clear()


os.register_at_fork(after_in_child=_forget_in_child)


class announce_waiting:
    """Context in which a wait for the lock of ``fd`` is watched."""

    __slots__ = ("_fd", "_key")

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._key = next(_numbers)  # never used again, unlike an id

    def __enter__(self) -> None:
        global _started
        with _guard:
            _waiting[self._key] = (self._fd, monotonic())
            if not _started:
                start_new_thread(_watch, ())
                _started = True

    def __exit__(self, *_: object) -> None:
        with _guard:
            _waiting.pop(self._key, None)


def lock_within(fd: int, seconds: float) -> bool:
    """Take the exclusive lock of ``fd``'s file if it comes within so long. ``flock`` knows no such time."""
    until, pause = monotonic() + seconds, 0.0005
    while True:
        try:
            flock(fd, LOCK_EX | LOCK_NB)
            return True
        except BlockingIOError:
            if monotonic() > until:
                return False
        sleep(pause)
        pause = min(2 * pause, 0.02)


def holder_of(fd: int) -> str:
    """``pid 123 (pspf append t)`` for the holder of a file's exclusive lock, or ``another process``."""
    me = os.fstat(fd)
    mark = f"{os.major(me.st_dev):02x}:{os.minor(me.st_dev):02x}:{me.st_ino}"
    try:
        with open("/proc/locks", encoding="ascii") as table:
            for line in table:
                fields = line.split()
                if "->" not in fields and fields[1] == "FLOCK" and fields[5] == mark:
                    return _describe(int(fields[4]))
    except (OSError, ValueError, IndexError):
        pass
    return "another process"


def _describe(pid: int) -> str:
    if pid <= 0:  # a holder in another pid namespace
        return "a process of another container"
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            words = file.read(200).rstrip(b"\0").split(b"\0")
        with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as file:
            stopped = file.read().rsplit(")", 1)[1].split()[0] in "Tt"
    except (OSError, IndexError):
        return f"pid {pid}"
    command = ascii(b" ".join(words).decode("utf-8", "replace"))[1:-1]
    return f"pid {pid} ({command}{', stopped' if stopped else ''})"


def _watch() -> None:
    told: set[int] = set()
    while True:
        sleep(_LOOK_S)
        with _guard:
            late = {k: fd for k, (fd, since) in _waiting.items() if monotonic() - since > PATIENCE_S}
        told &= late.keys()
        for key, fd in late.items():
            if key in told:
                continue
            told.add(key)
            try:
                sys.stderr.write(f"pspf: waiting for a lock held by {holder_of(fd)}\n")
                sys.stderr.flush()
            except (OSError, ValueError):
                pass
