"""Modes of a shared store: they are not left to the umask of whoever happens to write."""

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pspf.disk.real import Disk


def give_to_group(fd: int, mode: int) -> None:
    """The open file or directory gets ``mode`` at least; setgid stays."""
    found = os.fstat(fd).st_mode & 0o7777
    if found & mode != mode:
        try:
            os.fchmod(fd, found | mode)
        except PermissionError:
            pass  # another member made it


def give_directory(disk: "Disk", name: str, dir_fd: "int | None") -> None:
    """The same for a directory that was just made."""
    fd = disk.open_dir(name, dir_fd)
    try:
        give_to_group(fd, 0o770)
    finally:
        disk.close(fd)
