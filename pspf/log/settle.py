"""A reader that comes first after a crash finishes what it can: adopts and publishes, but never cuts.

It does so only if it gets the append lock within two seconds. Who holds it longer is stopped, or has much to
recover; who holds it at all lives, and finishes by himself what there is.
"""

import pspf
from pspf.disk.atomic import leads_to
from pspf.disk.real import CREATE, WRITE
from pspf.format.segment import segment_name
from pspf.log.files import PartitionFiles

TYPE_CHECKING = False
if TYPE_CHECKING:
    import pspf.errors
    from pspf.disk.real import Disk
    from pspf.format.slots import Commit
    from pspf.log.files import Identity


HELD = -1
"""What :func:`settle` returns when somebody else kept the append lock: nothing was looked at."""


def settle(files: PartitionFiles, wait: bool = False) -> int:
    """Bring ``commit`` up to the log if nobody has the partition open for writing.

    Costs one open and two looks at file sizes when there is nothing to do.

    :param wait: wait for who holds the append lock. Without it, only if no end is published at all.
    :returns: bytes behind the published end that stay unsettled (torn, or we may not write), 0 usually; or
        :data:`HELD`.
    """
    commit = files.read_commit()
    behind = _behind(files, commit)
    if behind == 0:
        return 0
    disk = files.disk
    try:
        lock_fd = disk.open("lock", CREATE, files.dir_fd)
    except OSError:
        return max(behind, 0)  # a read-only store: up to the published end
    try:
        from pspf.log.end import lock_record
        from pspf.log.recovery import Recovery

        if wait or commit is None:
            disk.lock(lock_fd)
        elif not disk.lock_soon(lock_fd):
            return HELD  # up to the published end
        commit_fd = disk.open("commit", WRITE, files.dir_fd)
        try:
            if not disk.lock(commit_fd, wait=False):
                return 0  # writers are at work: what is behind the end is theirs
            with_write = PartitionFiles(disk, files.identity, disk.open_dir(".", files.dir_fd), writable=True)
            try:
                recovery = Recovery(with_write, may_cut=False)
                end, slot = recovery.run()
                disk.close(end.segment.fd)
                record = lock_record(end, slot.generation, 0, 0)
                disk.pwrite(lock_fd, record.encode(), 0)
                return recovery.report.unsettled
            finally:
                with_write.close()
        finally:
            disk.close(commit_fd)
    except OSError:
        return max(behind, 0)
    except pspf.errors.IOFailed:
        return max(behind, 0)
    finally:
        disk.close(lock_fd)


def make_anew(disk: "Disk", identity: "Identity", dir_fd: int) -> None:
    """Put an empty ``commit`` where there is none, for :func:`settle` to fill; it is derived.

    :raises pspf.errors.TopicDeleted: it is missing because the partition is being deleted.
    """
    if not leads_to(disk, identity.path, dir_fd):
        raise pspf.errors.TopicDeleted(f"cannot read '{identity.topic}'", "the topic was deleted or renamed")
    try:
        disk.close(disk.open("commit", CREATE, dir_fd))
    except OSError as error:
        raise pspf.errors.from_os(error, f"cannot read {identity}", f"{identity.path}/commit") from None


def _behind(files: PartitionFiles, commit: "Commit | None") -> int:
    """Bytes behind the durable end of the active segment; -1 when there is something else to do."""
    if commit is None or commit.flags:
        from pspf.format.slots import FLAG_DELETED, FLAG_DOUBT, FLAG_LINKED, FLAG_POISONED

        if commit is None:
            return -1
        if commit.flags & FLAG_DELETED:
            return 0
        if commit.flags & (FLAG_POISONED | FLAG_DOUBT):
            # An older slot, if somebody healed or decided since and a power cut took what he published.
            from pspf.log.recovery import is_healed

            return -1 if is_healed(files, commit) else 0
        if commit.flags & ~FLAG_LINKED:
            return -1
    if files.looks_settled(commit):
        return 0
    try:
        size = files.disk.stat_name(segment_name(commit.active_base), files.dir_fd).st_size
    except FileNotFoundError:
        return 0
    return max(size - commit.durable_position, 0) or -1  # -1: a successor that nobody published
