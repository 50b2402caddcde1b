"""Adopt bytes that somebody else wrote: make sure that they are on the medium, not only in the page cache.

A descriptor's fdatasync vouches only for what was written after it was opened. After another process's
failed sync the cache can be clean and read back right while the disk holds zeros; syncing again then succeeds
and means nothing. So the range is synced, dropped from the cache, read back from the medium and compared;
what differs is written again, once. If it differs still, nothing about this disk can be believed.

Piece by piece, since a range may be a whole segment: of each piece, what the cache holds is read before it is
dropped. Pieces end at multiples of their size: no page that is dropped belongs to a piece not yet read.
"""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pspf.disk.real import Disk
    from pspf.log.files import Segment

_PIECE = 2 << 20


def adopt(disk: "Disk", dir_fd: int, segment: "Segment", start: int, end: int) -> bool:
    """Make ``start``..``end`` of the segment durable; False if the medium does not keep it.

    :raises OSError: a sync or write failed; the partition is to be poisoned.
    """
    disk.fdatasync(segment.fd)
    at = start
    while at < end:
        length = min(end, at - at % _PIECE + _PIECE) - at
        wanted = disk.pread(segment.fd, length, at)
        if not _on_medium(disk, dir_fd, segment, at, wanted):
            disk.pwrite(segment.fd, wanted, at)
            disk.fdatasync(segment.fd)
            if not _on_medium(disk, dir_fd, segment, at, wanted):
                return False
        at += length
    return True


def _on_medium(disk: "Disk", dir_fd: int, segment: "Segment", at: int, wanted: bytes) -> bool:
    return disk.read_stable(segment.fd, segment.name, dir_fd, len(wanted), at) == wanted
