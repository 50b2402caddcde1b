"""CRC-32 (the zlib polynomial) of short and of long buffers.

The standard library's is used for little data; isal's, some twenty times faster on long buffers and four
times on many short
ones, is imported when the first large amount comes, since importing it costs more than the checksum of a
small append.
"""

from pspf.format.batch import LONG, crc32_small

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

_bulk = None


def crc_for(length: int) -> "Callable[..., int]":
    """The function to use for ``length`` bytes in all, in one piece or in many."""
    if length < LONG:
        return crc32_small
    global _bulk
    if _bulk is None:
        try:
            from isal.isal_zlib import crc32 as fast  # not on every platform

            _bulk = fast
        except ImportError:
            _bulk = crc32_small
    return _bulk


def crc32(data: "bytes | bytearray | memoryview", seed: int = 0) -> int:
    """CRC-32 of ``data``, continued from ``seed`` (the CRC of what came before)."""
    return crc_for(len(data))(data, seed)
