"""Replace a small file so that a crash leaves the old one or the new one, whole."""

from errno import EEXIST, ENOTEMPTY

from pspf.disk.real import CREATE_EMPTY, Disk

_REFILLS = 100


def replace_file(disk: Disk, dir_fd: int, name: str, data: bytes) -> None:
    """Write ``data`` as ``name``: temporary file, sync, rename, sync of the directory.

    If we die before the rename the old file stands and ``name.tmp`` is overwritten by the next attempt; if we
    die behind it, the new name may or may not have reached the disk, and either file is whole.
    """
    temporary = name + ".tmp"
    fd = disk.open(temporary, CREATE_EMPTY, dir_fd)
    try:
        disk.pwrite(fd, data, 0)
        disk.fsync(fd)
    finally:
        disk.close(fd)
    disk.rename(temporary, name, dir_fd)
    disk.fsync(dir_fd)


def leads_to(disk: Disk, path: str, dir_fd: int) -> bool:
    """Whether ``path`` is the name of the directory that ``dir_fd`` has open. It is not when that one was
    deleted or renamed since, or its topic was.
    """
    try:
        return disk.stat_name(path).st_ino == disk.stat(dir_fd).st_ino
    except FileNotFoundError:
        return False


def sync_ancestors(disk: Disk, path: str, ours: int) -> None:
    """Sync every directory above ``path``, so that no name on the way to it can vanish.

    :param ours: how many of them, from below, must be synced; what lies above may belong to somebody else.
    :raises OSError: one of those could not be.
    """
    while path not in ("", "/"):
        path = path.rpartition("/")[0] or "/"
        try:
            fd = disk.open_dir(path, follow=True)
            try:
                disk.fsync(fd)
            finally:
                disk.close(fd)
        except OSError:
            if ours > 0:
                raise
        ours -= 1


def remove_tree(disk: Disk, dir_fd: int, name: str) -> None:
    """Remove a directory of PSPF with everything in it.

    Who opened it before may still make or remove a file in it, until the directory itself is gone.
    """
    for attempt in range(_REFILLS):
        try:
            inner = disk.open_dir(name, dir_fd)
        except FileNotFoundError:
            return
        except NotADirectoryError:
            disk.unlink(name, dir_fd)
            return
        try:
            for entry in disk.listdir(inner):
                try:
                    disk.unlink(entry, inner)
                except FileNotFoundError:
                    pass
                except (IsADirectoryError, PermissionError):
                    remove_tree(disk, inner, entry)
        finally:
            disk.close(inner)
        try:
            disk.rmdir(name, dir_fd)
            return
        except FileNotFoundError:
            return
        except OSError as error:
            if error.errno not in (ENOTEMPTY, EEXIST) or attempt == _REFILLS - 1:
                raise
