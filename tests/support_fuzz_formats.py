"""The parsers of :mod:`pspf.format` as the fuzzer sees them: valid inputs, seals, and what must hold.

What our parsers accept, :mod:`tests.independent_decoder` must read in the same way.
"""

import struct
from collections.abc import Callable
from functools import cache
from typing import Any
from zlib import crc32

from pspf.format import index as index_format
from pspf.format import settings as settings_file
from pspf.format import zstd
from pspf.format.batch import (
    FLAG_SOURCE,
    HEADER_BYTES,
    PREAMBLE,
    SHARED,
    Encoded,
    batch_crc_of,
    header_fault,
    newer_version,
    parse_header,
    seal_again,
)
from pspf.format.columns import BadBody, Columns, unpack_headers
from pspf.format.encode import encode_records, pack_headers
from pspf.format.producers import Producer, decode_table, encode_table, id_of, unpack_source
from pspf.format.segment import SegmentHeader, parse_segment, segment_fault
from pspf.format.slots import NewerSlot, commit_slots_valid, newest_commit, newest_start, parse_lock
from pspf.model import MAX_BATCH_BODY
from tests import independent_decoder as independent
from tests.conftest import ROOT
from tests.support_fuzz import Fields, Parser

VECTORS = ROOT / "docs" / "format" / "vectors"
SEGMENT_ID, POSITION, TOPIC_ID = 0x0123456789ABCDEF, 4096, bytes(range(16))
FOLD = crc32(TOPIC_ID)
U32 = struct.Struct("<I")
SEED = crc32(struct.pack("<QQ", SEGMENT_ID, POSITION))

# -- corpora

HEADER_FIELDS: Fields = (
    (4, 4), (8, 8), (16, 4), (20, 4), (24, 4), (28, 4), (32, 4), (36, 4), (40, 8), (48, 4), (52, 4), (56, 4),
    (60, 1), (61, 1), (62, 2), (64, 8), (72, 8), (80, 8), (88, 8), (96, 4), (100, 2), (102, 2),
)  # fmt: skip
BODY_FIELDS: Fields = (
    *((HEADER_BYTES + at, 1) for at in range(8)),
    *((HEADER_BYTES + at, 4) for at in range(8, 32, 4)),
)
COLUMN_FIELDS: Fields = ((48, 4), (36, 4), (62, 2), (102, 2), (64, 8), (40, 8), *BODY_FIELDS, *BODY_FIELDS)


def vectors(pattern: str) -> list[bytes]:
    """The test vectors whose names match, one always."""
    found = [path.read_bytes() for path in sorted(VECTORS.glob(pattern))]
    assert found, pattern
    return found


def sealed(encoded: Any, position: int = POSITION, base: int = 100) -> bytes:
    """A batch in its place, with what the fuzzer changes."""
    header: bytes = encoded.seal(base, 1, 5, SEGMENT_ID, position, 7, 0, 0xFFFFFFFF)
    return header + b"".join(encoded.parts)


@cache
def record_batches() -> list[bytes]:
    """Every vector with plain records, some with all columns at once, and one of shared values."""
    names = "lines one keyed nulls all-null equal-lengths shared headers before-1970 times-1 times-2 times-4"
    found = [vectors(f"batch-{name}.bin")[0] for name in f"{names} times-8 offsets source".split()]
    found.append(sealed(Encoded([PREAMBLE.pack(SHARED, 0, 0, 0, 0, 0, 0, 4, 0, 0) + b"once"], 3, 3)))
    every: Any = {"keys": [b"k", None, b""], "headers": [[("a", b"b")], [], [("", None)]]}
    every["shared_headers"] = False
    for deltas in (None, [0, 2, 9]):
        found.append(
            sealed(
                encode_records([b"v", None, b"w\n"], timestamps=[5, 6, 300], offset_deltas=deltas, **every)
            )
        )
    return found


@cache
def plain_of_compressed() -> list[bytes]:
    """Batches whose header says compressed, with the columns as they are before the compression."""
    found = []
    for batch in record_batches():
        header = bytearray(batch[:HEADER_BYTES])
        header[61] = header[61] & 0xF0 | 1
        found.append(bytes(header) + batch[HEADER_BYTES + parse_header(batch).extension_length :])
        found[-1] = found[-1][:102] + bytes(2) + found[-1][104:]
    return found


@cache
def compressed_batches() -> list[bytes]:
    """Compressed ones as they are on disk."""
    return [*vectors("batch-zstd.bin"), *map(_compressed, plain_of_compressed()[:3])]


def _compressed(data: bytes) -> bytes:
    head, plain = bytearray(data[:HEADER_BYTES]), data[HEADER_BYTES:]
    head[36:40] = U32.pack(len(plain))
    batch = head + zstd.compress(plain)
    seal_batch(batch)
    return bytes(batch)


# -- seals


def seal_batch(data: bytearray) -> None:
    """Body length, batch CRC and header CRC, as of the one batch of our segment."""
    if len(data) <= HEADER_BYTES:
        if len(data) > 8:  # a header that ends early, with a CRC of what there is
            data[:8] = b"PBAT" + U32.pack(crc32(data[8:], SEED))
        return
    if data[28] != 0xFF:  # otherwise a length that is wrong in spite of the CRC
        data[28:32] = U32.pack(len(data) - HEADER_BYTES)
    data[:4] = b"PBAT"
    data[8:16] = SEGMENT_ID.to_bytes(8, "little")
    crc = crc32(data[HEADER_BYTES : HEADER_BYTES + U32.unpack_from(data, 28)[0]])
    data[32:36] = U32.pack(crc32(data[36:HEADER_BYTES], crc32(data[28:32], crc)))
    data[4:8] = U32.pack(crc32(data[8:HEADER_BYTES], SEED))


def seal_slots(data: bytearray) -> None:
    """The CRC of both slots."""
    for at in (0, 512):
        if len(data) >= at + 64:
            data[at + 60 : at + 64] = U32.pack(crc32(data[at : at + 60]))


def seal_index(data: bytearray) -> None:
    """The CRC of each entry."""
    seed = crc32(SEGMENT_ID.to_bytes(8, "little"))
    for at in range(0, len(data) - 39, 40):
        data[at + 32 : at + 36] = U32.pack(crc32(data[at : at + 32], seed))


def seal_segment(data: bytearray) -> None:
    """The CRC of a segment header; where some bytes of it are missing, one that ends in zeros there."""
    if len(data) >= 4096:
        data[4092:4096] = U32.pack(crc32(data[:4092]))
    elif len(data) == 4095:
        for number in range(600):
            data[3072:3074] = number.to_bytes(2, "little")
            crc = crc32(data[:4092])
            if crc < 1 << 24:
                data[4092:] = crc.to_bytes(3, "little")
                return


def seal_settings(data: bytearray) -> None:
    """The last line of a settings file."""
    at = data.rfind(b'crc32 = "')
    if at >= 0:
        del data[at:]
    data += f'crc32 = "{crc32(data):08x}"\n'.encode()


# -- checks


def right_header(data: bytes) -> bool:
    """Whether a batch header is one, by the text of the format."""
    if len(data) < HEADER_BYTES or data[:4] != b"PBAT":
        return False
    (length, _, plain), (count, span) = (
        struct.unpack_from("<III", data, 28),
        struct.unpack_from("<II", data, 48),
    )
    return bool(
        crc32(data[8:HEADER_BYTES], SEED) == U32.unpack_from(data, 4)[0]
        and 0 < length <= MAX_BATCH_BODY
        and plain <= MAX_BATCH_BODY
        and count <= min(span, 1 << 20)
        and struct.unpack_from("<Q", data, 40)[0] + span < 1 << 63
        and data[102] + 256 * data[103] <= length
    )


def check_header(data: bytes, _: bool) -> bool:
    fault = header_fault(b"PBAT!" + data, 5, SEGMENT_ID, POSITION)
    assert (fault == "") == right_header(data), fault or "accepted"
    if fault:
        return False
    header = parse_header(memoryview(data))
    named = independent.take("<4sIQIIIIIIQIIIBBHqqqqIHH", independent.HEADER_NAMES, data)
    kind_codec = named.pop("kind_codec")
    del named["magic"]
    for name, value in {**named, "kind": kind_codec >> 4, "codec": kind_codec & 15}.items():
        assert getattr(header, name) == value, name
    assert newer_version(header) == (data[60] > 1)
    again = seal_again(data[:HEADER_BYTES], SEGMENT_ID + 1, POSITION, header.chain, 0, 0)
    assert (
        header_fault(again, 0, SEGMENT_ID + 1, POSITION) == "" != header_fault(again, 0, SEGMENT_ID, POSITION)
    )
    return True


def columns_of(header: Any, body: bytes) -> dict[str, Any] | None:
    """Everything that a body says; None if it says of any part that it does not fit. Only BadBody comes."""
    found: dict[str, Any] = {}
    try:
        columns = Columns(header, body)
    except BadBody:
        return None
    whole = True
    for name in ("values", "keys", "timestamps", "header_blobs", "offsets", "record_crcs", "good_records"):
        try:
            column = found[name] = getattr(columns, name)()
            assert column is None or len(column) == header.count <= max(len(body), header.plain_length)
            if name == "header_blobs":
                found["headers"] = [unpack_headers(blob) for blob in column or ()]
        except BadBody:
            whole = False
    assert len(columns.region()) <= max(len(body), header.plain_length)
    return found if whole else None


def same_records(fields: dict[str, Any], plain: bytes, found: dict[str, Any]) -> None:
    """The other decoder reads the same out of columns that ours accepted."""
    try:
        records = independent.read_columns(fields, plain)
    except independent.Fault as fault:
        assert str(fault) == "record CRC", f"accepted, but: {fault}"
        assert not all(found["good_records"])
        return
    assert (found["record_crcs"] is None) == (not all(found["good_records"]))
    none = [None] * len(records)
    times = found["timestamps"] or [fields["base_timestamp"]] * len(records)
    ours = zip(found["offsets"], times, found["keys"] or none, found["values"], strict=True)
    names = ("offset", "timestamp_ms", "key", "value")
    assert list(ours) == [tuple(record[name] for name in names) for record in records]
    headers = [
        [(name.encode("utf-8", "surrogateescape"), v) for name, v in h] for h in found.get("headers", ())
    ]
    assert headers == [[tuple(pair) for pair in r["headers"]] for r in records][: len(headers)]


def fields_of(header: Any) -> dict[str, Any]:
    return {name: getattr(header, name) for name in ("count", "flags", "base_timestamp", "base_offset")}


def check_batch(data: bytes, _: bool) -> bool:
    """Header, batch CRC and columns; the columns also of a batch whose CRC fails, as salvage reads them."""
    if header_fault(data, 0, SEGMENT_ID, POSITION):
        return False
    header = parse_header(data)
    body = data[HEADER_BYTES : header.size]
    found = columns_of(header, body)
    whole = len(body) == header.body_length and batch_crc_of(data[:HEADER_BYTES], body) == header.batch_crc
    seal = crc32(data[36:HEADER_BYTES], crc32(data[28:32], crc32(body)))
    assert whole == (len(body) == header.body_length and seal == U32.unpack_from(data, 32)[0])
    if found is None or not whole:
        return False
    if header.flags & FLAG_SOURCE and header.extension_length in (16, 24):
        source = body[: header.extension_length]
        assert unpack_source(source) == tuple(independent.read_source(source).values())
    if header.count and not header.codec:
        same_records(fields_of(header), body[header.extension_length :], found)
    return True


def check_compressed(data: bytes, _: bool) -> bool:
    """The columns are compressed here, so that changes get behind the decompressor."""
    if len(data) < HEADER_BYTES:
        return False
    batch = _compressed(data)
    if header_fault(batch, 0, SEGMENT_ID, POSITION):
        return False
    header = parse_header(batch)
    found = columns_of(header, batch[HEADER_BYTES:])
    plain = data[HEADER_BYTES:]
    if found is not None and header.count and header.codec == 1 and not header.extension_length:
        same_records(fields_of(header), plain, found)
    return found is not None


def check_frame(data: bytes, sealed: bool) -> bool:
    """A decompressor gets what is no frame, or one of another length; nothing longer than said comes out."""
    if len(data) < HEADER_BYTES:
        return False
    length = min(U32.unpack_from(data, 36)[0], MAX_BATCH_BODY >> 4)
    try:
        plain = zstd.decompress(data[HEADER_BYTES:], length)
    except BadBody:
        plain = None
    assert plain is None or len(plain) == length
    return check_batch(data, sealed)


def check_packed(data: bytes, _: bool) -> bool:
    try:
        pairs: Any = independent.read_headers(data)
        theirs = [(name.decode("utf-8", "surrogateescape"), value) for name, value in pairs]
    except independent.Fault:
        theirs = None
    try:
        ours = unpack_headers(data)
    except BadBody:
        assert theirs is None
        return False
    assert ours == theirs and pack_headers(ours) == data
    return True


def check_table(data: bytes, _: bool) -> bool:
    try:
        found = decode_table(data)
    except ValueError:
        return False
    assert len(found) <= len(data) // 40
    theirs = independent.read_producers(data)
    assert len(theirs) == len(found)
    for ours, other in zip(found, theirs, strict=True):
        named = {**other, "producer_id": other["id"], "name": other["name"].decode("utf-8", "replace")}
        named["ranges"] = [tuple(r) for r in other["ranges"]]
        assert all(getattr(ours, name) == named[name] for name in Producer.__slots__)
    return True


def whole_slots(data: bytes) -> list[tuple[int, int, int, bytes]]:
    """Of each slot that checks: sequence, version, fold, bytes."""
    found = []
    for at, fold_at in ((0, 0), (512, 0)):
        slot = data[at : at + 64]
        if len(slot) == 64 and crc32(slot[:60]) == U32.unpack_from(slot, 60)[0]:
            found.append((int.from_bytes(slot[:8], "little"), slot[15], fold_at, slot))
    return found


def bounded(layout: str, names: list[str], slot: bytes) -> bool:
    """Whether sequence and offsets are within the limits of the format."""
    fields = independent.take(layout, names, slot)
    most = (1 << 32) - 1 if names == independent.COMMIT_NAMES else 1 << 32
    return fields["generation"] < most and all(fields.get(n, 0) < 1 << 63 for n in independent.BOUNDED)


def check_slots(
    data: bytes, parse: Callable[[bytes, int], Any], names: list[str], layout: str, at: int
) -> bool:
    """The newest slot of ours counts; a later version is said, never guessed at."""
    slots = [(*slot[:2], U32.unpack_from(slot[3], at)[0], slot[3]) for slot in whole_slots(data)]
    try:
        found = parse(data, FOLD)
    except NewerSlot:
        assert any(version > 1 for _, version, _, _ in slots)
        return False
    ours = [slot for slot in slots if slot[1] <= 1 and slot[2] == FOLD and bounded(layout, names, slot[3])]
    assert (found is not None) == bool(ours)
    if found is None:
        return False
    assert found.sequence == max(slot[0] for slot in ours)
    matching = next(slot[3] for slot in ours if slot[0] == found.sequence)
    other = independent.take(layout, names, matching)
    other["flags"] &= 0xFFFFFF
    assert all(getattr(found, name) == other[name] for name in type(found).__slots__)
    return True


def check_commit(data: bytes, _: bool) -> bool:
    valid = tuple(
        not any(part) or (len(part) == 64 and crc32(part[:60]) == U32.unpack_from(part, 60)[0])
        for part in (data[:64], data[512:576])
    )
    assert commit_slots_valid(data) == valid
    return check_slots(data, newest_commit, independent.COMMIT_NAMES, "<QIIQQQIIIIII", 52)


def check_start(data: bytes, _: bool) -> bool:
    return check_slots(data, newest_start, independent.START_NAMES, "<QIIQQI24xI", 32)


def check_lock(data: bytes, _: bool) -> bool:
    right = len(data) == 64 and crc32(data[:60]) == U32.unpack_from(data, 60)[0]
    try:
        found = parse_lock(data)
    except NewerSlot:
        assert right and data[7] > 1
        return False
    layout = "<IIQQIIIIIQQI"
    right = right and bounded(layout, independent.LOCK_NAMES, data)
    assert (found is not None) == (right and data[7] <= 1)
    if found is None:
        return False
    other = independent.take(layout, independent.LOCK_NAMES, data)
    other["flags"] &= 0xFFFFFF
    assert all(getattr(found, name) == other[name] for name in type(found).__slots__)
    return True


def check_index(data: bytes, _: bool) -> bool:
    found = index_format.decode_entries(data, SEGMENT_ID)
    theirs, least = [], -1
    for other in independent.read_index(data[: len(data) // 40 * 40], SEGMENT_ID):
        if other["base_offset"] >= least:
            least = other["base_offset"]
            theirs.append([other[name] for name in index_format.IndexEntry.__slots__])
    assert [[getattr(e, name) for name in index_format.IndexEntry.__slots__] for e in found] == theirs
    assert index_format.decode_entries(data, SEGMENT_ID ^ 1) == []
    return bool(found)


def check_segment_header(data: bytes, _: bool) -> bool:
    fault = segment_fault(data)
    whole = len(data) >= 4096 and data[:8] == b"PSPFSEG\0"
    whole = whole and crc32(data[:4092]) == U32.unpack_from(data, 4092)[0]
    version = U32.unpack_from(data, 8)[0] if whole else 0
    assert (fault == "") == (whole and version <= 1) and (fault == "newer") == (whole and version > 1), fault
    if fault:
        return False
    header = parse_segment(data)
    other = independent.take("<8sIIQ16sIIQqqQIIQIIII", independent.SEGMENT_NAMES, data)
    epochs, settings = other.pop("epoch_count"), other.pop("settings_length")
    for name in ("magic", "version", "zero"):
        del other[name]
    for name, value in other.items():
        assert getattr(header, name) == value, name
    assert len(header.epochs) == min(epochs, 64) and header.epochs == [
        struct.unpack_from("<IQ", data, 112 + 12 * i) for i in range(len(header.epochs))
    ]
    assert header.settings == data[1024 : 1024 + min(settings, 2048)]
    return True


def check_settings(data: bytes, _: bool) -> bool:
    at = data.rfind(b'crc32 = "')
    right = at >= 0 and data[at:] == f'crc32 = "{crc32(data[:at]):08x}"\n'.encode()
    right = right and data[at - 1 : at] in (b"", b"\n")
    accepted = False
    for check in (True, False):
        try:
            values = settings_file.decode(data, check)
        except settings_file.BadSettings as error:
            assert not (error.changed and right)
            continue
        assert right or not check, "a checksum that does not hold"
        for value in values.values():
            assert isinstance(value, str | int) and (isinstance(value, str) or abs(value) < 10**20)
        accepted = accepted or check
    return accepted


@cache
def settings_corpus() -> list[bytes]:
    store = VECTORS / "store"
    return [
        *vectors("settings.bin"),
        (store / "store.toml").read_bytes(),
        (store / "topics" / "readings" / "topic.toml").read_bytes(),
    ]


@cache
def tables() -> list[bytes]:
    one, two = Producer(id_of("flights"), "flights"), Producer(-3)
    one.ranges, two.ranges = [(10, 10, 20)], [(i, 1, i) for i in range(5)]
    return [*(batch[HEADER_BYTES:] for batch in vectors("batch-table*.bin")), encode_table([one, two, one])]


@cache
def packed() -> list[bytes]:
    return [pack_headers(p) for p in ([("a", b"b"), ("", None), ("name", b"")], [("\udcff", b"x" * 40)], [])]


@cache
def segment_headers() -> list[bytes]:
    text, epochs = settings_corpus()[2], [(n, 10 * n) for n in range(64)]
    return [
        *vectors("segment-header.bin"),
        SegmentHeader(9, TOPIC_ID, 0, 5, epochs=epochs, settings=text).encode(),
    ]


SLOT_FIELDS: Fields = tuple((base + at, width) for base in (0, 512) for at, width in (
    (0, 8), (8, 4), (12, 4), (15, 1), (16, 8), (24, 8), (32, 8), (32, 4), (40, 4), (44, 4), (48, 4), (52, 4),
    (60, 4),
))  # fmt: skip
INDEX_FIELDS: Fields = tuple(
    (40 * n + at, w) for n in range(4) for at, w in ((0, 8), (8, 4), (12, 4), (16, 8))
)
SEGMENT_FIELDS: Fields = (
    *((at, 4) for at in (8, 12, 40, 44, 80, 84, 96, 100, 104, 104, 108, 108)),
    *((at, 8) for at in (16, 48, 56, 64, 72, 88)),
)
TABLE_FIELDS: Fields = (
    *((38, 1), (38, 1), (39, 1), (39, 1), (0, 8), (10, 8), (18, 4), (22, 8), (8, 2), (34, 2)),
)
SETTING_WORDS = (
    b"crc32",
    b" = ",
    b'"',
    b"\n",
    b"true",
    b"-1",
    b"9" * 21,
    b"#",
    b"\xd9\xa3",
    b"partitions = ",
    b"_",
)

FORMATS: dict[str, Parser] = {
    "batch header": Parser(check_header, lambda: vectors("batch-*.bin"), seal_batch, HEADER_FIELDS),
    "batch of records": Parser(check_batch, record_batches, seal_batch, COLUMN_FIELDS),
    "compressed records": Parser(check_compressed, plain_of_compressed, None, COLUMN_FIELDS),
    "compressed frame": Parser(check_frame, compressed_batches, seal_batch, ((36, 4), *BODY_FIELDS)),
    "headers of a record": Parser(check_packed, packed, None, ((0, 2), (3, 4), (7, 2), (9, 4))),
    "producer table": Parser(check_table, tables, None, TABLE_FIELDS),
    "commit": Parser(check_commit, lambda: vectors("commit*.bin"), seal_slots, SLOT_FIELDS),
    "start": Parser(check_start, lambda: vectors("start.bin"), seal_slots, SLOT_FIELDS),
    "lock": Parser(check_lock, lambda: vectors("lock.bin"), seal_slots, SLOT_FIELDS[:13]),
    "index": Parser(check_index, lambda: vectors("index.bin"), seal_index, INDEX_FIELDS),
    "segment header": Parser(check_segment_header, segment_headers, seal_segment, SEGMENT_FIELDS),
    "settings file": Parser(check_settings, settings_corpus, seal_settings, (), SETTING_WORDS),
}
