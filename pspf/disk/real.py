"""The operating system's files, behind the calls that tests replace.

Every file that PSPF keeps is reached through one object of this class, handed down from the store, so that
a simulated disk can take its place (``pspf.testing``). The methods are the system calls, with three rules:

- names are opened below a directory descriptor, never followed through a symlink, never inherited by exec;
- a write is whole or it raises (a short write is repeated until the kernel says why);
- after a fork every descriptor is closed in the child: a child that kept one would keep its parent's locks.
"""

import os
from _thread import RLock
from fcntl import LOCK_EX, LOCK_NB, LOCK_SH, LOCK_UN, fcntl, flock
from time import time_ns

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_BASE_FLAGS = os.O_CLOEXEC | os.O_NOFOLLOW
READ = os.O_RDONLY
WRITE = os.O_RDWR
CREATE = os.O_RDWR | os.O_CREAT
CREATE_NEW = os.O_RDWR | os.O_CREAT | os.O_EXCL
CREATE_EMPTY = os.O_RDWR | os.O_CREAT | os.O_TRUNC

_SET_PIPE_SIZE = 1031

_datasync: "Callable[[int], None]"
_sync: "Callable[[int], None]"
if hasattr(os, "fdatasync"):
    _datasync, _sync = os.fdatasync, os.fsync
else:
    from pspf.disk.macos import full_sync

    _datasync = _sync = full_sync

_open_descriptors: set[int] = set()
# Held while a descriptor is opened or closed, and by a fork: the child must know every descriptor it has.
# One thread may have it twice: a signal or the garbage collector may come in between.
_registry = RLock()
forks = 0
"""How many forks lie between the start of this program and this process; handles compare it."""


def _close_all_in_child() -> None:
    global forks
    forks += 1
    for fd in _open_descriptors:
        try:
            os.close(fd)
        except OSError:
            pass
    _open_descriptors.clear()
    _registry.release()


os.register_at_fork(
    before=_registry.acquire, after_in_parent=_registry.release, after_in_child=_close_all_in_child
)


def grow_pipe(fd: int) -> None:
    """Let a pipe hold a megabyte: both sides wake up sixteen times less. What is no pipe stays as it is."""
    try:
        fcntl(fd, _SET_PIPE_SIZE, 1 << 20)
    except OSError:
        pass  # no pipe, or above the user's limit


class Disk:
    """Calls on real files. All positions and lengths are bytes; all errors are ``OSError``."""

    __slots__ = ("umask_mode",)

    def __init__(self) -> None:
        self.umask_mode = 0o600

    # -- descriptors

    def open(self, name: str, flags: int = READ, dir_fd: "int | None" = None) -> int:
        """Open file ``name`` below ``dir_fd``; new files get mode 0600, or 0660 in a shared store."""
        with _registry:
            fd = os.open(name, flags | _BASE_FLAGS, self.umask_mode, dir_fd=dir_fd)
            _open_descriptors.add(fd)
        if self.umask_mode != 0o600 and flags & os.O_CREAT:
            from pspf.disk.shared import give_to_group

            give_to_group(fd, self.umask_mode)
        return fd

    def open_dir(self, name: str, dir_fd: "int | None" = None, follow: bool = False) -> int:
        """Open a directory. ``follow`` is for the store's own path only, which the user chose."""
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | (0 if follow else os.O_NOFOLLOW)
        with _registry:
            fd = os.open(name, flags, dir_fd=dir_fd)
            _open_descriptors.add(fd)
        return fd

    def close(self, fd: int) -> None:
        """Close ``fd``; its locks go with it."""
        with _registry:
            _open_descriptors.discard(fd)
            os.close(fd)

    # -- reading

    def pread(self, fd: int, length: int, position: int) -> bytes:
        """Up to ``length`` bytes; fewer only at the end of the file."""
        data = os.pread(fd, length, position)
        if len(data) == length or not data:
            return data
        parts = [data]
        got = len(data)
        while got < length:
            data = os.pread(fd, length - got, position + got)
            if not data:
                break
            parts.append(data)
            got += len(data)
        return b"".join(parts)

    def size(self, fd: int) -> int:
        """Size of the open file."""
        return os.fstat(fd).st_size

    def stat(self, fd: int) -> os.stat_result:
        """All that ``fstat`` tells of an open file."""
        return os.fstat(fd)

    def stat_name(self, name: str, dir_fd: "int | None" = None) -> os.stat_result:
        """``lstat`` of a name."""
        return os.stat(name, dir_fd=dir_fd, follow_symlinks=False)

    def exists(self, name: str, dir_fd: "int | None" = None) -> bool:
        """Whether there is such a name; a dangling symlink counts."""
        try:
            os.stat(name, dir_fd=dir_fd, follow_symlinks=False)
        except FileNotFoundError:
            return False
        return True

    def read_file(self, name: str, limit: int, dir_fd: "int | None" = None) -> bytes:
        """The whole of a small file, at most ``limit`` bytes of it."""
        fd = self.open(name, READ, dir_fd)
        try:
            return self.pread(fd, limit, 0)
        finally:
            self.close(fd)

    def listdir(self, dir_fd: int) -> list[str]:
        """Names in the open directory, in no order."""
        # By a descriptor of its own: copies of one share their place, and two threads would halve the list.
        fd = self.open_dir(".", dir_fd)
        try:
            return os.listdir(fd)
        finally:
            self.close(fd)

    def read_stable(self, fd: int, name: str, dir_fd: int, length: int, position: int) -> bytes:
        """Read what is on the medium, not what the page cache holds.

        The range is dropped from the cache and then read past it (``O_DIRECT``) where the file system can.
        """
        from pspf.disk.stable import read_stable

        return read_stable(self, fd, name, dir_fd, length, position)

    # -- writing

    def pwrite(self, fd: int, data: "bytes | memoryview", position: int) -> None:
        """Write all of ``data`` at ``position``, or raise what stopped it."""
        done = os.pwrite(fd, data, position)
        while done < len(data):
            done += os.pwrite(fd, memoryview(data)[done:], position + done)

    def pwritev(self, fd: int, parts: "Sequence[bytes | memoryview]", position: int) -> None:
        """Write ``parts`` one behind the other at ``position``, or raise what stopped it."""
        total = sum(map(len, parts))
        done = os.pwritev(fd, parts, position)
        if done < total:
            self.pwrite(fd, memoryview(b"".join(parts))[done:], position + done)

    def truncate(self, fd: int, size: int) -> None:
        """Cut or extend the file to ``size``."""
        os.ftruncate(fd, size)

    def update_times(self, fd: int) -> None:
        """Set the file's times to now. That needs the journal, so it fails where syncs do nothing any more:
        ext4 goes read-only when its journal was aborted, and then they succeed without writing.
        """
        os.utime(fd)

    def fdatasync(self, fd: int) -> None:
        """Data and size of the file to stable storage."""
        _datasync(fd)

    def fsync(self, fd: int) -> None:
        """Everything of a file, or the entries of a directory, to stable storage."""
        _sync(fd)

    # -- names

    def rename(self, old: str, new: str, dir_fd: int, new_dir_fd: "int | None" = None) -> None:
        """Rename within or between open directories, replacing a file of the new name."""
        os.rename(old, new, src_dir_fd=dir_fd, dst_dir_fd=dir_fd if new_dir_fd is None else new_dir_fd)

    def unlink(self, name: str, dir_fd: int) -> None:
        """Remove a file's name."""
        os.unlink(name, dir_fd=dir_fd)

    def mkdir(self, name: str, dir_fd: "int | None" = None) -> None:
        """Make a directory, mode 0700, or 0770 in a shared store."""
        os.mkdir(name, 0o700 if self.umask_mode == 0o600 else 0o770, dir_fd=dir_fd)
        if self.umask_mode != 0o600:
            from pspf.disk.shared import give_directory

            give_directory(self, name, dir_fd)

    def rmdir(self, name: str, dir_fd: int) -> None:
        """Remove an empty directory."""
        os.rmdir(name, dir_fd=dir_fd)

    # -- locks

    def lock(self, fd: int, wait: bool = True) -> bool:
        """Take the exclusive lock of ``fd``'s file; False when ``wait`` is false and somebody has it."""
        try:
            flock(fd, LOCK_EX | LOCK_NB)
            return True
        except BlockingIOError:
            if not wait:
                return False
        from pspf.disk.waiting import announce_waiting

        with announce_waiting(fd):
            flock(fd, LOCK_EX)
        return True

    def lock_soon(self, fd: int) -> bool:
        """As :meth:`lock`, but False after two seconds: for who can do without."""
        from pspf.disk.waiting import lock_within

        return lock_within(fd, 2.0)

    def lock_shared(self, fd: int) -> bool:
        """Take a shared lock without waiting; False when somebody holds it exclusively."""
        try:
            flock(fd, LOCK_SH | LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def unlock(self, fd: int) -> None:
        """Give the lock back."""
        flock(fd, LOCK_UN)

    # -- time

    def now_ns(self) -> int:
        """Wall clock, ns since the epoch, within what the format can hold (1970 to 2116)."""
        return min(max(time_ns(), 0), 1 << 62)
