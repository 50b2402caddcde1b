"""CRC-32 (the zlib polynomial) of short and of long buffers.

The standard library's is used for short ones; isal's, some twenty times faster, is imported when the first
long one comes, since importing it costs more than the checksum of a small append.
"""

from zlib import crc32 as crc32_small

_LONG = 32 << 10
_bulk = None


def crc32(data: "bytes | bytearray | memoryview", seed: int = 0) -> int:
    """CRC-32 of ``data``, continued from ``seed`` (the CRC of what came before)."""
    if len(data) < _LONG:
        return crc32_small(data, seed)
    global _bulk
    if _bulk is None:
        try:
            from isal.isal_zlib import crc32 as fast  # not on every platform

            _bulk = fast
        except ImportError:
            _bulk = crc32_small
    return _bulk(data, seed)
