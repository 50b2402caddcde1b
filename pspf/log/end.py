"""Where a partition's log ends: what the next append needs to know, and the small records that say it."""

from pspf.format.batch import HEADER_BYTES, NO_TABLE, header_fault, parse_header
from pspf.format.segment import SEGMENT_HEADER_BYTES, segment_name
from pspf.format.slots import FLAG_LINKED, Commit, LockRecord

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pspf.format.batch import Header
    from pspf.log.files import PartitionFiles, Segment


NOT_KNOWN = 0
"""As ``End.producers``: damage hides where producer state begins. Position 0 is no batch's, so that a header
whose distance back leads there says the same to whoever comes later.
"""

_LATEST_NS = (1 << 63) - (1 << 50)
"""A forged time above it is taken for it: the next ones are greater, and must fit 64 bits, too."""


class End:
    """The end of a log: the active segment, and all that the next append needs to know.

    ``last`` is the position of the last batch (0: none in this segment), ``chain`` its header CRC (else the
    segment
    header's), ``producers`` where producer state begins (NO_TABLE: nowhere, NOT_KNOWN: look back).
    """

    __slots__ = ("append_ns", "chain", "epoch", "last", "offset", "position", "producers", "segment")

    def __init__(self, segment: "Segment") -> None:
        header = segment.header
        self.segment = segment
        self.offset = segment.base
        self.position = SEGMENT_HEADER_BYTES
        self.last = 0
        self.chain: "int | None" = header.crc if header else None
        self.append_ns = min(max(header.created_ns, 0), _LATEST_NS) if header else 0
        self.epoch = header.epoch if header else 0
        self.producers = NO_TABLE

    def take(self, record: LockRecord) -> None:
        """Move to the written end that a ``lock`` record names in this segment."""
        self.offset = record.written_offset
        self.position = record.written_position
        self.last = record.last_position
        self.chain = record.last_crc
        self.append_ns = min(record.last_append_ns, _LATEST_NS)
        self.producers = record.producers_position

    def accept(self, position: int, header: "Header") -> None:
        """Move behind the batch whose ``header`` stands at ``position``."""
        self.offset = header.next_offset
        self.position = position + header.size
        self.last = position
        self.chain = header.crc
        self.append_ns = max(self.append_ns, min(header.append_ns, _LATEST_NS))
        self.epoch = max(self.epoch, header.epoch)
        back = header.table_back
        self.producers = NO_TABLE if back == NO_TABLE else max(position - back, NOT_KNOWN)


def read_last(files: "PartitionFiles", segment: "Segment", commit: Commit, end: End) -> bool:
    """Place ``end`` at the durable end of ``commit``, from the header of its last batch; False if that is
    damaged.
    """
    end.offset = commit.durable_offset
    end.position = commit.durable_position
    if commit.durable_last == 0:
        whole = commit.durable_position == SEGMENT_HEADER_BYTES and segment.header is not None
        end.producers = NO_TABLE if whole else NOT_KNOWN
        return whole
    data = files.disk.pread(segment.fd, HEADER_BYTES, commit.durable_last)
    if not header_fault(data, 0, segment.segment_id, commit.durable_last):
        header = parse_header(data)
        if commit.durable_last + header.size == commit.durable_position:
            end.accept(commit.durable_last, header)
            return True
    end.chain = None
    end.last = commit.durable_last
    end.producers = NOT_KNOWN
    return False


def settled_end(files: "PartitionFiles", commit: "Commit | None") -> "End | None":
    """The end after a clean close, for the price of one header; None when there is more to look at."""
    if commit is None or commit.flags & ~FLAG_LINKED or commit.visible_offset != commit.durable_offset:
        return None
    disk = files.disk
    segment = files.open_segment(commit.active_base, writable=True)
    if segment is None:
        return None
    end = End(segment)
    settled = False
    try:
        settled = (
            segment.header is not None
            and read_last(files, segment, commit, end)
            and disk.size(segment.fd) == end.position
            and (end.offset == segment.base or not disk.exists(segment_name(end.offset), files.dir_fd))
        )
        return end if settled else None
    finally:
        if not settled:
            disk.close(segment.fd)


def end_of_new(before: End, segment: "Segment") -> End:
    """The end of a segment that was just made to follow ``before``."""
    end = End(segment)
    end.append_ns = max(end.append_ns, before.append_ns)
    end.epoch = max(end.epoch, before.epoch)
    return end


def accept_first(files: "PartitionFiles", end: End) -> None:
    """Move behind the control batch that a new segment was just made with."""
    header = parse_header(files.disk.pread(end.segment.fd, HEADER_BYTES, end.position))
    end.accept(end.position, header)


def slot_of(previous: Commit, end: End, flags: int, generation: int, offset: int = -1) -> Commit:
    """The slot after ``previous`` for ``end``; ``offset`` puts another durable offset at the same place."""
    at = end.offset if offset < 0 else offset
    place = end.position
    return Commit(
        previous.sequence + 1,
        generation,
        flags,
        end.segment.base,
        at,
        at,
        place,
        place,
        end.last,
        previous.topic_fold,
    )


def copy_slot(slot: Commit, sequence: int = -1, flags: int = -1) -> Commit:
    """``slot`` again, one sequence later, or with what is given."""
    return Commit(
        slot.sequence + 1 if sequence < 0 else sequence,
        slot.generation,
        slot.flags if flags < 0 else flags,
        slot.active_base,
        slot.visible_offset,
        slot.durable_offset,
        slot.visible_position,
        slot.durable_position,
        slot.durable_last,
        slot.topic_fold,
    )


def lock_record(end: End, generation: int, flags: int, zeros_end: int) -> LockRecord:
    """The ``lock`` record that says: this is the written end."""
    return LockRecord(
        generation,
        flags,
        end.segment.base,
        end.offset,
        end.position,
        end.chain or 0,
        zeros_end,
        end.last,
        end.producers,
        0,
        end.append_ns,
    )


class Placed:
    """Where a batch was written: offsets ``first``..``last``, and ``end``, the offset that must become
    durable.
    """

    __slots__ = ("duplicate", "end", "first", "last", "unsynced")

    def __init__(self, first: int, last: int, end: int, unsynced: int, duplicate: bool = False) -> None:
        self.first = first
        self.last = last
        self.end = end
        self.unsynced = unsynced
        self.duplicate = duplicate
