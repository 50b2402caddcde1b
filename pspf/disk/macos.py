"""Syncs where there is no ``fdatasync``: the ``fsync`` of macOS leaves bytes in the cache of the drive."""

import os
from errno import EINVAL, ENOTSUP, ENOTTY
from fcntl import fcntl

_F_FULLFSYNC = 51


def full_sync(fd: int) -> None:
    """Everything of a file to stable storage, as far as its file system can."""
    try:
        fcntl(fd, _F_FULLFSYNC)
    except OSError as error:
        if error.errno not in (EINVAL, ENOTSUP, ENOTTY):
            raise
        os.fsync(fd)
