"""Keep bytes that are about to be cut: ``STORE/quarantine/TOPIC.PARTITION.BASE.POSITION``.

No bytes that are not zeros are ever cut before they are safe here; without room for them there is no cut.
"""

import errno

from pspf import errors
from pspf.disk.real import CREATE_NEW

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pspf.disk.real import Disk
    from pspf.log.files import PartitionFiles, Segment

_PIECE = 1 << 20
_PAGE = 4096


def quarantine(files: "PartitionFiles", segment: "Segment", start: int, end: int) -> str:
    """Copy ``start``..``end`` of the segment durably to the store's quarantine, without zeros far behind.

    :returns: path of the copy; "" when there was nothing but zeros.
    :raises pspf.errors.IOFailed: no room, or the copy could not be made durable.
    """
    disk, identity = files.disk, files.identity
    end = _without_zeros(disk, segment.fd, start, end)
    if end == start:
        return ""
    try:
        try:
            dir_fd = disk.open_dir(identity.quarantine)
        except FileNotFoundError:
            parent = disk.open_dir(identity.quarantine.rpartition("/")[0] or ".", follow=True)
            try:
                try:
                    disk.mkdir("quarantine", parent)
                except FileExistsError:
                    pass  # another process was first; its name may not be on the disk yet
                disk.fsync(parent)
            finally:
                disk.close(parent)
            dir_fd = disk.open_dir(identity.quarantine)
        try:
            name = _write(files, segment, dir_fd, start, end)
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT) or not _release_reserve(files):
                raise
            name = _write(files, segment, dir_fd, start, end)
        finally:
            disk.close(dir_fd)
    except OSError as error:
        raise errors.from_os(
            error, f"cannot keep {end - start} bytes of {identity} before cutting them"
        ) from error
    return f"{identity.quarantine}/{name}"


def _without_zeros(disk: "Disk", fd: int, start: int, end: int) -> int:
    """The end without the pages of zeros that were allocated ahead; a batch may end in some of its own."""
    at = end
    while at > start:
        before = max(start, at - _PIECE)
        data = disk.pread(fd, at - before, before).rstrip(b"\0")
        if data:
            return min(end, (before + len(data) + _PAGE) & -_PAGE)
        at = before
    return start


def _write(files: "PartitionFiles", segment: "Segment", dir_fd: int, start: int, end: int) -> str:
    disk = files.disk
    stem = f"{files.identity.topic}.{files.identity.partition}.{segment.base:020d}.{start}"
    number = 0
    while True:
        name = stem if not number else f"{stem}.{number}"
        try:
            fd = disk.open(name, CREATE_NEW, dir_fd)
            break
        except FileExistsError:
            number += 1
    try:
        at = start
        while at < end:
            data = disk.pread(segment.fd, min(_PIECE, end - at), at)
            if not data:
                break
            disk.pwrite(fd, data, at - start)
            at += len(data)
        disk.fsync(fd)
    except BaseException:
        disk.close(fd)
        try:
            disk.unlink(name, dir_fd)
        except OSError:
            pass  # what failed first is told
        raise
    disk.close(fd)
    disk.fsync(dir_fd)
    return name


def _release_reserve(files: "PartitionFiles") -> bool:
    """Give up the store's reserve of 1 MiB, so that recovery works on a full disk."""
    store = files.identity.quarantine.rpartition("/")[0]
    try:
        dir_fd = files.disk.open_dir(store, follow=True)
    except OSError:
        return False
    try:
        if files.disk.stat_name("reserve", dir_fd).st_size == 0:
            return False
        files.disk.unlink("reserve", dir_fd)
        return True
    except OSError:
        return False
    finally:
        files.disk.close(dir_fd)
