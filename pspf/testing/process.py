"""One process on the simulated machine: how it ends, which of its calls fail, and what a test may look at.

:class:`Process` is everything of :class:`pspf.testing.SimDisk` that is not a call on files.
"""

import errno
import os
from collections.abc import Callable, Iterator
from copy import deepcopy
from typing import Self

from pspf.disk.real import Disk
from pspf.testing.faults import Fault, Killed, PowerCut, Stopped, os_error
from pspf.testing.medium import PAGE, Directory, File, Machine, OpenFile

START_NS = 1_700_000_000_000_000_000
# Calls whose errors carry the name.
BY_NAME = frozenset({"open", "open_dir", "stat_name", "rename", "unlink", "mkdir", "rmdir"})


class Process(Disk):
    """A view of the machine with descriptors, locks, counts and an end of its own."""

    __slots__ = (
        "_call",
        "_fds",
        "_stop",
        "_stop_call",
        "before_call",
        "changes",
        "counts",
        "dead",
        "faults",
        "machine",
        "story",
        "trace",
        "when_blocked",
    )

    def __init__(
        self, *, clock_ns: int = START_NS, tick_ns: int = 1_000, machine: Machine | None = None
    ) -> None:
        super().__init__()
        self.machine = machine or Machine(clock_ns, tick_ns)
        self._fds: dict[int, OpenFile] = {}
        self.dead: Stopped | None = None
        self.changes = 0
        """Calls so far that changed something on the disk: the places where a stop makes a difference."""
        self.counts: dict[str, int] = {}
        """Calls so far, by name of the method."""
        self.trace: list[str] | None = None
        """Set to a list to have each call written into it."""
        self.faults: list[Fault] = []
        self.before_call: Callable[[str], None] | None = None
        """Called before each call; a scheduler of several processes waits here for its turn."""
        self.when_blocked: Callable[[], None] | None = None
        """Called when a lock has to be waited for, again and again until it is free."""
        self.story = ""
        """How this disk came to be, if it is what a power cut left."""
        self._stop: tuple[int, type[Stopped], int | None] | None = None
        self._stop_call: tuple[str, str, int, type[Stopped]] | None = None
        self._call = ("", "")

    def process(self) -> Self:
        """Another process on the same machine. It shares armed faults, not descriptors, locks or counts."""
        other = type(self)(machine=self.machine)
        other.umask_mode = self.umask_mode
        other.faults = self.faults
        other.story = self.story
        return other

    def copy(self) -> Self:
        """A process on a copy of the machine, cache and journal included; no other process runs there."""
        machine = deepcopy(self.machine)
        machine.off = False
        other = type(self)(machine=machine)
        other.umask_mode = self.umask_mode
        other.story = self.story
        return other

    # -- ends

    def kill(self) -> None:
        """SIGKILL this process: descriptors and locks are gone, its written bytes stay in the cache."""
        self._die(Killed("killed"))

    def stop_after(self, changes: int, how: type[Stopped] = Killed, torn: int | None = None) -> None:
        """End the process behind the nth call from now that changes something; 0 is before the first.

        :param how: :class:`Killed`, or :class:`PowerCut`, which ends all processes of the machine.
        :param torn: the bytes that a write which is the nth change gets done before the end; rounded down to
            whole pages, since that is where the kernel looks for a signal.
        """
        self._stop = (self.changes + changes, how, torn)

    def stop_behind(self, call: str, name: str = "", index: int = 0, how: type[Stopped] = Killed) -> None:
        """End the process behind the nth such call that changes something, on a file whose name ends so."""
        self._stop_call = (call, name, index, how)

    def _die(self, end: Stopped) -> None:
        if isinstance(end, PowerCut):
            self.machine.off = True
        for fd in list(self._fds):
            self._release(fd)
        self.dead = end

    def _release(self, fd: int) -> None:
        found = self._fds.pop(fd)
        found.node.unlock(found)

    def _check_stop(self) -> None:
        if self._stop is not None and self.changes >= self._stop[0]:
            end = self._stop[1](f"behind change {self.changes}")
            self._stop = None
            self._die(end)
            raise end

    def _torn_length(self, position: int, length: int) -> int | None:
        """How much of the write that begins now gets done, when the process ends inside it."""
        if self._stop is None or self._stop[2] is None or self.changes + 1 < self._stop[0]:
            return None
        end = position + min(self._stop[2], length)
        return max(end - end % PAGE - position, 0)

    # -- faults

    def fail(
        self,
        call: str,
        index: int = 0,
        error: int = errno.EIO,
        *,
        times: int = 1,
        short: int = 0,
        lies: str = "",
        keep_size: bool = False,
        name: str = "",
    ) -> Fault:
        """Let a coming call fail; on all processes made from this one, too.

        :param call: name of the method; ``"*"`` for each call that can fail.
        :param index: how many calls of that kind go well first.
        :param error: the errno raised.
        :param times: how many calls fail in a row; a large number for a cause that stays.
        :param short: bytes of a failing write that are written all the same; of a failing sync, pages.
        :param lies: see :mod:`pspf.testing.faults`.
        :param keep_size: with ``lies``: the file's size reached the medium, so that zeros are there.
        :param name: only calls on files whose name ends so.
        :returns: the fault; ``hits`` says how often it struck.
        """
        fault = Fault(call, index, error, times, short, lies, keep_size, name)
        self.faults.append(fault)
        return fault

    def heal(self) -> None:
        """Take all armed faults back, and a read-only state: the cause is gone."""
        self.faults.clear()
        self.machine.broken, self.machine.aborted = 0, False

    def make_read_only(self, error: int = errno.EROFS) -> None:
        """Every call that changes something fails from now on, as behind ``mount -o remount,ro``."""
        self.machine.sync_all()
        self.machine.broken = error

    def flip(self, path: str, position: int, mask: int = 1) -> None:
        """Bit rot: xor one byte of a file on the medium."""
        self._file_at(path).flip(position, mask)

    # -- looking and planting, for tests; these are no calls and never fail

    def tree(self) -> dict[str, bytes | None]:
        """Every path with its content as processes read it; None for a directory."""
        found: dict[str, bytes | None] = {}

        def visit(directory: Directory, prefix: str) -> None:
            for name in sorted(directory.entries):
                node = directory.entries[name]
                if isinstance(node, File):
                    found[prefix + name] = bytes(node.cache)
                else:
                    found[prefix + name] = None
                    visit(node, prefix + name + "/")

        visit(self.machine.root, "/")
        return found

    def plant(self, path: str, content: bytes) -> None:
        """Put a file there that is wholly on the medium, directories included."""
        directory = self.machine.root
        *parents, name = path.strip("/").split("/")
        for part in parents:
            inner = directory.entries.get(part)
            if inner is None:
                inner = Directory(self.machine.new_ino(), 0o40700, directory)
                directory.plant(part, inner)
            assert isinstance(inner, Directory)
            directory = inner
        directory.plant(name, File(self.machine.new_ino(), 0o100000 | self.umask_mode, content))

    def sync_all(self) -> None:
        """As ``sync(1)``: everything is on the medium."""
        self.machine.sync_all()

    def export(self, path: str) -> None:
        """Write all files into a real directory, to look at them with ordinary tools."""
        for name, content in self.tree().items():
            target = os.path.join(path, name[1:])
            if content is None:
                os.makedirs(target, exist_ok=True)
            else:
                with open(target, "wb") as file:
                    file.write(content)

    def set_time(self, now_ns: int) -> None:
        """Set the wall clock; it may go back."""
        self.machine.clock_ns = now_ns

    def advance(self, by_ns: int) -> None:
        """Move the wall clock, back if negative."""
        self.machine.clock_ns += by_ns

    def crash_states(self, seed: int, limit: int, model: str = "strict") -> Iterator[Self]:
        """Disks as a power cut at this instant may leave them; see :mod:`pspf.testing.crashes`.

        :param seed: decides which states, when there are more than ``limit``.
        :param limit: the greatest number of states; no two have the same content.
        :param model: ``strict`` or ``ordered``.
        """
        from pspf.testing.crashes import crash_states

        return crash_states(self, seed, limit, model)

    def _file_at(self, path: str) -> File:
        node: File | Directory = self.machine.root
        for part in path.strip("/").split("/"):
            if not isinstance(node, Directory) or part not in node.entries:
                raise os_error(errno.ENOENT, path)
            node = node.entries[part]
        if not isinstance(node, File):
            raise os_error(errno.EISDIR, path)
        return node

    # -- what each call does first and last

    def _begin(self, call: str, name: str, changing: bool = False) -> Fault | None:
        if self.before_call is not None and self.dead is None:
            self.before_call(call)
        self._check_alive()
        self._check_stop()
        self._call = (call, name)
        self.counts[call] = self.counts.get(call, 0) + 1
        if self.trace is not None:
            self.trace.append(f"{call} {name}")
        if changing and self.machine.broken:
            raise self._error(self.machine.broken, call, name)
        for fault in self.faults:
            if fault.strikes(call, name):
                if fault.short or fault.lies:
                    return fault
                raise self._error(fault.error, call, name)
        return None

    @staticmethod
    def _error(number: int, call: str, name: str) -> OSError:
        return os_error(number, name) if call in BY_NAME else os_error(number)

    def _check_alive(self) -> None:
        if self.dead is None and self.machine.off:
            self._die(PowerCut("the machine is off"))
        if self.dead is not None:
            raise type(self.dead)("a call of a process that has ended")

    def _changed(self) -> None:
        self.changes += 1
        if self._stop_call is not None:
            call, name, index, how = self._stop_call
            if call == self._call[0] and self._call[1].endswith(name):
                if index == 0:
                    self._stop = (self.changes, how, None)
                self._stop_call = (call, name, index - 1, how)
        self._check_stop()

    def _get(self, fd: int) -> OpenFile:
        try:
            return self._fds[fd]
        except KeyError:
            raise os_error(errno.EBADF) from None

    def _name(self, fd: int) -> str:
        found = self._fds.get(fd)
        return found.name if found is not None else ""

    def _writable(self, fd: int, otherwise: int) -> File:
        found = self._get(fd)
        if not found.writable or not isinstance(found.node, File):
            raise os_error(otherwise)
        return found.node

    def _directory(self, dir_fd: "int | None") -> Directory:
        if dir_fd is None:
            return self.machine.root
        node = self._get(dir_fd).node
        if not isinstance(node, Directory):
            raise os_error(errno.ENOTDIR)
        return node

    def _parent(self, path: str, dir_fd: "int | None") -> tuple[Directory, str]:
        """The directory in which the last part of ``path`` is to be found, and that part."""
        if "\0" in path:
            raise ValueError("embedded null byte")
        if not path:
            raise os_error(errno.ENOENT)
        directory = self.machine.root if path[0] == "/" else self._directory(dir_fd)
        *parents, last = [part for part in path.split("/") if part] or ["."]
        for part in parents:
            inner = self._look_up(directory, part)
            if inner is None:
                raise os_error(errno.ENOENT)
            if not isinstance(inner, Directory):
                raise os_error(errno.ENOTDIR)
            directory = inner
        return directory, last

    @staticmethod
    def _look_up(directory: Directory, name: str) -> "File | Directory | None":
        if name == ".":
            return directory
        if name == "..":
            return directory.parent
        if len(os.fsencode(name)) > 255:
            raise os_error(errno.ENAMETOOLONG)
        return directory.entries.get(name)

    def _new_fd(self, node: "File | Directory", name: str, writable: bool) -> int:
        fd = self.machine.next_fd
        self.machine.next_fd += 1
        self._fds[fd] = OpenFile(node, name, writable)
        return fd
