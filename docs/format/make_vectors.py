"""Write the test vectors of the store format: docs/format/vectors/.

    python docs/format/make_vectors.py            write them
    python docs/format/make_vectors.py --check    exit 1 if they are not what would be written

The bytes come from pspf.format; what the records of a JSON twin say comes from the values that went in, not
from decoding the bytes. Nothing is random and nothing asks the clock.
"""

import base64
import json
import sys
from pathlib import Path
from typing import Any

# Run as a script, it is this checkout whose vectors are made, whatever is installed.
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from pspf.format import settings, zstd
from pspf.format.batch import (
    CODEC_ZSTD,
    FLAG_CONTROL,
    FLAG_SOURCE,
    KIND_EPOCH,
    KIND_GAP,
    KIND_PRODUCERS,
    KIND_TABLE,
    NO_TABLE,
    Encoded,
    Header,
    parse_header,
)
from pspf.format.encode import encode_lines, encode_records
from pspf.format.index import UNKNOWN, IndexEntry, encode_entry
from pspf.format.producers import Producer, encode_table, id_of, pack_source
from pspf.format.segment import REASON_DAMAGE, SegmentHeader
from pspf.format.slots import FLAG_LINKED, Commit, LockRecord, Start, fold

VECTORS = Path(__file__).resolve().parent / "vectors"
SEGMENT_ID = 0x0123456789ABCDEF
TOPIC_ID = bytes(range(16))
FOLD = fold(TOPIC_ID)
TIME_MS = 1_700_000_000_000
TIME_NS = TIME_MS * 1_000_000
CHAIN = 0xC0FFEE00
Fields = dict[str, Any]
Files = dict[str, bytes]

# Other releases of the Zstandard library compress the same bytes to another frame, so this one is kept.
ZSTD_FRAME = base64.b64decode(
    "KLUv/SDqXQIAxANBAAKAAAQAAAARAAAAZABOd2ViMTIAAPoA9AEEAGhvc3QIAAAAZXhhbXBsZUdFVCAvYSAyMDAKYiA0"
    "MDQEAABQPXWZzy7XDLwB"
)


def as_json(value: object) -> object:
    """``value`` with bytes as strings where they are UTF-8, otherwise as base64."""
    if isinstance(value, bytes):
        try:
            return value.decode()
        except UnicodeDecodeError:
            return {"base64": base64.b64encode(value).decode()}
    if isinstance(value, dict):
        return {key: as_json(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [as_json(item) for item in value]
    return value


def fields_of(thing: object) -> Fields:
    """The fields of one of the small classes of pspf.format."""
    return {name: getattr(thing, name) for name in type(thing).__slots__}  # type: ignore[attr-defined]


def write_twin(files: Files, name: str, kind: str, what: str, data: bytes | None, content: Fields) -> None:
    if data is not None:
        files[f"{name}.bin"] = data
    twin = {"type": kind, "what": what, **content}
    files[f"{name}.json"] = (json.dumps(as_json(twin), indent=1, ensure_ascii=False) + "\n").encode()


def record(offset: int, time: int, key: object, value: object, headers: object = ()) -> Fields:
    return {"offset": offset, "timestamp_ms": time, "key": key, "headers": headers, "value": value}


def sealed(
    encoded: Encoded,
    base: int,
    chain: int,
    position: int = 4096,
    epoch: int = 3,
    segment: int = SEGMENT_ID,
    back: int = NO_TABLE,
) -> bytes:
    """Header and body of ``encoded`` at ``position``; it knows two records less to be durable."""
    header = encoded.seal(base, epoch, TIME_NS + base, segment, position, chain, max(base - 2, 0), back)
    return header + b"".join(encoded.parts)


def batch_vector(files: Files, name: str, what: str, encoded: Encoded, base: int, content: Fields) -> None:
    data = sealed(encoded, base, CHAIN)
    header: Header = parse_header(data)
    if "records" in content and not header.codec:
        add_crcs(content["records"], header, data[104:])
    write_twin(files, name, "batch", what, data, {"position": 4096, "header": fields_of(header), **content})


def add_crcs(records: list[Fields], header: Header, body: bytes) -> None:
    from pspf.format.columns import Columns

    for one, crc in zip(records, Columns(header, body).record_crcs() or (), strict=True):
        one["crc"] = crc


def record_batches(files: Files) -> None:
    """Batches of records, by what their columns are like."""

    def add(
        name: str,
        what: str,
        values: list[bytes | None],
        keys: list[bytes | None] | bytes | None = None,
        times: list[int] | int = TIME_MS,
        headers: Any = None,
        shared: bool = True,
        deltas: list[int] | None = None,
        base: int = 100,
    ) -> None:
        encoded = encode_records(values, keys, times, headers, False, shared, deltas)
        records = []
        for i, value in enumerate(values):
            key = keys if isinstance(keys, bytes) else keys[i] if keys else None
            time = times if isinstance(times, int) else times[i]
            pairs = (headers or []) if shared else headers[i]
            # Names that are not UTF-8 are strings with surrogates inside PSPF, and bytes in the file.
            named = [(name.encode("utf-8", "surrogateescape"), item) for name, item in pairs]
            records.append(record(base + (deltas[i] if deltas else i), time, key, value, named))
        batch_vector(files, name, what, encoded, base, {"records": records})

    lines: list[bytes] = [b"first", b"", "dritte: äöü".encode(), b"\xff\x00 is no UTF-8", b"{}"]
    region = b"\n".join(lines) + b"\n"
    content = {"records": [record(i, TIME_MS, None, v) for i, v in enumerate(lines)]}
    batch_vector(
        files,
        "batch-lines",
        "Lines, one of them empty, one not UTF-8.",
        encode_lines(region, lines, TIME_MS, False),
        0,
        content,
    )
    add("batch-one", "A single empty line.", [b""])
    add(
        "batch-keyed",
        "A key each; a value contains a newline.",
        [b"a\nb", b"", b"ccc"],
        [b"k1", b"", b"key3"],
    )
    add(
        "batch-nulls",
        "Null and empty, as key and as value.",
        [None, b"", None, b"v"],
        [None, None, b"", b"k"],
    )
    add("batch-all-null", "No key and no value, four times: a width of 0.", [None] * 4, [None] * 4)
    add("batch-equal-lengths", "Lengths that are all equal take no column.", [b"\n1", b"\n2"], [b"a", b"b"])
    add(
        "batch-shared",
        "One key and the same headers for all.",
        [b"x", b"y", b"z"],
        b"shared",
        headers=[("source", b"sensor-7"), ("note", None)],
    )
    add(
        "batch-headers",
        "Headers of each record: none; a repeated name with null and empty; a name that is not UTF-8.",
        [b"x", b"y", b"z"],
        [b"1", b"22", None],
        headers=[[], [("a", None), ("a", b""), ("b", b"\x00\xff")], [("\udcff", b"v"), ("", b"")]],
        shared=False,
    )
    add("batch-before-1970", "One time for all, before 1970.", [b"x", b"y"], times=-86_400_000)
    for width, times in (
        (1, [-5, 250, 0]),
        (2, [TIME_MS, TIME_MS + 65_535, TIME_MS + 1]),
        (4, [-(2**31), 0, 2**31 - 1]),
        (8, [-(2**63), 0, 2**63 - 1]),
    ):
        what = f"Times out of order; deltas of width {width}."
        add(f"batch-times-{width}", what, [b"x", b"y", b"z"], times=times)
    values: list[bytes | None] = [b"v" * 300, None, b"\n"]
    add("batch-long-value", "A value of 300 bytes: lengths of width 2.", values)
    add(
        "batch-offsets",
        "What compaction leaves: offsets 100, 103, 104 and 109, span 10.",
        [b"a", b"b", None, b"d"],
        [b"k", b"l", b"m", b"n"],
        [TIME_MS, TIME_MS + 3, TIME_MS + 4, TIME_MS + 9],
        deltas=[0, 3, 4, 9],
    )


def other_batches(files: Files) -> None:
    """Compression, extension, and the kinds without records."""
    values: list[bytes | None] = [b"GET /a 200\n" * 9, None, b"GET /b 404\n" * 7]
    keys: list[bytes | None] = [b"web1", b"web1", b"web2"]
    times = [TIME_MS, TIME_MS + 250, TIME_MS + 500]
    plain = encode_records(values, keys, times, [("host", b"example")], True)
    length = plain.plain_length
    if zstd.decompress(ZSTD_FRAME, length) != zstd.decompress(b"".join(plain.parts), length):
        raise SystemExit("ZSTD_FRAME does not hold this batch any more: put a new frame there")
    frame = Encoded([ZSTD_FRAME], 3, 3, plain.flags, 0, CODEC_ZSTD, times[0], times[2], length)
    records = [record(7 + i, times[i], keys[i], values[i], [(b"host", b"example")]) for i in range(3)]
    batch_vector(files, "batch-zstd", "Compressed; no record CRCs.", frame, 7, {"records": records})

    lines = [b"2013,1,1,UA", b"2013,1,1,AA"]
    source = encode_lines(b"\n".join(lines) + b"\n", lines, TIME_MS, False)
    source.flags |= FLAG_SOURCE
    source.producer_id, source.producer_epoch, source.base_sequence = id_of("flights"), 2, 0xFFFFFFFF
    position, crc, count, placement, counted_from = where = (2**40 + 24, 0xDEADBEEF, 4, 513, 2**40)
    source.extend(pack_source(*where))
    content = {
        "extension": {
            "position": position,
            "crc": crc,
            "partitions": count,
            "placement": placement,
            "counted_from": counted_from,
        },
        "records": [record(40 + i, TIME_MS, None, line) for i, line in enumerate(lines)],
    }
    what = "From the producer 'flights', with the position in its input; the sequence is about to wrap."
    batch_vector(files, "batch-source", what, source, 40, content)

    some, table = table_batch()
    batch_vector(files, "batch-table", "Two producers.", table, 60, {"producers": some})
    nobody = Encoded([encode_table([])], 0, 0, FLAG_CONTROL, KIND_TABLE)
    batch_vector(files, "batch-table-empty", "No producer.", nobody, 60, {"producers": []})
    lost, late = Producer(-1), Producer(id_of("late"), "late")
    lost.used_ms = late.used_ms = TIME_MS
    what = "Adds a producer that has appended nothing yet, and says that others may have been forgotten."
    adding = Encoded([encode_table([late, lost])], 0, 0, FLAG_CONTROL, KIND_PRODUCERS)
    added = [entry_of(late), entry_of(lost)]
    batch_vector(files, "batch-producers", what, adding, 60, {"producers": added})
    gap = Encoded([b"kept free"], 0, 12, FLAG_CONTROL, KIND_GAP)
    batch_vector(files, "batch-gap", "12 offsets without records.", gap, 60, {"reason": b"kept free"})
    epoch = Encoded([(60).to_bytes(8, "little")], 0, 0, FLAG_CONTROL, KIND_EPOCH)
    batch_vector(files, "batch-epoch", "Epoch 3 begins at offset 60.", epoch, 60, {"start_offset": 60})


def entry_of(producer: Producer) -> Fields:
    return {"id" if name == "producer_id" else name: value for name, value in fields_of(producer).items()}


def table_batch() -> tuple[list[Fields], Encoded]:
    one, two = Producer(id_of("flights"), "flights"), Producer(7)
    one.epoch, one.used_ms, one.next_sequence = 2, TIME_MS, 30
    one.source_position, one.source_crc, one.partitions = 4096, 0xDEADBEEF, 4
    one.placement, one.counted_from = 513, 1024
    one.ranges = [(10, 10, 20), (20, 10, 50)]
    two.used_ms = -1
    content = [entry_of(one), entry_of(two)]
    return content, Encoded([encode_table([one, two])], 0, 0, FLAG_CONTROL, KIND_TABLE)


def segment_content(header: SegmentHeader) -> Fields:
    return {"version": 1, **fields_of(header)}


def small_files(files: Files) -> None:
    """Everything that is no batch."""
    text = settings.encode({"format_version": 1, "topic_id": TOPIC_ID.hex(), "name": "readings"})
    epochs = [(0, 0), (2, 500)]
    segment = SegmentHeader(
        SEGMENT_ID,
        TOPIC_ID,
        1,
        1000,
        generation=5,
        epoch=2,
        created_ns=TIME_NS,
        prev_base=0,
        prev_end=990,
        prev_position=70_000,
        prev_crc=0x12345678,
        log_start=17,
        reason=REASON_DAMAGE,
        epochs=epochs,
        settings=text,
    )
    block = segment.encode()
    what = "Behind a damaged segment: offsets 990 to 999 are lost."
    write_twin(files, "segment-header", "segment header", what, block, {"segment": segment_content(segment)})

    old = Commit(8, 5, FLAG_LINKED, 1000, 1010, 1005, 5000, 4500, 4096, FOLD)
    new = Commit(9, 5, FLAG_LINKED, 1000, 1020, 1020, 6000, 6000, 5000, FOLD)
    write_slots(files, "commit", "Sequence 9 is the newer one.", [old, new])
    one = Commit(0, 1, 0, 0, 0, 0, 4096, 4096, 0, FOLD)
    write_slots(files, "commit-first", "As it was made: the second slot was never written.", [one])
    first, second = Start(2, 1, 17, 0, FOLD), Start(1, 1, 5, 0, FOLD)
    write_slots(files, "start", "Sequence 2 is the newer one.", [first, second])

    lock = LockRecord(5, 4, 1000, 1020, 6000, 0xCAFEBABE, 65_536, 5000, NO_TABLE, TIME_MS, TIME_NS)
    write_twin(files, "lock", "lock", "A written end.", lock.encode(), {"lock": with_crc(lock)})

    values: dict[str, str | int | bool] = {"name": "Füße", "partitions": 3, "preallocate": True, "least": -1}
    data = settings.encode(values, "written by hand: no")
    write_twin(files, "settings", "settings", "Each kind of value.", data, {"settings": values})

    entries = [
        IndexEntry(1000, 4096, 4096, -(1 << 63), TIME_NS),
        IndexEntry(1500, 262_200, 4096, UNKNOWN, TIME_NS + 9),
    ]
    blocks = [encode_entry(entry, SEGMENT_ID) for entry in entries]
    far = IndexEntry(4000, 3 * 262_144 + 5, 262_200, TIME_MS, TIME_NS + 99)
    blocks += [bytes(40), encode_entry(far, SEGMENT_ID)]
    listed = [
        {**fields_of(entry), "crc": int.from_bytes(encode_entry(entry, SEGMENT_ID)[32:36], "little")}
        for entry in (*entries, far)
    ]
    content = {"segment_id": SEGMENT_ID, "entries": listed}
    write_twin(files, "index", "index", "Four places, the third one empty.", b"".join(blocks), content)


def with_crc(slot: Commit | LockRecord | Start) -> Fields:
    flags = {"flags": 0} if isinstance(slot, Start) else {}
    return {**fields_of(slot), **flags, "crc": int.from_bytes(slot.encode()[60:], "little")}


def slots_file(slots: "list[Commit] | list[Start]") -> bytes:
    data = bytearray(1024)
    for slot in slots:
        place = 512 * (slot.sequence & 1)
        data[place : place + 64] = slot.encode()
    return bytes(data)


def write_slots(files: Files, name: str, what: str, slots: "list[Commit] | list[Start]") -> None:
    placed: list[Fields | None] = [None, None]
    for slot in slots:
        placed[slot.sequence & 1] = with_crc(slot)
    newest = max(slots, key=lambda slot: slot.sequence)
    content = {"topic_fold": FOLD, "slots": placed, "newest": with_crc(newest)}
    write_twin(files, name, name.removesuffix("-first"), what, slots_file(slots), content)


def whole_store(files: Files) -> None:
    """A topic of one partition: a segment of five batches that was cut, and the one behind it."""
    identity: dict[str, str | int | bool] = {
        "format_version": 1,
        "store_id": "a0" * 16,
        "created_ms": TIME_MS,
    }
    chosen: dict[str, str | int | bool] = {
        "partitions": 1,
        "durability": "sync",
        "interval_ms": 1000,
        "compression": "none",
        "max_record_bytes": 16 << 20,
        "segment_bytes": 64 << 20,
        "preallocate": True,
        "on_damage": "continue",
    }
    topic: dict[str, str | int | bool] = {
        "format_version": 1,
        "topic_id": TOPIC_ID.hex(),
        "name": "readings",
        "created_ms": TIME_MS,
        **chosen,
    }
    text = settings.encode(topic)
    files["store/store.toml"] = settings.encode(identity)
    files["store/topics/readings/topic.toml"] = text
    home = "store/topics/readings/0/"

    first = SegmentHeader(SEGMENT_ID, TOPIC_ID, 0, 0, created_ns=TIME_NS, settings=text)
    data, chain = first.encode(), first.crc
    records: list[Fields] = []
    headers: list[Header] = []
    lines = [b"21.5", b"21.7", b"22.0"]
    keyed: list[bytes | None] = [b"23.1", None]
    keys: list[bytes | None] = [b"cellar", b"attic"]
    times = [TIME_MS + 60_000, TIME_MS - 60_000]
    batches = [
        (0, encode_lines(b"21.5\n21.7\n22.0\n", lines, TIME_MS, False)),
        (3, table_batch()[1]),
        (3, encode_records(keyed, keys, times)),
        (5, Encoded([b"offsets kept free"], 0, 4, FLAG_CONTROL, KIND_GAP)),
        (9, encode_records([b"24.0"], b"attic", TIME_MS, [("unit", b"C")])),
    ]
    expected = [
        [record(i, TIME_MS, None, line) for i, line in enumerate(lines)],
        [],
        [record(3 + i, times[i], keys[i], keyed[i]) for i in range(2)],
        [],
        [record(9, TIME_MS, b"attic", b"24.0", [(b"unit", b"C")])],
    ]
    table_at = -1
    for (base, encoded), content in zip(batches, expected, strict=True):
        if encoded.kind_codec >> 4 == KIND_TABLE:
            table_at = len(data)
        back = NO_TABLE if table_at < 0 else len(data) - table_at
        block = sealed(encoded, base, chain, len(data), 0, back=back)
        header = parse_header(block)
        if content:
            add_crcs(content, header, block[104:])
        records += content
        headers.append(header)
        data, chain = data + block, header.crc
    cut, cut_chain = len(data), chain
    # Behind the cut: a batch that checks in every way and was never acknowledged. It does not count.
    lost = encode_lines(b"99.9\n", [b"99.9"], TIME_MS, False)
    behind = sealed(lost, 10, chain, cut, 0, back=cut - table_at)
    files[f"{home}{0:020d}.log"] = data + behind
    files[f"{home}{0:020d}.index"] = encode_entry(
        IndexEntry(0, 4096, 4096, -(1 << 63), headers[0].append_ns), SEGMENT_ID
    )

    second = SegmentHeader(
        SEGMENT_ID + 1,
        TOPIC_ID,
        0,
        12,
        generation=2,
        epoch=1,
        created_ns=TIME_NS + 10,
        prev_base=0,
        prev_end=10,
        prev_position=cut,
        prev_crc=cut_chain,
        log_start=0,
        reason=REASON_DAMAGE,
        epochs=[(0, 0), (1, 12)],
        settings=text,
    )
    block = second.encode()
    known = sealed(table_batch()[1], 12, second.crc, 4096, 1, SEGMENT_ID + 1, 0)
    last = encode_lines(b"25.0\n25.5\n", [b"25.0", b"25.5"], TIME_MS + 1, False)
    at = 4096 + len(known)
    tail = sealed(last, 12, parse_header(known).crc, at, 1, SEGMENT_ID + 1, len(known))
    more = [record(12 + i, TIME_MS + 1, None, line) for i, line in enumerate([b"25.0", b"25.5"])]
    add_crcs(more, parse_header(tail), tail[104:])
    records += more
    end = at + len(tail)
    files[f"{home}{12:020d}.log"] = block + known + tail + bytes(512)  # preallocated
    commits = [
        Commit(4, 1, FLAG_LINKED, 0, 9, 9, cut, cut, 4096, FOLD),
        Commit(5, 2, FLAG_LINKED, 12, 14, 14, end, end, at, FOLD),
    ]
    files[f"{home}commit"] = slots_file(commits)
    files[f"{home}start"] = slots_file([Start(0, 1, 0, 0, FOLD), Start(1, 1, 1, 0, FOLD)])
    files[f"{home}lock"] = bytes(64)
    content_of_store = {
        "settings": {"store.toml": identity, "topics/readings/topic.toml": topic},
        "segments": [segment_content(first), segment_content(second)],
        "records": [r for r in records if r["offset"] >= 1],
        "gaps": [[5, 9, b"offsets kept free"], [10, 12, None]],
        "visible_offset": 14,
    }
    what = (
        "A topic 'readings' of one partition. Record 0 is below the log start, offsets 5 to 8 have no "
        "records, 10 and 11 are lost. The first segment was cut before a batch that still checks; the second "
        "begins with the same table of producers, and has zeros behind its end."
    )
    write_twin(files, "store", "store", what, None, content_of_store)


def make() -> Files:
    """All vectors: path below ``vectors/``, and contents."""
    files: Files = {}
    record_batches(files)
    other_batches(files)
    small_files(files)
    whole_store(files)
    return files


def stale(files: Files) -> list[str]:
    """Paths that are missing, different, or left over."""
    there = {
        path.relative_to(VECTORS).as_posix(): path.read_bytes()
        for path in VECTORS.rglob("*")
        if path.is_file()
    }
    return sorted(name for name in files.keys() | there.keys() if files.get(name) != there.get(name))


def main(arguments: list[str]) -> int:
    files = make()
    wrong = stale(files)
    if arguments == ["--check"]:
        for name in wrong:
            print(f"stale: docs/format/vectors/{name}", file=sys.stderr)
        return 1 if wrong else 0
    for name in wrong:
        path = VECTORS / name
        if name not in files:
            path.unlink()
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(files[name])
    print(f"{len(files)} files, {len(wrong)} written anew or removed")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
