"""Begin a new segment at the written end."""

from pspf.format.batch import NO_TABLE
from pspf.format.segment import REASON_ROLL, segment_name
from pspf.format.slots import FLAG_ROLLING
from pspf.log.end import accept_first, end_of_new, lock_record, slot_of
from pspf.log.producers import table_batch
from pspf.log.recovery import successor

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pspf.log.writer import PartitionWriter


def roll(writer: "PartitionWriter") -> None:
    """Begin a new segment at the written end; the append lock is held.

    The old segment is whole and durable before the new one has a name. A failure up to the rename leaves the
    log
    as it was; a failed sync of what holds records, or of the new name, poisons.
    """
    disk, files, end = writer.files.disk, writer.files, writer.end
    try:
        disk.fdatasync(end.segment.fd)
        disk.update_times(files.commit_fd)  # no sync can be believed where this fails
        if disk.size(end.segment.fd) > end.position:
            disk.truncate(end.segment.fd, end.position)
            disk.fsync(end.segment.fd)
    except OSError as error:
        writer.poison_locked(error.strerror or "sync failed")
        raise writer.poisoned_error() from error
    commit = writer.current_commit()
    slot = slot_of(commit, end, commit.flags, commit.generation)
    disk.pwrite(files.commit_fd, slot.encode(), slot.place)
    writer.take_commit(slot)
    # Should we die from here on, the living must not go on in the old segment beside a successor: the flag
    # tells them
    # to look for one. It is cleared by the record of the new segment, or by whoever finds it.
    writer.record.zeros_end = 0
    writer.record.flags |= FLAG_ROLLING
    writer.raw = b""
    disk.pwrite(files.lock_fd, writer.record.encode(), 0)
    first = table_batch(writer) if end.producers != NO_TABLE else None
    try:
        segment = successor(files, end, end.offset, writer.generation, REASON_ROLL, first)
    except OSError as error:
        if not disk.exists(segment_name(end.offset), files.dir_fd):
            raise  # no new name: the log is as it was, and the next append finds the flag
        writer.poison_locked(error.strerror or "sync failed")
        raise writer.poisoned_error() from error
    new = writer.end = end_of_new(end, segment)
    writer.retire(end.segment.fd)
    if first is not None:
        accept_first(files, new)
    slot = slot_of(slot, new, slot.flags, slot.generation)
    disk.pwrite(files.commit_fd, slot.encode(), slot.place)
    try:
        disk.fdatasync(files.commit_fd)
    except OSError as error:
        writer.poison_locked(error.strerror or "sync failed")
        raise writer.poisoned_error() from error
    writer.take_commit(slot)
    writer.commit_unsynced = 0
    writer.forget_commit()
    fresh = lock_record(new, writer.generation, 0, 0)
    writer.raw = fresh.encode()
    writer.record = fresh
    disk.pwrite(files.lock_fd, writer.raw, 0)
