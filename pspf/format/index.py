"""The sparse index of a segment: derived, disposable, written without a sync.

Entry k stands at 40 × k and describes the first batch that begins in the k-th 256 KiB of the segment, if
there is
one; otherwise the place holds zeros or nothing. Any writer can fill in any entry, in any order, and writes
the same
bytes. An entry: base offset u64, position u32, position of the entry before it u32, greatest timestamp of the
batches between those two i64, append time of its batch i64, CRC-32 seeded with the segment id, zero u32.

``UNKNOWN`` as the greatest timestamp means: nobody looked; such a stretch cannot be skipped in a search by
time.
"""

from struct import Struct

from pspf.format.batch import crc32_small

CHUNK = 256 << 10
ENTRY_BYTES = 40
UNKNOWN = (1 << 63) - 1
_ENTRY = Struct("<QIIqq")
assert _ENTRY.size == 32


class IndexEntry:
    """One entry; see the module's text."""

    __slots__ = ("append_ns", "base_offset", "max_before", "position", "previous")

    def __init__(
        self, base_offset: int, position: int, previous: int, max_before: int, append_ns: int
    ) -> None:
        self.base_offset = base_offset
        self.position = position
        self.previous = previous
        self.max_before = max_before
        self.append_ns = append_ns


def encode_entry(entry: IndexEntry, segment_id: int) -> bytes:
    """The 40 bytes of an entry."""
    data = _ENTRY.pack(entry.base_offset, entry.position, entry.previous, entry.max_before, entry.append_ns)
    crc = crc32_small(data, crc32_small(segment_id.to_bytes(8, "little")))
    return data + crc.to_bytes(4, "little") + bytes(4)


def entry_place(position: int) -> int:
    """Where in the index file the entry for a batch at ``position`` of the segment stands."""
    return position // CHUNK * ENTRY_BYTES


def decode_entries(data: bytes, segment_id: int) -> "list[IndexEntry]":
    """The valid entries of an index file, in order; what does not check is left out."""
    seed = crc32_small(segment_id.to_bytes(8, "little"))
    entries: "list[IndexEntry]" = []
    for at in range(0, len(data) - ENTRY_BYTES + 1, ENTRY_BYTES):
        raw = data[at : at + 32]
        if crc32_small(raw, seed) != int.from_bytes(data[at + 32 : at + 40], "little"):
            continue
        entry = IndexEntry(*_ENTRY.unpack(raw))
        if entry_place(entry.position) == at and (
            not entries or entry.base_offset >= entries[-1].base_offset
        ):
            entries.append(entry)
    return entries
