"""Producer state where damage hides the table: worked out from what lies before it.

Every table but the first only repeats what the headers before it say. So the way goes back, through earlier
segments if need be, to a table that is whole, to a batch that knew of no producer, or to the beginning of the
partition; and from there forward, header by header. This reads all headers on the way, which nothing but
damage makes necessary. Where a segment on the way is gone, the state is what the rest of the way shows, with
the entry ``LOST``: somebody may be missing from it.
"""

from pspf.format.batch import KIND_TABLE, NO_TABLE
from pspf.format.producers import Producer
from pspf.format.segment import SEGMENT_HEADER_BYTES
from pspf.log.producers import LOST, ProducerState, read_table, walk
from pspf.log.scan import hop

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pspf.disk.real import Disk
    from pspf.log.end import End
    from pspf.log.files import PartitionFiles, Segment


class _Stretch:
    """The part of a segment on the way, from ``start`` to ``to``; ``known``: what is known at its start.

    ``behind`` is the offset behind its last batch.
    """

    __slots__ = ("behind", "known", "segment", "start", "to")

    def __init__(self, disk: "Disk", segment: "Segment", to: int, below: "int | None") -> None:
        """
        :param to: where the segment ends.
        :param below: the offset that ends it, where nobody says at which position that is.
        """
        self.segment = segment
        self.start = SEGMENT_HEADER_BYTES
        self.to = to
        self.known = False
        self.behind = segment.base
        for position, header in hop(disk, segment.fd, segment.segment_id, self.start, to):
            if below is not None and header.next_offset > below:
                self.to = position
                break
            if header.kind == KIND_TABLE:
                if read_table(disk, segment, position, header) is not None:
                    self.start, self.known = position, True
            elif header.table_back == NO_TABLE:
                self.start, self.known = position, True
            self.behind = header.next_offset


def look_back(files: "PartitionFiles", end: "End") -> ProducerState:
    """Producer state at ``end``."""
    disk = files.disk
    way = []
    opened: "list[Segment]" = []
    lost = False
    try:
        part = _Stretch(disk, end.segment, end.position, None)
        way.append(part)
        while not part.known and not _is_first(files, part.segment):
            before = _before(files, part.segment)
            if before is None:
                lost = True
                break
            segment, to = before
            opened.append(segment)
            header = part.segment.header
            below = part.segment.base if header is None else None
            part = _Stretch(disk, segment, to, below)
            # Without a header nobody says which segment it follows: one in between may be gone.
            lost = lost or (below is not None and part.behind != below)
            way.append(part)
        state = ProducerState(0, 0)
        oldest = way[-1].segment.header
        forgotten = Producer(LOST)
        if lost:
            state.known[LOST] = forgotten
            state.clock_ms = forgotten.used_ms = oldest.created_ns // 1_000_000 if oldest is not None else 0
        for part in reversed(way):
            state.segment_id, state.position = part.segment.segment_id, part.start
            walk(disk, part.segment, state, part.to)
        if lost:
            state.known.setdefault(LOST, forgotten)  # a table on the way was made before that was lost
    finally:
        for segment in opened:
            disk.close(segment.fd)
    state.due = bool(state.known)
    return state


def _is_first(files: "PartitionFiles", segment: "Segment") -> bool:
    """Whether the partition begins with this segment, as far as anybody knows."""
    if segment.header is not None:
        return segment.header.prev_base < 0
    return segment.base == 0


def _before(files: "PartitionFiles", segment: "Segment") -> "tuple[Segment, int] | None":
    """The segment that this one follows, and the position where that ends; None if it is gone."""
    if segment.header is not None:
        base, to = segment.header.prev_base, segment.header.prev_position
    else:
        base, to = max((b for b in files.segment_bases() if b < segment.base), default=-1), -1
    if not 0 <= base < segment.base:
        return None
    found = files.open_segment(base)
    if found is None:
        return None
    if not found.segment_id:  # nothing in it checks, or it is another topic's
        files.disk.close(found.fd)
        return None
    return found, files.disk.size(found.fd) if to < 0 else to
