"""The batch header: 104 bytes before the body of each batch. Byte layout: docs/format/README.md.

Two parts. The *logical* part (body length, and bytes 36 to 103) is made once, by the producer's append, and
travels unchanged to every replica; the batch CRC seals it together with the body. The *local* part (bytes 0
to
27) is stamped by each store: it binds the batch to its segment, its position, and the batch before it.

==  ====  =====================================================================  =======
at  size  field                                                                  part
==  ====  =====================================================================  =======
 0     4  magic ``PBAT``                                                         local
 4     4  header CRC over bytes 8..103, seeded with segment id and position      local
 8     8  segment id, random                                                     local
16     4  header CRC of the batch before (chain); of the segment header if first local
20     4  base offset minus the durable end when written, saturating             local
24     4  distance back to where producer state begins, 0xFFFFFFFF: none         local
28     4  body length, 1..64 MiB                                                 logical
32     4  batch CRC: body, then body length, then bytes 36..103                  sealed
36     4  length of the columns before compression                               logical
40     8  base offset                                                            logical
48     4  record count, at most 1 Mi                                             logical
52     4  offset span, at least the count                                        logical
56     4  leader epoch                                                           logical
60     1  header version, 1                                                      logical
61     1  codec (low 4 bits), body kind (high 4 bits)                            logical
62     2  flags                                                                  logical
64     8  base (least) timestamp, ms, signed                                     logical
72     8  max timestamp, ms, signed                                              logical
80     8  append time, ns                                                        logical
88     8  producer id, -1: none                                                  logical
96     4  base sequence                                                          logical
100    2  producer epoch                                                         logical
102    2  extension length (first bytes of the body, never compressed)           logical
==  ====  =====================================================================  =======

The CRC of the fields comes *behind* that of the body, so that a body is checksummed before its offset is
known,
outside any lock.
"""

from _struct import Struct
from zlib import crc32 as _zlib_crc32

from pspf.model import MAX_BATCH_BODY, MAX_BATCH_RECORDS, MAX_NUMBER

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

crc32_small = _zlib_crc32

LONG = 32 << 10
"""From so many bytes on, isal's CRC is worth its import."""

MAGIC = b"PBAT"
HEADER_BYTES = 104
VERSION = 1
NO_TABLE = 0xFFFFFFFF

CODEC_NONE = 0
CODEC_ZSTD = 1

KIND_COLUMNS = 0
KIND_KAFKA = 1
KIND_TABLE = 2
KIND_GAP = 3
KIND_EPOCH = 4
KIND_PRODUCERS = 5

FLAG_CONTROL = 1
FLAG_TRANSACTIONAL = 2
FLAG_LOG_APPEND_TIME = 4
FLAG_KEYS = 8
FLAG_HEADERS = 16
FLAG_TIMES = 32
FLAG_LINES = 64
FLAG_SOURCE = 128

_HEADER = Struct("<4sIQIIIIIIQIIIBBHqqqqIHH")
_LOCAL = Struct("<QIII")
_LOGICAL = Struct("<IQIIIBBHqqqqIHH")
_PAIR = Struct("<II")
_SEED = Struct("<QQ")
assert _HEADER.size == HEADER_BYTES
assert 8 + _LOCAL.size + 8 + _LOGICAL.size == HEADER_BYTES

# The preamble of a columnar body, and the bits of its widths: see pspf.format.columns.
PREAMBLE = Struct("<BBBBBBHIII")
PREAMBLE_BYTES = 20
assert PREAMBLE.size == PREAMBLE_BYTES
NULLS = 0x40
SHARED = 0x80
NULL_KEY = 0x55555555
NULL_VALUE = 0xAAAAAAAA
WIDTH_CODES = {1: "B", 2: "H", 4: "I", 8: "Q"}


def bulk_crc(length: int) -> "Callable[..., int]":
    """The CRC function for ``length`` bytes in all; the module of the fast one is loaded for large amounts
    only.
    """
    if length < LONG:
        return crc32_small
    from pspf.format.crc import crc_for

    return crc_for(length)


def crc32(data: "bytes | bytearray | memoryview", seed: int = 0) -> int:
    """As :func:`pspf.format.crc.crc32`."""
    return bulk_crc(len(data))(data, seed)


class Encoded:
    """A batch whose body is ready and whose place in the log is not known yet.

    ``parts`` are the buffers of the body in order; ``body_crc`` is the CRC of all of them. A body that no
    reader would take is a ValueError here, before anything is written.
    """

    __slots__ = (
        "base_sequence",
        "base_timestamp",
        "body_crc",
        "body_length",
        "count",
        "extension_length",
        "flags",
        "kind_codec",
        "max_timestamp",
        "parts",
        "plain_length",
        "producer_epoch",
        "producer_id",
        "span",
    )

    def __init__(
        self,
        parts: "list[bytes | memoryview]",
        count: int,
        span: int,
        flags: int = 0,
        kind: int = KIND_COLUMNS,
        codec: int = CODEC_NONE,
        base_timestamp: int = 0,
        max_timestamp: int = 0,
        plain_length: int = -1,
    ) -> None:
        self.parts = parts
        self.count = count
        self.span = span
        self.flags = flags
        self.kind_codec = kind << 4 | codec
        self.base_timestamp = base_timestamp
        self.max_timestamp = max_timestamp
        crc = length = 0
        for part in parts:
            crc = crc32(part, crc)
            length += len(part)
        self.body_crc = crc
        self.body_length = length
        self.plain_length = length if plain_length < 0 else plain_length
        if not 1 <= length <= MAX_BATCH_BODY or self.plain_length > MAX_BATCH_BODY:
            raise ValueError(f"a batch body of {max(length, self.plain_length)} bytes; 1 to {MAX_BATCH_BODY}")
        if count > MAX_BATCH_RECORDS:
            raise ValueError(f"a batch of {count} records; at most {MAX_BATCH_RECORDS}")
        self.producer_id = -1
        self.producer_epoch = 0
        self.base_sequence = 0
        self.extension_length = 0

    def extend(self, extension: bytes) -> None:
        """Put ``extension`` before the columns."""
        assert self.extension_length == 0
        self.extension_length = len(extension)
        self.parts.insert(0, extension)
        self.body_length += len(extension)
        if len(extension) > 0xFFFF or self.body_length > MAX_BATCH_BODY:
            raise ValueError(f"a batch body of {self.body_length} bytes with the extension")
        crc = 0
        for part in self.parts:
            crc = crc32(part, crc)
        self.body_crc = crc

    def seal(
        self,
        base_offset: int,
        epoch: int,
        append_ns: int,
        segment_id: int,
        position: int,
        chain: int,
        durable_offset: int,
        table_back: int,
    ) -> bytes:
        """The header for this batch at ``position`` of a segment; ``chain`` is the header CRC before it."""
        logical = _LOGICAL.pack(
            self.plain_length,
            base_offset,
            self.count,
            self.span,
            epoch,
            VERSION,
            self.kind_codec,
            self.flags,
            self.base_timestamp,
            self.max_timestamp,
            append_ns,
            self.producer_id,
            self.base_sequence,
            self.producer_epoch,
            self.extension_length,
        )
        length = self.body_length.to_bytes(4, "little")
        batch_crc = crc32(logical, crc32(length, self.body_crc))
        behind = min(max(base_offset - durable_offset, 0), 0xFFFFFFFF)
        rest = (
            _LOCAL.pack(segment_id, chain, behind, table_back)
            + _PAIR.pack(self.body_length, batch_crc)
            + logical
        )
        crc = crc32(rest, crc32(_SEED.pack(segment_id, position)))
        return MAGIC + crc.to_bytes(4, "little") + rest


class Header:
    """A parsed batch header. ``crc`` is its own header CRC, which the next batch repeats as its ``chain``."""

    __slots__ = (
        "append_ns",
        "base_offset",
        "base_sequence",
        "base_timestamp",
        "batch_crc",
        "behind",
        "body_length",
        "chain",
        "codec",
        "count",
        "crc",
        "epoch",
        "extension_length",
        "flags",
        "kind",
        "max_timestamp",
        "plain_length",
        "producer_epoch",
        "producer_id",
        "segment_id",
        "span",
        "table_back",
        "version",
    )

    def __init__(self, fields: "tuple[int, ...]") -> None:
        (
            _,
            self.crc,
            self.segment_id,
            self.chain,
            self.behind,
            self.table_back,
            self.body_length,
            self.batch_crc,
            self.plain_length,
            self.base_offset,
            self.count,
            self.span,
            self.epoch,
            self.version,
            kind_codec,
            self.flags,
            self.base_timestamp,
            self.max_timestamp,
            self.append_ns,
            self.producer_id,
            self.base_sequence,
            self.producer_epoch,
            self.extension_length,
        ) = fields
        self.kind = kind_codec >> 4
        self.codec = kind_codec & 15

    @property
    def next_offset(self) -> int:
        """Offset behind the last record of the batch."""
        return self.base_offset + self.span

    @property
    def size(self) -> int:
        """Bytes that header and body take in the segment."""
        return HEADER_BYTES + self.body_length

    @property
    def durable_end(self) -> int:
        """The offset that was known to be durable when the batch was written (at least)."""
        return self.base_offset - self.behind if self.behind != 0xFFFFFFFF else 0


def header_fault(data: "bytes | memoryview", at: int, segment_id: int, position: int) -> str:
    """What is wrong with the header at ``data[at:]``, which stands at ``position`` of the segment; "" if
    nothing.

    Lengths are looked at only after the CRC has shown them to be what was written.
    """
    if len(data) - at < HEADER_BYTES:
        return "the file ends inside a batch header"
    header = bytes(data[at : at + HEADER_BYTES])
    if header[:4] != MAGIC:
        return "no batch begins here (magic missing)"
    crc = crc32(header[8:], crc32(_SEED.pack(segment_id, position)))
    if crc != int.from_bytes(header[4:8], "little"):
        return "batch header CRC mismatch"
    length = int.from_bytes(header[28:32], "little")
    plain = int.from_bytes(header[36:40], "little")
    if not 1 <= length <= MAX_BATCH_BODY or not 0 <= plain <= MAX_BATCH_BODY:
        return "batch length out of bounds"
    count = int.from_bytes(header[48:52], "little")
    if count > MAX_BATCH_RECORDS:
        return "record count out of bounds"
    if int.from_bytes(header[52:56], "little") < count:
        return "offset span below the record count"
    if int.from_bytes(header[40:48], "little") + int.from_bytes(header[52:56], "little") > MAX_NUMBER:
        return "offset out of bounds"
    if int.from_bytes(header[102:104], "little") > length:
        return "extension longer than the body"
    return ""


def parse_header(data: "bytes | memoryview", at: int = 0) -> Header:
    """The fields of a header that :func:`header_fault` found nothing wrong with."""
    return Header(_HEADER.unpack_from(data, at))


def newer_version(header: Header) -> bool:
    """True when the batch was written by a later version of PSPF."""
    return header.version > VERSION


def batch_crc_of(header_bytes: "bytes | memoryview", body: "bytes | memoryview") -> int:
    """The batch CRC that header and body should carry."""
    return crc32(header_bytes[36:HEADER_BYTES], crc32(header_bytes[28:32], crc32(body)))


def seal_again(
    header_bytes: bytes, segment_id: int, position: int, chain: int, behind: int, table_back: int
) -> bytes:
    """The header with a new local part, its logical part untouched: for another store, or another place."""
    rest = _LOCAL.pack(segment_id, chain, behind, table_back) + header_bytes[28:HEADER_BYTES]
    crc = crc32(rest, crc32(_SEED.pack(segment_id, position)))
    return MAGIC + crc.to_bytes(4, "little") + rest
