"""The segment header: the first 4 KiB of each segment file. Byte layout: docs/format/README.md.

It is written once, before the file gets its final name, and never again. It names the segment before it
(where
that one ends, and the CRC of its last batch header), so that each boundary can be checked, and it repeats
what is
needed to rebuild ``topic.toml``.

====  ====  ================================================================
  at  size  field
====  ====  ================================================================
   0     8  magic ``PSPFSEG\\0``
   8     4  format version, 1
  12     4  generation in which the segment was made
  16     8  segment id, random
  24    16  topic id
  40     4  partition
  44     4  leader epoch at the start
  48     8  base offset
  56     8  created, ns; at least the append time of every earlier batch
  64     8  predecessor: base offset, -1 none
  72     8  predecessor: end offset
  80     4  predecessor: end position
  84     4  predecessor: CRC of its last batch header
  88     8  log start offset
  96     4  reason: 0 first, 1 roll, 2 heal (cut), 3 behind damage
 100     4  original end CRC, when compacted (0)
 104     4  number of epoch entries (at most 64)
 108     4  length of the settings text (at most 2,048)
 112   768  epoch entries: epoch u32, start offset u64; newest last
1024  2048  settings text: topic name and settings as ``key = value`` lines
4092     4  CRC-32 of bytes 0..4091
====  ====  ================================================================

A first offset above the predecessor's end offset is a recorded gap: those offsets were lost, and are known
to be.
"""

from _struct import Struct
from zlib import crc32

MAGIC = b"PSPFSEG\0"
SEGMENT_HEADER_BYTES = 4096
VERSION = 1
REASON_FIRST = 0
REASON_ROLL = 1
REASON_HEAL = 2
REASON_DAMAGE = 3
MAX_EPOCHS = 64

_FIXED = Struct("<8sIIQ16sIIQqqQIIQIIII")
_EPOCH = Struct("<IQ")
assert _FIXED.size == 112


class SegmentHeader:
    """What a segment says of itself; see the module's table."""

    __slots__ = (
        "base",
        "created_ns",
        "crc",
        "epoch",
        "epochs",
        "generation",
        "log_start",
        "partition",
        "prev_base",
        "prev_crc",
        "prev_end",
        "prev_position",
        "reason",
        "segment_id",
        "settings",
        "topic_id",
    )

    def __init__(
        self,
        segment_id: int,
        topic_id: bytes,
        partition: int,
        base: int,
        *,
        generation: int = 1,
        epoch: int = 0,
        created_ns: int = 0,
        prev_base: int = -1,
        prev_end: int = 0,
        prev_position: int = 0,
        prev_crc: int = 0,
        log_start: int = 0,
        reason: int = REASON_FIRST,
        epochs: "list[tuple[int, int]] | None" = None,
        settings: bytes = b"",
        crc: int = 0,
    ) -> None:
        self.segment_id = segment_id
        self.topic_id = topic_id
        self.partition = partition
        self.base = base
        self.generation = generation
        self.epoch = epoch
        self.created_ns = created_ns
        self.prev_base = prev_base
        self.prev_end = prev_end
        self.prev_position = prev_position
        self.prev_crc = prev_crc
        self.log_start = log_start
        self.reason = reason
        self.epochs = epochs or []
        self.settings = settings
        self.crc = crc

    def encode(self) -> bytes:
        """The 4 KiB block; sets ``crc``."""
        epochs = self.epochs[-MAX_EPOCHS:]
        assert len(self.settings) <= 2048
        block = bytearray(SEGMENT_HEADER_BYTES)
        _FIXED.pack_into(
            block,
            0,
            MAGIC,
            VERSION,
            self.generation,
            self.segment_id,
            self.topic_id,
            self.partition,
            self.epoch,
            self.base,
            self.created_ns,
            self.prev_base,
            self.prev_end,
            self.prev_position,
            self.prev_crc,
            self.log_start,
            self.reason,
            0,
            len(epochs),
            len(self.settings),
        )
        for i, entry in enumerate(epochs):
            _EPOCH.pack_into(block, 112 + 12 * i, *entry)
        block[1024 : 1024 + len(self.settings)] = self.settings
        self.crc = crc32(memoryview(block)[:4092])
        block[4092:] = self.crc.to_bytes(4, "little")
        return bytes(block)


def segment_fault(block: bytes) -> str:
    """What is wrong with a segment header; "" if nothing; ``newer`` for a later format version."""
    if len(block) < SEGMENT_HEADER_BYTES:
        return "the file is shorter than a segment header"
    if block[:8] != MAGIC:
        return "not a segment (magic missing)"
    if crc32(block[:4092]) != int.from_bytes(block[4092:4096], "little"):
        return "segment header CRC mismatch"
    if int.from_bytes(block[8:12], "little") > VERSION:
        return "newer"
    return ""


def parse_segment(block: bytes) -> SegmentHeader:
    """The fields of a block that :func:`segment_fault` found nothing wrong with."""
    (
        _,
        _,
        generation,
        segment_id,
        topic_id,
        partition,
        epoch,
        base,
        created_ns,
        prev_base,
        prev_end,
        prev_position,
        prev_crc,
        log_start,
        reason,
        _,
        n_epochs,
        n_settings,
    ) = _FIXED.unpack_from(block)
    return SegmentHeader(
        segment_id,
        topic_id,
        partition,
        base,
        generation=generation,
        epoch=epoch,
        created_ns=created_ns,
        prev_base=prev_base,
        prev_end=prev_end,
        prev_position=prev_position,
        prev_crc=prev_crc,
        log_start=log_start,
        reason=reason,
        epochs=[_EPOCH.unpack_from(block, 112 + 12 * i) for i in range(min(n_epochs, MAX_EPOCHS))],
        settings=block[1024 : 1024 + min(n_settings, 2048)],
        crc=int.from_bytes(block[4092:4096], "little"),
    )


def segment_name(base: int) -> str:
    """File name of the segment that begins at offset ``base``."""
    return f"{base:020d}.log"


def base_of(name: str) -> int:
    """Base offset in a segment's file name, -1 if it is not one."""
    if len(name) == 24 and name.endswith(".log") and name[:20].isdigit() and name[:20].isascii():
        return int(name[:20])
    return -1
