"""Producer state: the source extension of a batch, and the body of a table batch.

A batch of a producer that reads a file carries 16 bytes before its columns: source position u64 (bytes of
input up
to the end of this batch), CRC-32 of the input up to there u32, partition count u32.

A table batch (a control batch without records) holds one entry a producer: id i64, epoch u16, last used ms
i64,
next sequence u32, source position u64, source CRC u32, partition count u32, number of ranges u8, name length
u8, the
name, then the ranges, oldest first: sequence u32, count u32, base offset u64.
"""

from struct import Struct

from pspf.format.batch import crc32_small

SOURCE = Struct("<QII")
_ENTRY = Struct("<qHqIQIIBB")
_RANGE = Struct("<IIQ")
KEEP_RANGES = 5
SEQUENCE_MASK = 0xFFFFFFFF


class Producer:
    """What a partition knows of one producer. ``ranges``: its last (sequence, count, base offset)."""

    __slots__ = (
        "epoch",
        "name",
        "next_sequence",
        "partitions",
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
        self.ranges: "list[tuple[int, int, int]]" = []


def id_of(name: str) -> int:
    """The 63-bit id of a producer's name: two CRCs of it, never negative. Collisions are refused by name."""
    raw = name.encode()
    return (crc32_small(raw) << 32 | crc32_small(raw, 0x9E3779B9)) & 0x7FFFFFFFFFFFFFFF


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
                p.partitions,
                len(p.ranges),
                len(name),
            )
        )
        out.append(name)
        out.extend(_RANGE.pack(*r) for r in p.ranges)
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
        if len(body) - at < f[8] + f[7] * _RANGE.size:
            raise ValueError("a producer entry is cut short")
        p = Producer(f[0], body[at : at + f[8]].decode("utf-8", "replace"))
        at += f[8]
        p.epoch, p.used_ms, p.next_sequence = f[1], f[2], f[3]
        p.source_position, p.source_crc, p.partitions = f[4], f[5], f[6]
        p.ranges = [_RANGE.unpack_from(body, at + i * _RANGE.size) for i in range(f[7])]
        at += f[7] * _RANGE.size
        producers.append(p)
    return producers
