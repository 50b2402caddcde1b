"""The small fixed records of a partition: ``commit`` slots, the ``lock`` record, ``start`` slots.

``commit`` and ``start`` have two slots of 64 bytes, at 0 and at 512, each in a sector of its own: the newer
valid one
counts, and a torn write of one leaves the other. The slot with sequence n stands at 512 × (n mod 2).
``lock`` has a single record at 0 that is read
and written under the file's lock only.

commit: sequence u64, generation u32, flags u32, active base u64, visible offset u64, durable offset u64,
visible
position u32, durable position u32, position of the last durable batch u32 (0: none in this segment), topic
id folded
u32, zero u32, CRC-32 of the 60 bytes before it.

lock: generation u32, flags u32, active base u64, written offset u64, written position u32, header CRC of the
last batch u32
(of the segment header if there is none), end of preallocated zeros u32, position of the last batch u32,
position where
producer state begins u32 (0xFFFFFFFF: none), time of the oldest unsynced append in ms u64 (0: none), append
time of the
last batch in ns u64, CRC-32.

start: sequence u64, generation u32, flags u32, log start offset u64, base of the first segment u64, topic id
folded u32, zeros,
CRC-32 at 60.

All are little endian. The top byte of the flags is the format version, 1.
"""

from _struct import Struct
from zlib import crc32 as crc32_small

from pspf.model import MAX_NUMBER

SLOT_BYTES = 64
SECOND_SLOT = 512
FILE_BYTES = 1024
VERSION = 1 << 24
MAX_GENERATION = (1 << 32) - 2
"""Of a ``commit`` in force: a heal writes the next one."""
FLAG_POISONED = 1
FLAG_DELETED = 2
FLAG_LINKED = 4
"""The directory entries above the partition are known to be on stable storage."""
FLAG_EPOCH_DUE = 16
"""Visible records were cut by a reader's recovery; the next writer begins a new leader epoch."""
FLAG_ROLLING = 32
"""In ``lock`` only: a roll has begun. Whoever finds it there holds the lock of one who died in it."""
FLAG_DOUBT = 8
"""The end is in doubt; only ``repair`` may decide."""

_COMMIT = Struct("<QIIQQQIIIII")
_LOCK = Struct("<IIQQIIIIIQQ")
_START = Struct("<QIIQQI24x")
assert _COMMIT.size == _LOCK.size == _START.size == 60


class Commit:
    """One ``commit`` slot."""

    __slots__ = (
        "active_base",
        "durable_last",
        "durable_offset",
        "durable_position",
        "flags",
        "generation",
        "sequence",
        "topic_fold",
        "visible_offset",
        "visible_position",
    )

    def __init__(
        self,
        sequence: int,
        generation: int,
        flags: int,
        active_base: int,
        visible_offset: int,
        durable_offset: int,
        visible_position: int,
        durable_position: int,
        durable_last: int,
        topic_fold: int,
    ) -> None:
        self.sequence = sequence
        self.generation = generation
        self.flags = flags
        self.active_base = active_base
        self.visible_offset = visible_offset
        self.durable_offset = durable_offset
        self.visible_position = visible_position
        self.durable_position = durable_position
        self.durable_last = durable_last
        self.topic_fold = topic_fold

    def encode(self) -> bytes:
        """The 64 bytes of the slot."""
        data = _COMMIT.pack(
            self.sequence,
            self.generation,
            self.flags | VERSION,
            self.active_base,
            self.visible_offset,
            self.durable_offset,
            self.visible_position,
            self.durable_position,
            self.durable_last,
            self.topic_fold,
            0,
        )
        return data + crc32_small(data).to_bytes(4, "little")

    @property
    def place(self) -> int:
        """Position of this slot in the file."""
        return SECOND_SLOT * (self.sequence & 1)


class LockRecord:
    """The record in ``lock``."""

    __slots__ = (
        "active_base",
        "flags",
        "generation",
        "last_append_ns",
        "last_crc",
        "last_position",
        "oldest_unsynced_ms",
        "producers_position",
        "written_offset",
        "written_position",
        "zeros_end",
    )

    def __init__(
        self,
        generation: int,
        flags: int,
        active_base: int,
        written_offset: int,
        written_position: int,
        last_crc: int,
        zeros_end: int,
        last_position: int,
        producers_position: int,
        oldest_unsynced_ms: int,
        last_append_ns: int,
    ) -> None:
        self.generation = generation
        self.flags = flags
        self.active_base = active_base
        self.written_offset = written_offset
        self.written_position = written_position
        self.last_crc = last_crc
        self.zeros_end = zeros_end
        self.last_position = last_position
        self.producers_position = producers_position
        self.oldest_unsynced_ms = oldest_unsynced_ms
        self.last_append_ns = last_append_ns

    def encode(self) -> bytes:
        """The 64 bytes of the record."""
        data = _LOCK.pack(
            self.generation,
            self.flags | VERSION,
            self.active_base,
            self.written_offset,
            self.written_position,
            self.last_crc,
            self.zeros_end,
            self.last_position,
            self.producers_position,
            self.oldest_unsynced_ms,
            self.last_append_ns,
        )
        return data + crc32_small(data).to_bytes(4, "little")


class Start:
    """One ``start`` slot: where the log begins after retention."""

    __slots__ = ("first_base", "generation", "log_start", "sequence", "topic_fold")

    def __init__(
        self, sequence: int, generation: int, log_start: int, first_base: int, topic_fold: int
    ) -> None:
        self.sequence = sequence
        self.generation = generation
        self.log_start = log_start
        self.first_base = first_base
        self.topic_fold = topic_fold

    def encode(self) -> bytes:
        """The 64 bytes of the slot."""
        data = _START.pack(
            self.sequence, self.generation, VERSION, self.log_start, self.first_base, self.topic_fold
        )
        return data + crc32_small(data).to_bytes(4, "little")


def fold(topic_id: bytes) -> int:
    """A topic id as 32 bits, to notice a file that belongs to another topic."""
    return crc32_small(topic_id)


def _whole(data: bytes) -> bool:
    return len(data) == SLOT_BYTES and crc32_small(data[:60]) == int.from_bytes(data[60:], "little")


class NewerSlot(ValueError):
    """A slot or record of a later format version."""


def _check_version(flags: int) -> int:
    if flags >> 24 > VERSION >> 24:
        raise NewerSlot
    return flags & 0xFFFFFF


def newest_commit(data: bytes, topic_fold: int) -> "Commit | None":
    """The newest valid slot of a ``commit`` file, None if neither is valid or they are another topic's."""
    places = (0, SECOND_SLOT)
    if (
        data[:8][::-1] < data[SECOND_SLOT : SECOND_SLOT + 8][::-1]
    ):  # the higher sequence first: usually it is whole
        places = (SECOND_SLOT, 0)
    for at in places:
        slot = data[at : at + SLOT_BYTES]
        if _whole(slot):
            f = _COMMIT.unpack_from(slot)
            flags = _check_version(f[2])
            bounded = f[1] <= MAX_GENERATION and max(f[0], f[3], f[4], f[5]) <= MAX_NUMBER
            if f[9] == topic_fold and bounded:
                return Commit(f[0], f[1], flags, f[3], f[4], f[5], f[6], f[7], f[8], f[9])
    return None


def commit_slots_valid(data: bytes) -> "tuple[bool, bool]":
    """Whether the first and the second slot check (an unwritten second slot, all zeros, counts as valid)."""
    first, second = data[:SLOT_BYTES], data[SECOND_SLOT : SECOND_SLOT + SLOT_BYTES]
    return _whole(first) or not any(first), _whole(second) or not any(second)


def parse_lock(data: bytes) -> "LockRecord | None":
    """The record in a ``lock`` file, None if it does not check."""
    if not _whole(data):
        return None
    f = _LOCK.unpack_from(data)
    flags = _check_version(f[1])
    return LockRecord(f[0], flags, *f[2:]) if max(f[2], f[3]) <= MAX_NUMBER else None


def newest_start(data: bytes, topic_fold: int) -> "Start | None":
    """The newest valid slot of a ``start`` file; None if there is none."""
    best = None
    for at in (0, SECOND_SLOT):
        slot = data[at : at + SLOT_BYTES]
        if _whole(slot):
            f = _START.unpack_from(slot)
            _check_version(f[2])
            right = f[5] == topic_fold and max(f[0], f[3], f[4]) <= MAX_NUMBER
            if right and (best is None or f[0] > best.sequence):
                best = Start(f[0], f[1], f[3], f[4], f[5])
    return best
