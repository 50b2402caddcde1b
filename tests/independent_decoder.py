"""A second decoder of the store format, written from docs/format/README.md alone; nothing here is from PSPF.

It shows that the text is enough. Each function takes bytes and returns plain dictionaries with the field
names of that text, or raises :class:`Fault`. Zstandard bodies need the package ``zstandard``; without it they
raise :class:`NoZstd`. Speed is no aim.
"""

import struct
from pathlib import Path
from typing import Any
from zlib import crc32

Fields = dict[str, Any]

HEADER_NAMES = (
    "magic crc segment_id chain behind table_back body_length batch_crc plain_length base_offset count span "
    "epoch version kind_codec flags base_timestamp max_timestamp append_ns producer_id base_sequence "
    "producer_epoch extension_length"
).split()
SEGMENT_NAMES = (
    "magic version generation segment_id topic_id partition epoch base created_ns prev_base prev_end "
    "prev_position prev_crc log_start reason zero epoch_count settings_length"
).split()
COMMIT_NAMES = (
    "sequence generation flags active_base visible_offset durable_offset visible_position durable_position "
    "durable_last topic_fold zero crc"
).split()
LOCK_NAMES = (
    "generation flags active_base written_offset written_position last_crc zeros_end last_position "
    "producers_position oldest_unsynced_ms last_append_ns crc"
).split()
START_NAMES = "sequence generation flags log_start first_base topic_fold crc".split()
INDEX_NAMES = "base_offset position previous max_before append_ns crc zero".split()
PRODUCER_NAMES = "id epoch used_ms next_sequence source_position source_crc partitions placement".split()
BOUNDED = "sequence active_base visible_offset durable_offset written_offset log_start first_base".split()
KEYS, HEADERS, LINES, SOURCE = 8, 16, 64, 128
MAX_BODY = 64 << 20


class Fault(Exception):
    """The bytes are not what the format says."""


class NoZstd(Exception):
    """The optional Zstandard library is not there."""


def need(condition: object, why: str) -> None:
    if not condition:
        raise Fault(why)


def take(layout: str, names: list[str], data: bytes, at: int = 0) -> Fields:
    need(len(data) - at >= struct.calcsize(layout), "cut short")
    return dict(zip(names, struct.unpack_from(layout, data, at), strict=True))


def read_batch(data: bytes, position: int, segment_id: int, at: int = 0) -> tuple[Fields, bytes]:
    """Header and body of the batch at ``data[at:]``, whose place in the segment is ``position``."""
    h = take("<4sIQIIIIIIQIIIBBHqqqqIHH", HEADER_NAMES, data, at)
    need(h.pop("magic") == b"PBAT", "no magic")
    seed = crc32(struct.pack("<QQ", h["segment_id"], position))
    need(h["crc"] == crc32(data[at + 8 : at + 104], seed), "header CRC")
    need(h["segment_id"] == segment_id, "another segment")
    need(0 < h["body_length"] <= MAX_BODY and h["plain_length"] <= MAX_BODY, "length out of bounds")
    need(h["count"] <= 1 << 20, "record count out of bounds")
    need(h["span"] >= h["count"] and h["extension_length"] <= h["body_length"], "fields that do not fit")
    need(h["base_offset"] + h["span"] < 1 << 63, "offset out of bounds")
    need(h["version"] == 1, "another version")
    kind_codec = h.pop("kind_codec")
    h["kind"], h["codec"] = kind_codec >> 4, kind_codec & 15
    body = data[at + 104 : at + 104 + h["body_length"]]
    need(len(body) == h["body_length"], "body cut short")
    sealed = body + data[at + 28 : at + 32] + data[at + 36 : at + 104]
    need(crc32(sealed) == h["batch_crc"], "batch CRC")
    return h, body


def read_content(h: Fields, body: bytes) -> Fields:
    """What is in a body, by its kind."""
    result: Fields = {}
    if h["flags"] & SOURCE:
        result["extension"] = read_source(body[: h["extension_length"]])
    content = body[h["extension_length"] :]
    if h["codec"] == 1:
        try:
            import zstandard
        except ImportError:
            raise NoZstd from None
        need(zstandard.frame_content_size(content) == h["plain_length"], "compressed length")
        content = zstandard.ZstdDecompressor().decompress(content, allow_extra_data=False)
    need(h["codec"] in (0, 1) and len(content) == h["plain_length"], "plain length")
    if h["kind"] == 0:
        result["records"] = read_columns(h, content)
    elif h["kind"] in (2, 5):
        result["producers"] = read_producers(content)
    elif h["kind"] == 3:
        result["reason"] = content
    else:
        need(h["kind"] == 4, "unknown kind")
        (result["start_offset"],) = struct.unpack("<Q", content)
    return result


def read_columns(h: Fields, content: bytes) -> list[Fields]:
    count, at = h["count"], 20
    need(len(content) >= 20 and count <= len(content), "more records than bytes")
    widths, constants = content[:6], struct.unpack_from("<III", content, 8)

    def numbers(width: int) -> list[int]:
        nonlocal at
        at += count * width
        need(at <= len(content), "column cut short")
        raw = content[at - count * width : at]
        return [int.from_bytes(raw[i : i + width], "little") for i in range(0, count * width, width)]

    def lengths(bits: int, constant: int) -> list[int]:
        return numbers(bits & 0x3F) if bits & 0x3F else [constant] * count

    def pieces(bits: int, codes: list[int]) -> list[bytes | None]:
        nonlocal at
        found: list[bytes | None] = []
        for code in codes[:1] if bits == 0x80 else codes:
            size = max(code - 1, 0) if bits & 0x40 else code
            found.append(None if bits & 0x40 and code == 0 else content[at : at + size])
            at += size
            need(at <= len(content), "column cut short")
        return found * count if bits == 0x80 else found

    lines = h["flags"] & LINES
    need(not (lines and widths[0]), "lines with a column of lengths")
    need(not (h["flags"] & HEADERS and widths[3] & 0x40), "headers that are null")
    value_codes = [] if lines else lengths(widths[0], constants[0])
    crcs = numbers(4) if widths[5] else None
    nulls: list[bytes | None] = [None] * count
    keys = pieces(widths[1], lengths(widths[1], constants[1])) if h["flags"] & KEYS else nulls
    times = numbers(widths[2]) if widths[2] else [0] * count
    headers = pieces(widths[3], lengths(widths[3], constants[2])) if h["flags"] & HEADERS else [b""] * count
    deltas = numbers(4) if widths[4] else list(range(count))
    values = content[at:].split(b"\n") if lines else pieces(widths[0], value_codes)
    if lines:
        need(values.pop() == b"" and len(values) == count, "number of lines")
    records = []
    for i in range(count):
        time, key, blob, value = h["base_timestamp"] + times[i], keys[i], headers[i] or b"", values[i]
        need(time < 1 << 63, "a timestamp beyond 64 bits")
        record = {"offset": h["base_offset"] + deltas[i], "timestamp_ms": time, "key": key}
        record |= {"headers": read_headers(blob), "value": value}
        if crcs is not None:
            crc = crc32(struct.pack("<I", deltas[i])) if widths[4] else 0
            crc = crc32(struct.pack("<q", time), crc) if widths[2] else crc
            if h["flags"] & KEYS:
                crc = crc ^ 0x55555555 if key is None else crc32(key, crc)
            crc = crc32(blob, crc)
            need(crcs[i] == (crc ^ 0xAAAAAAAA if value is None else crc32(value, crc)), "record CRC")
            record["crc"] = crcs[i]
        records.append(record)
    return records


def read_headers(blob: bytes) -> list[list[bytes | None]]:
    at, pairs = 0, []
    while at < len(blob):
        (size,) = take("<H", ["size"], blob, at).values()
        name, at = blob[at + 2 : at + 2 + size], at + 2 + size
        (code,) = take("<I", ["code"], blob, at).values()
        at += 4 + max(code - 1, 0)
        need(at <= len(blob), "header cut short")
        pairs.append([name, blob[at - code + 1 : at] if code else None])
    return pairs


def read_source(extension: bytes) -> Fields:
    need(len(extension) in (16, 24), "no source extension")
    found = {**take("<QIHH", ["position", "crc", "partitions", "placement"], extension), "counted_from": 0}
    return found | (take("<Q", ["counted_from"], extension, 16) if len(extension) == 24 else {})


def read_producers(content: bytes) -> list[Fields]:
    at, found = 0, []
    while content != b"\0" and at < len(content):
        p = take("<qHqIQIHHBB", [*PRODUCER_NAMES, "ranges", "name"], content, at)
        n, size, at = p["ranges"], p["name"], at + 40
        p["name"], at = content[at : at + size], at + size
        p["ranges"] = [list(take("<IIQ", ["s", "c", "b"], content, at + 16 * i).values()) for i in range(n)]
        at, p["counted_from"] = at + 16 * n, 0
        if p["partitions"] & 0x8000:
            p |= take("<Q", ["counted_from"], content, at)
            at, p["partitions"] = at + 8, p["partitions"] & 0x7FFF
        found.append(p)
    return found


def read_segment_header(block: bytes) -> Fields:
    s = take("<8sIIQ16sIIQqqQIIQIIII", SEGMENT_NAMES, block)
    need(len(block) >= 4096 and s.pop("magic") == b"PSPFSEG\0", "no segment")
    s["crc"] = crc32(block[:4092])
    need(s["crc"] == int.from_bytes(block[4092:4096], "little"), "segment CRC")
    need(s["version"] == 1 and s.pop("zero") == 0, "another version")
    s["epochs"] = [list(struct.unpack_from("<IQ", block, 112 + 12 * i)) for i in range(s.pop("epoch_count"))]
    s["settings"] = block[1024 : 1024 + s.pop("settings_length")]
    return s


def read_slot(layout: str, names: list[str], data: bytes) -> Fields:
    slot = take(layout, names, data)
    need(len(data) == 64 and slot["crc"] == crc32(data[:60]), "slot CRC")
    need(slot["flags"] >> 24 == 1, "another version")
    need(all(value < 1 << 63 for name, value in slot.items() if name in BOUNDED), "beyond the limits")
    need(names != COMMIT_NAMES or slot["generation"] < (1 << 32) - 1, "beyond the limits")
    slot["flags"] &= 0xFFFFFF
    slot.pop("zero", None)
    return slot


def read_slots(
    layout: str, names: list[str], data: bytes, topic_fold: int
) -> tuple[list[Fields | None], Fields]:
    """Both slots (None: never written; a fault in one is a fault here) and the newest."""
    slots = [read_slot(layout, names, s) if any(s) else None for s in (data[:64], data[512:576])]
    ours = [s for s in slots if s and s["topic_fold"] == topic_fold]
    need(ours, "no slot")
    return slots, max(ours, key=lambda s: s["sequence"])


def read_commit(data: bytes, topic_fold: int) -> tuple[list[Fields | None], Fields]:
    return read_slots("<QIIQQQIIIIII", COMMIT_NAMES, data, topic_fold)


def read_start(data: bytes, topic_fold: int) -> tuple[list[Fields | None], Fields]:
    return read_slots("<QIIQQI24xI", START_NAMES, data, topic_fold)


def read_lock(data: bytes) -> Fields:
    return read_slot("<IIQQIIIIIQQI", LOCK_NAMES, data)


def read_index(data: bytes, segment_id: int) -> list[Fields]:
    entries, seed = [], crc32(struct.pack("<Q", segment_id))
    for at in range(0, len(data), 40):
        entry = take("<QIIqqII", INDEX_NAMES, data, at)
        right = entry.pop("zero") == 0 and entry["crc"] == crc32(data[at : at + 32], seed)
        if right and entry["position"] // 262144 * 40 == at:
            entries.append(entry)
    return entries


def read_settings(data: bytes) -> Fields:
    end = data.rfind(b"crc32 = ")
    need(end >= 0 and data[end:] == b'crc32 = "%08x"\n' % crc32(data[:end]), "settings CRC")
    values: Fields = {}
    for line in data[:end].decode().splitlines():
        if line and not line.startswith("#"):
            key, _, value = line.partition(" = ")
            plain = {"true": True, "false": False}
            values[key] = value[1:-1] if value[0] == '"' else plain[value] if value in plain else int(value)
    return values


def read_partition(directory: Path, topic_id: bytes, partition: int) -> Fields:
    """All visible records and recorded gaps of a partition, in order; Fault at the first damage."""
    _, start = read_start((directory / "start").read_bytes(), crc32(topic_id))
    _, commit = read_commit((directory / "commit").read_bytes(), crc32(topic_id))
    files = {int(p.stem): p.read_bytes() for p in sorted(directory.glob("*.log"))}
    bases = [base for base in files if base >= start["first_base"]]
    headers = [read_segment_header(files[base]) for base in bases]
    records: list[Fields] = []
    gaps: list[list[Any]] = []
    for s, base, following in zip(headers, bases, [*headers[1:], None], strict=True):
        need((s["base"], s["topic_id"], s["partition"]) == (base, topic_id, partition), "misplaced segment")
        position, offset, chain, data = 4096, base, s["crc"], files[base]
        linked = following is not None and following["prev_base"] == base
        end = following["prev_position"] if following and linked else commit["visible_position"]
        while position < end:
            h, body = read_batch(data, position, s["segment_id"], position)
            need((h["chain"], h["base_offset"]) == (chain, offset), "chain")
            content = read_content(h, body)
            records += content.get("records", [])
            if "reason" in content:
                gaps.append([offset, offset + h["span"], content["reason"]])
            position, offset, chain = position + 104 + h["body_length"], offset + h["span"], h["crc"]
        if following is None:
            need((base, offset) == (commit["active_base"], commit["visible_offset"]), "visible end")
        else:
            need(
                linked and (following["prev_end"], following["prev_crc"]) == (offset, chain),
                "segment boundary",
            )
            if following["base"] > offset:
                gaps.append([offset, following["base"], None])
    visible = [r for r in records if r["offset"] >= start["log_start"]]
    return {"records": visible, "gaps": gaps, "visible_offset": commit["visible_offset"], "segments": headers}
