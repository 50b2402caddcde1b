"""One record as a caller gives it: checked, and taken over as bytes that nobody else can change."""

from pspf import errors
from pspf.model import MAX_HEADER_NAME

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pspf.format.columns import Pairs

    Value = bytes | bytearray | memoryview | str | None
    Taken = tuple[bytes | None, bytes | None, Pairs, int]

_NO_PAIRS: "Pairs" = ()


def take_record(
    topic: str, value: "Value", key: "Value", headers: "Pairs", timestamp_ms: "int | None"
) -> "Taken":
    """Value, key and headers of a record for ``topic``, and the size that they have together.

    :raises pspf.errors.Usage: one of them, or the time, is none that a record can have.
    """
    raw = value if value is None or type(value) is bytes else _bytes(topic, "a value", value)
    raw_key = key if key is None or type(key) is bytes else _bytes(topic, "a key", key)
    size = len(raw or b"") + len(raw_key or b"")
    pairs = _NO_PAIRS
    if headers != ():
        pairs, more = take_pairs(topic, headers)
        size += more
    if timestamp_ms is not None:
        if not isinstance(timestamp_ms, int):
            raise _refused(topic, f"a timestamp is a whole number of ms, not {_kind(timestamp_ms)}")
        if not -(1 << 63) <= timestamp_ms < 1 << 63:
            raise _refused(topic, f"a timestamp that does not fit 64 bits: {timestamp_ms} ms")
    return raw, raw_key, pairs, size


def too_large(topic: str, size: int, limit: int) -> "errors.RecordTooLarge":
    """The error for a record above ``max_record_bytes``."""
    return errors.RecordTooLarge(
        f"cannot append to '{topic}'",
        f"a record of {size} bytes is above max_record_bytes ({limit})",
        "",
        f"pspf topic alter {topic} --max-record-bytes {size}",
    )


def _bytes(topic: str, what: str, value: object) -> bytes:
    if isinstance(value, str):
        try:
            return value.encode()
        except UnicodeEncodeError as error:
            raise _refused(topic, f"{what} that cannot be written in UTF-8: {error.reason}") from None
    if isinstance(value, (bytes, bytearray, memoryview)):
        return bytes(value)
    raise _refused(topic, f"{what} is bytes, str or None, not {_kind(value)}")


def take_pairs(topic: str, headers: object) -> "tuple[Pairs, int]":
    """The same for headers alone."""
    out: "list[tuple[str, bytes | None]]" = []
    size = 0
    try:
        for name, value in headers:  # type: ignore[attr-defined]
            if not isinstance(name, str) or not (
                value is None or isinstance(value, (bytes, bytearray, memoryview))
            ):
                raise TypeError
            length = len(name.encode("utf-8", "surrogateescape"))
            if length > MAX_HEADER_NAME:
                raise _refused(topic, f"a header name of {length} bytes; at most {MAX_HEADER_NAME}")
            raw = None if value is None else bytes(value)
            out.append((name, raw))
            size += length + len(raw or b"")
    except (TypeError, ValueError):
        why = "headers are pairs of a name (str) and a value (bytes or None)"
        raise _refused(topic, why) from None
    return out, size


def _kind(value: object) -> str:
    return type(value).__name__


def _refused(topic: str, why: str) -> "errors.Usage":
    return errors.Usage(f"cannot append to '{topic}'", why)
