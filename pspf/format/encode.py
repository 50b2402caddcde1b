"""Records to a columnar body, a column at a time. The layout is told in :mod:`pspf.format.columns`, which
reads it.
"""

from _struct import pack
from itertools import repeat

from pspf.format.batch import (
    CODEC_ZSTD,
    FLAG_HEADERS,
    FLAG_KEYS,
    FLAG_LINES,
    FLAG_TIMES,
    NULL_KEY,
    NULL_VALUE,
    NULLS,
    PREAMBLE,
    SHARED,
    WIDTH_CODES,
    Encoded,
    bulk_crc,
    crc32_small,
)
from pspf.model import MAX_HEADER_NAME

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from pspf.format.columns import Pairs


def encode_lines(
    region: "bytes | memoryview", lines: "list[bytes]", timestamp_ms: int, compress: bool
) -> Encoded:
    """A batch of lines.

    :param region: the lines as they are, each with its newline.
    :param lines: the same, split, without newlines.
    :param timestamp_ms: the time that all of them get.
    :raises ValueError: the time does not fit 64 bits, or the batch is above ``MAX_BATCH_BODY``.
    """
    count = len(lines)
    _check_times(timestamp_ms, timestamp_ms)
    if compress:
        head = PREAMBLE.pack(0, 0, 0, 0, 0, 0, 0, 0, 0, 0)
        return _finish([head, region], count, FLAG_LINES, timestamp_ms, timestamp_ms, True)
    head = PREAMBLE.pack(0, 0, 0, 0, 0, 1, 0, 0, 0, 0)
    crcs = pack(f"<{count}I", *map(bulk_crc(len(region)), lines))
    return _finish([head + crcs, region], count, FLAG_LINES, timestamp_ms, timestamp_ms, False)


def encode_records(
    values: "Sequence[bytes | None]",
    keys: "Sequence[bytes | None] | bytes | None",
    timestamps: "Sequence[int] | int",
    headers: "Sequence[Pairs] | Pairs | None" = None,
    compress: bool = False,
    shared_headers: bool = True,
    offset_deltas: "Sequence[int] | None" = None,
) -> Encoded:
    """A batch of records.

    :param keys: one key for all (bytes), one for each, or None for no keys.
    :param timestamps: ms; one for all, or one for each.
    :param headers: pairs of name and value: the same for all (``shared_headers``), or one list for each.
    :param offset_deltas: distance of each record from the base offset, where they are not consecutive.
    :raises ValueError: no records, columns of different lengths, a time that does not fit 64 bits, or a batch
        above ``MAX_BATCH_BODY``.
    """
    count = len(values)
    if not count:
        raise ValueError("a batch of no records")
    if (
        (keys is not None and not isinstance(keys, bytes) and len(keys) != count)
        or (not isinstance(timestamps, int) and len(timestamps) != count)
        or (headers and not shared_headers and len(headers) != count)
        or (offset_deltas is not None and len(offset_deltas) != count)
    ):
        raise ValueError("keys, timestamps, headers and offsets must be as many as the values")
    flags = 0
    # Values without newlines are kept as lines: no length column, and cat writes them in one piece.
    plain_values: "Sequence[bytes]"
    try:
        region = b"\n".join(values) + b"\n"  # type: ignore[arg-type]
        as_lines = region.count(b"\n") == count
        plain_values = values  # type: ignore[assignment]
        value_width = 0
    except TypeError:  # a null among them
        as_lines = False
        plain_values = [v if v is not None else b"" for v in values]
        value_width = NULLS
    value_constant = 0
    value_lengths = b""
    if as_lines:
        flags |= FLAG_LINES
    else:
        region = b"".join(plain_values)
        value_width, value_constant, value_lengths = _lengths(values, plain_values, value_width)

    seeds: "Sequence[int] | None" = None
    offset_width, offset_column = 0, b""
    span = count
    if offset_deltas is not None and offset_deltas[-1] != count - 1:
        offset_width = 4
        offset_column = pack(f"<{count}I", *offset_deltas)
        span = offset_deltas[-1] + 1
        seeds = [crc32_small(d.to_bytes(4, "little")) for d in offset_deltas]

    time_width, time_column = 0, b""
    if isinstance(timestamps, int):
        base = top = timestamps
        _check_times(base, top)
    else:
        base, top = min(timestamps), max(timestamps)
        _check_times(base, top)
        if base != top:
            flags |= FLAG_TIMES
            time_width = _width_of(top - base)
            time_column = pack(f"<{count}{WIDTH_CODES[time_width]}", *[t - base for t in timestamps])
            seeds = _seeded(seeds, [t.to_bytes(8, "little", signed=True) for t in timestamps])

    key_width = key_constant = 0
    key_lengths = key_bytes = b""
    if keys is not None:
        flags |= FLAG_KEYS
        if isinstance(keys, bytes):
            key_width, key_constant, key_bytes = SHARED, len(keys), keys
            seeds = _seeded(seeds, repeat(keys, count))
        else:
            plain_keys: "Sequence[bytes]"
            try:
                key_bytes = b"".join(keys)  # type: ignore[arg-type]
                plain_keys = keys  # type: ignore[assignment]
                key_width, key_constant, key_lengths = _lengths(keys, plain_keys, 0)
            except TypeError:
                plain_keys = [k if k is not None else b"" for k in keys]
                key_bytes = b"".join(plain_keys)
                key_width, key_constant, key_lengths = _lengths(keys, plain_keys, NULLS)
            seeds = _seeded(seeds, plain_keys)
            if key_width & NULLS:
                seeds = _marked(seeds, keys, NULL_KEY)

    header_width = header_constant = 0
    header_lengths = header_bytes = b""
    if headers:
        flags |= FLAG_HEADERS
        if shared_headers:
            header_bytes = pack_headers(headers)  # type: ignore[arg-type]
            header_width, header_constant = SHARED, len(header_bytes)
            seeds = _seeded(seeds, repeat(header_bytes, count))
        else:
            blobs = [pack_headers(h) for h in headers]  # type: ignore[arg-type]
            header_bytes = b"".join(blobs)
            header_width, header_constant, header_lengths = _lengths(blobs, blobs, 0)
            seeds = _seeded(seeds, blobs)

    crcs = b""
    if not compress:
        crc = bulk_crc(len(region))
        sums = map(crc, plain_values) if seeds is None else map(crc, plain_values, seeds)
        crcs = pack(f"<{count}I", *(_marked(sums, values, NULL_VALUE) if value_width & NULLS else sums))
    elif not region and not value_lengths:
        # Nulls only: without record CRCs nothing would bound the count, so each gets its length all the same.
        value_width, value_constant, value_lengths = NULLS | 1, 0, bytes(count)
    preamble = PREAMBLE.pack(
        value_width,
        key_width,
        time_width,
        header_width,
        offset_width,
        0 if compress else 1,
        0,
        value_constant,
        key_constant,
        header_constant,
    )
    columns = b"".join(
        (
            preamble,
            value_lengths,
            crcs,
            key_lengths,
            key_bytes,
            time_column,
            header_lengths,
            header_bytes,
            offset_column,
        )
    )
    encoded = _finish([columns, region] if region else [columns], count, flags, base, top, compress)
    encoded.span = span
    return encoded


def _seeded(seeds: "Sequence[int] | None", column: "Iterable[bytes]") -> "list[int]":
    crc = bulk_crc(0 if seeds is None else 20 * len(seeds))
    return list(map(crc, column)) if seeds is None else list(map(crc, column, seeds))


def _marked(sums: "Iterable[int]", column: "Sequence[bytes | None]", mark: int) -> "list[int]":
    return [s ^ mark if piece is None else s for s, piece in zip(sums, column, strict=True)]


def _check_times(base: int, top: int) -> None:
    if base < -(1 << 63) or top >= 1 << 63:
        raise ValueError(f"a timestamp that does not fit 64 bits: {base if base < 0 else top} ms")


def _width_of(top: int) -> int:
    return 1 if top < 1 << 8 else 2 if top < 1 << 16 else 4 if top < 1 << 32 else 8


def _lengths(
    values: "Sequence[bytes | None]", plain: "Sequence[bytes]", bits: int
) -> "tuple[int, int, bytes]":
    lengths = list(map(len, plain))
    if bits & NULLS:
        lengths = [0 if v is None else n + 1 for v, n in zip(values, lengths, strict=True)]
    first = lengths[0]
    if lengths.count(first) == len(lengths):
        return bits, first, b""
    width = _width_of(max(lengths))
    return bits | width, 0, pack(f"<{len(lengths)}{WIDTH_CODES[width]}", *lengths)


def _finish(
    parts: "list[bytes | memoryview]", count: int, flags: int, base: int, top: int, compress: bool
) -> Encoded:
    if compress:
        from pspf.format.zstd import compress as zstd

        plain = b"".join(parts)
        packed = zstd(plain)
        return Encoded([packed], count, count, flags, 0, CODEC_ZSTD, base, top, len(plain))
    return Encoded(parts, count, count, flags, 0, 0, base, top)


def headers_bytes(pairs: "Pairs") -> int:
    """The bytes that a record's headers count towards its size: names and values."""
    return (
        sum(len(name.encode("utf-8", "surrogateescape")) + len(value or b"") for name, value in pairs)
        if pairs
        else 0
    )


def pack_headers(pairs: "Pairs") -> bytes:
    """Headers of one record: for each, u16 name length, name, u32 value length + 1 (0: null), value."""
    out = []
    for name, value in pairs:
        raw = name.encode("utf-8", "surrogateescape")
        if len(raw) > MAX_HEADER_NAME:
            raise ValueError(f"a header name of {len(raw)} bytes; at most {MAX_HEADER_NAME}")
        out.append(pack("<H", len(raw)) + raw)
        out.append(pack("<I", 0 if value is None else len(value) + 1) + (value or b""))
    return b"".join(out)
