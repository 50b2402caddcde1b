"""What goes wrong on purpose: calls that fail or lie, and the ends of processes.

A fault is armed with :meth:`pspf.testing.SimDisk.fail` and hits the nth call of its kind. Besides plain
errors it knows the ways in which a sync lies, each seen on a real file system:

``lies="clean"``
    The sync fails, once per open descriptor; afterwards the pages count as clean. The cache reads right, the
    medium holds what it held before, and whoever opens the file later syncs with success over the hole.
``lies="aborted"``
    The journal was aborted: the sync *succeeds*, nothing reached the medium, and nothing ever will. What
    needs the journal fails from now on: names, sizes, times. An overwrite inside a file still succeeds, as it
    does on ext4 when the clock has not ticked since the last one.
``lies="writeback"``
    (of ``pwrite`` and ``pwritev``) The write succeeds and reads back right from the cache; the kernel's own
    write-back of it has failed behind everybody's back. The next sync of a descriptor that is open now fails
    once, later ones succeed; the medium never gets the bytes unless they are written again.
"""

import os

LIES = ("clean", "aborted", "writeback")


class WouldDeadlock(RuntimeError):
    """A blocking lock that nobody could ever release: its holder is this very thread."""


class Stopped(BaseException):
    """The simulated process does not exist any more. Not an ``Exception``: no handler may go on after it."""


class Killed(Stopped):
    """SIGKILL: descriptors and locks are gone, what was written is in the page cache."""


class PowerCut(Stopped):
    """The machine is off. What is on the medium is told by :meth:`pspf.testing.SimDisk.crash_states`."""


class Fault:
    """One armed fault; see :meth:`pspf.testing.SimDisk.fail` for the fields."""

    __slots__ = ("call", "error", "hits", "keep_size", "lies", "name", "short", "skip", "times")

    def __init__(
        self,
        call: str,
        skip: int,
        error: int,
        times: int,
        short: int,
        lies: str,
        keep_size: bool,
        name: str,
    ) -> None:
        if lies and lies not in LIES:
            raise ValueError(f"lies is one of {', '.join(LIES)}, not {lies!r}")
        if lies in ("clean", "aborted") and call not in ("fdatasync", "fsync"):
            raise ValueError(f"{call} cannot lie in the way {lies!r}: that is of fdatasync and fsync")
        if lies == "writeback" and call not in ("pwrite", "pwritev"):
            raise ValueError(f"{call} cannot lie in the way {lies!r}: that is of pwrite and pwritev")
        self.call = call
        self.skip = skip
        self.error = error
        self.times = times
        self.short = short
        self.lies = lies
        self.keep_size = keep_size
        self.name = name
        self.hits = 0

    def strikes(self, call: str, name: str) -> bool:
        """Whether this call is the one; counts it if it is of the kind."""
        if self.call not in (call, "*") or self.times <= 0 or not name.endswith(self.name):
            return False
        if self.skip:
            self.skip -= 1
            return False
        self.times -= 1
        self.hits += 1
        return True


def os_error(number: int, name: str | None = None, other: str | None = None) -> OSError:
    """The error that Python makes of the kernel's ``number``: the right subclass, with the names it had."""
    if name is None:
        return OSError(number, os.strerror(number))
    if other is None:
        return OSError(number, os.strerror(number), name)
    return OSError(number, os.strerror(number), name, None, other)
