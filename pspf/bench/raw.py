"""The least that anybody has to do: system calls on plain files, by hand.

These are the baselines of the goals. Each writes the same bytes as PSPF is given and is as durable when it
returns; none does more than that.
"""

from __future__ import annotations

import os
from struct import Struct
from time import perf_counter, perf_counter_ns

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

try:
    from isal.isal_zlib import crc32
except ImportError:  # not on every platform
    from zlib import crc32

__all__ = ["appends", "batches", "crc32", "create", "frame", "zeroed"]

FRAME = Struct("<4sIIIQ80x")
"""Magic, CRC, body length, record count, base offset; as long as PSPF's batch header."""

MAGIC = b"PBAT"
READ_BYTES = 1 << 20


def create(path: str) -> int:
    """A new, empty file."""
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)


def zeroed(path: str, size: int) -> int:
    """A new file of ``size`` zeros, all on disk: syncing what is written into it changes no size."""
    fd = create(path)
    block = bytes(1 << 20)
    for start in range(0, size, len(block)):
        os.pwrite(fd, block[: size - start], start)
    os.fsync(fd)
    return fd


def frame(path: str, values: Sequence[bytes], batch_records: int) -> float:
    """Seconds to lay ``values`` out as framed batches of lines, one CRC and one write each, and sync once."""
    start = perf_counter()
    fd = create(path)
    try:
        for first in range(0, len(values), batch_records):
            chunk = values[first : first + batch_records]
            body = b"\n".join(chunk) + b"\n"
            os.writev(fd, [FRAME.pack(MAGIC, crc32(body), len(body), len(chunk), first), body])
        os.fdatasync(fd)
    finally:
        os.close(fd)
    return perf_counter() - start


def batches(path: str) -> Iterator[tuple[int, list[bytes]]]:
    """Base offset and values of each batch that :func:`frame` wrote, checked: about 1 MiB a read."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        position = 0
        while True:
            data = os.pread(fd, READ_BYTES, position)
            if not data:
                return
            at = 0
            while at + FRAME.size <= len(data):
                magic, crc, length, count, first = FRAME.unpack_from(data, at)
                if magic != MAGIC:
                    raise ValueError(f"no batch at byte {position + at}")
                if at + FRAME.size + length > len(data):
                    if at:
                        break
                    data += os.pread(fd, FRAME.size + length - len(data), position + len(data))
                body = data[at + FRAME.size : at + FRAME.size + length]
                lines = body.split(b"\n")
                if crc32(body) != crc or len(lines) != count + 1 or lines.pop():
                    raise ValueError(f"a damaged batch at byte {position + at}")
                yield first, lines
                at += FRAME.size + length
            position += at
    finally:
        os.close(fd)


def appends(fd: int, values: Sequence[bytes], position: int) -> list[int]:
    """Nanoseconds that each takes: a line written at ``position``, or the next one behind it, and synced."""
    took = []
    write, sync, clock = os.pwrite, os.fdatasync, perf_counter_ns
    for value in values:
        start = clock()
        position += write(fd, value + b"\n", position)
        sync(fd)
        took.append(clock() - start)
    return took
