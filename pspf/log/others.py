"""What a writer does about others: vouch for their bytes, follow them into a new segment, tidy up behind
itself.
"""

import pspf
from pspf.disk.atomic import leads_to, sync_ancestors
from pspf.format.batch import HEADER_BYTES, header_fault, parse_header
from pspf.format.slots import FLAG_DELETED, FLAG_LINKED, FLAG_POISONED, FLAG_ROLLING, parse_lock
from pspf.log.adopt import adopt
from pspf.log.end import End, copy_slot, lock_record, slot_of
from pspf.log.recovery import Recovery

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    import pspf.errors
    from pspf.format.slots import Commit, LockRecord
    from pspf.log.writer import PartitionWriter


def recover_end(writer: "PartitionWriter", tell: "Callable[[str], None] | None") -> "tuple[End, Commit]":
    """Run recovery, and tell what it did."""
    recovery = Recovery(writer.files, may_cut=True)
    writer.report = recovery.report
    try:
        return recovery.run()
    finally:
        if tell is not None:
            for note in recovery.report.notes:
                tell(f"{writer.identity}: {note}")


def end_of(writer: "PartitionWriter", record: "LockRecord") -> End:
    """The end that a ``lock`` record names; opens its segment.

    The record has no epoch. That of the segment's header is too old if one began inside the segment, so the
    last batch is asked: an epoch must never go backwards.
    """
    segment = writer.files.open_segment(record.active_base, writable=True)
    if segment is None:
        raise pspf.errors.Damaged(
            f"cannot append to {writer.identity}",
            "the active segment is missing",
            writer.files.path_of(record.active_base),
            f"pspf verify {writer.identity.topic}",
            path=writer.files.path_of(record.active_base),
        )
    end = End(segment)
    end.take(record)
    if record.last_position:
        try:
            data = writer.files.disk.pread(segment.fd, HEADER_BYTES, record.last_position)
        except BaseException:
            writer.files.disk.close(segment.fd)
            raise
        if not header_fault(data, 0, segment.segment_id, record.last_position):
            end.epoch = max(end.epoch, parse_header(data).epoch)
    return end


def adopt_others(writer: "PartitionWriter", commit: "Commit") -> None:
    """Vouch for what others wrote and nobody has synced; the append lock is held."""
    end = writer.end
    start = commit.durable_position  # in the active segment: a roll publishes before it tells the new end
    try:
        kept = adopt(writer.files.disk, writer.files.dir_fd, end.segment, start, end.position)
    except OSError as error:
        writer.poison_locked(error.strerror or "sync failed")
        raise writer.poisoned_error() from error
    if not kept:
        writer.poison_locked("the disk does not keep what is written to it")
        raise writer.poisoned_error()
    current = writer.files.read_commit()
    if current is not None and current.durable_offset < end.offset:
        slot = slot_of(current, end, current.flags, current.generation)
        writer.files.disk.pwrite(writer.files.commit_fd, slot.encode(), slot.place)
        writer.take_commit(slot)


def link(writer: "PartitionWriter", commit: "Commit") -> None:
    """Sync the directories above the partition once, and say so: its name must not vanish in a power cut."""
    sync_ancestors(writer.files.disk, writer.identity.path, 3)  # the topic, topics/ and the store are ours
    # A delete flags what it finds. Who came too late for that must not acknowledge in files without a name.
    if not leads_to(writer.files.disk, writer.identity.path, writer.files.dir_fd):
        raise writer.deleted()
    slot = copy_slot(commit, flags=commit.flags | FLAG_LINKED)
    writer.files.disk.pwrite(writer.files.commit_fd, slot.encode(), slot.place)


def refresh(writer: "PartitionWriter", raw: bytes) -> None:
    """Somebody else wrote the ``lock`` record since we last did: take it over."""
    record = parse_lock(raw)
    if record is not None and record.flags & FLAG_DELETED:
        raise writer.deleted()
    if record is None or (record.flags & FLAG_ROLLING and record.generation == writer.generation):
        retake(writer)
        return
    if record.flags & FLAG_POISONED or record.generation != writer.generation:
        writer.poisoned = "seen by another process"
        raise writer.poisoned_error()
    if record.active_base != writer.end.segment.base:
        old = writer.end
        new = end_of(writer, record)
        new.epoch = max(new.epoch, old.epoch)
        # This descriptor was opened now: it vouches for nothing that others wrote before. Should adopting it
        # fail, this handle stays where it was, so that the next append tries again.
        try:
            writer.end = new
            commit = writer.files.read_commit()
            if commit is not None:
                writer.take_commit(commit)
                if commit.durable_offset < record.written_offset:
                    adopt_others(writer, commit)
        except BaseException:
            writer.end = old
            writer.files.disk.close(new.segment.fd)
            raise
        writer.retire(old.segment.fd)
        writer.record, writer.raw = record, raw
        return
    writer.end.take(record)
    writer.record, writer.raw = record, raw


def retake(writer: "PartitionWriter") -> None:
    """Find the end anew: one who died in a roll, or damage, left a ``lock`` record that does not name it.

    Recovery is safe beside living writers while the append lock is held: what they have written is whole.
    """
    commit = writer.files.read_commit()
    if commit is not None and (commit.flags & FLAG_POISONED or commit.generation != writer.generation):
        writer.poisoned = "seen by another process"
        raise writer.poisoned_error()
    recovery = Recovery(writer.files, may_cut=True)
    end, slot = recovery.run()
    writer.retire(writer.end.segment.fd)
    writer.end = end
    writer.take_commit(slot)
    writer.forget_commit()
    writer.record = lock_record(end, slot.generation, 0, 0)
    raw = writer.record.encode()
    writer.raw = b""
    writer.files.disk.pwrite(writer.files.lock_fd, raw, 0)
    writer.raw = raw


def end_now(writer: "PartitionWriter") -> int:
    """The written end now, whoever wrote it."""
    disk, lock_fd = writer.files.disk, writer.files.lock_fd
    writer.usable()  # before the mutex: in a forked child a thread of the parent may hold it for ever
    with writer.mutex:
        writer.usable()
        try:
            disk.lock(lock_fd)
            raw = disk.pread(lock_fd, 64, 0)
            if raw != writer.raw:
                writer.refresh(raw)
            return writer.end.offset
        finally:
            disk.unlock(lock_fd)


def tidy_up(writer: "PartitionWriter", zeros: bool) -> None:
    """At a close: sync ``commit`` if recovery would read much without it, and give back ``zeros`` that were
    allocated ahead, if this is the last writer. Whatever fails here harms nobody.
    """
    from pspf.log.writer import CLOSE_SYNC_BYTES

    try:
        if writer.commit_unsynced >= CLOSE_SYNC_BYTES:
            writer.files.disk.fdatasync(writer.files.commit_fd)
        if zeros:
            _trim_zeros(writer)
    except OSError:
        pass


def _trim_zeros(writer: "PartitionWriter") -> None:
    files, disk = writer.files, writer.files.disk
    try:
        disk.lock(files.lock_fd)
        disk.unlock(files.commit_fd)
        if not disk.lock(files.commit_fd, wait=False):
            return  # others go on
        _, record = files.read_lock()
        if record is None or record.active_base != writer.end.segment.base:
            return  # the end lies in another segment
        disk.truncate(writer.end.segment.fd, record.written_position)
        record.zeros_end = 0
        disk.pwrite(files.lock_fd, record.encode(), 0)
    finally:
        # Presence goes before the append lock: who opens next must not find it held by one who is leaving.
        disk.unlock(files.commit_fd)
        disk.unlock(files.lock_fd)


def give_back(writer: "PartitionWriter", size: int) -> None:
    """After a write that failed half-way: give its blocks back, as far as the disk lets us."""
    disk, fd = writer.files.disk, writer.end.segment.fd
    try:
        if disk.size(fd) > size:
            disk.truncate(fd, size)
    except OSError:
        pass


def take_back(writer: "PartitionWriter", before: bytes, position: int, error: OSError) -> None:
    """A batch was written whose end could not be recorded: make it no batch, or the next recovery would
    adopt it.

    :param before: the ``lock`` record that is still in force.
    :raises pspf.errors.OutcomeUnknown: that failed, too.
    """
    record = parse_lock(before)
    if record is not None:
        writer.end.take(record)
        writer.record = record
    try:
        # The failed write may have gone through all the same: first the old record, only then the batch.
        writer.files.disk.pwrite(writer.files.lock_fd, before, 0)
        writer.files.disk.pwrite(writer.end.segment.fd, bytes(HEADER_BYTES), position)
        writer.files.disk.fdatasync(writer.end.segment.fd)  # or a power cut brings the batch back
    except OSError:
        raise pspf.errors.OutcomeUnknown(
            f"cannot append to {writer.identity}",
            f"the batch is written, but recording its end failed: {error.strerror}",
            f"{writer.identity.path}/lock",
            f"look at the end of the topic with: pspf tail {writer.identity.topic}",
        ) from error


def clear_unsynced(writer: "PartitionWriter", offset: int) -> None:
    """Durability ``interval``: nothing is unsynced any more; the append lock is held."""
    raw, record = writer.files.read_lock()
    if record is not None and record.written_offset == offset and record.oldest_unsynced_ms:
        record.oldest_unsynced_ms = 0
        fresh = record.encode()
        writer.files.disk.pwrite(writer.files.lock_fd, fresh, 0)
        if raw == writer.raw:
            writer.record, writer.raw = record, fresh
