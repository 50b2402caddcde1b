"""The columnar body of a batch: records to bytes and back, a column at a time.

A body (behind the extension, inside the compression) is a 20-byte preamble and then columns, each of
``count``
entries: value lengths, record CRCs, key lengths, key bytes, time deltas, header lengths, header bytes, offset
deltas, value bytes. The preamble has a width for each column:

==  ====  ==========================================================
at  size  field
==  ====  ==========================================================
 0     1  value lengths: width and bits
 1     1  key lengths: width and bits
 2     1  time deltas: 0, 1, 2, 4 or 8 bytes each, from the base timestamp
 3     1  header lengths: width and bits
 4     1  offset deltas: 0 (consecutive) or 4 bytes each, from the base offset
 5     1  1 when the record CRC column is there
 6     2  zero
 8     4  value length, where its width is 0
12     4  key length, where its width is 0
16     4  header length, where its width is 0
==  ====  ==========================================================

A width is 0 (all have the length given in the preamble), 1, 2 or 4 bytes. Bit 0x40: stored lengths are one
more
than the real one, and 0 stands for null. Bit 0x80, alone: the bytes are the same for all records and stored
once. A body has at least as many bytes as records, and at most ``MAX_BATCH_RECORDS``, so that a forged count
cannot fill the memory. With the
flag
*lines* (in the batch header) values are separated by newlines, the last one included; lengths follow from
them,
so that a batch of lines is written out by ``pspf cat`` in one piece.

A record's CRC is that of its offset delta (4 bytes, only where there is an offset column), its timestamp (8
bytes, only where there is a time column), its key, its headers, and its value, in this order. A null adds no
bytes, as an empty one, but turns bits of the CRC over (``NULL_KEY``, ``NULL_VALUE``): the one cannot decay
into
the other. The CRC lets salvage keep the undamaged records of a damaged batch. Compressed batches have none:
nothing inside a damaged frame can be trusted.
"""

from _struct import unpack_from
from itertools import accumulate

from pspf.format.batch import (
    CODEC_ZSTD,
    FLAG_HEADERS,
    FLAG_KEYS,
    FLAG_LINES,
    KIND_COLUMNS,
    NULL_KEY,
    NULL_VALUE,
    NULLS,
    PREAMBLE,
    PREAMBLE_BYTES,
    SHARED,
    WIDTH_CODES,
    Header,
    crc32_small,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    Pairs = Sequence[tuple[str, bytes | None]]


class BadBody(ValueError):
    """A body whose columns do not fit together. Its text says how."""


def unpack_headers(blob: bytes) -> "list[tuple[str, bytes | None]]":
    """The inverse of :func:`pack_headers`."""
    pairs: "list[tuple[str, bytes | None]]" = []
    at, end = 0, len(blob)
    while at < end:
        if end - at < 2:
            raise BadBody("a header is cut short")
        length = int.from_bytes(blob[at : at + 2], "little")
        name = blob[at + 2 : at + 2 + length]
        at += 2 + length
        if end - at < 4:
            raise BadBody("a header is cut short")
        code = int.from_bytes(blob[at : at + 4], "little")
        at += 4
        if code == 0:
            pairs.append((name.decode("utf-8", "surrogateescape"), None))
        else:
            if end - at < code - 1:
                raise BadBody("a header value is cut short")
            pairs.append((name.decode("utf-8", "surrogateescape"), blob[at : at + code - 1]))
            at += code - 1
    return pairs


class Columns:
    """The records of one batch body, taken apart when asked.

    Made from a body whose batch CRC has been checked, or, for salvage, from one that failed it; every length
    is
    checked against the body's size, and what does not fit raises :class:`BadBody`.
    """

    __slots__ = (
        "_data",
        "_header",
        "_headers_at",
        "_keys_at",
        "_offsets_at",
        "_pre",
        "_times_at",
        "_values_at",
    )

    def __init__(self, header: Header, body: "bytes | memoryview") -> None:
        data = memoryview(body)[header.extension_length :]
        if header.kind != KIND_COLUMNS:
            raise BadBody(f"a body of unknown kind {header.kind}")
        if header.codec == CODEC_ZSTD:
            from pspf.format.zstd import decompress

            data = memoryview(decompress(bytes(data), header.plain_length))
        elif header.codec:
            raise BadBody(f"unknown compression {header.codec}")
        elif len(data) != header.plain_length:
            raise BadBody("the body does not have the length that the header gives")
        if len(data) < PREAMBLE_BYTES:
            raise BadBody("the body is shorter than its preamble")
        self._data = data
        self._header = header
        pre = self._pre = PREAMBLE.unpack_from(data)
        count = header.count
        if count > len(data):
            raise BadBody("more records than bytes")
        at = PREAMBLE_BYTES
        if header.flags & FLAG_LINES and pre[0]:
            raise BadBody("lines with a column of value lengths")
        at += count * self._entry(pre[0])
        at += 4 * count if pre[5] else 0
        self._keys_at = at
        if header.flags & FLAG_KEYS:
            at += count * self._entry(pre[1]) + self._column_bytes(at, pre[1], pre[8])
        self._times_at = at
        if pre[2] not in (0, 1, 2, 4, 8):
            raise BadBody(f"time column of width {pre[2]}")
        at += count * pre[2]
        self._headers_at = at
        if header.flags & FLAG_HEADERS:
            if pre[3] & NULLS:
                raise BadBody("headers that are null")
            at += count * self._entry(pre[3]) + self._column_bytes(at, pre[3], pre[9])
        self._offsets_at = at
        at += count * pre[4]
        self._values_at = at
        if at > len(data) or pre[4] not in (0, 4):
            raise BadBody("the columns are longer than the body")

    @staticmethod
    def _entry(bits: int) -> int:
        width = bits & 0x3F
        if width not in (0, 1, 2, 4) or (bits & SHARED and bits != SHARED):
            raise BadBody(f"length column of width {bits:#x}")
        return width

    def _read_lengths(self, at: int, bits: int, constant: int) -> "Sequence[int]":
        """Stored lengths of a column that begins at ``at``; nulls still as 0 with others one more."""
        width = bits & 0x3F
        count = self._header.count
        if width == 0:
            if constant * (1 if bits & SHARED else count) > len(self._data) + count:
                raise BadBody("a constant length is longer than the body")
            return [constant] * count
        if at + width * count > len(self._data):
            raise BadBody("a length column is cut short")
        return unpack_from(f"<{count}{WIDTH_CODES[width]}", self._data, at)

    def _column_bytes(self, at: int, bits: int, constant: int) -> int:
        if bits & SHARED:
            return constant
        if bits & 0x3F == 0:
            real = max(constant - 1, 0) if bits & NULLS else constant
            return real * self._header.count
        lengths = self._read_lengths(at, bits, constant)
        return sum(lengths) - (len(lengths) - lengths.count(0) if bits & NULLS else 0)

    def _split(self, at: int, bits: int, constant: int, bytes_at: int) -> "list[bytes | None]":
        count = self._header.count
        if bits & SHARED:
            shared = bytes(self._data[bytes_at : bytes_at + constant])
            if len(shared) < constant:
                raise BadBody("a column is cut short")
            return [shared] * count
        codes = self._read_lengths(at, bits, constant)
        lengths = [n - 1 if n else 0 for n in codes] if bits & NULLS else codes
        ends = list(accumulate(lengths, initial=0))
        data = bytes(self._data[bytes_at : bytes_at + ends[-1]])
        if len(data) < ends[-1]:
            raise BadBody("a column is cut short")
        pieces: "list[bytes | None]" = [data[a:b] for a, b in zip(ends, ends[1:], strict=False)]
        if bits & NULLS:
            pieces = [p if n else None for p, n in zip(pieces, codes, strict=True)]
        return pieces

    @property
    def count(self) -> int:
        """Number of records."""
        return self._header.count

    def region(self) -> memoryview:
        """The values end to end; with :meth:`is_lines`, each followed by its newline."""
        return self._data[self._values_at :]

    def is_lines(self) -> bool:
        """True when the values contain no newline and are separated by newlines."""
        return bool(self._header.flags & FLAG_LINES)

    def values(self) -> "list[bytes | None]":
        """The value of each record; None is a null."""
        if self._header.flags & FLAG_LINES:
            pieces: "list[bytes | None]" = bytes(self.region()).split(b"\n")  # type: ignore[assignment]
            if len(pieces) != self._header.count + 1 or pieces.pop():
                raise BadBody("the number of lines is not the number of records")
            return pieces
        return self._split(PREAMBLE_BYTES, self._pre[0], self._pre[7], self._values_at)

    def keys(self) -> "list[bytes | None] | None":
        """The key of each record, or None when the batch has no keys."""
        if not self._header.flags & FLAG_KEYS:
            return None
        at = self._keys_at
        bits = self._pre[1]
        return self._split(at, bits, self._pre[8], at + self._header.count * (bits & 0x3F))

    def timestamps(self) -> "list[int] | None":
        """The time of each record in ms, or None when all have the header's base timestamp."""
        width = self._pre[2]
        if not width:
            return None
        base = self._header.base_timestamp
        deltas = unpack_from(f"<{self._header.count}{WIDTH_CODES[width]}", self._data, self._times_at)
        if base + (1 << 8 * width) > 1 << 63 and base + max(deltas, default=0) >= 1 << 63:
            raise BadBody("a timestamp that does not fit 64 bits")
        return [base + d for d in deltas]

    def header_blobs(self) -> "list[bytes] | None":
        """The packed headers of each record (see :func:`unpack_headers`), or None when there are none."""
        if not self._header.flags & FLAG_HEADERS:
            return None
        at = self._headers_at
        bits = self._pre[3]
        blobs = self._split(at, bits, self._pre[9], at + self._header.count * (bits & 0x3F))
        return blobs  # type: ignore[return-value]

    def offsets(self) -> "Sequence[int]":
        """The offset of each record."""
        base = self._header.base_offset
        if not self._pre[4]:
            return range(base, base + self._header.count)
        deltas = unpack_from(f"<{self._header.count}I", self._data, self._offsets_at)
        return [base + d for d in deltas]

    def record_crcs(self) -> "tuple[int, ...] | None":
        """The stored CRC of each record, or None when the batch has none."""
        if not self._pre[5]:
            return None
        at = PREAMBLE_BYTES + self._header.count * (self._pre[0] & 0x3F)
        return unpack_from(f"<{self._header.count}I", self._data, at)

    def good_records(self) -> "list[bool]":
        """For each record, whether its own CRC holds; all False where there are none (compressed)."""
        stored = self.record_crcs()
        if stored is None:
            return [False] * self.count
        seeds: "list[int]" = [0] * self.count
        if self._pre[4]:
            base = self._header.base_offset
            seeds = [crc32_small((o - base).to_bytes(4, "little")) for o in self.offsets()]
        times = self.timestamps()
        if times is not None:
            seeds = _continued([(t & (1 << 64) - 1).to_bytes(8, "little") for t in times], seeds, 0)
        keys = self.keys()
        if keys is not None:
            seeds = _continued(keys, seeds, NULL_KEY)
        blobs = self.header_blobs()
        if blobs is not None:
            seeds = _continued(blobs, seeds, 0)
        return [a == b for a, b in zip(_continued(self.values(), seeds, NULL_VALUE), stored, strict=True)]


def _continued(column: "Sequence[bytes | None]", seeds: "list[int]", mark: int) -> "list[int]":
    pairs = zip(column, seeds, strict=True)
    return [seed ^ mark if piece is None else crc32_small(piece, seed) for piece, seed in pairs]
