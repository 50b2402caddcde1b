"""What one failed call may leave behind, and how much one step may hold: counted on the simulated disk."""

import errno
import os
import threading
from collections.abc import Callable
from random import Random
from typing import Any

import pytest

from pspf import errors
from pspf.disk.real import CREATE, WRITE
from pspf.format.batch import FLAG_LINES, NO_TABLE, PREAMBLE, Encoded, header_fault, parse_header
from pspf.format.columns import BadBody, Columns
from pspf.format.encode import encode_records
from pspf.format.segment import segment_name
from pspf.format.slots import fold, newest_commit
from pspf.format.zstd import compress
from pspf.log.adopt import adopt
from pspf.log.files import Segment
from pspf.log.index import note_batches, read_index
from pspf.model import Appended
from pspf.store.emit import emit
from pspf.store.feed import Feed, FeedOptions
from pspf.store.intake import Intake
from pspf.store.open import open_store
from pspf.testing import Killed, SimDisk, WouldDeadlock
from pspf.testing.medium import File
from pspf.testing.scenarios import STORE
from tests.test_crash_states import same_every_time
from tests.test_steps_of_appending import (
    PARTITION,
    SEGMENT,
    opened,
    plain_topic,
    poisoned_by,
    roll_by,
    values,
    writer_of,
)

TOPIC_DIR = f"{STORE}/topics/t"


@pytest.fixture(autouse=True)
def _same_every_time(monkeypatch: pytest.MonkeyPatch) -> None:
    same_every_time(monkeypatch)


def descriptors(disk: SimDisk) -> list[str]:
    return sorted(found.name for found in disk._fds.values())


# -- descriptors of an open that fails


def _closed() -> SimDisk:
    return plain_topic().process()


def _killed() -> SimDisk:
    """One batch is not in ``commit``, and half of another one is behind it."""
    disk = plain_topic(durability="os")
    store = opened(disk)
    store.append("t", b"written")
    end = writer_of(store).end.position
    disk.pwrite(writer_of(store).end.segment.fd, b"PBAT and no more", end)
    disk.kill()
    return disk.process()


def _poisoned() -> SimDisk:
    disk = plain_topic()
    poisoned_by(disk, opened(disk))
    disk.kill()
    return disk.process()


def _lost() -> SimDisk:
    """Acknowledged bytes are damaged: a new segment follows."""
    disk = plain_topic()
    store = opened(disk)
    store.append("t", b"acknowledged")
    store.close()
    disk.sync_all()
    content = disk.tree()[SEGMENT]
    assert content is not None
    disk.flip(SEGMENT, len(content) - 1)
    fd = disk.open(SEGMENT, 2)
    disk.truncate(fd, len(content) - 1)
    disk.fsync(fd)
    return disk.process()


def _beside_another() -> SimDisk:
    """A living process has written what nobody has synced."""
    disk = plain_topic(durability="os")
    opened(disk).append("t", b"written")
    return disk.process()


OPENS: dict[str, Callable[[], SimDisk]] = {
    "closed": _closed,
    "killed": _killed,
    "poisoned": _poisoned,
    "lost": _lost,
    "beside another": _beside_another,
}


@pytest.mark.parametrize("what", OPENS)
def test_a_failed_open_leaves_no_descriptor(what: str) -> None:
    failed = calls = 0
    while True:
        disk = OPENS[what]()
        store = open_store(STORE, disk=disk)
        topic = store.topic("t")
        before = descriptors(disk)
        fault, disk.trace = disk.fail("*", calls), []
        try:
            store.partition_writer(topic, 0)
        except errors.Error:
            failed += 1
            if not disk.trace[calls].startswith("close"):
                assert descriptors(disk) == before, disk.trace
        if not fault.hits:
            break
        calls += 1
    assert failed >= 10


def test_a_segment_that_was_left_beside_a_sync_is_closed_with_the_handle() -> None:
    disk = plain_topic()
    before = descriptors(disk)
    store = opened(disk)
    writer = writer_of(store)
    writer._syncing = True  # as when the roll meets the very end of another thread's sync
    roll_by(store)
    writer._syncing = False
    store.close()
    assert descriptors(disk) == before


# -- a partition that could not be made


def half_made(disk: SimDisk) -> list[str]:
    return [path for path in disk.tree() if "/.new-" in path]


def test_a_partition_that_could_not_be_made_leaves_nothing() -> None:
    calls = 0
    while True:
        disk = SimDisk()
        store = open_store(STORE, disk=disk)
        store.create_topic("t")
        topic = store.topic("t")
        before = descriptors(disk)
        fault, disk.trace = disk.fail("*", calls, errno.ENOSPC), []
        try:
            store.partition_writer(topic, 0)
        except errors.Error as error:
            assert "no such file" not in str(error)
        else:
            if not fault.hits:
                break
        call = disk.trace[calls].split()[0]
        # Before it is known to be ours, it stays; empty, for the next to make this partition.
        harmless = [f"{TOPIC_DIR}/.new-0"] if call in ("open_dir", "lock", "stat", "stat_name") else []
        assert half_made(disk) in ([], harmless), disk.trace
        assert call == "close" or f"{TOPIC_DIR}/0" in disk.tree() or descriptors(disk) == before
        store.append("t", b"x")
        assert not half_made(disk), disk.trace
        calls += 1
    assert calls > 20


def test_a_rename_that_fails_is_told_as_what_it_is() -> None:
    disk = SimDisk()
    store = open_store(STORE, disk=disk)
    store.create_topic("t")
    disk.fail("rename", error=errno.EIO)
    with pytest.raises(errors.IOFailed, match="input/output error"):
        store.append("t", b"x")
    store.append("t", b"x")


def test_what_a_killed_maker_of_a_partition_leaves_is_removed_by_the_next() -> None:
    changes = 1
    while True:
        disk = SimDisk()
        with open_store(STORE, disk=disk) as store:
            store.create_topic("t")
        doomed = disk.process()
        store = open_store(STORE, disk=doomed)
        topic = store.topic("t")
        doomed.stop_after(changes)
        try:
            store.partition_writer(topic, 0)
        except Killed:
            pass
        else:
            break
        with open_store(STORE, disk=disk.process()) as store:
            store.append("t", b"x")
            assert [record.value for record in store.read("t")] == [b"x"]
        assert not half_made(disk)
        changes += 1
    assert changes > 10


def test_who_makes_a_partition_waits_for_who_makes_it() -> None:
    disk = SimDisk()
    store = open_store(STORE, disk=disk)
    store.create_topic("t")
    other = disk.process()
    topic_fd = other.open_dir(TOPIC_DIR)
    other.mkdir(".new-0", topic_fd)
    other.lock(other.open_dir(".new-0", topic_fd))
    before = disk.tree()
    with pytest.raises(WouldDeadlock):
        store.append("t", b"x")
    assert disk.tree() == before, "the work of one who lives is not removed"


@pytest.mark.parametrize("end", ["ready", "gave up"])
def test_who_waited_for_the_maker_of_a_partition_looks_anew(end: str) -> None:
    """The lock is of the directory, which by then has another name, or none."""
    disk = SimDisk()
    store, other = open_store(STORE, disk=disk), open_store(STORE, disk=disk.process())
    store.create_topic("t")
    theirs = other.disk
    topic_fd = theirs.open_dir(TOPIC_DIR)
    theirs.mkdir(".new-0", topic_fd)
    held = theirs.open_dir(".new-0", topic_fd)
    theirs.lock(held)

    def goes_on() -> None:
        if end == "gave up":
            theirs.rmdir(".new-0", topic_fd)
        theirs.close(held)
        if end == "ready":
            other.append("t", b"theirs")

    disk.when_blocked = goes_on
    store.append("t", b"ours")
    expected = [b"theirs", b"ours"] if end == "ready" else [b"ours"]
    assert [record.value for record in store.read("t")] == expected
    assert not half_made(disk)


# -- adopting a whole segment, as when `commit` was lost


def file_that_lost(disk: SimDisk, content: bytes, *lost: range) -> Segment:
    """A segment file whose cache is right; the medium holds nothing of the bytes that were ``lost``."""
    fd = disk.open(segment_name(0), CREATE)
    disk.pwrite(fd, content, 0)
    node = disk._fds[fd].node
    assert isinstance(node, File)
    for part in lost:
        node.forget_range(part.start, part.stop, keep_size=True)
    disk.fsync(fd)
    disk.fsync(disk.open_dir("/"))
    return Segment(fd, 0, None, 1)


def test_adopting_a_long_segment_holds_little_of_it_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    lengths: dict[str, list[int]] = {"pread": [], "read_stable": []}
    for call, noted in lengths.items():
        original = getattr(SimDisk, call)

        def noting(*arguments: Any, noted: list[int] = noted, original: Any = original) -> bytes:
            data: bytes = original(*arguments)
            noted.append(len(data))
            return data

        monkeypatch.setattr(SimDisk, call, noting)
    disk = SimDisk()
    size = 20 << 20
    segment = file_that_lost(disk, bytes(size))
    disk.trace = []
    assert adopt(disk, disk.open_dir("/"), segment, 4_096, size)
    calls = [line.split()[0] for line in disk.trace if line.startswith(("pread", "read_stable"))]
    assert calls == ["pread", "read_stable"] * (len(calls) // 2), "more than one piece at once"
    assert sum(lengths["pread"]) == sum(lengths["read_stable"]) == size - 4_096
    assert max(lengths["pread"]) + max(lengths["read_stable"]) <= 4 << 20


def test_what_differs_in_any_piece_is_written_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pspf.log.adopt._PIECE", 16 << 10)
    content = Random(1).randbytes(100_000)
    for first in range(0, 96_000, 8_000):
        disk = SimDisk()
        segment = file_that_lost(disk, content, range(first, first + 100), range(40_000, 60_000))
        assert adopt(disk, disk.open_dir("/"), segment, 5_000, len(content))
        for state in disk.crash_states(1, 5):
            found = state.tree()[f"/{segment.name}"]
            assert found is not None and found[5_000:] == content[5_000:]
        assert disk.counts["pwrite"] <= 5, "only what differs"


# -- records of one batch: a compressed byte can stand for thousands of them


MANY = (1 << 20) + 5


def crafted(count: int) -> Encoded:
    """A compressed batch of empty lines that says it has ``count`` records."""
    plain = PREAMBLE.pack(0, 0, 0, 0, 0, 0, 0, 0, 0, 0) + b"\n" * count
    batch = Encoded([compress(plain)], 1, count, FLAG_LINES, codec=1, plain_length=len(plain))
    batch.count = count
    return batch


def test_a_batch_of_more_records_than_memory_is_refused_by_its_header() -> None:
    header = crafted(MANY).seal(0, 0, 1, 7, 4_096, 0, 0, NO_TABLE)
    assert header_fault(header, 0, 7, 4_096) == "record count out of bounds"
    header = crafted(1 << 20).seal(0, 0, 1, 7, 4_096, 0, 0, NO_TABLE)
    assert header_fault(header, 0, 7, 4_096) == ""
    with pytest.raises(ValueError, match="1048581 records"):
        encode_records([b""] * MANY, None, 0)


def test_many_empty_records_become_several_batches() -> None:
    disk = SimDisk()
    store = open_store(STORE, disk=disk)
    rows = store.append_many("t", [b""] * MANY)
    assert [row.last - row.first + 1 for row in rows] == [1 << 20, 5]


@pytest.mark.parametrize("how", ["lines", "a producer"])
def test_many_empty_lines_of_one_chunk_become_several_batches(how: str) -> None:
    store = open_store(STORE, disk=SimDisk())
    topic, _ = store.ensure_topic("t")
    options = FeedOptions(producer="p" if how == "a producer" else None)
    put: list[Appended] = []
    feed = Feed(store, topic, options, put.append, None)
    consume = feed._lines if how == "lines" else Intake(feed, topic).consume
    data = b"\n" * (MANY - 1) + b"no newline"
    assert consume(data, True, "input") >= len(data)
    feed.settle()
    assert [row.last - row.first + 1 for row in put] == [1 << 20, 5]
    assert [record.value for record in store.tail("t", 2, follow=False)] == [b"", b"no newline"]


# -- quarantine


def to_heal(**settings: object) -> SimDisk:
    """A poisoned partition with a batch that was not acknowledged, and zeros that were allocated ahead."""
    disk = plain_topic(**settings)
    store = opened(disk)
    store.append("t", b"one")
    store.append("t", b"two")
    assert writer_of(store).record.zeros_end > 60_000
    poisoned_by(disk, store)
    disk.kill()
    return disk.process()


def kept(disk: SimDisk) -> list[bytes | None]:
    return [content for path, content in disk.tree().items() if path.startswith(f"{STORE}/quarantine/")]


def test_a_heal_goes_on_when_another_makes_the_quarantine_directory_first() -> None:
    disk = to_heal()
    other = disk.process()

    def first(call: str) -> None:
        if call == "mkdir":
            disk.before_call = None
            other.mkdir(f"{STORE}/quarantine")

    disk.before_call = first
    store = opened(disk)
    assert len(kept(disk)) == 1 and f"{STORE}/quarantine" in other.tree()
    assert values(store) == [b"before", b"one", b"two"]


def test_the_zeros_ahead_of_a_log_are_not_copied_to_quarantine() -> None:
    disk = to_heal()
    opened(disk)
    (copy,) = kept(disk)
    assert copy is not None and b"lost" in copy and len(copy) <= 8_192


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EMFILE, errno.EIO])
def test_the_reserve_is_given_up_for_room_and_for_nothing_else(number: int) -> None:
    disk = to_heal()
    with open_store(STORE, disk=disk) as store:
        topic = store.topic("t")
        commit = newest_commit(disk.tree()[f"{PARTITION}/commit"] or b"", fold(topic.topic_id))
        assert commit is not None
        fault = disk.fail("pwrite", error=number, name=f"t.0.{0:020d}.{commit.durable_position}")
        full = number in (errno.ENOSPC, errno.EDQUOT)
        if full:
            store.partition_writer(topic, 0)
        else:
            with pytest.raises(errors.IOFailed):
                store.partition_writer(topic, 0)
        assert fault.hits == 1
        assert (f"{STORE}/reserve" in disk.tree()) != full
        assert len(kept(disk)) == full


# -- bodies that are not columns


@pytest.mark.parametrize("kind", [1, 6, 9])
def test_a_body_of_an_unknown_kind_is_not_read_as_columns(kind: int) -> None:
    store = open_store(STORE, disk=SimDisk())
    store.append("t", b"known")
    batch = encode_records((b"hello",), None, 0)
    batch.kind_codec = kind << 4
    writer_of(store).append(batch)
    output = os.memfd_create("output")
    try:
        (damage,) = emit(store, "t", fd=output).damage
        assert damage.why == f"a body of unknown kind {kind}"
        assert os.pread(output, 100, 0) == b"known\n"
    finally:
        os.close(output)
    with pytest.raises(errors.Damaged, match="unknown kind"):
        list(store.read("t"))


def test_a_plain_body_of_another_length_than_the_header_says_is_refused() -> None:
    batch = encode_records((b"hello",), None, 0)
    batch.plain_length -= 1
    header = parse_header(batch.seal(0, 0, 1, 7, 4_096, 0, 0, NO_TABLE))
    with pytest.raises(BadBody, match="length"):
        Columns(header, b"".join(batch.parts))


# -- threads of one store


def test_a_partition_whose_lock_does_not_come_stops_no_append_to_another() -> None:
    disk = SimDisk()
    store = open_store(STORE, disk=disk)
    for name in ("stuck", "open", "closed"):
        store.append(name, b"x")
    store.close_writers("stuck")
    store.close_writers("closed")
    other = disk.process()
    held = other.open("lock", WRITE, other.open_dir(f"{STORE}/topics/stuck/0"))
    other.lock(held)
    done: list[str] = []

    def append(name: str) -> None:
        store.append(name, b"y")
        done.append(name)

    def meanwhile() -> None:
        disk.when_blocked = None
        for name in ("open", "closed"):
            thread = threading.Thread(target=append, args=[name], daemon=True)
            thread.start()
            thread.join(5)
        other.close(held)

    disk.when_blocked = meanwhile
    store.append("stuck", b"y")
    assert done == ["open", "closed"]


@pytest.mark.parametrize("end", ["closed", "opened by another thread"])
def test_what_happens_to_a_store_while_it_opens_a_partition_leaks_nothing(end: str) -> None:
    disk = plain_topic()
    before = descriptors(disk)
    store = open_store(STORE, disk=disk)

    def meanwhile(call: str) -> None:
        if call == "lock":
            disk.before_call = None
            if end == "closed":
                store._closed = True
            else:
                store.close_writers("t")  # as a rename does: the next thread need not wait for this one
                writer_of(store)

    disk.before_call = meanwhile
    if end == "closed":
        with pytest.raises(errors.Closed):
            writer_of(store)
        store._closed = False
    else:
        assert writer_of(store) is writer_of(store)
    store.close()
    assert descriptors(disk) == before


# -- the index of a log that grows fast


def test_a_batch_costs_the_index_one_open_and_one_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pspf.store.many.BATCH_BYTES", 960 << 10)
    disk = SimDisk()
    store = open_store(STORE, disk=disk)
    store.append("t", b"x")
    store.append_many("t", [b"x" * 1_000] * 1_100)
    disk.trace = []
    rows = store.append_many("t", [b"x" * 1_000] * 10_000)
    index = [line.split()[0] for line in disk.trace if line.endswith(".index")]
    assert index == ["open", "pread", "pwrite", "close"] * len(rows)
    assert not [line for line in disk.trace if line.startswith(("open ", "pread ")) and line.endswith(".log")]


def test_entries_of_one_batch_after_the_other_share_an_open() -> None:
    store = open_store(STORE, disk=SimDisk())
    store.append("t", b"x")
    files = writer_of(store).files
    disk = files.disk
    assert isinstance(disk, SimDisk)
    disk.trace = []
    segment = Segment(0, 0, None, 1)
    note_batches(files, [(segment, 4_096 + n * (256 << 10), n, n, n) for n in range(4)])
    assert [line.split()[0] for line in disk.trace].count("open") == 1
    assert [entry.max_before for entry in read_index(files, segment)] == [-(1 << 63), 1, 2, 3]
