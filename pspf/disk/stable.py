"""Read what is on the medium, past the page cache."""

import os
from errno import EINVAL, EOPNOTSUPP
from mmap import mmap

from pspf.disk.real import READ, Disk


def read_stable(disk: Disk, fd: int, name: str, dir_fd: int, length: int, position: int) -> bytes:
    """See :meth:`pspf.disk.real.Disk.read_stable`."""
    if hasattr(os, "posix_fadvise"):
        os.posix_fadvise(fd, position, length, os.POSIX_FADV_DONTNEED)
    if hasattr(os, "O_DIRECT"):
        try:
            return _read_direct(disk, name, dir_fd, length, position)
        except OSError as error:
            if error.errno not in (EINVAL, EOPNOTSUPP):
                raise  # the medium cannot be read: what the cache holds proves nothing
            # tmpfs, some network and FUSE systems: the dropped cache has to do
    return disk.pread(fd, length, position)


def _read_direct(disk: Disk, name: str, dir_fd: int, length: int, position: int) -> bytes:
    fd = disk.open(name, READ | os.O_DIRECT, dir_fd)
    try:
        start = position & ~4095
        span = (position + length - start + 4095) & ~4095
        with mmap(-1, span) as buffer:
            got = 0
            while got < span:
                # Views are given back: otherwise an error could not close the map.
                with memoryview(buffer) as whole, whole[got:] as view:
                    n = os.preadv(fd, [view], start + got)
                got += n
                if n == 0 or n & 4095:  # the end of the file
                    break
            return buffer[position - start : min(got, position - start + length)]
    finally:
        disk.close(fd)
