"""The sparse index on its way to and from the disk. Derived: a missing or wrong entry costs time, never an
answer.
"""

from pspf.disk.real import CREATE, READ
from pspf.format.index import (
    CHUNK,
    ENTRY_BYTES,
    UNKNOWN,
    IndexEntry,
    decode_entries,
    encode_entry,
    entry_place,
)
from pspf.format.segment import SEGMENT_HEADER_BYTES
from pspf.log.scan import hop
from pspf.model import MAX_BATCH_BODY

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pspf.log.files import PartitionFiles, Segment

    Due = tuple[Segment, int, int, int, int | None]
    """Segment, position, base offset and append time of a batch; the greatest timestamp since the entry
    before, or None where others appended too."""

_LOOK_BACK = (MAX_BATCH_BODY // CHUNK + 2) * ENTRY_BYTES
_MAX_HOPS = 5000


def index_name(base: int) -> str:
    """File name of the index of the segment that begins at ``base``."""
    return f"{base:020d}.index"


def read_index(files: "PartitionFiles", segment: "Segment") -> "list[IndexEntry]":
    """The valid entries of a segment's index, ascending; none if there is no index."""
    try:
        fd = files.disk.open(index_name(segment.base), READ, files.dir_fd)
    except OSError:
        return []
    try:
        return decode_entries(files.disk.pread(fd, files.disk.size(fd), 0), segment.segment_id)
    finally:
        files.disk.close(fd)


def note_batches(files: "PartitionFiles", due: "list[Due]") -> None:
    """Write the entries for the first batches of their 256 KiB stretches, and empty ``due``.

    Called without the append lock: entries do not depend on who writes them, or when. Whatever goes wrong,
    the log does not need it.
    """
    wanted, due[:] = list(due), []
    while wanted:
        segment = wanted[0][0]
        here = [entry for entry in wanted if entry[0] is segment]
        wanted = [entry for entry in wanted if entry[0] is not segment]
        try:
            fd = files.disk.open(index_name(segment.base), CREATE, files.dir_fd)
            try:
                for entry in here:
                    _note(files, fd, *entry)
            finally:
                files.disk.close(fd)
        except OSError:
            pass


def _note(
    files: "PartitionFiles",
    fd: int,
    segment: "Segment",
    position: int,
    offset: int,
    append_ns: int,
    max_before: "int | None",
) -> None:
    disk = files.disk
    place = entry_place(position)
    segment_id, previous = segment.segment_id, position
    if place == 0:
        max_before = -(1 << 63)
    else:
        span = min(place, _LOOK_BACK)
        earlier = _entries_at(disk.pread(fd, span, place - span), place - span, segment_id)
        previous = earlier[-1].position if earlier else 0
        if not earlier:
            max_before = UNKNOWN
        elif max_before is None:
            max_before = _greatest(files, segment, previous, position)
    entry = IndexEntry(offset, position, previous, max_before, append_ns)
    disk.pwrite(fd, encode_entry(entry, segment_id), place)


def _entries_at(data: bytes, start: int, segment_id: int) -> "list[IndexEntry]":
    """Entries of a part of the file that begins at byte ``start``."""
    return decode_entries(bytes(start) + data, segment_id)


def _greatest(files: "PartitionFiles", segment: "Segment", start: int, end: int) -> int:
    # Opened anew: what the writer has open may be closed by now, by a roll of another thread.
    fd = files.disk.open(segment.name, READ, files.dir_fd)
    try:
        greatest = -(1 << 63)
        at = start
        for number, (position, header) in enumerate(hop(files.disk, fd, segment.segment_id, start, end)):
            if position != at or number >= _MAX_HOPS:
                return UNKNOWN  # damage in between, or entries missing
            at = position + header.size
            if header.count:
                greatest = max(greatest, header.max_timestamp)
        return greatest if at == end else UNKNOWN
    finally:
        files.disk.close(fd)


def rebuild(files: "PartitionFiles", segment: "Segment", end: int) -> int:
    """Write a segment's index anew from its batches up to byte ``end``; the number of entries."""
    disk = files.disk
    wanted: "dict[int, bytes]" = {}
    previous, greatest, last_place = SEGMENT_HEADER_BYTES, -(1 << 63), -1
    at = SEGMENT_HEADER_BYTES
    for position, header in hop(disk, segment.fd, segment.segment_id, SEGMENT_HEADER_BYTES, end):
        if position != at:
            greatest = UNKNOWN
        place = entry_place(position)
        if place != last_place:
            entry = IndexEntry(header.base_offset, position, previous, greatest, header.append_ns)
            wanted[place] = encode_entry(entry, segment.segment_id)
            previous, greatest, last_place = position, -(1 << 63), place
        if header.count and greatest != UNKNOWN:
            greatest = max(greatest, header.max_timestamp)
        at = position + header.size
    size = max(wanted, default=-ENTRY_BYTES) + ENTRY_BYTES
    block = bytearray(size)
    for place, data in wanted.items():
        block[place : place + ENTRY_BYTES] = data
    fd = disk.open(index_name(segment.base), CREATE, files.dir_fd)
    try:
        disk.truncate(fd, 0)
        disk.pwrite(fd, bytes(block), 0)
    finally:
        disk.close(fd)
    return len(wanted)
