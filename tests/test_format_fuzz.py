"""Parsers of the store format fed with anything: what was written comes back, the rest is refused by name.

200 examples of each property; the great numbers are those of :mod:`tests.test_fuzz`, which is faster. Memory
is limited while the parsers run, so that a forged length or count that is believed fails here instead of
filling the machine.
"""

from collections.abc import Callable
from typing import Any
from zlib import crc32

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pspf.format import settings as settings_file
from pspf.format.batch import (
    HEADER_BYTES,
    MAGIC,
    NO_TABLE,
    PREAMBLE,
    Encoded,
    Header,
    batch_crc_of,
    header_fault,
    parse_header,
    seal_again,
)
from pspf.format.columns import BadBody, Columns, unpack_headers
from pspf.format.encode import encode_lines, encode_records, pack_headers
from pspf.format.index import IndexEntry, decode_entries, encode_entry
from pspf.format.producers import Producer, decode_table, encode_table
from pspf.format.segment import SEGMENT_HEADER_BYTES, SegmentHeader, parse_segment, segment_fault
from pspf.format.slots import (
    Commit,
    NewerSlot,
    Start,
    commit_slots_valid,
    newest_commit,
    newest_start,
    parse_lock,
)
from pspf.model import MAX_BATCH_BODY
from tests.support_fuzz import little_memory

SEGMENT_ID, POSITION, CHAIN = 0xA1B2C3D4E5F60718, 4096, 77
EXAMPLES = 200


def holds(prop: Callable[..., None], *strategies: st.SearchStrategy[Any]) -> None:
    """Run ``prop`` on drawn arguments, within little memory."""

    def limited(drawn: tuple[Any, ...]) -> None:
        with little_memory():
            prop(*drawn)

    limits = settings(max_examples=EXAMPLES, suppress_health_check=list(HealthCheck), deadline=None)
    limits(given(st.tuples(*strategies))(limited))()


# -- what was written comes back

short = st.binary(max_size=12)
# Long ones, so that every width of a length column occurs; their content does not matter.
pieces = short | st.builds(
    lambda b, n: b * n, st.binary(min_size=1, max_size=2), st.sampled_from([130, 40_000])
)
timestamps = st.integers(-(1 << 63), (1 << 63) - 1) | st.integers(0, 300)
names = st.text(st.characters(codec="utf-8"), max_size=6) | short.map(
    lambda raw: raw.decode("utf-8", "surrogateescape")
)
pairs = st.lists(st.tuples(names, st.none() | short), max_size=3)


@st.composite
def batches(draw: st.DrawFn) -> dict[str, Any]:
    """Arguments of :func:`encode_records`."""
    count = draw(st.integers(1, 8))

    def column(of: st.SearchStrategy[Any]) -> st.SearchStrategy[list[Any]]:
        return st.lists(of, min_size=count, max_size=count)

    shared = draw(st.booleans())
    gaps = draw(st.none() | column(st.sampled_from([1, 1, 2, 1000])))
    deltas = None if gaps is None else [sum(gaps[: i + 1]) - gaps[0] for i in range(count)]
    return {
        "values": draw(column(pieces) | column(st.none() | pieces) | column(st.sampled_from([b"", None]))),
        "keys": draw(st.none() | short | column(pieces) | column(st.none() | short) | column(st.none())),
        "timestamps": draw(timestamps | column(timestamps)),
        "headers": draw(st.none() | (pairs if shared else column(pairs))),
        "shared_headers": shared,
        "compress": draw(st.booleans()),
        "offset_deltas": deltas,
    }


def sealed(encoded: Encoded, base: int = 10) -> bytes:
    header = encoded.seal(base, 1, 2, SEGMENT_ID, POSITION, CHAIN, 0, NO_TABLE)
    return header + b"".join(encoded.parts)


def checked(data: bytes) -> tuple[Header, Columns]:
    """Header and columns of a batch that has to be without fault."""
    assert header_fault(data, 0, SEGMENT_ID, POSITION) == ""
    header = parse_header(data)
    assert len(data) == header.size
    assert batch_crc_of(data[:HEADER_BYTES], data[HEADER_BYTES:]) == header.batch_crc
    return header, Columns(header, data[HEADER_BYTES:])


def test_records_come_back_as_they_were() -> None:
    pytest.importorskip("zstandard")

    def prop(batch: dict[str, Any]) -> None:
        header, columns = checked(sealed(encode_records(**batch)))
        count = len(batch["values"])
        assert (header.count, columns.values()) == (count, batch["values"])
        keys = batch["keys"]
        assert (columns.keys() or [None] * count) == (
            [keys] * count if isinstance(keys, bytes | None) else keys
        )
        times = batch["timestamps"]
        wanted = [times] * count if isinstance(times, int) else times
        assert (columns.timestamps() or [header.base_timestamp] * count) == wanted
        assert (header.base_timestamp, header.max_timestamp) == (min(wanted), max(wanted))
        headers = batch["headers"] or []
        each = [headers] * count if batch["shared_headers"] or not headers else headers
        assert [unpack_headers(b) for b in columns.header_blobs() or [b""] * count] == [list(h) for h in each]
        deltas = batch["offset_deltas"] or list(range(count))
        assert [o - header.base_offset for o in columns.offsets()] == deltas
        assert header.span == deltas[-1] + 1
        assert columns.good_records() == [not batch["compress"]] * count

    holds(prop, batches())


def test_lines_come_back_as_they_were() -> None:
    pytest.importorskip("zstandard")

    def prop(text: bytes, time: int, compress: bool) -> None:
        lines = text.split(b"\n")
        region = text + b"\n"
        header, columns = checked(sealed(encode_lines(region, lines, time, compress)))
        assert columns.is_lines() and bytes(columns.region()) == region
        assert columns.values() == lines and header.count == len(lines)
        assert (columns.keys(), columns.timestamps(), columns.header_blobs()) == (None, None, None)
        assert columns.good_records() == [not compress] * len(lines)

    holds(
        prop,
        st.binary(max_size=200) | st.text("\n\0a", max_size=99).map(str.encode),
        timestamps,
        st.booleans(),
    )


def test_a_batch_sealed_again_elsewhere_is_the_same_batch() -> None:
    def prop(segment: int, position: int, chain: int) -> None:
        data = sealed(encode_records([b"v", None], b"k", [1, 2]))
        again = seal_again(data[:HEADER_BYTES], segment, position, chain, 0, NO_TABLE)
        assert header_fault(again, 0, segment, position) == ""
        assert again[28:] == data[28:HEADER_BYTES]
        if (segment, position) != (SEGMENT_ID, POSITION):
            assert header_fault(again, 0, SEGMENT_ID, POSITION)

    word = st.integers(0, (1 << 64) - 1)
    holds(prop, word | st.just(SEGMENT_ID), word | st.just(POSITION), st.integers(0, (1 << 32) - 1))


def test_settings_come_back_as_they_were() -> None:
    def prop(values: dict[str, Any]) -> None:
        import tomllib

        try:
            data = settings_file.encode(values, "a comment")
        except settings_file.BadSettings:
            assert any(
                not v.isprintable() or set('"\\') & set(v) for v in values.values() if isinstance(v, str)
            )
            return
        assert settings_file.decode(data) == values
        toml = tomllib.loads(data.decode())
        assert len(toml.pop("crc32")) == 8 and toml == values

    name = st.from_regex(r"[a-z_]{1,8}", fullmatch=True)
    number = st.integers(-(1 << 63), (1 << 63) - 1)
    holds(prop, st.dictionaries(name, st.text(max_size=9) | number | st.booleans(), max_size=6))


def test_producer_tables_come_back_as_they_were() -> None:
    def prop(entries: list[tuple[Any, ...]]) -> None:
        producers = []
        for name, number, ranges in entries:
            producer = Producer(number - (1 << 63), name)
            producer.used_ms, producer.source_position, producer.ranges = -number >> 1, number, ranges
            producer.partitions, producer.placement = number & 0x7FFF, number & 0xFFFF
            producer.counted_from = number >> 1
            producers.append(producer)
        found = decode_table(encode_table(producers))
        for one, other in zip(producers, found, strict=True):
            assert all(getattr(one, name) == getattr(other, name) for name in Producer.__slots__)

    word = st.integers(0, (1 << 32) - 1)
    ranges = st.lists(st.tuples(word, word, word), max_size=5)
    number = st.integers(0, (1 << 64) - 1)
    holds(
        prop,
        st.lists(st.tuples(st.text(st.characters(codec="utf-8"), max_size=20), number, ranges), max_size=4),
    )


# -- what cannot be written is refused before anything is


@pytest.mark.parametrize("time", [1 << 63, -(1 << 63) - 1, 1 << 70])
@pytest.mark.parametrize("compress", [False, True])
def test_a_timestamp_outside_64_bits_is_refused(time: int, compress: bool) -> None:
    pytest.importorskip("zstandard")
    for times in (time, [0, time], [time, time]):
        with pytest.raises(ValueError, match="64 bits"):
            encode_records([b"a", b"b"], None, times, compress=compress)
    with pytest.raises(ValueError, match="64 bits"):
        encode_lines(b"a\n", [b"a"], time, compress)


def test_a_body_that_no_reader_would_take_is_refused() -> None:
    class Large(bytes):
        """Says it is larger than memory should be used for here."""

        def __len__(self) -> int:
            return MAX_BATCH_BODY + 1

    for plain_length in (-1, MAX_BATCH_BODY + 1):
        with pytest.raises(ValueError, match="batch body"):
            Encoded([Large(b"a") if plain_length < 0 else b"a"], 1, 1, plain_length=plain_length)
    with pytest.raises(ValueError, match="batch body"):
        Encoded([], 1, 1)
    with pytest.raises(ValueError, match="batch body"):
        Encoded([b"a"], 1, 1).extend(bytes(1 << 16))


def test_columns_of_different_lengths_are_refused() -> None:
    for arguments in (
        {"keys": [b"k"]},
        {"keys": [None] * 3},
        {"timestamps": [1, 2, 3]},
        {"headers": [[]], "shared_headers": False},
        {"offset_deltas": [0]},
    ):
        with pytest.raises(ValueError, match="as many as"):
            encode_records([b"a", b"b"], **{"keys": None, "timestamps": 0, **arguments})  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="no records"):
        encode_records([], None, 0)


# -- what was not written is refused by name


def read_everything(columns: Columns) -> None:
    """Call all of it; each may say BadBody and nothing else."""
    for name in "values keys timestamps header_blobs offsets record_crcs good_records".split():
        try:
            result = getattr(columns, name)()
            assert result is None or len(result) == columns.count
            if name == "header_blobs":
                for blob in (result or [])[:50]:
                    unpack_headers(blob or b"")
        except BadBody:
            pass


def try_columns(header: Header, body: bytes) -> None:
    try:
        columns = Columns(header, body)
    except BadBody:
        return
    read_everything(columns)


def forged(**fields: int) -> Header:
    """A header of any content, as if its CRC had checked."""
    header = parse_header(sealed(encode_records([b"a"], None, 0)))
    for name, value in fields.items():
        setattr(header, name, value)
    return header


words = st.sampled_from(
    [0, 1, 2, 3, 5, 255, 1 << 16, MAX_BATCH_BODY, (1 << 31) - 1, (1 << 32) - 1]
) | st.integers(0, (1 << 32) - 1)
width_bytes = st.sampled_from([0, 1, 2, 4, 8, 3, 0x40, 0x41, 0x42, 0x44, 0x80, 0xC0, 0x81, 0xFF])
preambles = st.builds(
    PREAMBLE.pack,
    *[width_bytes] * 4,
    st.sampled_from([0, 4, 1]),
    st.integers(0, 2),
    st.just(0),
    words,
    words,
    words,
)


def test_forged_headers_and_bodies_are_refused_within_memory() -> None:
    def prop(
        count: int, flags: int, extension: int, times: tuple[int, int], preamble: bytes, rest: bytes
    ) -> None:
        header = forged(
            count=count,
            flags=flags,
            extension_length=extension,
            base_timestamp=times[0],
            base_offset=times[1],
        )
        try_columns(header, preamble + rest)

    far = st.tuples(timestamps, st.integers(0, (1 << 64) - 1))
    body_rest = st.binary(max_size=120) | st.builds(bytes, st.integers(0, 4000))
    counts = st.integers(0, 20) | words
    extensions = st.sampled_from([0, 0, 0, 1, 16, 65535])
    holds(prop, counts, st.integers(0, 65535), extensions, far, preambles | short, body_rest)


def test_damaged_bodies_are_refused_within_memory() -> None:
    pytest.importorskip("zstandard")

    def prop(batch: dict[str, Any], count: int | None, changes: list[tuple[int, int]], cut: int) -> None:
        data = sealed(encode_records(**batch))
        header = parse_header(data)
        if count is not None:
            header.count = count
        body = bytearray(data[HEADER_BYTES:])
        for at, value in changes:
            body[at % len(body)] = value
        try_columns(header, bytes(body[: len(body) - cut] if cut else body))

    # Most of the damage near the front, where preamble and lengths are.
    changes = st.lists(
        st.tuples(st.integers(0, 60) | st.integers(0, 1 << 16), st.integers(0, 255)), max_size=3
    )
    holds(prop, batches(), st.none() | words, changes, st.sampled_from([0, 0, 0, 1, 7, 100]))


@pytest.mark.parametrize("width", [0, 0x40, 0x80])
@pytest.mark.parametrize("length", [0, 1, 2])
@pytest.mark.parametrize("flags", [0, 8, 16, 24, 64])
def test_a_forged_count_of_records_without_bytes_allocates_nothing(
    width: int, length: int, flags: int
) -> None:
    body = PREAMBLE.pack(width, width, 0, width, 0, 0, 0, length, length, length) + bytes(100)
    with little_memory(), pytest.raises(BadBody):
        Columns(forged(count=(1 << 32) - 1, flags=flags), body)


@pytest.mark.parametrize(("width", "room"), [(0x80, 8), (0x81, 99), (0xC0, 99)])
def test_a_value_stored_once_that_is_cut_short_or_null_is_refused(width: int, room: int) -> None:
    body = PREAMBLE.pack(width, 0, 0, 0, 0, 0, 0, 9, 0, 0) + bytes(room)
    with pytest.raises(BadBody):
        Columns(forged(count=1, flags=0), body).values()


def test_a_compressed_batch_of_nulls_stays_within_the_limit_of_records_by_bytes() -> None:
    pytest.importorskip("zstandard")
    count = 100_000
    header, columns = checked(sealed(encode_records([None] * count, None, 0, compress=True)))
    assert header.plain_length >= count
    assert columns.values() == [None] * count


def test_arbitrary_bytes_are_no_batch_header() -> None:
    pytest.importorskip("zstandard")

    def prop(data: bytes, at: int, right_crc: bool) -> None:
        if right_crc and len(data) - at >= HEADER_BYTES:
            head = bytearray(data[at : at + HEADER_BYTES])
            head[:4] = MAGIC
            seed = crc32(SEGMENT_ID.to_bytes(8, "little") + POSITION.to_bytes(8, "little"))
            head[4:8] = crc32(head[8:], seed).to_bytes(4, "little")
            data = data[:at] + head + data[at + HEADER_BYTES :]
        if header_fault(data, at, SEGMENT_ID, POSITION) == "":
            header = parse_header(data, at)
            assert right_crc and 1 <= header.body_length <= MAX_BATCH_BODY and header.span >= header.count
            try_columns(header, data[at + HEADER_BYTES :])

    def with_small_lengths(raw: bytes) -> bytes:
        return raw[:30] + b"\0\0" + raw[32:38] + b"\0\0" + raw[40:50] + b"\0\0" + raw[52:]

    raw = st.binary(max_size=200) | st.binary(min_size=HEADER_BYTES, max_size=300).map(with_small_lengths)
    holds(prop, raw, st.sampled_from([0, 0, 1, 50]), st.booleans())


def test_arbitrary_bytes_are_no_packed_headers() -> None:
    def prop(blob: bytes, head: Any, cut: int) -> None:
        packed = pack_headers(head)
        assert unpack_headers(packed) == head
        for data in (blob, packed + blob, packed[:cut]):
            try:
                unpack_headers(data)
            except BadBody:
                pass

    holds(prop, st.binary(max_size=60), pairs, st.integers(0, 30))


def test_arbitrary_bytes_are_no_producer_table() -> None:
    def prop(data: bytes, count: int, tail: int) -> None:
        whole = encode_table([Producer(i, "n" * i) for i in range(count)])
        for damaged in (data, whole + data, whole[: len(whole) - tail] + data):
            try:
                decode_table(damaged)
            except ValueError:
                pass

    holds(prop, st.binary(max_size=200), st.integers(0, 4), st.integers(0, 90))


def test_arbitrary_bytes_make_no_index_entry_out_of_place() -> None:
    def prop(data: bytes, places: list[tuple[int, int]]) -> None:
        entries = [IndexEntry(base, position, 0, 0, 0) for base, position in places]
        blob = b"".join(encode_entry(entry, SEGMENT_ID) for entry in entries) + data
        found = decode_entries(blob, SEGMENT_ID)
        assert all(entry.position // (256 << 10) < len(entries) for entry in found)
        assert [e.base_offset for e in found] == sorted(e.base_offset for e in found)
        assert decode_entries(blob, SEGMENT_ID + 1) == []

    place = st.tuples(st.integers(0, 1 << 63), st.integers(0, 1 << 20))
    holds(prop, st.binary(max_size=100), st.lists(place, max_size=4))


def test_arbitrary_bytes_are_no_slot_and_no_lock_record() -> None:
    def prop(data: bytes, right_crc: bool, fold: int) -> None:
        if right_crc:
            data = data[:60].ljust(60, b"\1")
            data += crc32(data).to_bytes(4, "little")
        for parse in (
            lambda: newest_commit(data, fold),
            lambda: newest_start(data, fold),
            lambda: parse_lock(data),
        ):
            try:
                found = parse()
            except NewerSlot:
                assert right_crc
                continue
            assert right_crc or found is None
        commit_slots_valid(data)

    raw = st.binary(max_size=64) | st.binary(min_size=500, max_size=1100)
    holds(prop, raw, st.booleans(), st.integers(0, (1 << 32) - 1))


def test_arbitrary_bytes_are_no_segment_header() -> None:
    def prop(changes: list[tuple[int, bytes]], right_crc: bool, length: int) -> None:
        block = bytearray(SegmentHeader(1, bytes(16), 0, 0, epochs=[(1, 2)], settings=b"a = 1\n").encode())
        for at, data in changes:
            block[at : at + len(data)] = data
        del block[SEGMENT_HEADER_BYTES:]
        if right_crc:
            block[4092:] = crc32(block[:4092]).to_bytes(4, "little")
        raw = bytes(block[:length])
        fault = segment_fault(raw)
        if fault == "":
            header = parse_segment(raw)
            assert len(header.epochs) <= 64 and len(header.settings) <= 2048
        elif fault == "newer":
            assert right_crc

    changes = st.lists(
        st.tuples(st.integers(0, 120) | st.integers(0, 4095), st.binary(max_size=16)), max_size=3
    )
    lengths = st.just(SEGMENT_HEADER_BYTES) | st.integers(0, SEGMENT_HEADER_BYTES)
    holds(prop, changes, st.booleans(), lengths)


def test_arbitrary_bytes_are_no_settings() -> None:
    def prop(data: bytes, right_crc: bool) -> None:
        if right_crc:
            data += f'crc32 = "{crc32(data):08x}"\n'.encode()
        for check in (True, False):
            try:
                values = settings_file.decode(data, check)
            except settings_file.BadSettings as error:
                # Only the checksum says "changed by hand"; what it covers is not looked at before.
                assert not (error.changed and right_crc)
                continue
            assert all(isinstance(value, str | int) for value in values.values())

    line = st.text('ab= "\\#\t\r-019tru\u0660é', max_size=20)
    text = st.lists(line, max_size=5).map(lambda lines: "".join(f"{item}\n" for item in lines).encode())
    raw = st.binary(max_size=80) | text | text.map(lambda data: data + b'crc32 = "00000000"\n')
    holds(prop, raw, st.booleans())


@pytest.mark.parametrize("number", ["9" * 10_000, "\u0663", "1_000", "+1", "--1", "0x1"])
def test_what_is_no_decimal_number_is_no_setting(number: str) -> None:
    with pytest.raises(settings_file.BadSettings):
        settings_file.decode(f"partitions = {number}\n".encode(), check=False)


def test_slots_of_another_topic_do_not_count() -> None:
    commit, start = Commit(1, 1, 0, 0, 0, 0, 0, 0, 0, 7).encode(), Start(1, 1, 0, 0, 7).encode()
    assert newest_commit(commit, 7) and newest_start(start, 7)
    assert (newest_commit(commit, 8), newest_start(start, 8)) == (None, None)
