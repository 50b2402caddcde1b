"""Producer state: the source extension of a batch, and the body of a table batch.

A batch of a producer that reads a file carries 16 or 24 bytes before its columns: source position u64 (bytes
of input up to the end of this batch), CRC-32 of the input up to there u32, partition count u16, placement
u16; and, in 24, the position from which on that count places, u64.

A table batch (a control batch without records) holds one entry a producer: id i64, epoch u16, last used ms
i64, next sequence u32, source position u64, source CRC u32, partition count u16, placement u16, number of
ranges u8, name length u8, the name, then the ranges, oldest first: sequence u32, count u32, base offset u64;
and, where the top bit of the partition count is set, the same u64 as above.
"""

from struct import Struct

from pspf.format.batch import crc32_small

_SOURCE = Struct("<QIHH")
_FROM = Struct("<Q")
SOURCE_BYTES = _SOURCE.size
MOST_SOURCE_BYTES = _SOURCE.size + _FROM.size
_COUNTED_FROM = 0x8000
_ENTRY = Struct("<qHqIQIHHBB")
_RANGE = Struct("<IIQ")
KEEP_RANGES = 5
SEQUENCE_MASK = 0xFFFFFFFF


class Producer:
    """What a partition knows of one producer. ``ranges``: its last (sequence, count, base offset).

    ``placement`` stands for how its input was cut into records and these placed, 0: it was not said.
    ``counted_from`` is the position from which on ``partitions`` places; another count did before it.
    """

    __slots__ = (
        "counted_from",
        "epoch",
        "name",
        "next_sequence",
        "partitions",
        "placement",
        "producer_id",
        "ranges",
        "source_crc",
        "source_position",
        "used_ms",
    )

    def __init__(self, producer_id: int, name: str = "") -> None:
        self.producer_id = producer_id
        self.name = name
        self.epoch = 0
        self.used_ms = 0
        self.next_sequence = 0
        self.source_position = 0
        self.source_crc = 0
        self.partitions = 0
        self.placement = 0
        self.counted_from = 0
        self.ranges: "list[tuple[int, int, int]]" = []


def id_of(name: str) -> int:
    """The 63-bit id of a producer's name: two CRCs of it, never negative. Collisions are refused by name."""
    raw = name.encode()
    return (crc32_small(raw) << 32 | crc32_small(raw, 0x9E3779B9)) & 0x7FFFFFFFFFFFFFFF


def pack_source(position: int, crc: int, partitions: int, placement: int, counted_from: int) -> bytes:
    """The extension of a batch that was read from an input."""
    if counted_from:
        return _SOURCE.pack(position, crc, partitions, placement) + _FROM.pack(counted_from)
    return _SOURCE.pack(position, crc, partitions, placement)


def unpack_source(data: bytes) -> "tuple[int, int, int, int, int]":
    """Position, CRC, partitions, placement, and from where on that count places (0: the beginning)."""
    counted_from = _FROM.unpack_from(data, SOURCE_BYTES)[0] if len(data) >= MOST_SOURCE_BYTES else 0
    return (*_SOURCE.unpack_from(data), counted_from)


def encode_table(producers: "list[Producer]") -> bytes:
    """The body of a table batch; one zero byte when there is nobody, since a body is never empty."""
    out = []
    for p in producers:
        name = p.name.encode()
        out.append(
            _ENTRY.pack(
                p.producer_id,
                p.epoch,
                p.used_ms,
                p.next_sequence,
                p.source_position,
                p.source_crc,
                p.partitions | (_COUNTED_FROM if p.counted_from else 0),
                p.placement,
                len(p.ranges),
                len(name),
            )
        )
        out.append(name)
        out.extend(_RANGE.pack(*r) for r in p.ranges)
        if p.counted_from:
            out.append(_FROM.pack(p.counted_from))
    return b"".join(out) or b"\0"


def decode_table(body: bytes) -> "list[Producer]":
    """The producers of a table batch.

    :raises ValueError: the entries do not fit the body.
    """
    producers: "list[Producer]" = []
    at = 0
    if body == b"\0":
        return producers
    while at < len(body):
        if len(body) - at < _ENTRY.size:
            raise ValueError("a producer entry is cut short")
        f = _ENTRY.unpack_from(body, at)
        at += _ENTRY.size
        later = f[6] & _COUNTED_FROM
        if len(body) - at < f[9] + f[8] * _RANGE.size + (_FROM.size if later else 0):
            raise ValueError("a producer entry is cut short")
        p = Producer(f[0], body[at : at + f[9]].decode("utf-8", "replace"))
        at += f[9]
        p.epoch, p.used_ms, p.next_sequence = f[1], f[2], f[3]
        p.source_position, p.source_crc, p.partitions, p.placement = f[4], f[5], f[6] & ~_COUNTED_FROM, f[7]
        p.ranges = [_RANGE.unpack_from(body, at + i * _RANGE.size) for i in range(f[8])]
        at += f[8] * _RANGE.size
        if later:
            (p.counted_from,) = _FROM.unpack_from(body, at)
            at += _FROM.size
        producers.append(p)
    return producers
