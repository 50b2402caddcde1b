"""Find offsets by time and by epoch, and count records back from the end."""

from pspf.format.batch import FLAG_CONTROL, HEADER_BYTES, batch_crc_of, header_fault, parse_header
from pspf.format.index import UNKNOWN
from pspf.format.segment import SEGMENT_HEADER_BYTES
from pspf.log.index import read_index
from pspf.log.scan import hop

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from pspf.format.batch import Header
    from pspf.format.slots import Commit
    from pspf.log.files import PartitionFiles, Segment


def _segments_from(files: "PartitionFiles", commit: "Commit", start: int) -> "list[int]":
    if commit.active_base <= start:
        return [commit.active_base]
    bases = [b for b in files.segment_bases() if b <= commit.active_base]
    first = max((i for i, b in enumerate(bases) if b <= start), default=0)
    return bases[first:]


def _end_of(files: "PartitionFiles", commit: "Commit", segment: "Segment") -> int:
    if segment.base == commit.active_base:
        return commit.visible_position
    return files.disk.size(segment.fd)


def first_at_or_after(files: "PartitionFiles", commit: "Commit", start: int, timestamp_ms: int) -> int:
    """The first offset from ``start`` on whose timestamp is at least ``timestamp_ms``; the visible end if
    none.

    Exact whatever the order of the timestamps: a stretch is skipped only when the index knows that all of it
    is
    earlier.
    """
    bases = _segments_from(files, commit, start)
    for number, base in enumerate(bases):
        limit = bases[number + 1] if number + 1 < len(bases) else commit.visible_offset
        segment = files.open_segment(base)
        if segment is None:
            continue
        try:
            end = _end_of(files, commit, segment)
            at = SEGMENT_HEADER_BYTES
            for entry in read_index(files, segment):
                if entry.position >= end or entry.max_before == UNKNOWN or entry.max_before >= timestamp_ms:
                    break
                if entry.previous != at and not (
                    at == SEGMENT_HEADER_BYTES and entry.previous == entry.position
                ):
                    break
                at = entry.position
            for position, header in hop(files.disk, segment.fd, segment.segment_id, at, end):
                if not header.count or header.flags & FLAG_CONTROL or header.max_timestamp < timestamp_ms:
                    continue
                if header.base_offset >= limit or header.next_offset <= start:
                    continue
                found = _in_batch(files, segment, position, header, timestamp_ms, start)
                if found >= 0:
                    return found
        finally:
            files.disk.close(segment.fd)
    return commit.visible_offset


def _in_batch(
    files: "PartitionFiles",
    segment: "Segment",
    position: int,
    header: "Header",
    timestamp_ms: int,
    start: int,
) -> int:
    if header.base_timestamp >= timestamp_ms and header.base_offset >= start:
        return header.base_offset
    offsets, times = _offsets_and_times(files, segment, position, header)
    for offset, time in zip(offsets, times, strict=True):
        if time >= timestamp_ms and offset >= start:
            return offset
    return -1


def _offsets_and_times(
    files: "PartitionFiles", segment: "Segment", position: int, header: "Header"
) -> "tuple[Sequence[int], Sequence[int]]":
    from pspf.format.columns import BadBody, Columns

    raw = files.disk.pread(segment.fd, header.size, position)
    try:
        if batch_crc_of(raw[:HEADER_BYTES], raw[HEADER_BYTES:]) != header.batch_crc:
            raise BadBody("batch CRC mismatch")
        columns = Columns(header, raw[HEADER_BYTES:])
        times = columns.timestamps()
        return columns.offsets(), times if times is not None else [header.base_timestamp] * header.count
    except BadBody:
        # Damaged: as if its records lay at its start; the read that follows names the damage.
        return [header.base_offset], [header.max_timestamp]


def records_before_end(files: "PartitionFiles", commit: "Commit", start: int, count: int) -> int:
    """The offset of the record ``count`` records before the visible end; ``start`` if there are fewer.

    Stretch by stretch backwards, each from one index entry to the next. A stretch is counted first; only in
    the one where it lies is the record looked for, so that nothing is kept of the others.
    """
    if count <= 0:
        return commit.visible_offset
    bases = _segments_from(files, commit, start)
    for number in range(len(bases) - 1, -1, -1):
        limit = bases[number + 1] if number + 1 < len(bases) else commit.visible_offset
        segment = files.open_segment(bases[number])
        if segment is None:
            continue
        try:
            stretch_end = end = _end_of(files, commit, segment)
            places = [SEGMENT_HEADER_BYTES]
            for entry in read_index(files, segment):
                if places[-1] < entry.position < end and entry.base_offset < limit:
                    if entry.base_offset <= start:
                        places.clear()
                    places.append(entry.position)
            for place in reversed(places):
                have = sum(h.count for _, h in _between(files, segment, place, stretch_end, start, limit))
                if have >= count:
                    skip = have - count
                    for position, header in _between(files, segment, place, stretch_end, start, limit):
                        if skip < header.count:
                            return max(start, _nth(files, segment, position, header, skip))
                        skip -= header.count
                count -= have
                stretch_end = place
        finally:
            files.disk.close(segment.fd)
    return start


def _between(
    files: "PartitionFiles", segment: "Segment", place: int, end: int, start: int, limit: int
) -> "Iterator[tuple[int, Header]]":
    """Batches of records in a stretch of bytes and of offsets."""
    for position, header in hop(files.disk, segment.fd, segment.segment_id, place, end):
        if header.base_offset >= limit:
            return
        if header.count and not header.flags & FLAG_CONTROL and header.next_offset > start:
            yield position, header


def _nth(files: "PartitionFiles", segment: "Segment", position: int, header: "Header", number: int) -> int:
    """The offset of a batch's record, counted from 0."""
    if header.span == header.count:
        return header.base_offset + number
    offsets, _ = _offsets_and_times(files, segment, position, header)
    return offsets[number] if number < len(offsets) else header.base_offset


def _header_at(files: "PartitionFiles", segment: "Segment", position: int) -> "Header | None":
    data = files.disk.pread(segment.fd, HEADER_BYTES, position)
    return None if header_fault(data, 0, segment.segment_id, position) else parse_header(data)


def epoch_at_end(files: "PartitionFiles", commit: "Commit") -> int:
    """The epoch in which the log goes on behind the end that ``commit`` names; -1: not known any more."""
    segment = files.open_segment(commit.active_base)
    if segment is None:
        return -1
    try:
        header = segment.header
        if header is None or header.generation > commit.generation:
            return -1  # made anew since ``commit`` was read
        # A new epoch in the middle of a segment begins with a batch that is durable before it counts.
        last = _header_at(files, segment, commit.durable_last) if commit.durable_last else None
        return max(header.epoch, last.epoch if last is not None else 0)
    finally:
        files.disk.close(segment.fd)


def newer_epoch(files: "PartitionFiles", commit: "Commit", epoch: int, below: int) -> int:
    """Where the first epoch above ``epoch`` begins, if that is below offset ``below``; otherwise ``below``.

    Each cut of visible records begins a new epoch at the cut, so whoever has read up to ``below`` in
    ``epoch`` has read records that are not in the log any more, from there on. The header of the active
    segment knows all epochs up to its base, and epochs never go down within a segment.
    """
    segment = files.open_segment(commit.active_base)
    if segment is None:
        return below
    try:
        if segment.header is not None:
            for number, offset in segment.header.epochs:
                if number > epoch:
                    return min(offset, below)
        if segment.base >= below:
            return below
        at, end = SEGMENT_HEADER_BYTES, commit.visible_position
        for entry in read_index(files, segment):
            if entry.base_offset >= below or entry.position >= end:
                break
            there = _header_at(files, segment, entry.position)
            if there is None or there.epoch > epoch:
                break
            at = entry.position
        for _, header in hop(files.disk, segment.fd, segment.segment_id, at, end):
            if header.epoch > epoch or header.base_offset >= below:
                return min(header.base_offset, below)
        return below
    finally:
        files.disk.close(segment.fd)
