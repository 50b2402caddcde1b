"""What a writer does about others: vouch for their bytes, follow them into a new segment, tidy up behind itself."""

import pspf
from pspf.format.segment import SEGMENT_HEADER_BYTES
from pspf.format.slots import FLAG_DELETED, FLAG_LINKED, FLAG_POISONED, parse_lock
from pspf.log.adopt import adopt
from pspf.log.end import slot_of
from pspf.log.poison import poison_locked

TYPE_CHECKING = False
if TYPE_CHECKING:
    import pspf.errors
    from pspf.format.slots import Commit
    from pspf.log.writer import PartitionWriter


SYNC_COMMIT_ABOVE = 4 << 20
"""A close syncs ``commit`` after so many bytes; for less, what recovery would read again is not worth a sync."""


def adopt_others(writer: "PartitionWriter", commit: "Commit") -> None:
    """Vouch for what others wrote and nobody has synced; the append lock is held."""
    end = writer.end
    start = commit.durable_position if commit.active_base == end.segment.base else SEGMENT_HEADER_BYTES
    try:
        kept = adopt(writer.files.disk, writer.files.dir_fd, end.segment, start, end.position)
    except OSError as error:
        poison_locked(writer, error.strerror or "sync failed")
        raise writer.poisoned_error() from error
    if not kept:
        poison_locked(writer, "the disk does not keep what is written to it")
        raise writer.poisoned_error()
    current = writer.files.read_commit()
    if current is not None and current.durable_offset < end.offset:
        slot = slot_of(current, end, current.flags, current.generation)
        writer.files.disk.pwrite(writer.files.commit_fd, slot.encode(), slot.place)
        writer.take_commit(slot)


def link(writer: "PartitionWriter", commit: "Commit") -> None:
    """Sync the directories above the partition once, and say so: its name must not vanish in a power cut."""
    disk = writer.files.disk
    path = writer.identity.path
    ours = 3  # the topic, topics/ and the store; what lies above may belong to somebody else
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
    writer.publish_slot(slot_of(commit, writer.end, commit.flags | FLAG_LINKED, commit.generation), commit)


def refresh(writer: "PartitionWriter", raw: bytes) -> None:
    """Somebody else wrote the ``lock`` record since we last did: take it over."""
    record = parse_lock(raw)
    if record is None:
        raise pspf.errors.Damaged(
            f"cannot append to {writer.identity}",
            "its 'lock' record is damaged",
            f"{writer.identity.path}/lock",
            "end all writers; the next one to open it rebuilds the record",
            path=f"{writer.identity.path}/lock",
        )
    if record.flags & FLAG_DELETED:
        raise writer.deleted()
    if record.flags & FLAG_POISONED or record.generation != writer.generation:
        writer.poisoned = "seen by another process"
        raise writer.poisoned_error()
    if record.active_base != writer.end.segment.base:
        old = writer.end
        new = writer.end_of(record)
        new.epoch = max(new.epoch, old.epoch)
        writer.end = new
        writer.retire(old.segment.fd)
        writer.record, writer.raw = record, raw
        # This descriptor was opened now: it vouches for nothing that others wrote before.
        commit = writer.files.read_commit()
        if commit is not None:
            writer.take_commit(commit)
            if commit.durable_offset < record.written_offset:
                adopt_others(writer, commit)
        return
    writer.move(writer.end, record)
    writer.record, writer.raw = record, raw


def trim_zeros(writer: "PartitionWriter") -> None:
    """The last writer gives back what was allocated ahead."""
    files, disk = writer.files, writer.files.disk
    disk.lock(files.lock_fd)
    try:
        disk.unlock(files.commit_fd)
        if not disk.lock(files.commit_fd, wait=False):
            return  # others go on
        raw, record = files.read_lock()
        if record is None or raw != writer.raw or writer.durable_end < record.written_offset:
            return
        disk.truncate(writer.end.segment.fd, record.written_position)
        record.zeros_end = 0
        disk.pwrite(files.lock_fd, record.encode(), 0)
        if writer.commit_unsynced >= SYNC_COMMIT_ABOVE:
            disk.fdatasync(files.commit_fd)
    except OSError:
        pass  # zeros at the end harm nobody
    finally:
        disk.unlock(files.lock_fd)


def give_back(writer: "PartitionWriter", size: int) -> None:
    """After a write that failed half-way: give its blocks back, as far as the disk lets us."""
    disk, fd = writer.files.disk, writer.end.segment.fd
    try:
        if disk.size(fd) > size:
            disk.truncate(fd, size)
    except OSError:
        pass


def clear_unsynced(writer: "PartitionWriter", offset: int) -> None:
    """Durability ``interval``: nothing is unsynced any more; the append lock is held."""
    raw, record = writer.files.read_lock()
    if record is not None and record.written_offset == offset and record.oldest_unsynced_ms:
        record.oldest_unsynced_ms = 0
        fresh = record.encode()
        writer.files.disk.pwrite(writer.files.lock_fd, fresh, 0)
        if raw == writer.raw:
            writer.record, writer.raw = record, fresh
