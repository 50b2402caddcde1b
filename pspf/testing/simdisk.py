"""A disk in memory with the methods of :class:`pspf.disk.real.Disk`, made to be crashed.

:class:`SimDisk` is one process's view of a simulated machine; ``process()`` gives another process its own
descriptors and locks on the same files. Errors, short reads and locks are those of Linux
(``tests/test_simdisk_real.py`` makes the same calls on a real directory and compares). What a power cut may
leave is told by :mod:`pspf.testing.crashes`, which calls may fail and how by :mod:`pspf.testing.faults`.

Not simulated: symlinks, permissions, hard links, access and change times, and calls that run at the same
instant: a call happens as a whole, or up to the point where ``stop_after`` ends it.
"""

import errno
import os
from collections.abc import Sequence

from pspf.disk.real import READ
from pspf.testing.faults import Fault, Stopped, WouldDeadlock, os_error
from pspf.testing.medium import PAGE, Directory, File, OpenFile
from pspf.testing.process import Process


class SimDisk(Process):
    """A simulated disk as one process sees it; made directly, a fresh machine with an empty root directory.

    :param clock_ns: wall clock at the start, ns since the epoch; it moves by ``tick_ns`` at each look.
    """

    __slots__ = ()

    # -- descriptors

    def open(self, name: str, flags: int = READ, dir_fd: "int | None" = None) -> int:
        """As :meth:`pspf.disk.real.Disk.open`."""
        self._begin("open", name)
        try:
            directory, last = self._parent(name, dir_fd)
            node = self._look_up(directory, last)
            writable = bool(flags & (os.O_WRONLY | os.O_RDWR))
            if node is not None and flags & os.O_CREAT and flags & os.O_EXCL:
                raise os_error(errno.EEXIST)
            if isinstance(node, Directory) and (writable or flags & os.O_CREAT):
                raise os_error(errno.EISDIR)
            if self.machine.broken and (writable or (node is None and flags & os.O_CREAT)):
                raise os_error(self.machine.broken)
            changed = False
            if node is None:
                if not flags & os.O_CREAT or directory.nlink == 0:
                    raise os_error(errno.ENOENT)
                node = File(self.machine.new_ino(), 0o100000 | self.umask_mode)
                node.nlink = 1
                directory.entries[last] = node
                self.machine.change_names(f"create {last}", added=(directory, last, node))
                changed = True
            elif isinstance(node, File) and flags & os.O_TRUNC and node.cache:
                node.resize(0, self.machine.time())
                changed = True
        except OSError as error:
            raise os_error(error.errno or 0, name) from None
        fd = self._new_fd(node, last, writable)
        if changed:
            self._changed()
        return fd

    def open_dir(self, name: str, dir_fd: "int | None" = None, follow: bool = False) -> int:
        """As :meth:`pspf.disk.real.Disk.open_dir`; relative names without ``dir_fd`` begin at the root."""
        self._begin("open_dir", name)
        try:
            directory, last = self._parent(name, dir_fd)
            node = self._look_up(directory, last)
            if node is None:
                raise os_error(errno.ENOENT)
            if not isinstance(node, Directory):
                raise os_error(errno.ENOTDIR)
        except OSError as error:
            raise os_error(error.errno or 0, name) from None
        return self._new_fd(node, last, False)

    def close(self, fd: int) -> None:
        """As :meth:`pspf.disk.real.Disk.close`. After the process's end a close is no error: objects that
        still hold a descriptor may say so when they are collected."""
        if self.dead is not None:
            return
        try:
            self._begin("close", self._name(fd))
        except Stopped:
            return  # it ends with the next call that matters
        self._get(fd)
        self._release(fd)

    # -- reading

    def pread(self, fd: int, length: int, position: int) -> bytes:
        """As :meth:`pspf.disk.real.Disk.pread`."""
        self._begin("pread", self._name(fd))
        if position < 0:
            raise os_error(errno.EINVAL)
        node = self._get(fd).node
        if not isinstance(node, File):
            raise os_error(errno.EISDIR)
        return bytes(memoryview(node.cache)[position : position + length])

    def size(self, fd: int) -> int:
        """As :meth:`pspf.disk.real.Disk.size`."""
        self._begin("size", self._name(fd))
        return self._stat(self._get(fd).node).st_size

    def stat(self, fd: int) -> os.stat_result:
        """As :meth:`pspf.disk.real.Disk.stat`; the times are zero."""
        self._begin("stat", self._name(fd))
        return self._stat(self._get(fd).node)

    def stat_name(self, name: str, dir_fd: "int | None" = None) -> os.stat_result:
        """As :meth:`pspf.disk.real.Disk.stat_name`."""
        self._begin("stat_name", name)
        try:
            directory, last = self._parent(name, dir_fd)
            node = self._look_up(directory, last)
            if node is None:
                raise os_error(errno.ENOENT)
        except OSError as error:
            raise os_error(error.errno or 0, name) from None
        return self._stat(node)

    def exists(self, name: str, dir_fd: "int | None" = None) -> bool:
        """As :meth:`pspf.disk.real.Disk.exists`."""
        try:
            self.stat_name(name, dir_fd)
        except FileNotFoundError:
            return False
        return True

    def _stat(self, node: "File | Directory") -> os.stat_result:
        size = len(node.cache) if isinstance(node, File) else PAGE
        fields = (
            node.mode,
            node.ino,
            self.machine.dev,
            node.nlink,
            os.geteuid(),
            os.getegid(),
            size,
            0,
            0,
            0,
        )
        more = {"st_blksize": PAGE, "st_blocks": (size + PAGE - 1) // PAGE * 8}
        return os.stat_result(fields, more)

    def listdir(self, dir_fd: int) -> list[str]:
        """As :meth:`pspf.disk.real.Disk.listdir`."""
        self._begin("listdir", self._name(dir_fd))
        # The real call opens "." below the descriptor, so that is the name in its errors.
        try:
            node = self._get(dir_fd).node
        except OSError as error:
            raise os_error(error.errno or 0, ".") from None
        if not isinstance(node, Directory):
            raise os_error(errno.ENOTDIR, ".")
        return list(node.entries)

    def read_stable(self, fd: int, name: str, dir_fd: int, length: int, position: int) -> bytes:
        """As :meth:`pspf.disk.real.Disk.read_stable`: clean pages of the range are dropped from the cache."""
        self._begin("read_stable", name)
        node = self._get(fd).node
        if isinstance(node, File):
            node.drop(position, position + length)
        try:
            directory, last = self._parent(name, dir_fd)
            named = self._look_up(directory, last)
            if named is None:
                raise os_error(errno.ENOENT)
        except OSError as error:
            raise os_error(error.errno or 0, name) from None
        if isinstance(named, File):
            return named.read_medium(length, position)
        if not isinstance(node, File):  # a directory cannot be opened for it
            raise os_error(errno.EISDIR)
        return bytes(memoryview(node.cache)[position : position + length])

    # -- writing

    def pwrite(self, fd: int, data: "bytes | memoryview", position: int) -> None:
        """As :meth:`pspf.disk.real.Disk.pwrite`."""
        fault = self._begin("pwrite", self._name(fd), changing=not self._silent(fd, position + len(data)))
        self._write(fd, data, position, fault)

    def pwritev(self, fd: int, parts: "Sequence[bytes | memoryview]", position: int) -> None:
        """As :meth:`pspf.disk.real.Disk.pwritev`."""
        end = position + sum(map(len, parts))
        fault = self._begin("pwritev", self._name(fd), changing=not self._silent(fd, end))
        self._write(fd, b"".join(parts), position, fault)

    def _silent(self, fd: int, end: int) -> bool:
        """Whether a write succeeds though the journal was aborted: it changes nothing that needs one."""
        found = self._fds.get(fd)
        return (
            self.machine.aborted
            and found is not None
            and isinstance(found.node, File)
            and end <= len(found.node.cache)
        )

    def update_times(self, fd: int) -> None:
        """As :meth:`pspf.disk.real.Disk.update_times`. The times themselves are not kept."""
        self._begin("update_times", self._name(fd), changing=True)
        self._get(fd)

    def _write(self, fd: int, data: "bytes | memoryview", position: int, fault: Fault | None) -> None:
        if position < 0:
            raise os_error(errno.EINVAL)
        node = self._writable(fd, errno.EBADF)
        # Bytes, whatever the view's items are; and a copy, since the caller may change its buffer.
        data = bytes(data)
        now = self.machine.time()
        done = self._torn_length(position, len(data))
        if done is not None:
            node.write(position, data[:done], now)
        elif fault is not None and not fault.lies:
            node.write(position, data[: fault.short], now)
            self.changes += 1
            raise os_error(fault.error)
        else:
            node.write(position, data, now)
            if fault is not None:
                node.forget_range(position, position + len(data), fault.keep_size)
                node.errors += 1
                node.errors_told = False
        self._changed()

    def truncate(self, fd: int, size: int) -> None:
        """As :meth:`pspf.disk.real.Disk.truncate`."""
        self._begin("truncate", self._name(fd), changing=True)
        if size < 0:
            raise os_error(errno.EINVAL)
        self._writable(fd, errno.EINVAL).resize(size, self.machine.time())
        self._changed()

    def fdatasync(self, fd: int) -> None:
        """As :meth:`pspf.disk.real.Disk.fdatasync`."""
        self._sync("fdatasync", fd)

    def fsync(self, fd: int) -> None:
        """As :meth:`pspf.disk.real.Disk.fsync`."""
        self._sync("fsync", fd)

    def _sync(self, call: str, fd: int) -> None:
        fault = self._begin(call, self._name(fd))
        found = self._get(fd)
        node = found.node
        if isinstance(node, Directory):
            # A directory has no pages of its own here: a fault that would lie about them just fails.
            if fault is not None:
                raise os_error(fault.error)
            if not self.machine.broken:
                self.machine.sync_directory(node)
            self._changed()
            return
        if fault is not None:
            self._failed_sync(fault, found, node)
            return
        if self.machine.broken:
            # What is dirty is lost, and success a lie.
            node.forget()
            return
        self.machine.sync_file(node, call == "fdatasync")
        if found.error_seen != node.errors:
            found.error_seen = node.errors
            node.errors_told = True
            self.changes += 1
            raise os_error(errno.EIO)
        self._changed()

    def _failed_sync(self, fault: Fault, found: OpenFile, node: File) -> None:
        if fault.short:
            node.sync(pages=fault.short)
        if not fault.lies:
            raise os_error(fault.error)
        node.forget(fault.keep_size)
        self.changes += 1
        if fault.lies == "aborted":
            self.machine.broken, self.machine.aborted = fault.error, True
            return
        node.errors += 1
        node.errors_told = True
        found.error_seen = node.errors
        raise os_error(fault.error)

    # -- names

    def rename(self, old: str, new: str, dir_fd: int, new_dir_fd: "int | None" = None) -> None:
        """As :meth:`pspf.disk.real.Disk.rename`."""
        self._begin("rename", new, changing=True)
        try:
            changed = self._rename(old, new, dir_fd, dir_fd if new_dir_fd is None else new_dir_fd)
        except OSError as error:
            raise os_error(error.errno or 0, old, new) from None
        if changed:
            self._changed()

    def _rename(self, old: str, new: str, dir_fd: int, new_dir_fd: int) -> bool:
        source, old_name = self._parent(old, dir_fd)
        target, new_name = self._parent(new, new_dir_fd)
        if {old_name, new_name} & {".", ".."}:
            raise os_error(errno.EBUSY)
        node = self._look_up(source, old_name)
        if node is None:
            raise os_error(errno.ENOENT)
        replaced = self._look_up(target, new_name)
        above: Directory = target
        while isinstance(node, Directory) and above is not above.parent:
            if above is node:
                raise os_error(errno.EINVAL)
            above = above.parent
        if replaced is None and target.nlink == 0:
            raise os_error(errno.ENOENT)
        above = source
        while isinstance(replaced, Directory) and replaced is not node and above is not above.parent:
            if above is replaced:
                raise os_error(errno.ENOTEMPTY)
            above = above.parent
        if replaced is node:
            return False
        if isinstance(node, Directory) and replaced is not None:
            if not isinstance(replaced, Directory):
                raise os_error(errno.ENOTDIR)
            if replaced.entries:
                raise os_error(errno.ENOTEMPTY)
        elif isinstance(replaced, Directory):
            raise os_error(errno.EISDIR)
        if replaced is not None:
            self._unlinked(target, replaced)
        del source.entries[old_name]
        target.entries[new_name] = node
        if isinstance(node, Directory):
            node.parent = target
            source.nlink -= 1
            target.nlink += 1
        what = f"rename {old_name} -> {new_name}"
        self.machine.change_names(what, (source, old_name, node), (target, new_name, node))
        return True

    @staticmethod
    def _unlinked(directory: Directory, node: "File | Directory") -> None:
        if isinstance(node, Directory):
            node.nlink = 0
            directory.nlink -= 1
        else:
            node.nlink -= 1

    def unlink(self, name: str, dir_fd: int) -> None:
        """As :meth:`pspf.disk.real.Disk.unlink`."""
        self._begin("unlink", name, changing=True)
        self._remove(name, dir_fd, directory_wanted=False)

    def mkdir(self, name: str, dir_fd: "int | None" = None) -> None:
        """As :meth:`pspf.disk.real.Disk.mkdir`."""
        self._begin("mkdir", name, changing=True)
        try:
            directory, last = self._parent(name, dir_fd)
            if self._look_up(directory, last) is not None:
                raise os_error(errno.EEXIST)
            if directory.nlink == 0:
                raise os_error(errno.ENOENT)
        except OSError as error:
            raise os_error(error.errno or 0, name) from None
        mode = 0o700 if self.umask_mode == 0o600 else 0o770
        node = Directory(self.machine.new_ino(), 0o40000 | mode, directory)
        node.nlink = 2
        directory.nlink += 1
        directory.entries[last] = node
        self.machine.change_names(f"mkdir {last}", added=(directory, last, node))
        self._changed()

    def rmdir(self, name: str, dir_fd: int) -> None:
        """As :meth:`pspf.disk.real.Disk.rmdir`."""
        self._begin("rmdir", name, changing=True)
        self._remove(name, dir_fd, directory_wanted=True)

    def _remove(self, name: str, dir_fd: int, directory_wanted: bool) -> None:
        try:
            directory, last = self._parent(name, dir_fd)
            if last in (".", ".."):
                special = errno.EINVAL if last == "." else errno.ENOTEMPTY
                raise os_error(special if directory_wanted else errno.EISDIR)
            node = self._look_up(directory, last)
            if node is None:
                raise os_error(errno.ENOENT)
            if isinstance(node, Directory) and not directory_wanted:
                raise os_error(errno.EISDIR)
            if isinstance(node, File) and directory_wanted:
                raise os_error(errno.ENOTDIR)
            if isinstance(node, Directory) and node.entries:
                raise os_error(errno.ENOTEMPTY)
        except OSError as error:
            raise os_error(error.errno or 0, name) from None
        del directory.entries[last]
        self._unlinked(directory, node)
        what = f"{'rmdir' if directory_wanted else 'unlink'} {last}"
        self.machine.change_names(what, removed=(directory, last, node))
        self._changed()

    # -- locks

    def lock(self, fd: int, wait: bool = True) -> bool:
        """As :meth:`pspf.disk.real.Disk.lock`.

        :raises WouldDeadlock: it has to be waited for, and nobody else runs (no :attr:`when_blocked`).
        """
        self._begin("lock", self._name(fd))
        found = self._get(fd)
        while not found.node.lock(found, exclusive=True):
            if not wait:
                return False
            if self.when_blocked is None:
                raise WouldDeadlock(f"the lock of {found.name!r} is held, and its holder does not run")
            self.when_blocked()
            self._check_alive()
        return True

    def lock_soon(self, fd: int) -> bool:
        """As :meth:`pspf.disk.real.Disk.lock_soon`: who runs gives the lock back soon, who does not never."""
        return self.lock(fd, wait=self.when_blocked is not None)

    def lock_shared(self, fd: int) -> bool:
        """As :meth:`pspf.disk.real.Disk.lock_shared`."""
        self._begin("lock_shared", self._name(fd))
        found = self._get(fd)
        return found.node.lock(found, exclusive=False)

    def unlock(self, fd: int) -> None:
        """As :meth:`pspf.disk.real.Disk.unlock`."""
        self._begin("unlock", self._name(fd))
        found = self._get(fd)
        found.node.unlock(found)

    # -- time

    def now_ns(self) -> int:
        """The simulated wall clock, which moves a little with each look at it."""
        self.machine.clock_ns += self.machine.tick_ns
        return self.machine.clock_ns
