"""Each step of a reader, alone: what it must notice, and what it may cost. On the simulated disk, counted."""

import errno
import tracemalloc
from collections.abc import Callable

import pytest

from pspf import errors
from pspf.disk.real import WRITE
from pspf.format.batch import HEADER_BYTES, header_fault
from pspf.format.encode import encode_records
from pspf.format.segment import SEGMENT_HEADER_BYTES
from pspf.log import scan
from pspf.log.index import read_index
from pspf.log.reader import PartitionReader
from pspf.log.scan import find_segment_id, headers_behind
from pspf.log.search import epoch_at_end, records_before_end
from pspf.model import TopicConfig
from pspf.store.open import open_store
from pspf.store.reading import Stream
from pspf.store.store import Store
from pspf.testing import SimDisk
from pspf.testing.ledger import read_all
from pspf.testing.scenarios import STORE
from tests.test_crash_states import same_every_time
from tests.test_steps_of_appending import PARTITION, SEGMENT, opened, plain_topic, roll_by, values, writer_of
from tests.test_steps_of_recovery import overwrite


@pytest.fixture(autouse=True)
def _same_every_time(monkeypatch: pytest.MonkeyPatch) -> None:
    same_every_time(monkeypatch)


def reader_of(disk: SimDisk) -> PartitionReader:
    """A reader in a process of its own, which may not write."""
    return open_store(STORE, disk=disk.process(), read_only=True).reader("t", 0)


def read_on(reader: PartitionReader) -> list[bytes | None]:
    """What the reader gives until it is at the end."""
    got: list[bytes | None] = []
    while batches := reader.read():
        got += [value for batch in batches for value in batch.columns().values()]
    return got


# -- a reader does not wait for a writer


def test_a_reader_that_comes_beside_a_recovery_waits_only_where_the_log_is_not_what_commit_says() -> None:
    """Durability `os`: a power cut may leave a `commit` that is ahead of the log. Until who recovers has
    published the right end, what is missing is no damage."""
    disk = plain_topic(durability="os")
    with open_store(STORE, disk=disk) as store:
        for number in range(3):
            store.append("t", f"lost{number}")
        disk.fdatasync(writer_of(store).files.commit_fd)
        after = min(disk.crash_states(1, 60, "strict"), key=lambda state: len(state.tree()[SEGMENT] or b""))
    recovering = after.process()
    recovering.lock(recovering.open("lock", WRITE, recovering.open_dir(PARTITION)))
    reading = after.process()
    store = open_store(STORE, disk=reading)
    reader = store.reader("t", 0)
    got = [value for batch in reader.read() for value in batch.columns().values()]

    def recovered() -> None:
        recovering.kill()
        opened(after.process())

    reading.when_blocked = recovered
    got += read_on(reader)
    assert got == [b"before"]
    assert recovering.dead


def test_a_reader_waits_for_who_makes_a_damaged_commit_anew() -> None:
    disk = plain_topic()
    overwrite(disk, f"{PARTITION}/commit", 0, bytes(1024))
    recovering = disk.process()
    recovering.lock(recovering.open("lock", WRITE, recovering.open_dir(PARTITION)))
    reading = disk.process()
    reading.when_blocked = recovering.kill
    with open_store(STORE, disk=reading) as store:
        assert values(store) == [b"before"]


def test_a_reader_that_fails_to_make_commit_anew_leaks_no_descriptor() -> None:
    for call, name in (("open", "commit"), ("stat_name", "commit")):
        disk = plain_topic().process()
        disk.unlink("commit", disk.open_dir(PARTITION))
        reader = open_store(STORE, disk=disk).reader("t", 0)
        before = len(disk._fds)
        disk.fail(call, error=errno.EIO, name=name)
        with pytest.raises((errors.IOFailed, OSError)):
            reader.end()
        assert len(disk._fds) == before


# -- a live reader past a cut of what it has read


def _healed_in_place(disk: SimDisk, writer: Store) -> SimDisk:
    """The segment is replaced by one of the same name."""
    disk.fail("fdatasync", error=errno.EIO, lies="clean")
    with pytest.raises(errors.Error):
        writer_of(writer).sync(3)
    disk.kill()
    return disk.process()


def _healed_behind_others(disk: SimDisk, writer: Store) -> SimDisk:
    """As above, and the new segment has been left since: only the history in a later header tells."""
    after = _healed_in_place(disk, writer)
    store = opened(after)
    store.append("t", b"new0")
    roll_by(store)
    return after


def _cut_in_place(disk: SimDisk, writer: Store) -> SimDisk:
    """The pages were lost and nobody was told; who comes next cuts, and goes on in the same file."""
    start = SEGMENT_HEADER_BYTES
    size = len(disk.tree()[SEGMENT] or b"")
    disk.kill()
    after = disk.process()
    overwrite(after, SEGMENT, start, bytes(size - start))
    return after


CUTS: dict[str, Callable[[SimDisk, Store], SimDisk]] = {
    "healed": _healed_in_place,
    "healed, and rolled since": _healed_behind_others,
    "cut in the same segment": _cut_in_place,
}


def written(number: int) -> tuple[SimDisk, Store]:
    """So many records that readers see and no disk has."""
    disk = SimDisk()
    store = open_store(STORE, disk=disk)
    store.create_topic("t", TopicConfig(durability="os"))
    for n in range(number):
        store.append("t", f"old{n}")
    return disk, store


def grow(disk: SimDisk, until: int) -> None:
    store = opened(disk)
    for number in range(until):
        if number >= writer_of(store).next_offset:
            store.append("t", f"new{number}")
    assert writer_of(store).next_offset == until


@pytest.mark.parametrize("until", [1, 2, 3, 6])
@pytest.mark.parametrize("cut", CUTS)
def test_a_reader_past_a_cut_is_told_whatever_was_appended_since(cut: str, until: int) -> None:
    disk, writer = written(3)
    reader = reader_of(disk)
    reader.seek(0)
    assert read_on(reader) == [b"old0", b"old1", b"old2"]
    after = CUTS[cut](disk, writer)
    grow(after, until)
    with pytest.raises(errors.RecordsTakenBack) as told:
        reader.read()
    assert (told.value.offset, reader.next_offset) == (0, 0)
    assert read_on(reader) == [f"new{n}".encode() for n in range(until)]
    grow(after, until + 1)
    assert read_on(reader) == [f"new{until}".encode()]


@pytest.mark.parametrize("cut", CUTS)
def test_a_reader_that_waits_at_an_end_is_told_of_a_cut_below_it(cut: str) -> None:
    disk, writer = written(3)
    reader = reader_of(disk)
    reader.seek(reader.end())
    assert reader.read() == []
    grow(CUTS[cut](disk, writer), 6)
    with pytest.raises(errors.RecordsTakenBack) as told:
        reader.read()
    assert told.value.offset == 0


@pytest.mark.parametrize("cut", CUTS)
def test_a_reader_at_a_cut_or_below_it_reads_on(cut: str) -> None:
    disk = SimDisk()
    with open_store(STORE, disk=disk) as store:
        store.create_topic("t", TopicConfig(durability="os"))
        store.append("t", "kept0")
        store.append("t", "kept1")
        writer_of(store).sync(2)
    disk = disk.process()
    reader = reader_of(disk)
    reader.seek(0)
    assert read_on(reader) == [b"kept0", b"kept1"]
    writer = opened(disk)
    kept = writer_of(writer).end.position
    writer.append("t", "old2")
    early = reader_of(disk)
    early.seek(1)
    early.end()
    if cut == "cut in the same segment":
        size = len(disk.tree()[SEGMENT] or b"")
        disk.kill()
        after = disk.process()
        overwrite(after, SEGMENT, kept, bytes(size - kept))
    else:
        after = CUTS[cut](disk, writer)
    grow(after, 5)
    fresh = [value for _, value in read_all(opened(after), "t", 1)[0]][2:]
    assert read_on(reader) == fresh and len(fresh) == 3
    assert read_on(early) == [b"kept1", *fresh]


def test_a_follower_past_a_cut_says_so_and_gives_what_is_there_now() -> None:
    disk, writer = written(3)
    notes: list[str] = []
    reading = open_store(STORE, disk=disk.process(), read_only=True)
    with Stream(reading, "t", follow=True, on_note=notes.append) as stream:
        got: list[bytes | None] = []

        def drain() -> None:
            stream._wake_up(list(stream._idle))
            while (piece := stream.next()) is not None:
                got.extend(piece.values())

        drain()
        assert len(got) == 3
        grow(_healed_in_place(disk, writer), 6)
        drain()
    assert got[3:] == [f"new{n}".encode() for n in range(6)]
    assert len(notes) == 1 and "taken back" in notes[0]


def test_the_epoch_of_an_end_is_not_taken_from_a_segment_that_replaced_it_since() -> None:
    disk, writer = written(3)
    reader = reader_of(disk)
    reader.end()
    files, commit = reader._files, reader._commit
    assert files is not None and commit is not None
    assert epoch_at_end(files, commit) == 0
    grow(_healed_in_place(disk, writer), 6)
    assert epoch_at_end(files, commit) == -1


def test_the_epoch_of_an_end_is_not_taken_from_a_damaged_header() -> None:
    after = _cut_in_place(*written(3))
    grow(after, 3)
    reader = reader_of(after)
    reader.end()
    files, commit = reader._files, reader._commit
    assert files is not None and commit is not None
    assert epoch_at_end(files, commit) == 1
    overwrite(after, SEGMENT, commit.durable_last + 40, b"\xff" * 8)
    assert epoch_at_end(files, commit) == 0


# -- what a read costs


def many_segments(number: int) -> SimDisk:
    disk = SimDisk()
    with open_store(STORE, disk=disk) as store:
        store.create_topic("t", TopicConfig(durability="os"))
        for n in range(number):
            store.append("t", f"{n}")
            roll_by(store)
    return disk


def test_a_read_of_many_segments_does_not_list_the_directory_for_each() -> None:
    disk = many_segments(40).process()
    reader = open_store(STORE, disk=disk, read_only=True).reader("t", 0)
    reader.seek(0)
    assert len(read_on(reader)) == 40
    assert disk.counts["listdir"] <= 2


def test_a_reader_with_a_list_of_segments_sees_those_that_come_later() -> None:
    disk = many_segments(5)
    reading = disk.process()
    reader = open_store(STORE, disk=reading, read_only=True).reader("t", 0)
    reader.seek(0)
    assert len(reader.read(1)) == 1
    store = opened(disk.process())
    for n in range(5, 9):
        store.append("t", f"{n}")
        roll_by(store)
    assert read_on(reader) == [f"{n}".encode() for n in range(1, 9)]
    assert reading.counts["listdir"] <= 3
    store.append("t", "9")
    roll_by(store)
    store.append("t", "10")
    assert read_on(reader) == [b"9", b"10"]


@pytest.fixture
def checks(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Positions at which a header was checked for, by its CRC, in `pspf.log.scan`."""
    seen: list[int] = []
    real = header_fault

    def counted(data: bytes, at: int, segment_id: int, position: int) -> str:
        seen.append(position)
        return real(data, at, segment_id, position)

    monkeypatch.setattr(scan, "header_fault", counted)
    return seen


def record_of_magics() -> SimDisk:
    disk = plain_topic(compression="none")
    with open_store(STORE, disk=disk) as store:
        store.append("t", b"PBAT" * 50_000)
        store.append("t", b"end")
    disk.sync_all()
    return disk


def test_a_record_full_of_the_magic_behind_a_damaged_header_is_not_searched_byte_by_byte(
    checks: list[int],
) -> None:
    disk = record_of_magics()
    overwrite(disk, SEGMENT, SEGMENT_HEADER_BYTES, bytes(HEADER_BYTES))
    fd = disk.open(SEGMENT)
    segment_id = find_segment_id(disk, fd, disk.size(fd))
    found = headers_behind(disk, fd, segment_id, SEGMENT_HEADER_BYTES + 1, disk.size(fd), 0)
    assert [header.base_offset for _, header in found] == [1, 2]
    reader = reader_of(disk)
    reader.seek(0)
    with pytest.raises(errors.Damaged) as told:
        reader.read()
    assert told.value.resume_offset == 1
    reader.seek(1)
    assert read_on(reader)[-1] == b"end"
    assert len(checks) < 50


def test_a_segment_id_is_found_behind_a_record_full_of_the_magic(checks: list[int]) -> None:
    disk = record_of_magics()
    fd = disk.open(SEGMENT, WRITE)
    batches = headers_behind(disk, fd, find_segment_id(disk, fd, disk.size(fd)), 0, disk.size(fd), 0)
    second = [position for position, _ in batches][1]
    overwrite(disk, SEGMENT, 8, bytes(SEGMENT_HEADER_BYTES))
    overwrite(disk, SEGMENT, second, bytes(HEADER_BYTES))
    checks.clear()
    reader = reader_of(disk)
    reader.seek(2)
    assert read_on(reader) == [b"end"]
    assert len(checks) < 50


def test_a_search_for_a_segment_id_ends(monkeypatch: pytest.MonkeyPatch, checks: list[int]) -> None:
    """A file full of what looks like headers, with lengths that are possible."""
    monkeypatch.setattr(scan, "_SEARCH_COST", 1_000)
    disk = SimDisk()
    fd = disk.open("/f", WRITE | 0o100)
    disk.pwrite(fd, (b"PBAT" + b"\x01" * 28) * 10_000, 0)
    assert find_segment_id(disk, fd, disk.size(fd)) == 0
    assert len(checks) <= 100


def test_a_damaged_header_behind_a_break_is_not_taken_for_one() -> None:
    disk = many_batches(3, True)
    fd = disk.open(SEGMENT, WRITE)
    segment_id = find_segment_id(disk, fd, disk.size(fd))
    places = [at for at, _ in headers_behind(disk, fd, segment_id, 0, disk.size(fd), 0)]
    overwrite(disk, SEGMENT, places[1] + 40, b"\xff")
    assert [at for at, _ in headers_behind(disk, fd, segment_id, 0, disk.size(fd), 0)] == [
        places[0],
        places[2],
    ]


def test_nobodys_segment_id_has_no_headers(checks: list[int]) -> None:
    disk = SimDisk()
    fd = disk.open("/f", WRITE | 0o100)
    disk.pwrite(fd, bytes(100_000), 0)
    assert not list(headers_behind(disk, fd, 0, 0, 100_000, 0))
    assert not checks


def many_batches(number: int, index: bool) -> SimDisk:
    disk = SimDisk()
    with open_store(STORE, disk=disk) as store:
        store.create_topic("t", TopicConfig(durability="os"))
        for n in range(number):
            store.append("t", f"{n}")
    if not index:
        without_index(disk)
    return disk


def without_index(disk: SimDisk) -> None:
    directory = disk.open_dir(PARTITION)
    for name in disk.listdir(directory):
        if name.endswith(".index"):
            disk.unlink(name, directory)


@pytest.mark.parametrize("index", [True, False])
def test_records_are_counted_from_the_end_without_keeping_them(index: bool) -> None:
    disk = many_batches(6_000, index)
    reader = reader_of(disk)
    assert reader.end() == 6_000
    tracemalloc.start()
    try:
        assert reader.seek_back(5_999) == 1
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 1 << 20


def test_the_last_records_are_found_from_the_end_of_the_index(monkeypatch: pytest.MonkeyPatch) -> None:
    disk = many_batches(6_000, True).process()
    reader = open_store(STORE, disk=disk, read_only=True).reader("t", 0)
    reader.end()
    files = reader._files
    assert files is not None
    segment = files.open_segment(0)
    assert segment is not None
    places = [entry.position for entry in read_index(files, segment)]
    assert len(places) > 2
    read: list[int] = []
    real = disk.pread

    def noted(_: SimDisk, fd: int, length: int, at: int) -> bytes:
        read.append(at)
        return real(fd, length, at)

    monkeypatch.setattr(SimDisk, "pread", noted)
    assert reader.seek_back(10) == 5_990
    assert min(at for at in read if at > SEGMENT_HEADER_BYTES) >= places[-1]


@pytest.mark.parametrize("indexed", [True, False])
def test_every_count_from_the_end_gives_the_record_that_is_so_far_from_it(indexed: bool) -> None:
    """Over batches of several records, batches that leave offsets out, and segments."""
    disk = SimDisk()
    store = open_store(STORE, disk=disk)
    store.create_topic("t", TopicConfig(durability="os"))
    for n in range(12):
        written = [b"%d" % k for k in range(1 + n % 4)]
        deltas = [2 * k + n % 2 for k in range(len(written))] if n % 3 else None
        writer_of(store).write(encode_records(written, None, 1, None, False, offset_deltas=deltas))
        if n % 5 == 4:
            roll_by(store)
    if not indexed:
        without_index(disk)
    offsets = [record.offset for record in store.read("t")]
    assert len(offsets) < offsets[-1]
    reader = reader_of(disk)
    end = reader.end()
    commit, files = reader._commit, reader._files
    assert commit is not None and files is not None
    for start in (0, 1, 7, end):
        there = [offset for offset in offsets if offset >= start]
        for count in range(len(offsets) + 3):
            wanted = end if not count else there[-count] if count <= len(there) else start
            assert records_before_end(files, commit, start, count) == wanted, (start, count)


def test_a_search_by_time_takes_nothing_from_a_damaged_batch() -> None:
    # Its times are damaged, and would lead behind records that may be the ones.
    disk, later = plain_topic(), 1_800_000_000_000
    with opened(disk) as store:
        store.append_many(
            "t", [b"a", b"b", b"c"], timestamps_ms=[later + 1_000, later + 2_000, later + 3_000]
        )
    raw = disk.tree()[SEGMENT] or b""
    body = raw.rindex(raw[4096:4100]) + HEADER_BYTES
    for at in range(body, len(raw)):
        twin = disk.copy()
        overwrite(twin, SEGMENT, at, bytes([0 if raw[at] else 1]))
        with open_store(STORE, disk=twin, read_only=True) as reading, pytest.raises(errors.Damaged):
            list(reading.read("t", ranges=[f"@{later + 3_000}"]))
