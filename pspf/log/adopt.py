"""Adopt bytes that somebody else wrote: make sure that they are on the medium, not only in the page cache.

A descriptor's fdatasync vouches only for what was written after it was opened. After another process's
failed sync the
cache can be clean and read back right while the disk holds zeros; syncing again then succeeds and means
nothing. So
the range is synced, dropped from the cache, read back from the medium and compared; what differs is written
again,
once. If it differs still, nothing about this disk can be believed.
"""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pspf.disk.real import Disk
    from pspf.log.files import Segment

_PIECE = 4 << 20


def adopt(disk: "Disk", dir_fd: int, segment: "Segment", start: int, end: int) -> bool:
    """Make ``start``..``end`` of the segment durable; False if the medium does not keep it.

    :raises OSError: a sync or write failed; the partition is to be poisoned.
    """
    wanted = []
    at = start
    while at < end:  # as the cache holds it, before the cache is dropped
        wanted.append((at, disk.pread(segment.fd, min(_PIECE, end - at), at)))
        at += _PIECE
    disk.fdatasync(segment.fd)
    differing = [(at, data) for at, data in wanted if not _on_medium(disk, dir_fd, segment, at, data)]
    if not differing:
        return True
    for at, data in differing:
        disk.pwrite(segment.fd, data, at)
    disk.fdatasync(segment.fd)
    return all(_on_medium(disk, dir_fd, segment, at, data) for at, data in differing)


def _on_medium(disk: "Disk", dir_fd: int, segment: "Segment", at: int, data: bytes) -> bool:
    return disk.read_stable(segment.fd, segment.name, dir_fd, len(data), at) == data
