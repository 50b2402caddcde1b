"""Says on standard error who holds a lock that has not come for five seconds.

A blocked ``flock`` cannot time out by itself, so one thread per process looks at what is being waited for.
It is started when a lock is first contended; a process that never waits never pays for it.
"""

import os
import sys
from _thread import allocate_lock, start_new_thread
from time import monotonic, sleep

PATIENCE_S = 5.0

_waiting: dict[int, tuple[int, float]] = {}
_guard = allocate_lock()
_started_in = 0


class announce_waiting:
    """Context in which a wait for the lock of ``fd`` is watched."""

    __slots__ = ("_fd", "_key")

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._key = id(self)

    def __enter__(self) -> None:
        global _started_in
        with _guard:
            _waiting[self._key] = (self._fd, monotonic())
            if _started_in != os.getpid():
                _started_in = os.getpid()
                start_new_thread(_watch, ())

    def __exit__(self, *_: object) -> None:
        with _guard:
            _waiting.pop(self._key, None)


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
        sleep(1.0)
        with _guard:
            late = [(k, fd) for k, (fd, since) in _waiting.items() if monotonic() - since > PATIENCE_S]
        for key, fd in late:
            if key in told:
                continue
            told.add(key)
            try:
                sys.stderr.write(f"pspf: waiting for a lock held by {holder_of(fd)}\n")
                sys.stderr.flush()
            except (OSError, ValueError):
                pass
