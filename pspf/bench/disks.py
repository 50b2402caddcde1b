"""Two disks for measuring: one counts what is asked of it, one makes big fixtures quickly."""

from __future__ import annotations

from pspf.disk.real import Disk

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

COUNTED = (
    "open open_dir close pread size stat stat_name listdir read_stable pwrite pwritev truncate "
    "fdatasync fsync rename unlink mkdir rmdir lock lock_shared unlock"
).split()


class CountingDisk(Disk):
    """A real disk that keeps count.

    ``calls`` has the number of calls by name, ``bytes_read`` what they returned of files' contents.
    """

    __slots__ = ("bytes_read", "calls")

    def __init__(self) -> None:
        super().__init__()
        self.clear()

    def clear(self) -> None:
        """Begin to count anew."""
        self.calls: dict[str, int] = {}
        self.bytes_read = 0

    @property
    def total(self) -> int:
        """All calls together."""
        return sum(self.calls.values())


def _counted(name: str) -> Callable[..., Any]:
    call = getattr(Disk, name)
    reads = name in ("pread", "read_stable")

    def counted(self: CountingDisk, *args: Any, **options: Any) -> Any:
        self.calls[name] = self.calls.get(name, 0) + 1
        before = self.bytes_read
        result = call(self, *args, **options)
        if reads and self.bytes_read == before:  # a read that falls back on another one is counted there
            self.bytes_read += len(result)
        return result

    return counted


for _name in COUNTED:
    setattr(CountingDisk, _name, _counted(_name))


class UnsyncedDisk(Disk):
    """A disk on which a sync does nothing: for fixtures that are thrown away, never for what is timed."""

    __slots__ = ()

    def fdatasync(self, fd: int) -> None:
        """Nothing."""

    def fsync(self, fd: int) -> None:
        """Nothing."""
