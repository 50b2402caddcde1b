"""Poison: after a failed sync nobody acknowledges anything in this partition until it was opened again."""

import pspf
from pspf.format.slots import FLAG_POISONED
from pspf.log.end import slot_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    import pspf.errors
    from pspf.log.writer import PartitionWriter


def poison(writer: "PartitionWriter", why: str) -> None:
    """Flag the partition before the error is told: nobody may acknowledge what a failed sync lost."""
    writer.poisoned = why
    try:
        writer.files.disk.lock(writer.files.lock_fd)
        try:
            poison_locked(writer, why)
        finally:
            writer.files.disk.unlock(writer.files.lock_fd)
    except OSError:
        pass  # this handle is dead all the same; the others meet the same disk


def poison_locked(writer: "PartitionWriter", why: str) -> None:
    """As :func:`poison`, with the append lock held. The slot with the flag repeats the durable end: it is
    the last one.
    """
    writer.poisoned = why
    files = writer.files
    try:
        _, record = files.read_lock()
        if record is not None and record.generation == writer.generation:
            record.flags |= FLAG_POISONED
            files.disk.pwrite(files.lock_fd, record.encode(), 0)
        commit = files.read_commit()
        if commit is not None and commit.generation == writer.generation:
            slot = slot_of(commit, writer.end, commit.flags | FLAG_POISONED, commit.generation)
            writer.publish_slot(slot, commit)
    except (OSError, pspf.errors.Error):
        pass  # the next opener, alone, reads everything back from the disk anyway
