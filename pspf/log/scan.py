"""Walk the batches of a segment: strictly (recovery, verify), or by hopping over bodies (seek), or behind a
break.
"""

from pspf.format.batch import HEADER_BYTES, MAGIC, Header, batch_crc_of, header_fault, parse_header
from pspf.model import MAX_BATCH_BODY

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from pspf.disk.real import Disk

_CHUNK = 1 << 20
# What a search for a segment's id may cost, in magics found; a CRC costs about as much as ten of them. Only
# a file full of what looks like headers gets there, in a few seconds.
_SEARCH_COST = 1 << 24
_CRC_COST = 10
_ID_PLACE = 8
_LENGTH_TOP = MAX_BATCH_BODY >> 24


class Scanner:
    """Strict walk: a batch counts only if magic, header CRC, chain, base offset and body CRC agree.

    ``position``, ``offset`` and ``chain`` are where the walk stands, behind the last batch accepted. When
    :meth:`step`
    returns None, ``fault`` says why: empty at ``size``, otherwise what is wrong at ``position``.
    """

    __slots__ = (
        "_buffer",
        "_buffer_at",
        "_fd",
        "_disk",
        "chain",
        "fault",
        "header_bytes",
        "offset",
        "position",
        "segment_id",
        "size",
        "body",
    )

    def __init__(
        self,
        disk: "Disk",
        fd: int,
        segment_id: int,
        position: int,
        offset: int,
        chain: "int | None",
        size: int,
    ) -> None:
        self._disk = disk
        self._fd = fd
        self.segment_id = segment_id
        self.position = position
        self.offset = offset
        self.chain = chain
        self.size = size
        self.fault = ""
        self.header_bytes = b""
        self.body: "bytes | memoryview" = b""
        self._buffer = b""
        self._buffer_at = position

    def _need(self, length: int) -> int:
        """Have ``length`` bytes from ``position`` in the buffer if the file has them; their place in it."""
        at = self.position - self._buffer_at
        if at < 0 or at + length > len(self._buffer):
            self._buffer = self._disk.pread(
                self._fd, min(max(length, _CHUNK), max(self.size - self.position, 0)), self.position
            )
            self._buffer_at = self.position
            at = 0
        return at

    def step(self) -> "Header | None":
        """The next batch, with ``header_bytes`` and ``body`` set; None at the end or at a fault."""
        if self.position >= self.size:
            self.fault = ""
            return None
        at = self._need(HEADER_BYTES)
        self.fault = header_fault(self._buffer, at, self.segment_id, self.position)
        if self.fault:
            return None
        header = parse_header(self._buffer, at)
        if self.chain is not None and header.chain != self.chain:
            self.fault = "the batch does not follow the one before it (chain mismatch)"
        elif header.base_offset != self.offset:
            self.fault = f"the batch begins at offset {header.base_offset} instead of {self.offset}"
        if self.fault:
            return None
        at = self._need(header.size)
        view = memoryview(self._buffer)
        if len(self._buffer) - at < header.size:
            self.fault = "the file ends inside a batch"
            return None
        self.header_bytes = bytes(view[at : at + HEADER_BYTES])
        self.body = view[at + HEADER_BYTES : at + header.size]
        if batch_crc_of(self.header_bytes, self.body) != header.batch_crc:
            self.fault = "batch CRC mismatch"
            return None
        self.position += header.size
        self.offset = header.next_offset
        self.chain = header.crc
        return header

    def restart(self, position: int, offset: int) -> None:
        """Go on at a batch behind a break; what it follows cannot be checked."""
        self.position = position
        self.offset = offset
        self.chain = None

    def reread(self) -> None:
        """Forget what was read ahead: a writer may have written it meanwhile."""
        self._buffer = b""
        self._buffer_at = self.position

    def rest_is_zero(self) -> bool:
        """Whether only zeros lie between ``position`` and ``size``."""
        return only_zeros(self._disk, self._fd, self.position, self.size)


def find_segment_id(disk: "Disk", fd: int, size: int) -> int:
    """The id of a segment whose own header is damaged, from the first batch that checks with the id it
    carries.

    0, which is nobody's id, when there is none.
    """
    overlap = HEADER_BYTES - 1
    at = 0
    left = _SEARCH_COST
    while at < size:
        data = disk.pread(fd, min(_CHUNK, size - at), at)
        if len(data) < HEADER_BYTES:
            return 0
        found = data.find(MAGIC)
        while 0 <= found <= len(data) - HEADER_BYTES and left > 0:
            left -= 1
            if data[found + 31] <= _LENGTH_TOP:  # most of what only looks like a header ends here
                left -= _CRC_COST
                segment_id = int.from_bytes(data[found + 8 : found + 16], "little")
                if segment_id and not header_fault(data, found, segment_id, at + found):
                    return segment_id
            found = data.find(MAGIC, found + 1)
        if at + len(data) >= size or left <= 0:
            return 0
        at += len(data) - overlap
    return 0


def only_zeros(disk: "Disk", fd: int, start: int, end: int) -> bool:
    """Whether the file holds nothing but zeros in a range."""
    while start < end:
        data = disk.pread(fd, min(_CHUNK, end - start), start)
        if not data:
            return True
        if data.count(0) != len(data):
            return False
        start += len(data)
    return True


def headers_behind(
    disk: "Disk", fd: int, segment_id: int, start: int, end: int, above: int
) -> "Iterator[tuple[int, Header]]":
    """Headers that are valid in their place, anywhere in a range, whose base offset is at least ``above``.

    What is searched for is the id of the segment, which is random: what a record holds cannot look like it by
    chance, as it can like the magic. The CRC, seeded with segment and position, says which finds are real.
    """
    if not segment_id:
        return  # nobody's
    wanted = segment_id.to_bytes(8, "little")
    at = start
    while at < end:
        data = disk.pread(fd, min(_CHUNK, end - at), at)
        if len(data) < HEADER_BYTES:
            return
        found = data.find(wanted) - _ID_PLACE
        while found >= -_ID_PLACE:
            if found >= 0 and not header_fault(data, found, segment_id, at + found):
                header = parse_header(data, found)
                if header.base_offset >= above:
                    yield at + found, header
            found = data.find(wanted, found + _ID_PLACE + 1) - _ID_PLACE
        if at + len(data) >= end:
            return
        at += len(data) - (HEADER_BYTES - 1)


def hop(disk: "Disk", fd: int, segment_id: int, position: int, end: int) -> "Iterator[tuple[int, Header]]":
    """Headers one after the other by their lengths, bodies unread; over damage to the next valid header."""
    size = 4096
    buffer, buffer_at = b"", 0
    while position < end:
        at = position - buffer_at
        if at < 0 or at + HEADER_BYTES > len(buffer):
            buffer, buffer_at, at = disk.pread(fd, min(size, end - position), position), position, 0
        if header_fault(buffer, at, segment_id, position):
            following = next(headers_behind(disk, fd, segment_id, position + 1, end, 0), None)
            if following is None:
                return
            position = following[0]
            continue
        header = parse_header(buffer, at)
        yield position, header
        position += header.size
        size = 4096 if header.size > 16384 else 256 << 10
