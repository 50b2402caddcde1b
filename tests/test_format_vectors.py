"""The test vectors of docs/format/: both decoders read each of them, and notice each flipped bit.

One decoder is PSPF's own, the other was written from the specification alone (tests/independent_decoder.py).
"""

import importlib.util
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any
from zlib import crc32

import pytest

from pspf.format import settings
from pspf.format.batch import HEADER_BYTES, Header, batch_crc_of, header_fault, newer_version, parse_header
from pspf.format.columns import BadBody, Columns, unpack_headers
from pspf.format.index import decode_entries
from pspf.format.producers import decode_table, unpack_source
from pspf.format.segment import SEGMENT_HEADER_BYTES, SegmentHeader, parse_segment, segment_fault
from pspf.format.slots import (
    SECOND_SLOT,
    SLOT_BYTES,
    commit_slots_valid,
    newest_commit,
    newest_start,
    parse_lock,
)
from tests import independent_decoder as independent
from tests.conftest import ROOT

VECTORS = ROOT / "docs" / "format" / "vectors"
NAMES = sorted(path.stem for path in VECTORS.glob("*.bin"))
Fields = dict[str, Any]


def load_make_vectors() -> ModuleType:
    """docs/ is no package."""
    path = ROOT / "docs" / "format" / "make_vectors.py"
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


make_vectors = load_make_vectors()


def twin_of(name: str) -> Fields:
    twin: Fields = json.loads((VECTORS / f"{name}.json").read_text("utf-8"))
    del twin["what"]
    return twin


class Noticed(Exception):
    """A check of PSPF's decoder failed."""


def check(fault: object) -> None:
    if fault:
        raise Noticed(fault)


# -- PSPF's own decoder; each function gives what the twin says


def our_batch(data: bytes, twin: Fields) -> Fields:
    header = checked_header(data, 0, twin["header"]["segment_id"], twin["position"])
    return {"position": twin["position"], **our_content(header, data[HEADER_BYTES:])}


def checked_header(data: bytes, at: int, segment_id: int, position: int) -> Header:
    check(header_fault(data, at, segment_id, position))
    header = parse_header(data, at)
    body = data[at + HEADER_BYTES : at + header.size]
    check(newer_version(header))
    check(batch_crc_of(data[at : at + HEADER_BYTES], body) != header.batch_crc)
    return header


def our_content(header: Header, body: bytes) -> Fields:
    content: Fields = {"header": make_vectors.fields_of(header)}
    plain = body[header.extension_length :]
    if header.extension_length:
        names = ("position", "crc", "partitions", "placement", "counted_from")
        content["extension"] = dict(zip(names, unpack_source(body[: header.extension_length]), strict=True))
    if header.kind == 0:
        columns = Columns(header, body)
        assert columns.good_records() == [header.codec == 0] * header.count
        content["records"] = our_records(header, columns)
    elif header.kind in (2, 5):
        fields = [make_vectors.fields_of(producer) for producer in decode_table(plain)]
        content["producers"] = [{"id": f.pop("producer_id"), **f} for f in fields]
    elif header.kind == 3:
        content["reason"] = plain
    else:
        content["start_offset"] = int.from_bytes(plain, "little")
    return content


def our_records(header: Header, columns: Columns) -> list[Fields]:
    count = columns.count
    keys, blobs, crcs = columns.keys(), columns.header_blobs(), columns.record_crcs()
    times = columns.timestamps() or [header.base_timestamp] * count
    records = []
    for i, (offset, value) in enumerate(zip(columns.offsets(), columns.values(), strict=True)):
        pairs = unpack_headers(blobs[i]) if blobs else []
        named = [[name.encode("utf-8", "surrogateescape"), item] for name, item in pairs]
        record: Fields = {"offset": offset, "timestamp_ms": times[i], "key": keys[i] if keys else None}
        record |= {"headers": named, "value": value}
        records.append(record if crcs is None else {**record, "crc": crcs[i]})
    return records


def our_segment(data: bytes, twin: Fields) -> Fields:
    check(segment_fault(data))
    return {"segment": our_segment_fields(parse_segment(data))}


def our_segment_fields(header: SegmentHeader) -> Fields:
    return {"version": 1, **make_vectors.fields_of(header)}


def our_slots(newest: Callable[[bytes, int], Any]) -> Callable[[bytes, Fields], Fields]:
    def decode(data: bytes, twin: Fields) -> Fields:
        fold = twin["topic_fold"]
        check(commit_slots_valid(data) != (True, True))
        found = newest(data, fold)
        check(found is None)
        places = (data[:SLOT_BYTES], data[SECOND_SLOT : SECOND_SLOT + SLOT_BYTES])
        slots = [newest(place, fold) for place in places]
        with_crcs = [slot and make_vectors.with_crc(slot) for slot in slots]
        return {"topic_fold": fold, "slots": with_crcs, "newest": make_vectors.with_crc(found)}

    return decode


def our_lock(data: bytes, twin: Fields) -> Fields:
    lock = parse_lock(data)
    check(lock is None)
    return {"lock": make_vectors.with_crc(lock)}


def our_settings(data: bytes, twin: Fields) -> Fields:
    try:
        return {"settings": settings.decode(data)}
    except settings.BadSettings as error:
        raise Noticed(error) from None


def our_index(data: bytes, twin: Fields) -> Fields:
    entries = []
    for entry in decode_entries(data, twin["segment_id"]):
        at = entry.position // (256 << 10) * 40 + 32
        entries.append({**make_vectors.fields_of(entry), "crc": int.from_bytes(data[at : at + 4], "little")})
    return {"segment_id": twin["segment_id"], "entries": entries}


OURS: dict[str, Callable[[bytes, Fields], Fields]] = {
    "batch": our_batch,
    "segment header": our_segment,
    "commit": our_slots(newest_commit),
    "start": our_slots(newest_start),
    "lock": our_lock,
    "settings": our_settings,
    "index": our_index,
}


# -- the independent one, in the same shape


def their_batch(data: bytes, twin: Fields) -> Fields:
    header, body = independent.read_batch(data, twin["position"], twin["header"]["segment_id"])
    content = independent.read_content(header, body)
    return {"position": twin["position"], "header": header, **content}


def their_slots(read: Callable[[bytes, int], tuple[Any, Any]]) -> Callable[[bytes, Fields], Fields]:
    def decode(data: bytes, twin: Fields) -> Fields:
        slots, newest = read(data, twin["topic_fold"])
        return {"topic_fold": twin["topic_fold"], "slots": slots, "newest": newest}

    return decode


def their_index(data: bytes, twin: Fields) -> Fields:
    return {"segment_id": twin["segment_id"], "entries": independent.read_index(data, twin["segment_id"])}


THEIRS: dict[str, Callable[[bytes, Fields], Fields]] = {
    "batch": their_batch,
    "segment header": lambda data, twin: {"segment": independent.read_segment_header(data)},
    "commit": their_slots(independent.read_commit),
    "start": their_slots(independent.read_start),
    "lock": lambda data, twin: {"lock": independent.read_lock(data)},
    "settings": lambda data, twin: {"settings": independent.read_settings(data)},
    "index": their_index,
}
DECODERS = {"ours": OURS, "independent": THEIRS}


def test_vectors_are_what_the_code_writes_today() -> None:
    pytest.importorskip("zstandard")
    ran = subprocess.run(
        [sys.executable, str(ROOT / "docs" / "format" / "make_vectors.py"), "--check"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (ran.stderr, ran.returncode) == ("", 0)


def test_the_independent_decoder_knows_nothing_of_pspf() -> None:
    assert "import pspf" not in (ROOT / "tests" / "independent_decoder.py").read_text()
    assert "from pspf" not in (ROOT / "tests" / "independent_decoder.py").read_text()


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize("name", NAMES)
def test_a_vector_holds_what_its_twin_says(name: str, decoder: str) -> None:
    if name == "batch-zstd":
        pytest.importorskip("zstandard")
    twin = twin_of(name)
    kind = twin.pop("type")
    found = DECODERS[decoder][kind]((VECTORS / f"{name}.bin").read_bytes(), twin)
    assert make_vectors.as_json(found) == twin


def flips(data: bytes, kind: str) -> Iterator[tuple[int, bytes]]:
    """Every single-bit change of the bytes that have a meaning."""
    for bit in range(8 * len(data)):
        at = bit // 8
        if kind in ("commit", "start") and at % SECOND_SLOT >= SLOT_BYTES:
            continue
        changed = bytearray(data)
        changed[at] ^= 1 << bit % 8
        yield bit, bytes(changed)


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize("name", NAMES)
def test_every_flipped_bit_of_a_vector_is_noticed(name: str, decoder: str) -> None:
    twin = twin_of(name)
    kind = twin.pop("type")
    data = (VECTORS / f"{name}.bin").read_bytes()
    decode = DECODERS[decoder][kind]
    unnoticed = []
    for bit, changed in flips(data, kind):
        try:
            found = decode(changed, twin)
        except (Noticed, independent.Fault):
            continue
        # An index leaves out an entry that does not check, and is a hint; no other file may lose anything.
        if kind == "index" and not any(changed[80:120]):
            entries = make_vectors.as_json(found["entries"])
            if len(entries) == 2 and all(entry in twin["entries"] for entry in entries):
                continue
        # A bit in the empty place of an index makes no entry.
        if kind == "index" and 80 <= bit // 8 < 120 and make_vectors.as_json(found) == twin:
            continue
        unnoticed.append(bit)
    assert unnoticed == []


# -- a whole store


def our_segment_walk(data: bytes, end: int) -> tuple[SegmentHeader, list[Fields]]:
    """Header and batch contents of a segment up to ``end``, each batch checked against the one before."""
    check(segment_fault(data[:SEGMENT_HEADER_BYTES]))
    segment = parse_segment(data[:SEGMENT_HEADER_BYTES])
    position, offset, chain = SEGMENT_HEADER_BYTES, segment.base, segment.crc
    contents = []
    while position < end:
        header = checked_header(data, position, segment.segment_id, position)
        check((header.chain, header.base_offset) != (chain, offset))
        contents.append(our_content(header, data[position + HEADER_BYTES : position + header.size]))
        position, offset, chain = position + header.size, header.next_offset, header.crc
    return segment, contents


def test_our_decoder_reads_the_store() -> None:
    twin = twin_of("store")
    store = VECTORS / "store"
    for path, values in twin["settings"].items():
        assert settings.decode((store / path).read_bytes()) == values
    topic_id = bytes.fromhex(twin["settings"]["topics/readings/topic.toml"]["topic_id"])
    home = store / "topics" / "readings" / "0"
    commit = newest_commit((home / "commit").read_bytes(), crc32(topic_id))
    start = newest_start((home / "start").read_bytes(), crc32(topic_id))
    assert commit and start
    data = [(home / f"{base:020d}.log").read_bytes() for base in (0, 12)]
    following = parse_segment(data[1])
    first, contents = our_segment_walk(data[0], following.prev_position)
    second, more = our_segment_walk(data[1], commit.visible_position)
    assert [c["header"]["kind"] for c in contents + more] == [0, 2, 0, 3, 0, 2, 0]
    assert [c["header"]["table_back"] == 0 for c in contents + more].count(True) == 2
    assert contents[-1]["header"]["crc"] == following.prev_crc
    records = [r for c in contents + more for r in c.get("records", []) if r["offset"] >= start.log_start]
    assert make_vectors.as_json(records) == twin["records"]
    segments = [our_segment_fields(segment) for segment in (first, second)]
    assert make_vectors.as_json(segments) == twin["segments"]
    assert commit.visible_offset == twin["visible_offset"]


def test_the_independent_decoder_reads_the_store() -> None:
    twin = twin_of("store")
    store = VECTORS / "store"
    for path, values in twin["settings"].items():
        assert independent.read_settings((store / path).read_bytes()) == values
    topic_id = bytes.fromhex(twin["settings"]["topics/readings/topic.toml"]["topic_id"])
    found = independent.read_partition(store / "topics" / "readings" / "0", topic_id, 0)
    for name in ("records", "gaps", "segments", "visible_offset"):
        assert make_vectors.as_json(found[name]) == twin[name]


@pytest.mark.parametrize("compression", ["none", "zstd"])
def test_the_independent_decoder_reads_what_the_engine_writes(store_dir: Path, compression: str) -> None:
    import pspf

    if compression == "zstd":
        pytest.importorskip("zstandard")
    config = pspf.TopicConfig(partitions=2, compression=compression, segment_bytes=64 << 10, durability="os")
    expected: list[list[Fields]] = [[], []]
    with pspf.open(str(store_dir)) as store:
        store.create_topic("t", config)
        for i in range(120):
            value = [None, b"", b"a\nb", bytes([i]) * 1500][i % 4]
            key = [None, b"", b"k%d" % i][i % 3]
            pairs = [[("unit", b"C"), ("note", None)], []][i % 2]
            # A producer's sequence counts its own records of one partition.
            named: Fields = {"producer": "p", "sequence": i // 5} if i % 5 == 0 else {}
            where: Fields = {"partition": 0, **named} if named or key is None else {}
            done = store.append("t", value, key=key, headers=pairs, timestamp_ms=-i, **where)
            record: Fields = {"offset": done.first, "timestamp_ms": -i, "key": key}
            record |= {"headers": [[name.encode(), item] for name, item in pairs], "value": value}
            expected[done.partition].append(record)
            if key is not None and not named:
                assert done.partition == crc32(key) % 2
    topic = independent.read_settings((store_dir / "topics" / "t" / "topic.toml").read_bytes())
    for partition in range(topic["partitions"]):
        home = store_dir / "topics" / "t" / str(partition)
        found = independent.read_partition(home, bytes.fromhex(topic["topic_id"]), partition)
        assert [{**record, "crc": 0} for record in found["records"]] == [
            {**record, "crc": 0} for record in expected[partition]
        ]
        assert found["segments"][0]["settings"] == (store_dir / "topics" / "t" / "topic.toml").read_bytes()


@pytest.mark.parametrize("decoder", DECODERS)
def test_every_flipped_bit_of_a_segment_is_noticed(decoder: str) -> None:
    home = VECTORS / "store" / "topics" / "readings" / "0"
    data = (home / f"{0:020d}.log").read_bytes()
    end = twin_of("store")["segments"][1]["prev_position"]
    unnoticed = []
    # Zeros of the segment header are covered by the test of its own vector.
    for bit in [*range(8 * 200), *range(8 * SEGMENT_HEADER_BYTES, 8 * end)]:
        changed = bytearray(data)
        changed[bit // 8] ^= 1 << bit % 8
        try:
            if decoder == "ours":
                our_segment_walk(bytes(changed), end)
            else:
                their_segment_walk(bytes(changed), end)
        except (Noticed, independent.Fault):
            continue
        unnoticed.append(bit)
    assert unnoticed == []


def their_segment_walk(data: bytes, end: int) -> None:
    segment = independent.read_segment_header(data)
    position, chain = SEGMENT_HEADER_BYTES, segment["crc"]
    while position < end:
        header, body = independent.read_batch(data, position, segment["segment_id"], position)
        independent.need(header["chain"] == chain, "chain")
        independent.read_content(header, body)
        position, chain = position + HEADER_BYTES + header["body_length"], header["crc"]


@pytest.mark.parametrize("path", ["store.toml", "topics/readings/topic.toml"])
def test_every_flipped_bit_of_a_settings_file_is_noticed(path: str) -> None:
    data = (VECTORS / "store" / path).read_bytes()
    unnoticed = []
    for bit, changed in flips(data, "settings"):
        for decode in (our_settings, THEIRS["settings"]):
            try:
                decode(changed, {})
            except (Noticed, independent.Fault):
                continue
            unnoticed.append((bit, decode))
    assert unnoticed == []


def test_a_batch_moved_to_another_place_or_segment_is_noticed() -> None:
    twin = twin_of("batch-keyed")
    data = (VECTORS / "batch-keyed.bin").read_bytes()
    segment_id = twin["header"]["segment_id"]
    for place, segment in ((4104, segment_id), (4096, segment_id + 1)):
        assert header_fault(data, 0, segment, place)
        with pytest.raises(independent.Fault):
            independent.read_batch(data, place, segment)


def test_only_the_successor_keeps_out_a_batch_behind_the_cut() -> None:
    # It checks in every way. That no decoder yields it, the tests of the whole store say.
    home = VECTORS / "store" / "topics" / "readings" / "0"
    data = (home / f"{0:020d}.log").read_bytes()
    _, contents = our_segment_walk(data, len(data))
    assert contents[-1]["records"][0]["value"] == b"99.9"


@pytest.mark.parametrize("name", [name for name in NAMES if name.startswith("batch-")])
def test_a_record_of_a_damaged_batch_that_passes_as_good_is_right(name: str) -> None:
    # Salvage reads batches whose batch CRC failed: there the record CRC is all that vouches for a record.
    # A null that became empty, or another offset, would be easy to miss.
    twin = twin_of(name)
    data = (VECTORS / f"{name}.bin").read_bytes()
    header = parse_header(data)
    if header.kind or header.codec or "extension" in twin:
        return
    body = data[HEADER_BYTES:]
    right = our_records(header, Columns(header, body))
    for bit in range(8 * len(body)):
        changed = bytearray(body)
        changed[bit // 8] ^= 1 << bit % 8
        try:
            columns = Columns(header, bytes(changed))
            good = columns.good_records()
            records = [] if not any(good) else our_records(header, columns)
        except BadBody:
            continue
        for i, (fine, record) in enumerate(zip(good, records, strict=False)):
            if fine:
                assert record == right[i], f"bit {bit}: record {i} is wrong and passes as good"
