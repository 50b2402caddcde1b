"""Whole files of a store as the fuzzer sees them: settings and what loads them, segments, a partition."""

import contextlib
import json
import os
from functools import cache
from typing import Any
from zlib import crc32

from pspf import errors
from pspf.cli.output import json_line
from pspf.disk.real import Disk
from pspf.format.batch import batch_crc_of
from pspf.format.columns import BadBody
from pspf.format.segment import parse_segment, segment_fault
from pspf.log.scan import Scanner, find_segment_id, headers_behind, hop
from pspf.model import CHOICES, LIMITS
from pspf.store import inspect
from pspf.store import open as opening
from pspf.store.open import open_store
from pspf.store.select import Selection
from pspf.store.topics import load_topic
from pspf.testing import SimDisk
from tests import independent_decoder as independent
from tests import support_fuzz_formats as formats
from tests.support_fuzz import Parser, known_random

# -- settings files, by way of what loads them


class Memory(Disk):
    """Files in memory, all of them in one directory, for parsers that read from a disk."""

    def __init__(self, files: dict[str, bytes]) -> None:
        super().__init__()
        self.files = files
        self.names: list[str] = []

    def open(self, name: str, flags: int = 0, dir_fd: "int | None" = None) -> int:
        if name not in self.files:
            raise FileNotFoundError(2, "No such file or directory", name)
        self.names.append(name)
        return len(self.names) - 1

    def open_dir(self, name: str, dir_fd: "int | None" = None, follow: bool = False) -> int:
        return -1

    def close(self, fd: int) -> None:
        pass

    def pread(self, fd: int, length: int, position: int) -> bytes:
        assert position >= 0 <= length
        return self.files[self.names[fd]][position : position + length]

    def size(self, fd: int) -> int:
        return len(self.files[self.names[fd]])

    def listdir(self, dir_fd: int) -> list[str]:
        return ["0", *self.files]

    def stat(self, fd: int) -> os.stat_result:
        return os.stat_result(range(10))

    def stat_name(self, name: str, dir_fd: "int | None" = None) -> os.stat_result:
        return self.stat(0)


def check_store_file(data: bytes, _: bool) -> bool:
    told: list[str] = []
    try:
        values = opening._read(Memory({"store.toml": data}), -1, "/s", True, told.append)
    except errors.NewerFormat:
        return False
    assert values is not None and int(values["format_version"]) < 2
    return not told


def check_topic_file(data: bytes, _: bool) -> bool:
    """A settings file, or a segment header from which it is rebuilt: the first byte says which is changed."""
    files = {"topic.toml": formats.settings_corpus()[2], f"{0:020d}.log": formats.segment_headers()[1]}
    if data[:1] == b"t":
        files["topic.toml"] = data[1:]
    else:
        files["topic.toml"] = b"lost"
        files[f"{0:020d}.log"] = data[1:]
    try:
        topic = load_topic(Memory(files), -1, "/s/topics", "t", True, lambda _: None)
    except (errors.Damaged, errors.BadConfig):
        return False
    assert topic is not None and len(topic.topic_id) == 16
    for name, value in topic.config.items():
        assert name not in CHOICES or value in CHOICES[name]
        assert name not in LIMITS or LIMITS[name][0] <= int(value) <= LIMITS[name][1]
    return True


def seal_topic_file(data: bytearray) -> None:
    rest = data[1:]
    (formats.seal_settings if data[:1] == b"t" else formats.seal_segment)(rest)
    data[1:] = rest


def topic_files() -> list[bytes]:
    return [b"t" + formats.settings_corpus()[2], *(b"s" + block for block in formats.segment_headers()[1:])]


# -- segments and partitions

SEGMENT_FIELDS = (
    *formats.SEGMENT_FIELDS,
    *((4096 + at, width) for at, width in (*formats.HEADER_FIELDS, *formats.HEADER_FIELDS)),
)
PLACES = (0, 0, 500, *range(4096, 5200, 160))
PARTITION_FIELDS = tuple((at + 1, width) for at, width in (*formats.SLOT_FIELDS, *SEGMENT_FIELDS))


@cache
def segments() -> list[bytes]:
    store = formats.VECTORS / "store"
    found = [path.read_bytes() for path in sorted(store.rglob("*.log"))]
    return [*found, found[0] + bytes(300), found[0][:4096]]


def seal_segment_file(data: bytearray) -> None:
    """Header, chain and CRCs of everything that can be found by the lengths."""
    formats.seal_segment(data)
    chain, at = formats.U32.unpack(data[4092:4096].ljust(4, b"\0"))[0], 4096
    segment = bytes(data[16:24])
    while at + 104 < len(data) and data[at : at + 4] == b"PBAT":
        size = 104 + formats.U32.unpack_from(data, at + 28)[0]
        end = min(at + size, len(data))
        data[at + 8 : at + 20] = segment + formats.U32.pack(chain)
        crc = crc32(data[at + 28 : at + 32], crc32(data[at + 104 : end]))
        data[at + 32 : at + 36] = formats.U32.pack(crc32(data[at + 36 : at + 104], crc))
        chain = crc32(data[at + 8 : at + 104], crc32(segment + at.to_bytes(8, "little")))
        data[at + 4 : at + 8] = formats.U32.pack(chain)
        at += size


def check_segment(data: bytes, _: bool) -> bool:
    """Walks of a segment file: strictly, by hopping, behind a break, and as ``pspf inspect`` shows it."""
    disk = Memory({"s": data})
    fd, size = disk.open("s"), len(data)
    segment_id, chain, base = find_segment_id(disk, fd, size), None, 0
    if not segment_fault(data):
        header = parse_segment(data)
        segment_id, chain, base = header.segment_id, header.crc, header.base
    scanner = Scanner(disk, fd, segment_id, 4096, base, chain, size)
    while True:
        at = scanner.position
        found = scanner.step()
        if found is None:
            assert (scanner.fault == "") == (scanner.position >= size)
            assert scanner.rest_is_zero() == (not any(data[at:]))
            behind = next(headers_behind(disk, fd, segment_id, at + 1, size, 0), None)
            if behind is None:
                break
            assert behind[0] > at
            scanner.restart(behind[0], behind[1].base_offset)
            if scanner.step() is None:
                break
            continue
        assert scanner.position == at + found.size <= size
        fields, body = independent.read_batch(data[:at] + _first_version(data, at), at, segment_id, at)
        assert fields["base_offset"] == found.base_offset and body == scanner.body
    positions = [position for position, _ in hop(disk, fd, segment_id, 4096, size)]
    assert positions == sorted(set(positions))
    rows = list(inspect._segment(disk, fd, "s"))
    ends = [int(str(row["position"])) + int(str(row["bytes"])) for row in rows[1:]]
    assert [int(str(row["position"])) for row in rows[2:]] == ends[:-1] and (not ends or ends[-1] >= size)
    assert all(json.loads(json_line(row)) for row in rows)
    return any(row["type"] == "batch" for row in rows)


def _first_version(data: bytes, at: int) -> bytes:
    """The batch, since the other decoder refuses versions that a walk steps over."""
    if data[at + 60] == 1:
        return data[at:]
    head = bytearray(data[at : at + 104])
    head[60] = 1
    size = 104 + formats.U32.unpack_from(head, 28)[0]
    head[32:36] = formats.U32.pack(batch_crc_of(bytes(head), data[at + 104 : at + size]))
    head[4:8] = formats.U32.pack(crc32(head[8:], crc32(head[8:16] + at.to_bytes(8, "little"))))
    return bytes(head) + data[at + 104 : at + size]


PART = "/s/topics/t/0/"
FILES = ("commit", "start", "lock", f"{0:020d}.log", "", f"{0:020d}.index")


@cache
def machine() -> SimDisk:
    """A partition of two segments: a sync failed, and it was healed. A producer appended, too."""
    disk = SimDisk(clock_ns=1_700_000_000_000_000_000)
    with known_random(1):
        make_partition(disk)
    return disk


def make_partition(disk: SimDisk) -> None:
    with open_store("/s", disk=disk) as store:
        store.create_topic("t")
        for number in range(3):
            store.append("t", b"value %d" % number, key=b"k", headers=[("h", b"x")])
            store.append("t", b"produced %d" % number, producer="p")
        disk.fail("fdatasync", 0)
        with contextlib.suppress(errors.Error):
            store.append("t", b"never acknowledged")
    disk.heal()
    with open_store("/s", disk=disk) as store:
        store.append_many("t", [b"a", b"b"])
        store.append("t", b"more", producer="p")


@cache
def reading() -> tuple[SimDisk, Any, dict[str, bytes]]:
    """One machine whose files are changed and put back, so that no input pays for a store."""
    disk = machine().copy()
    store = open_store("/s", disk=disk, read_only=True)
    tree = {name: content for name, content in disk.tree().items() if content is not None}
    return disk, store, tree


def records_in(store: Any) -> dict[int, bytes | None]:
    """What a reader gives in spite of damage, which it must name and get past."""
    found: dict[int, bytes | None] = {}
    reader, before = store.reader("t", 0), -1
    try:
        reader.seek(reader.start())
        for _ in range(1_000):
            try:
                batches = reader.read()
            except errors.Damaged as error:
                if error.resume_offset < 0:
                    return found
                # Of an empty range, between two segments, no record is missing.
                assert error.resume_offset >= error.offset, f"a damaged range without an offset: {error}"
                assert error.resume_offset > before, error
                before = error.resume_offset
                reader.seek(before)
                continue
            if not batches:
                return found
            for raw in batches:
                head, seal = raw.header_bytes, crc32(raw.body)
                assert len(raw.body) == raw.header.body_length
                assert crc32(head[36:], crc32(head[28:32], seal)) == raw.header.batch_crc
                try:
                    columns = raw.columns()
                    found.update(zip(columns.offsets(), columns.values(), strict=True))
                except BadBody:
                    pass
        raise AssertionError("a reader without an end")
    finally:
        reader.close()


def check_partition(data: bytes, sealed: bool) -> bool:
    """One file of a partition is changed: the first byte says which one."""
    disk, store, tree = reading()
    segments_there = sorted(name for name in tree if name.startswith(PART) and name.endswith(".log"))
    number = data[0] % len(FILES) if data else 0
    path = segments_there[1] if not FILES[number] else PART + FILES[number]
    if path not in tree:
        path = segments_there[0]
    disk._file_at(path).cache[:] = data[1:]
    found = None
    try:
        try:
            found = records_in(store)
        except (errors.Damaged, errors.NewerFormat, errors.TopicDeleted, errors.RecordsTakenBack):
            pass
        if crc32(data) % 8 == 0:
            looks(store)
        if crc32(data) % 64 == 1:
            recovers(disk.copy())
    finally:
        disk._file_at(path).cache[:] = tree[path]
    if found and not sealed:
        intact = all_records()
        assert all(intact[offset] == value for offset, value in found.items()), "a value that nobody appended"
    return bool(found)


def looks(store: Any) -> None:
    """Verifying never ends in an error; what else looks at a log may, in one of ours."""
    store.verify(["t"])
    reader = store.reader("t", 0)
    for look in (
        lambda: store.describe("t"),
        lambda: reader.seek_time(1_700_000_000_000),
        lambda: reader.seek_back(2),
        lambda: list(store.read("t", Selection(skip_damaged=True))),
    ):
        with contextlib.suppress(errors.Error):
            look()
    reader.close()


def recovers(disk: SimDisk) -> None:
    """Whatever it finds, a writer opens the partition, or says why not; then reading and verifying go on."""
    try:
        with known_random(2), open_store("/s", disk=disk) as store:
            store.append("t", b"after", producer="p")
            records_in(store)
            store.verify(["t"])
    except errors.Error:
        pass


@cache
def all_records() -> dict[int, bytes | None]:
    with open_store("/s", disk=machine().copy(), read_only=True) as store:
        return records_in(store)


def partition_files() -> list[bytes]:
    _, _, tree = reading()
    logs = sorted(name for name in tree if name.startswith(PART) and name.endswith(".log"))
    assert len(logs) == 2 and len(all_records()) == 9
    named = {name: PART + name for name in FILES[:4]} | {"": logs[1]}
    # Of the zeros that were written ahead some are enough.
    ends = {name: tree[name].rstrip(b"\0") + bytes(200) for name in logs}
    files = [bytes([i]) + ends.get(named[name], tree[named[name]]) for i, name in enumerate(FILES[:5])]
    return [*files, *files[3:]]


def seal_partition_file(data: bytearray) -> None:
    rest = data[1:]
    (formats.seal_slots if data[:1] < b"\x03" else seal_segment_file)(rest)
    data[1:] = rest


FILES_OF_A_STORE: dict[str, Parser] = {
    "store.toml": Parser(
        check_store_file, formats.settings_corpus, formats.seal_settings, (), formats.SETTING_WORDS
    ),
    "topic.toml": Parser(check_topic_file, topic_files, seal_topic_file, (), formats.SETTING_WORDS),
    "segment": Parser(check_segment, segments, seal_segment_file, SEGMENT_FIELDS, near=(0, 4096, 4296)),
    "partition": Parser(check_partition, partition_files, seal_partition_file, PARTITION_FIELDS, near=PLACES),
}
