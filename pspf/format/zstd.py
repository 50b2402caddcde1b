"""Compression of batch bodies with Zstandard; loaded only when a batch needs it.

The wheel does not exist for every platform; without it, zstd batches fail by name and everything else works.
"""

# What threading.local is, without the import of threading.
from _thread import _local

from pspf.errors import BadConfig
from pspf.format.columns import BadBody

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_LEVEL = 3
# A context serves one thread at a time, and frees the interpreter lock while it works.
_contexts = _local()


def _library() -> "Any":
    try:
        import zstandard
    except ImportError:
        raise BadConfig(
            "cannot use zstd", "the package zstandard is not installed", "", "pip install zstandard"
        ) from None
    return zstandard


def compress(data: bytes) -> bytes:
    """``data`` as one frame that carries its own length."""
    compressor = getattr(_contexts, "compressor", None)
    if compressor is None:
        compressor = _contexts.compressor = _library().ZstdCompressor(level=_LEVEL, write_content_size=True)
    return bytes(compressor.compress(data))


def decompress(data: bytes, length: int) -> bytes:
    """The content of one frame, which must be ``length`` bytes; never allocates more than that."""
    library = _library()
    decompressor = getattr(_contexts, "decompressor", None)
    if decompressor is None:
        decompressor = _contexts.decompressor = library.ZstdDecompressor()
    try:
        if library.frame_content_size(data) != length:
            raise BadBody("the compressed frame does not have the length that the header gives")
        plain = decompressor.decompress(data, max_output_size=length, allow_extra_data=False)
    except library.ZstdError as error:
        raise BadBody(f"the compressed body cannot be read ({error})") from None
    return bytes(plain)
