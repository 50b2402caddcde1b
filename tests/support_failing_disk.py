"""A file system on a disk that fails when a test says so, and what writers on it were told.

The disk is real to the kernel, and so is what ext4 and xfs make of its failures: see ``support_faults.py``.
"""

import ctypes
import fcntl
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import pspf
from pspf.disk.real import Disk
from pspf.model import TopicConfig
from tests.support_mounts import OwnMounts
from tests.support_processes import Running, check_store

SUPPORT_FAULTS = Path(__file__).with_name("support_faults.py")
SHUTDOWN = 0x8004587D
"""ioctl of ext4 and xfs: the file system stops at once; 2 is without writing its log first."""

WITHOUT_LOG = 2
MAKE = {
    "ext4": (48, ["mkfs.ext4", "-q", "-m", "0"], "e2fsprogs"),
    "xfs": (320, ["mkfs.xfs", "-q"], "xfsprogs"),
}
"""By file system: the least MiB it takes, the command that makes it, and the Debian package of that."""


class Asked:
    """A process of ``support_faults.py`` that answers each line with a line."""

    def __init__(self, argv: list[str], name: str = "") -> None:
        self.name = name
        self.process = subprocess.Popen(
            argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, bufsize=0
        )
        self.ready = self._answer() == "ready"

    def ask(self, *words: "str | int") -> str:
        assert self.process.stdin is not None
        self.process.stdin.write(" ".join(map(str, words)).encode() + b"\n")
        return self._answer()

    def _answer(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().decode().strip()

    def end(self) -> str:
        """Let it end; what it said on standard error."""
        _, err = self.process.communicate(timeout=60)
        return err.decode().strip()

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate()


class FaultyDisk:
    """A real file system on a loop device, on a drive that fails on demand (``support_faults.py drive``).

    ``path`` is where processes inside see the file system, ``outside`` the same for this process, which must
    keep nothing open there when it is unmounted.
    """

    def __init__(self, scratch: Path, kind: str, options: str = "") -> None:
        size, make, package = MAKE[kind]
        if os.geteuid() != 0 or not os.path.exists("/dev/fuse") or not os.path.exists("/dev/loop-control"):
            pytest.skip("needs root, /dev/fuse and loop devices")
        if shutil.which(make[0]) is None:
            pytest.skip(f"needs {make[0]} (Debian package {package})")
        self.kind = kind
        self.options = f"loop,{options}" if options else "loop"
        self.scratch = scratch
        self.path = scratch / "mounted"
        self.path.mkdir()
        self._file = scratch / "drive"
        self._file.touch()
        image = scratch / "image"
        with open(image, "wb") as file:
            file.truncate(size << 20)
        subprocess.run([*make, str(image)], check=True, capture_output=True)
        self.mounts = OwnMounts(":")
        self.mounts.__enter__()
        self.drive = Asked(
            self.mounts.enter([sys.executable, str(SUPPORT_FAULTS), "drive", str(image), str(self._file)])
        )
        self._started: list[Asked] = []
        assert self.drive.ready, self.drive.end()
        self.outside = self.mounts.seen(self.path)

    def __enter__(self) -> "FaultyDisk":
        try:
            self.mount()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        # The last process inside takes the mounts along, and the last mount its loop device. On a drive that
        # works the file system ends in peace.
        for each in self._started:
            each.kill()
        if self.drive.process.poll() is None:
            self.drive.ask("works")
            self.drive.ask("on")
            self.mounts.run(["umount", str(self.path)], {})
            self.drive.end()
        self.mounts.__exit__()

    def _must(self, *argv: str) -> None:
        ran = self.mounts.run(list(argv), {"PATH": os.environ.get("PATH", os.defpath)})
        assert ran.returncode == 0, f"{argv}: {ran.stderr.decode()}"

    def mount(self) -> None:
        self._must("mount", "-t", self.kind, "-o", self.options, str(self._file), str(self.path))

    def unmount(self) -> None:
        self._must("umount", str(self.path))

    def shut_down(self) -> None:
        """The file system stops between one call and the next, as when its device is pulled out."""
        fd = os.open(self.outside, os.O_RDONLY)
        try:
            fcntl.ioctl(fd, SHUTDOWN, WITHOUT_LOG.to_bytes(4, "little"))
        finally:
            os.close(fd)

    def remount(self) -> None:
        """What only the page cache held is gone; the drive works again."""
        self.unmount()
        self.drive.ask("works")
        self.drive.ask("on")
        self.mount()

    def write_back(self) -> None:
        """Begin to write dirty pages to the drive, without a flush, as the kernel does whenever it likes."""
        for directory, _, names in os.walk(self.outside):
            for name in names:
                try:
                    fd = os.open(f"{directory}/{name}", os.O_RDONLY)
                except FileNotFoundError:
                    continue
                try:
                    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
                finally:
                    os.close(fd)

    def write_out(self, path: Path) -> None:
        """The same for one file, and wait for it. Should it fail, that is told to those who sync the file."""
        fd = os.open(path, os.O_RDONLY)
        try:
            wait_write_wait = 7
            zero = ctypes.c_int64(0)  # the whole file
            ctypes.CDLL(None).sync_file_range(fd, zero, zero, wait_write_wait)
        finally:
            os.close(fd)

    def break_off(self) -> None:
        """Let ext4 find itself damaged: mounted with ``errors=remount-ro`` it is read-only from now on."""
        number = os.stat(self.outside).st_dev
        device = os.path.basename(os.readlink(f"/sys/dev/block/{os.major(number)}:{os.minor(number)}"))
        Path(f"/sys/fs/ext4/{device}/trigger_fs_error").write_text("1")

    def start(self, name: str, argv: list[str], stdin: int | None = None) -> Running:
        """A process inside; its output goes to files outside."""
        return Running(name, self.mounts.enter(argv), self.scratch, stdin)

    def hand(self, store: Path, name: str = "") -> Asked:
        """A writer led by hand, see ``support_faults.py``."""
        asked = Asked(self.mounts.enter([sys.executable, str(SUPPORT_FAULTS), "hand", str(store)]), name)
        self._started.append(asked)
        assert asked.ready, asked.end()
        return asked


LOST = "lost"
"""In the value of a record whose bytes the drive refuses; in no other one."""

JOURNAL = "c03b3998"
"""Each block of ext4's journal that is no data begins with this."""


SELDOM = "commit=300"
"""Else the timer of ext4's journal may write a transaction before a test breaks it."""


def made(disk: FaultyDisk, **settings: "int | str | bool") -> Path:
    """A store on the disk with topic ``t``; its path for processes inside."""
    with pspf.open(str(disk.outside / "store")) as store:
        store.create_topic("t", TopicConfig(**settings))  # type: ignore[arg-type]
    return disk.path / "store"


class Log:
    """What hands were told about topic ``t``."""

    def __init__(self) -> None:
        self.acked: dict[int, str] = {}

    def acknowledged(self, offset: int, value: str) -> None:
        assert offset not in self.acked, f"{value!r} was given the place of {self.acked[offset]!r}: {offset}"
        self.acked[offset] = value

    def append(self, hand: Asked, value: str) -> None:
        """An append that must be acknowledged."""
        word, *rest = hand.ask("append", value).split()
        assert word == "ok", f"{hand.name}: {word} {rest}"
        self.acknowledged(int(rest[0]), value)

    def try_append(self, hand: Asked, value: str) -> str:
        """An append that may fail with exit code 74 only; the name of its error, or ``ok``."""
        word, number, *rest = hand.ask("append", value).split()
        if word == "ok":
            self.acknowledged(int(number), value)
        else:
            assert int(number) == pspf.errors.IOFailed.exit_code, f"{hand.name}: {word} {number} {rest}"
        return word

    def check(self, disk: FaultyDisk) -> set[str]:
        """Acknowledged records are there, ``verify`` finds no damage, and the log goes on; all values."""
        with pspf.open(str(disk.outside / "store")) as store:
            row = store.append("t", "goes on")
            self.acknowledged(row.first, "goes on")
            (records,) = check_store(store, "t", 1).values()
        values = [(value or b"").decode() for _, value in records]
        assert [offset for offset, _ in records] == list(range(len(records)))
        for offset, value in self.acked.items():
            assert values[offset : offset + 1] == [value], f"{value}: lost at {offset} of {values}"
        assert all(values.count(value) == 1 for value in values if value != "goes on"), f"twice: {values}"
        return set(values)

    def check_remounted(self, disk: FaultyDisk) -> set[str]:
        """The same with what is cached, and again with what is on the disk."""
        cached = self.check(disk)
        disk.remount()
        after = self.check(disk)
        assert cached <= after, f"seen and gone: {cached - after}"
        return after


def segments(disk: FaultyDisk) -> list[Path]:
    return sorted((disk.outside / "store/topics/t/0").glob("*.log"))


def refused_by_sync(fd: int) -> bool:
    try:
        os.fdatasync(fd)
    except OSError:
        return True
    return False


def fail_a_write_back(disk: FaultyDisk, path: Path) -> None:
    """The kernel fails to write back what is dirty, and whoever opens the file next is not told of it."""
    fd = os.open(path, os.O_RDWR)
    try:
        disk.write_out(path)
        assert int(disk.drive.ask("failed"))
        assert refused_by_sync(fd), "a failure that nobody was told of is told to those who come later, too"
    finally:
        os.close(fd)


def lies_to_a_later_descriptor(disk: FaultyDisk, path: Path) -> bool:
    """Whether one that is opened now syncs with success, and reads right, what the drive has refused."""
    failed = disk.drive.ask("failed")
    fd = os.open(path, os.O_RDWR)
    try:
        return (
            not refused_by_sync(fd)
            and disk.drive.ask("failed") == failed
            and LOST.encode() in os.pread(fd, os.fstat(fd).st_size, 0)
        )
    finally:
        os.close(fd)


def break_the_journal(disk: FaultyDisk, other: int, written: Path) -> None:
    """The data of a file is written; where it lies and how long the file is should be in the journal's next
    transaction, which fails. That is told to who syncs another file."""
    disk.write_out(written)
    os.pwrite(other, b"x", os.fstat(other).st_size + 4096)
    disk.drive.ask("fail", JOURNAL)
    try:
        os.fsync(other)
    except OSError:
        return
    raise AssertionError("the journal was written")


class Interrupted(Disk):
    """The real disk, on which something happens just before one of the syncs."""

    __slots__ = ("before_sync",)

    def __init__(self) -> None:
        super().__init__()
        self.before_sync: Callable[[], None] | None = None

    def fdatasync(self, fd: int) -> None:
        happens, self.before_sync = self.before_sync, None
        if happens is not None:
            happens()
        super().fdatasync(fd)
