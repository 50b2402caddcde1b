"""Files whose checksums hold, with contents that no PSPF writes: refused by name, and the rest goes on."""

from collections.abc import Callable
from pathlib import Path
from typing import Any
from zlib import crc32

import pytest

import pspf
from pspf import errors
from pspf.format.batch import HEADER_BYTES, NO_TABLE, parse_header
from pspf.format.columns import BadBody, Columns
from pspf.format.encode import encode_records
from pspf.format.segment import SEGMENT_HEADER_BYTES, SegmentHeader, parse_segment
from pspf.model import TopicConfig
from pspf.store.select import Selection
from tests.support_damage import batches, damage, partition, segments, verify
from tests.support_fuzz_store import seal_segment_file

FIRST = SEGMENT_HEADER_BYTES
PREAMBLE = FIRST + HEADER_BYTES
TOP = ((1 << 63) - 1).to_bytes(8, "little")


def forge(segment: Path, change: Callable[[bytearray], object]) -> None:
    """Change a segment file and make every checksum and the chain in it right again."""
    data = bytearray(segment.read_bytes())
    change(data)
    seal_segment_file(data)
    segment.write_bytes(data)


def put(at: int, what: bytes) -> Callable[[bytearray], object]:
    return lambda data: data.__setitem__(slice(at, at + len(what)), what)


def read(path: Path, skip_damaged: bool = False) -> list[Any]:
    with pspf.open(str(path), read_only=True) as store:
        return list(store.read("t", Selection(skip_damaged=skip_damaged)))


def refused_by_name(path: Path, why: str) -> None:
    """The first batch is; what comes behind it is read."""
    with pytest.raises(errors.Damaged, match=why):
        read(path)
    with pspf.open(str(path), read_only=True) as store:
        broken, found = [], []
        reader = store.reader("t", 0)
        for _ in range(10):
            for raw in reader.read():
                try:
                    columns = raw.columns()
                    times = columns.timestamps()
                    found.append((columns.values(), columns.header_blobs(), times))
                except BadBody as error:
                    broken.append(str(error))
        reader.close()
    assert broken == [why] and len(found) == 1 and found[0][0] == [b"whole"]
    (finding,) = verify(path)
    assert (finding.kind, finding.first_offset) == ("batch-columns", 0) and why in finding.detail


def test_headers_that_are_null_are_refused(store_dir: Path) -> None:
    with pspf.open(str(store_dir)) as store:
        store.append("t", b"v", headers=[("h", b"1")])
        store.append("t", b"whole")
    forge(segments(store_dir)[0], lambda data: data.__setitem__(PREAMBLE + 3, data[PREAMBLE + 3] | 0x40))
    refused_by_name(store_dir, "headers that are null")


@pytest.mark.parametrize("width", [1, 2, 4])
def test_lines_with_a_column_of_lengths_are_refused_instead_of_read_wrong(
    store_dir: Path, width: int
) -> None:
    with pspf.open(str(store_dir)) as store:
        store.append_many("t", [b"the first", b"the second"])
        store.append("t", b"whole")
    forge(segments(store_dir)[0], put(PREAMBLE, bytes([width])))
    refused_by_name(store_dir, "lines with a column of value lengths")


def test_a_time_and_its_delta_beyond_64_bits_are_refused(store_dir: Path) -> None:
    with pspf.open(str(store_dir)) as store:
        store.append_many("t", [b"a", b"b"], timestamps_ms=[5, 6])
        store.append("t", b"whole")
    forge(segments(store_dir)[0], put(FIRST + 64, TOP + TOP))  # base and greatest timestamp
    refused_by_name(store_dir, "a timestamp that does not fit 64 bits")


@pytest.mark.parametrize("least", [0, 1 << 8, 1 << 16, 1 << 32])
def test_the_latest_times_that_fit_are_read(least: int) -> None:
    top = (1 << 63) - 1
    for times in ([top - least - 1, top], [-(1 << 63), top]):
        encoded = encode_records([b"a", b"b"], timestamps=times, keys=None)
        header = parse_header(encoded.seal(0, 0, 1, 7, FIRST, 0, 0, NO_TABLE))
        columns = Columns(header, b"".join(encoded.parts))
        assert columns.timestamps() == times and columns.good_records() == [True, True]


def test_an_index_is_rebuilt_over_append_times_before_1970(store_dir: Path) -> None:
    with pspf.open(str(store_dir)) as store:
        store.append_many("t", [b"x" * 99] * 20_000)
        store.append("t", b"y")

    def back_in_time(data: bytearray) -> None:
        at = FIRST
        while data[at : at + 4] == b"PBAT":
            data[at + 87] |= 0x80
            at += HEADER_BYTES + int.from_bytes(data[at + 28 : at + 32], "little")

    forge(segments(store_dir)[0], back_in_time)
    for _ in range(2):
        index = segments(store_dir)[0].with_suffix(".index")
        index.unlink(missing_ok=True)
        assert [(f.kind, "rebuilt" in f.detail) for f in verify(store_dir)] == [("index", True)]
        assert verify(store_dir) == [] and index.stat().st_size > 0


def test_a_segment_has_a_signed_time_as_the_format_says() -> None:
    header = SegmentHeader(7, bytes(16), 0, 0, created_ns=-5)
    block = header.encode()
    assert int.from_bytes(block[56:64], "little", signed=True) == -5 == parse_segment(block).created_ns


@pytest.mark.parametrize("time", [TOP, bytes(7) + b"\x80", b"\xff" * 8], ids=["latest", "earliest", "-1"])
@pytest.mark.parametrize("at", [56, FIRST + 80], ids=["segment", "batch"])
@pytest.mark.parametrize("files", [("commit", "lock"), ("lock",), ()], ids=len)
def test_appends_go_on_behind_a_forged_time(store_dir: Path, time: bytes, at: int, files: Any) -> None:
    with pspf.open(str(store_dir)) as store:
        store.create_topic("t", TopicConfig(segment_bytes=64 << 10))
        store.append("t", b"0", producer="p")
    forge(segments(store_dir)[0], put(at, time))
    for name in files:
        (partition(store_dir) / name).unlink()
    for number in (1, 3):
        with pspf.open(str(store_dir)) as store:
            store.append("t", b"x" * 40_000)  # some of them begin a new segment
            store.append("t", b"%d" % number, producer="p")
    assert [r.offset for r in read(store_dir)] == list(range(5))
    assert len(segments(store_dir)) > 1


ALL = b"\xff" * 8
FORGED_NUMBERS = {
    "sequence of commit": ("commit", 0, ALL),
    "generation": ("commit", 8, ALL[:4]),
    "visible and durable end": ("commit", 24, ALL + ALL),
    "written end": ("lock", 16, ALL),
    "sequence of start": ("start", 0, ALL),
    "first offset of a control batch": ("log", FIRST + 40, ALL),
    "distance to producer state": ("log", -1, b"\xff\xff\xff\0"),
}


@pytest.mark.parametrize("poisoned", [False, True])
@pytest.mark.parametrize("what", FORGED_NUMBERS)
def test_appends_go_on_behind_a_forged_number_that_has_no_next(
    store_dir: Path, what: str, poisoned: bool
) -> None:
    with pspf.open(str(store_dir)) as store:
        store.append("t", b"0", producer="p")
    name, at, number = FORGED_NUMBERS[what]
    if at < 0:
        at = batches(segments(store_dir)[0])[-1].position + 24
    if name == "log":
        forge(segments(store_dir)[0], put(at, number))
    for small in ("commit", "lock", "start"):
        file = partition(store_dir) / small
        data = bytearray(file.read_bytes())
        for slot in (0, 512)[: 1 + (small != "lock")]:
            if small == name:
                data[slot + at : slot + at + len(number)] = number
            if small == "commit" and poisoned:
                data[slot + 12] |= 1  # a heal begins the next generation
            if any(data[slot : slot + 60]):
                data[slot + 60 : slot + 64] = crc32(data[slot : slot + 60]).to_bytes(4, "little")
        file.write_bytes(data)
    for value in (b"1", b"2"):
        with pspf.open(str(store_dir)) as store:
            store.append("t", value, producer="q")
    found = [record.value for record in read(store_dir, skip_damaged=True)]
    assert found == [b"0", b"1", b"2"]
    verify(store_dir)


@pytest.mark.parametrize("place", [72, 84], ids=["end", "crc"])
def test_a_segment_that_follows_another_end_is_named_and_costs_no_record(store_dir: Path, place: int) -> None:
    """An old segment that was put back, for example: damage, with no record missing from the log."""
    with pspf.open(str(store_dir)) as store:
        store.create_topic("t", TopicConfig(segment_bytes=64 << 10))
        for number in range(40):
            store.append("t", b"%d" % number * 2_000)
    forge(segments(store_dir)[1], lambda data: data.__setitem__(place, data[place] ^ 1))
    base = int(segments(store_dir)[1].stem)

    with pytest.raises(errors.Damaged, match="does not follow") as caught:
        read(store_dir)
    assert caught.value.offset == caught.value.resume_offset == base
    assert damage(store_dir)
    assert [record.offset for record in read(store_dir, skip_damaged=True)] == list(range(40))

    with pspf.open(str(store_dir), read_only=True) as store:
        reader = store.reader("t", 0)
        offsets: list[int] = []
        told: list[int] = []
        while len(offsets) < 40:
            try:
                for raw in reader.read():
                    offsets += raw.columns().offsets()
            except errors.Damaged as error:
                told.append(error.offset)
                reader.seek(error.resume_offset)
            assert len(told) <= len(segments(store_dir))
        reader.close()
    assert offsets == list(range(40)) and told[0] == base
