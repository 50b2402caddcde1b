"""W8: bytes on disk for each record, and for each byte of data."""

from __future__ import annotations

import os

import pspf
from pspf.bench import events
from pspf.bench.report import AT_MOST, row

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pspf.bench.context import Context
    from pspf.bench.report import Row

BLOCK_BYTES = 64 << 10


def bytes_on_disk(context: Context) -> list[Row]:
    """W8."""
    count = context.records
    single = context.size(2000, 500, 50)
    with context.store("w8") as store:
        for topic, compression in (("plain", "none"), ("zstd", "zstd")):
            store.create_topic(topic, pspf.TopicConfig(compression=compression))
            for values in megabytes(count):
                store.append_many(topic, values, durability="os")
        store.create_topic("single", pspf.TopicConfig(durability="os"))
        for value in events.values(single):
            store.append("single", value)
    data = count * events.LINE_BYTES
    plain = allocated(context.path("w8/topics/plain")) / count
    packed = allocated(context.path("w8/topics/zstd")) / count
    alone = allocated(context.path("w8/topics/single")) / single
    context.remove("w8")
    unit = "bytes/record"
    blocks = zstd_blocks(count) / count
    return [
        row("W8", "the lines", [data / count], unit),
        row("W8", "zstd -1 in 64 KiB blocks", [blocks], unit),
        row("W8", "in batches", [plain], unit, ("the lines", [data / count]), (AT_MOST, 1.06)),
        row(
            "W8",
            "in batches, zstd",
            [packed],
            unit,
            ("zstd -1 in blocks", [blocks]),
            (AT_MOST, 1.15),
        ),
        row("W8", "an append each", [alone], unit, ("the lines", [data / count])),
    ]


def megabytes(count: int) -> list[list[bytes]]:
    """The events in lists of about a megabyte, as a pipe brings them."""
    values = events.values(count)
    size = (1 << 20) // events.LINE_BYTES
    return [values[first : first + size] for first in range(0, count, size)]


def allocated(directory: str) -> int:
    """Bytes that the file system gave to everything below ``directory``, indexes included."""
    total = 0
    for parent, _, names in os.walk(directory):
        total += os.stat(parent).st_blocks * 512
        total += sum(os.stat(os.path.join(parent, name)).st_blocks * 512 for name in names)
    return total


def zstd_blocks(count: int) -> int:
    """Size of the lines, each 64 KiB of them compressed by itself."""
    from zstandard import ZstdCompressor

    compressor = ZstdCompressor(level=1)
    size = 0
    rest = b""
    for piece in events.pieces(count):
        rest += b"\n".join(piece) + b"\n"
        whole = len(rest) - len(rest) % BLOCK_BYTES
        size += sum(
            len(compressor.compress(rest[at : at + BLOCK_BYTES])) for at in range(0, whole, BLOCK_BYTES)
        )
        rest = rest[whole:]
    return size + (len(compressor.compress(rest)) if rest else 0)
