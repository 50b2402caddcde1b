"""Find offsets by time, and count records back from the end."""

from pspf.format.batch import FLAG_CONTROL, HEADER_BYTES, batch_crc_of
from pspf.format.index import UNKNOWN
from pspf.format.segment import SEGMENT_HEADER_BYTES
from pspf.log.index import read_index
from pspf.log.scan import hop

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

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
    """The offset of the record ``count`` records before the visible end; ``start`` if there are fewer."""
    if count <= 0:
        return commit.visible_offset
    end = commit.visible_offset
    reach = count
    while True:
        low = max(start, end - reach)
        batches = _batches(files, commit, low)
        have = sum(h.count for _, _, h in batches)
        if have >= count or low <= start:
            break
        reach *= 4
    missing = count
    for base, position, header in reversed(batches):
        if header.count < missing:
            missing -= header.count
            continue
        if header.span == header.count:
            return max(start, header.next_offset - missing)
        segment = files.open_segment(base)
        if segment is None:
            break
        try:
            offsets, _ = _offsets_and_times(files, segment, position, header)
        finally:
            files.disk.close(segment.fd)
        return max(start, offsets[-missing] if len(offsets) >= missing else header.base_offset)
    return start


def _batches(files: "PartitionFiles", commit: "Commit", low: int) -> "list[tuple[int, int, Header]]":
    """Base of the segment, position and header of each batch with records from ``low`` to the visible end."""
    found = []
    bases = _segments_from(files, commit, low)
    for number, base in enumerate(bases):
        limit = bases[number + 1] if number + 1 < len(bases) else commit.visible_offset
        segment = files.open_segment(base)
        if segment is None:
            continue
        try:
            end = _end_of(files, commit, segment)
            at = SEGMENT_HEADER_BYTES
            for entry in read_index(files, segment):
                if entry.base_offset > low or entry.position >= end:
                    break
                at = entry.position
            for position, header in hop(files.disk, segment.fd, segment.segment_id, at, end):
                if header.base_offset >= limit:
                    break
                if header.count and not header.flags & FLAG_CONTROL and header.next_offset > low:
                    found.append((base, position, header))
        finally:
            files.disk.close(segment.fd)
    return found
