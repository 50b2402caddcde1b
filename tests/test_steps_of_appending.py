"""Each step of an append that keeps a record safe, alone: what goes wrong without it, on the simulated disk.

The sweeps of `test_crash_states.py` find most missing steps by themselves; these are the tests of those that
need two or three processes in one exact order. The mutation gate names them.
"""

import errno
from collections.abc import Callable
from random import Random

import pytest

from pspf import errors
from pspf.disk.real import WRITE
from pspf.format.encode import encode_records
from pspf.format.slots import FLAG_POISONED
from pspf.log.adopt import adopt
from pspf.log.others import end_now
from pspf.log.roll import roll
from pspf.log.writer import PartitionWriter
from pspf.model import TopicConfig
from pspf.store.open import open_store
from pspf.store.store import Store
from pspf.testing import Killed, SimDisk, WouldDeadlock
from pspf.testing.ledger import Ledger, read_all
from pspf.testing.scenarios import STORE
from tests.test_crash_states import after_power_cuts, ended, one_record, same_every_time

PARTITION = f"{STORE}/topics/t/0"
SEGMENT = f"{PARTITION}/{0:020d}.log"


@pytest.fixture(autouse=True)
def _same_every_time(monkeypatch: pytest.MonkeyPatch) -> None:
    same_every_time(monkeypatch)


def opened(disk: SimDisk) -> Store:
    """A store whose writer is open: it holds presence."""
    store = open_store(STORE, disk=disk)
    writer_of(store)
    return store


def writer_of(store: Store) -> PartitionWriter:
    return store.partition_writer(store.topic("t"), 0)


def write(writer: PartitionWriter, value: bytes) -> int:
    """Written, not synced and not acknowledged."""
    return writer.write(encode_records([value], None, 1, None, False)).end


def roll_by(store: Store) -> None:
    """A new segment, as an append that does not fit makes it."""
    writer = writer_of(store)
    end_now(writer)
    writer.files.disk.lock(writer.files.lock_fd)
    try:
        roll(writer)
    finally:
        writer.files.disk.unlock(writer.files.lock_fd)


def values(store: Store) -> list[bytes | None]:
    return [value for _, value in read_all(store, "t", 1)[0]]


def plain_topic(**settings: object) -> SimDisk:
    disk = SimDisk()
    with open_store(STORE, disk=disk) as store:
        store.create_topic("t", TopicConfig(**settings))  # type: ignore[arg-type]
        store.append("t", b"before")
    disk.sync_all()
    return disk


def poisoned_by(disk: SimDisk, store: Store, lies: str = "clean", durability: "str | None" = None) -> None:
    disk.fail("fdatasync", lies=lies)
    with pytest.raises(errors.Poisoned):
        store.append("t", b"lost", durability=durability)


# -- locks: each of these must wait for who holds the append lock


def _sync(store: Store) -> None:
    writer = writer_of(store)
    writer.durability = "os"
    store.append("t", b"x")


LOCKED: dict[str, Callable[[Store], object]] = {
    "an append": lambda store: write(writer_of(store), b"x"),
    "a look at the end": lambda store: end_now(writer_of(store)),
    "an open": lambda store: open_store(STORE, disk=store.disk.process()).append("t", b"x"),  # type: ignore[attr-defined]
    "a poisoning": lambda store: writer_of(store).poison(),
    "a repair": lambda store: store.repair("t", 0),
    "the deletion of a topic": lambda store: store.delete_topic("t"),
}


def held(disk: SimDisk) -> None:
    """Another process holds the append lock."""
    other = disk.process()
    other.lock(other.open("lock", WRITE, other.open_dir(PARTITION)))


@pytest.mark.parametrize("what", LOCKED)
def test_it_waits_for_the_append_lock(what: str) -> None:
    disk, _ = one_record()
    store = opened(disk)
    held(disk)
    with pytest.raises(WouldDeadlock):
        LOCKED[what](store)


def test_publishing_waits_for_the_append_lock() -> None:
    disk, _ = one_record()
    store = opened(disk)
    end = write(writer_of(store), b"x")
    held(disk)
    with pytest.raises(WouldDeadlock):
        writer_of(store).sync(end)


def test_a_close_that_gives_zeros_back_waits_for_the_append_lock() -> None:
    disk, _ = one_record()
    store = opened(disk)
    store.append("t", b"1")
    store.append("t", b"2")
    assert writer_of(store).record.zeros_end
    held(disk)
    with pytest.raises(WouldDeadlock):
        store.close()


def test_a_reader_does_not_wait_for_the_append_lock_and_reads_up_to_the_published_end() -> None:
    disk, ledger = one_record()
    before = values(open_store(STORE, disk=disk.process(), read_only=True))
    ended(disk, ledger, "pwrite", ".log")
    held(disk)
    left = disk.tree()
    with open_store(STORE, disk=disk.process()) as store:
        assert values(store) == before
    assert disk.tree() == left


def test_a_reader_leaves_to_a_living_writer_what_is_behind_the_published_end() -> None:
    disk, _ = one_record()
    before = values(open_store(STORE, disk=disk.process(), read_only=True))
    write(writer_of(opened(disk)), b"x")
    left = disk.tree()
    with open_store(STORE, disk=disk.process()) as store:
        assert values(store) == before
    assert disk.tree() == left


@pytest.mark.parametrize("what", ["create", "alter", "alter from", "rename", "delete"])
def test_changes_of_names_wait_for_each_other(what: str, tmp_path: "object") -> None:
    disk, _ = one_record()
    store = open_store(STORE, disk=disk)
    other = disk.process()
    other.lock(other.open_dir(f"{STORE}/topics"))
    with pytest.raises(WouldDeadlock):
        if what == "create":
            store.create_topic("u")
        elif what == "alter":
            store.alter_topic("t", interval_ms=5)
        elif what == "alter from":
            path = f"{tmp_path}/topic.toml"
            with open(path, "wb") as file:
                file.write(disk.tree()[f"{STORE}/topics/t/topic.toml"] or b"")
            store.alter_topic_from("t", path)
        elif what == "rename":
            store.rename_topic("t", "u")
        else:
            store.delete_topic("t")


def test_making_a_store_waits_for_who_makes_it() -> None:
    disk = SimDisk()
    disk.mkdir("/store")
    other = disk.process()
    other.lock(other.open_dir(STORE))
    with pytest.raises(WouldDeadlock):
        open_store(STORE, disk=disk)


class Mutex:
    """A lock of threads that knows whether it is held."""

    def __init__(self) -> None:
        self.held = 0

    def __enter__(self) -> None:
        assert not self.held, "it is not re-entrant"
        self.held += 1

    def __exit__(self, *_: object) -> None:
        self.held -= 1


def test_threads_of_a_handle_exclude_each_other_in_writes_and_syncs() -> None:
    disk, _ = one_record()
    store = opened(disk)
    writer = writer_of(store)
    mutex, sync_mutex = Mutex(), Mutex()
    writer.mutex, writer._sync_mutex = mutex, sync_mutex  # type: ignore[assignment]
    calls: dict[str, list[tuple[int, int]]] = {}

    def note(call: str) -> None:
        calls.setdefault(call, []).append((mutex.held, sync_mutex.held))

    disk.before_call = note
    write(writer, b"x")
    assert {held for held, _ in calls["pwrite"]} == {1}
    calls.clear()
    writer.sync(writer.next_offset)
    # Outside the mutex, so that other threads append meanwhile; but only one syncs.
    assert calls["fdatasync"] == [(0, 1)]
    assert {held for held, _ in calls["pwrite"]} == {1}


def test_a_segment_that_is_left_while_it_is_synced_stays_open_until_then() -> None:
    disk = plain_topic()
    store = opened(disk)
    writer = writer_of(store)
    end = write(writer, b"x")

    def another_thread_rolls(call: str) -> None:
        if call == "fdatasync":
            disk.before_call = None
            roll_by(store)

    disk.before_call = another_thread_rolls
    writer.sync(end)
    store.append("t", b"y")
    assert values(store) == [b"before", b"x", b"y"]


# -- flags: what a handle learns of the failures of others, before it writes anything


def test_a_partition_that_was_deleted_meanwhile_is_not_opened() -> None:
    disk, _ = one_record()
    store = open_store(STORE, disk=disk)
    topic = store.topic("t")
    other = disk.process()
    killed = open_store(STORE, disk=other)
    other.stop_behind("pwrite", "commit")
    with pytest.raises(Killed):
        killed.delete_topic("t")
    with pytest.raises(errors.TopicDeleted):
        store.partition_writer(topic, 0)


def test_a_write_after_the_topic_was_deleted_is_refused() -> None:
    disk, _ = one_record()
    store = opened(disk)
    writer = writer_of(store)
    with open_store(STORE, disk=disk.process()) as other:
        other.delete_topic("t")
    with pytest.raises(errors.TopicDeleted):
        write(writer, b"x")


def test_nothing_is_acknowledged_in_a_topic_that_was_deleted_before_the_sync() -> None:
    disk, _ = one_record()
    store = opened(disk)
    writer = writer_of(store)
    end = write(writer, b"x")
    with open_store(STORE, disk=disk.process()) as other:
        other.delete_topic("t")
    with pytest.raises(errors.TopicDeleted):
        writer.sync(end)


def test_a_write_after_another_process_poisoned_is_refused_before_anything_is_written() -> None:
    disk, _ = one_record()
    store, failing = opened(disk.process()), opened(disk)
    poisoned_by(disk, failing)
    before = disk.tree()
    with pytest.raises(errors.Poisoned):
        write(writer_of(store), b"x")
    assert disk.tree() == before


def test_a_poisoned_handle_stays_so_though_the_partition_is_healed() -> None:
    disk, _ = one_record()
    failing = opened(disk)
    writer = writer_of(failing)
    poisoned_by(disk, failing)
    assert writer.broken
    with opened(disk.process()) as healer:
        healer.append("t", b"healed")
    for _ in range(2):
        with pytest.raises(errors.Poisoned):
            write(writer, b"x")
    with pytest.raises(errors.Poisoned):
        writer.sync(writer.next_offset + 1)


def test_who_opens_after_a_death_between_the_two_flags_heals() -> None:
    # The flag is in `lock`, not yet in `commit`; a process is alive, so nobody may trust the cache alone.
    disk, ledger = one_record()
    alive, failing = opened(disk.process()), opened(disk)
    disk.fail("fdatasync", lies="clean")
    disk.stop_behind("pwrite", "lock", 1)
    with pytest.raises(Killed):
        ledger.append(failing, "ended")
    newcomer, another = opened(disk.process()), opened(disk.process())
    for number in range(2):
        ledger.append(newcomer, "newcomer")
        ledger.append(another, f"another{number}")
    with pytest.raises(errors.Poisoned):
        write(writer_of(alive), b"x")
    after_power_cuts(newcomer.disk, ledger, 30)  # type: ignore[arg-type]


def test_who_opens_after_a_death_in_a_heal_looks_for_the_end() -> None:
    # `commit` is healed already, and `lock` still names the end of the old segment.
    disk, ledger = one_record()
    poisoned = opened(disk.process())
    failing = opened(disk)
    poisoned_by(disk, failing)
    healing = disk.process()
    store = open_store(STORE, disk=healing)
    healing.stop_behind("pwrite", "commit")
    with pytest.raises(Killed):
        writer_of(store)
    newcomer = opened(disk.process())
    ledger.append(newcomer, "newcomer")
    ledger.check(read_all(newcomer, "t", 1))
    after_power_cuts(newcomer.disk, ledger, 30)  # type: ignore[arg-type]
    assert writer_of(poisoned).generation != writer_of(newcomer).generation


def rolling_death(disk: SimDisk, call: str, name: str) -> None:
    """A process that rolls is ended there."""
    store = opened(disk)
    disk.stop_behind(call, name)
    with pytest.raises(Killed):
        roll_by(store)


@pytest.mark.parametrize("call, name", [("pwrite", "lock"), ("rename", ".log"), ("pwrite", "roll.tmp")])
def test_who_opens_after_a_death_in_a_roll_looks_for_the_successor(call: str, name: str) -> None:
    disk, ledger = one_record()
    alive = opened(disk.process())
    rolling_death(disk, call, name)
    newcomer = opened(disk.process())
    ledger.append(newcomer, "newcomer")
    ledger.append(alive, "alive")
    ledger.append(newcomer, "newcomer")
    ledger.check(read_all(alive, "t", 1))
    after_power_cuts(newcomer.disk, ledger, 30)  # type: ignore[arg-type]


def test_who_lives_on_after_a_death_in_a_roll_looks_for_the_successor() -> None:
    disk, ledger = one_record()
    alive = opened(disk.process())
    rolling_death(disk, "rename", ".log")
    ledger.append(alive, "alive")
    with opened(disk.process()) as newcomer:
        ledger.append(newcomer, "newcomer")
        ledger.check(read_all(newcomer, "t", 1))
    after_power_cuts(alive.disk, ledger, 30)  # type: ignore[arg-type]


def test_a_handle_of_an_older_generation_stops_though_lock_is_damaged() -> None:
    disk, _ = one_record()
    alive, failing = opened(disk.process()), opened(disk)
    writer = writer_of(alive)
    poisoned_by(disk, failing)
    with opened(disk.process()) as healer:
        healer.append("t", b"healed")
        fd = healer.disk.open("lock", WRITE, healer.disk.open_dir(PARTITION))
        healer.disk.pwrite(fd, bytes(64), 0)
        with pytest.raises(errors.Poisoned):
            write(writer, b"x")


@pytest.mark.parametrize("durability", ["sync", "os"])
def test_a_handle_of_the_generation_before_writes_nothing_into_a_replaced_segment(durability: str) -> None:
    # The healed segment is empty, so the new one has its name: only the generation tells them apart.
    disk = SimDisk()
    with open_store(STORE, disk=disk) as store:
        store.create_topic("t", TopicConfig(durability=durability))
        writer_of(store)
    disk.sync_all()
    alive, failing = opened(disk.process()), opened(disk)
    disk.fail("fdatasync", lies="clean")
    with pytest.raises(errors.Poisoned):
        failing.append("t", b"lost", durability="sync")
    failing.close()
    healer = opened(disk.process())
    healer.append("t", b"healed")
    before = disk.tree()[f"{PARTITION}/lock"]
    with pytest.raises(errors.Poisoned):
        write(writer_of(alive), b"x")
    assert disk.tree()[f"{PARTITION}/lock"] == before
    healer.append("t", b"again")
    assert values(healer) == [b"healed", b"again"]


@pytest.mark.parametrize("healed", [False, True])
def test_nothing_is_acknowledged_by_a_handle_whose_partition_was_poisoned_meanwhile(healed: bool) -> None:
    disk, _ = one_record()
    store, failing = opened(disk.process()), opened(disk)
    writer = writer_of(store)
    end = write(writer, b"x")
    poisoned_by(disk, failing, lies="")  # the descriptor of the other one is not told
    if healed:
        opened(disk.process())
    with pytest.raises(errors.Poisoned):
        writer.sync(end)


def test_a_failed_sync_of_an_older_generation_poisons_nobody_else() -> None:
    disk, _ = one_record()
    store, failing = opened(disk.process()), opened(disk)
    writer = writer_of(store)
    end = write(writer, b"x")
    poisoned_by(disk, failing)
    healer = opened(disk.process())
    later = write(writer_of(healer), b"healed")
    store.disk.fail("fdatasync", lies="clean")  # type: ignore[attr-defined]
    with pytest.raises(errors.Poisoned):
        writer.sync(end)
    write(writer_of(healer), b"again")
    writer_of(healer).sync(later)
    assert b"healed" in values(healer)


@pytest.mark.parametrize("flag", [False, True])
def test_a_failed_sync_is_never_published_whatever_becomes_of_the_flags(flag: bool) -> None:
    disk, ledger = one_record()
    store = opened(disk)
    disk.fail("fdatasync", lies="clean")
    real = disk.pwrite
    if flag:

        def refused(fd: int, data: "bytes | memoryview", position: int) -> None:
            if len(data) == 64 and disk.counts.get("fdatasync", 0) > syncs:
                disk.pwrite = real  # type: ignore[method-assign]
                raise OSError(errno.EIO, "injected")
            real(fd, data, position)

        syncs = disk.counts.get("fdatasync", 0)
        disk.fail("pwrite", 2, name="lock")
    with pytest.raises(errors.Error):
        ledger.append(store)
    writer = next(iter(store._writers.values()))
    assert writer.poisoned
    after_power_cuts(disk, ledger, 30)


def test_a_handle_is_dead_after_a_failed_sync_though_the_lock_cannot_be_had() -> None:
    disk, _ = one_record()
    store = opened(disk)
    writer = writer_of(store)
    end = write(writer, b"x")
    disk.fail("fdatasync", lies="clean")
    disk.fail("lock", error=errno.ENOLCK)
    with pytest.raises(errors.Poisoned):
        writer.sync(end)
    with pytest.raises(errors.Poisoned):
        writer.sync(end)


def test_a_handle_is_dead_after_a_roll_that_poisoned() -> None:
    disk, _ = one_record()
    store = opened(disk)
    writer = writer_of(store)
    disk.fail("fdatasync", name=".log")
    with pytest.raises(errors.Poisoned):
        roll_by(store)
    assert writer.broken


@pytest.mark.parametrize(
    "call, name, index", [("fdatasync", ".log", 0), ("fsync", "0", 0), ("fdatasync", "commit", 0)]
)
def test_a_roll_whose_sync_fails_stops_everybody(call: str, name: str, index: int) -> None:
    disk, _ = one_record()
    alive, rolling = opened(disk.process()), opened(disk)
    disk.fail(call, index, lies="clean", name=name)
    with pytest.raises(errors.Poisoned):
        roll_by(rolling)
    with pytest.raises(errors.Poisoned):
        write(writer_of(alive), b"x")
    flags = int.from_bytes((disk.tree()[f"{PARTITION}/lock"] or b"")[4:8], "little")
    assert flags & FLAG_POISONED


# -- order: what a death between two writes leaves


def test_a_death_inside_a_write_leaves_no_hole_for_who_lives_on() -> None:
    for changes in range(1, 4):
        disk, ledger = one_record()
        alive, dying = opened(disk.process()), opened(disk)
        disk.stop_after(changes)
        with pytest.raises(Killed):
            ledger.append(dying, "ended")
        ledger.append(alive, "alive")
        ledger.check(read_all(alive, "t", 1))
        after_power_cuts(alive.disk, ledger, 10)  # type: ignore[arg-type]


def test_a_batch_whose_end_could_not_be_recorded_is_no_batch() -> None:
    disk, ledger = one_record()
    store = opened(disk)
    disk.fail("pwrite", name="lock")
    with pytest.raises(errors.IOFailed):
        ledger.append(store, "refused")
    disk.kill()
    with opened(disk.process()) as newcomer:
        found = read_all(newcomer, "t", 1)
        ledger.check(found)
        assert len(found[0]) == 1


def test_a_batch_whose_end_could_not_be_recorded_is_not_brought_back_by_a_power_cut() -> None:
    disk, _ = one_record()
    store = opened(disk)
    disk.fail("pwrite", name="lock")
    with pytest.raises(errors.IOFailed):
        store.append("t", b"refused")
    for model in ("strict", "ordered"):
        for state in disk.crash_states(1, 30, model):
            with open_store(STORE, disk=state) as again:
                writer_of(again)
                assert b"refused" not in values(again), state.story


def test_a_record_of_the_end_that_got_through_though_its_write_failed_is_taken_back() -> None:
    disk, ledger = one_record()
    alive, store = opened(disk.process()), opened(disk)
    disk.fail("pwrite", name="lock", short=64)
    with pytest.raises(errors.IOFailed):
        ledger.append(store, "refused")
    ledger.append(alive, "alive")
    ledger.append(store, "after")
    ledger.check(read_all(alive, "t", 1))


def test_an_interrupt_inside_an_append_leaves_a_handle_that_goes_on() -> None:
    disk, _ = one_record()
    store = opened(disk)
    writer = writer_of(store)
    # Behind the batch, before the record of its end.
    count = iter((False, True))

    def interrupt(call: str) -> None:
        if call == "pwrite" and next(count):
            disk.before_call = None
            raise KeyboardInterrupt

    disk.before_call = interrupt
    with pytest.raises(KeyboardInterrupt):
        write(writer, b"interrupted")
    store.append("t", b"after")
    assert values(store)[-1] == b"after" and len(values(store)) == 2


def test_a_write_that_found_no_room_gives_its_blocks_back() -> None:
    disk, _ = one_record()
    store = opened(disk)
    before = len(disk.tree()[SEGMENT] or b"")
    disk.fail("pwrite", error=errno.ENOSPC, short=5_000, name=".log")
    with pytest.raises(errors.IOFailed):
        store.append("t", bytes(20_000))
    assert len(disk.tree()[SEGMENT] or b"") == before


# -- publishing


def test_the_durable_end_never_goes_back() -> None:
    disk, _ = one_record()
    first, second = (opened(each) for each in (disk, disk.process()))
    early = write(writer_of(first), b"early")
    late = write(writer_of(second), b"late")
    writer_of(second).sync(late)
    writer_of(first).sync(early)
    commit = writer_of(first).files.read_commit()
    assert commit is not None and commit.durable_offset == late
    assert len(values(first)) == 3


def test_the_visible_end_never_goes_back() -> None:
    disk = plain_topic(durability="os")
    first, second = (opened(each) for each in (disk, disk.process()))
    early = write(writer_of(first), b"early")
    write(writer_of(second), b"late")
    assert len(values(first)) == 3
    writer_of(first).sync(early)
    assert len(values(first)) == 3


def survivors(disk: SimDisk) -> list[list[bytes | None]]:
    """What is there after power cuts, the most pessimistic one first."""
    found = []
    for state in disk.crash_states(1, 10):
        with open_store(STORE, create=False, disk=state) as store:
            writer_of(store)
            found.append(values(store))
    return found


def test_unsynced_bytes_are_bounded_in_every_level(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pspf.log.writer.UNSYNCED_LIMIT", 10_000)
    disk = plain_topic(durability="os")
    store = opened(disk)
    for _ in range(3):
        store.append("t", bytes(6_000))
    assert min(map(len, survivors(disk))) >= 3


def test_an_append_behind_the_interval_syncs_for_all() -> None:
    disk = plain_topic(durability="interval", interval_ms=100)
    store, other = opened(disk), opened(disk.process())
    other.append("t", b"early")
    disk.advance(200_000_000)
    store.append("t", b"late")
    assert min(map(len, survivors(disk))) == 3


def test_who_appends_with_an_interval_sees_to_it_that_it_is_synced(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[object] = []
    monkeypatch.setattr("pspf.log.timer.start_timer", started.append)
    disk = plain_topic(durability="interval")
    store = opened(disk)
    store.append("t", b"1")
    store.append("t", b"2")
    assert started[1:] == [writer_of(store)]


def test_a_close_makes_everything_durable() -> None:
    disk = plain_topic(durability="os")
    with opened(disk) as store:
        store.append("t", b"x")
    assert all(found == [b"before", b"x"] for found in survivors(disk))


def test_what_recovery_reads_after_a_power_cut_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pspf.log.writer.COMMIT_SYNC_BYTES", 50_000)
    disk = plain_topic()
    store = opened(disk)
    for _ in range(20):
        store.append("t", bytes(6_000))
    state = next(disk.crash_states(1, 1))
    reopened = open_store(STORE, disk=state)
    before = writer_of(reopened).report
    assert before is not None and before.adopted < 70_000


def test_what_the_next_open_reads_after_a_close_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pspf.log.writer.CLOSE_SYNC_BYTES", 5_000)
    disk = plain_topic()
    with opened(disk) as store:
        for _ in range(4):
            store.append("t", bytes(2_000))
    state = next(disk.crash_states(1, 1))
    reopened = open_store(STORE, disk=state)
    report = writer_of(reopened).report
    assert report is None or report.adopted == 0


# -- closing beside others


def test_who_closes_gives_no_zeros_back_while_others_write() -> None:
    disk, _ = one_record()
    first, second = (opened(each) for each in (disk, disk.process()))
    for store in (first, second, first):
        store.append("t", b"x")
    size = len(disk.tree()[SEGMENT] or b"")
    first.close()
    assert len(disk.tree()[SEGMENT] or b"") == size


def test_who_closes_behind_a_roll_of_another_cuts_nothing() -> None:
    disk, ledger = one_record()
    first, second = (opened(each) for each in (disk, disk.process()))
    for _ in range(3):
        ledger.append(first, "first", size=3_000)
    roll_by(second)
    ledger.append(second, "second")
    second.disk.kill()  # type: ignore[attr-defined]
    first.close()
    with opened(disk.process()) as store:
        ledger.check(read_all(store, "t", 1))


# -- adopting: bytes of others are read back from the medium


class Liar(SimDisk):
    """A disk that keeps nothing of what is written to it, and says it does."""

    lying = False

    def read_stable(self, fd: int, name: str, dir_fd: int, length: int, position: int) -> bytes:
        real = super().read_stable(fd, name, dir_fd, length, position)
        return bytes(length) if Liar.lying else real


@pytest.mark.parametrize("raises", [False, True])
def test_a_newcomer_whose_read_back_fails_poisons_for_everybody(
    raises: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = Liar()
    with open_store(STORE, disk=disk) as store:
        store.create_topic("t")
        store.append("t", b"before")
    disk.sync_all()
    alive, store = opened(disk.process()), opened(disk)
    write(writer_of(store), b"unsynced")
    newcomer = open_store(STORE, disk=disk.process())
    monkeypatch.setattr(Liar, "lying", not raises)
    if raises:
        newcomer.disk.fail("fdatasync", name=".log")  # type: ignore[attr-defined]
    with pytest.raises(errors.Poisoned):
        writer_of(newcomer)
    monkeypatch.setattr(Liar, "lying", False)
    with pytest.raises(errors.Poisoned):
        write(writer_of(alive), b"x")


def test_what_the_medium_lost_is_written_again() -> None:
    disk, ledger = one_record()
    alive, dying = opened(disk.process()), opened(disk)
    fault = disk.fail("fdatasync", lies="clean")
    disk.before_call = lambda call: disk.kill() if fault.hits else None
    with pytest.raises(Killed):
        ledger.append(dying, "ended")
    newcomer = opened(disk.process())  # does not fail: the disk keeps the second write
    found = read_all(newcomer, "t", 1)
    assert len(found[0]) == 2
    ledger.saw(found)
    after_power_cuts(newcomer.disk, ledger, 30)  # type: ignore[arg-type]
    assert alive.disk is not newcomer.disk


def test_adopted_bytes_are_synced_not_only_read() -> None:
    disk = SimDisk()
    fd = disk.open("/00000000000000000000.log", 0o100 | WRITE, disk.open_dir("/"))
    disk.sync_all()
    disk.pwrite(fd, b"x" * 5_000, 0)
    from pspf.log.files import Segment

    segment = Segment(fd, 0, None, 1)
    assert adopt(disk, disk.open_dir("/"), segment, 0, 5_000)
    for state in disk.crash_states(1, 5):
        assert state.tree()["/00000000000000000000.log"] == b"x" * 5_000


def test_who_follows_into_a_new_segment_adopts_what_nobody_synced_there() -> None:
    disk, ledger = one_record()
    alive, rolling = opened(disk.process()), opened(disk)
    roll_by(rolling)
    fault = disk.fail("fdatasync", lies="clean")
    disk.before_call = lambda call: disk.kill() if fault.hits else None
    with pytest.raises(Killed):
        ledger.append(rolling, "ended", size=9_000)  # more than the page that the next one shares
    ledger.append(alive, "alive")
    ledger.saw(read_all(alive, "t", 1))
    after_power_cuts(alive.disk, ledger, 60)  # type: ignore[arg-type]


# -- an aborted journal: syncs succeed and write nothing, and an overwrite in place succeeds as well


def journal_aborted_at_the_next_sync(disk: SimDisk) -> None:
    disk.fail("fdatasync", error=errno.EROFS, lies="aborted")


def nothing_is_shown(disk: SimDisk, unsynced: bytes) -> None:
    """No reader sees what the next power cut takes."""
    with open_store(STORE, create=False, read_only=True, disk=disk.process()) as reader:
        assert unsynced not in values(reader)


def test_an_append_whose_sync_did_nothing_is_not_acknowledged() -> None:
    disk, _ = one_record()
    store = opened(disk)
    for value in (b"1", b"2"):
        store.append("t", value)  # zeros are ahead: what comes next changes no size
    journal_aborted_at_the_next_sync(disk)
    with pytest.raises(errors.OutcomeUnknown):
        store.append("t", b"lost")
    nothing_is_shown(disk, b"lost")


def test_a_newcomer_whose_sync_did_nothing_publishes_nothing() -> None:
    disk, _ = one_record()
    alive = opened(disk.process())
    for value in (b"1", b"2"):
        alive.append("t", value)
    write(writer_of(alive), b"lost")
    newcomer = open_store(STORE, disk=disk)
    journal_aborted_at_the_next_sync(disk)
    with pytest.raises(errors.IOFailed):
        writer_of(newcomer)
    nothing_is_shown(disk, b"lost")


def test_a_recovery_whose_sync_did_nothing_publishes_nothing() -> None:
    disk, _ = one_record()
    dying = opened(disk.process())
    for value in (b"1", b"2"):
        dying.append("t", value)
    write(writer_of(dying), b"lost")
    dying.disk.kill()  # type: ignore[attr-defined]
    newcomer = open_store(STORE, disk=disk)
    journal_aborted_at_the_next_sync(disk)
    with pytest.raises(errors.IOFailed):
        writer_of(newcomer)
    nothing_is_shown(disk, b"lost")


def test_a_roll_whose_sync_did_nothing_publishes_nothing() -> None:
    disk, _ = one_record()
    store = opened(disk)
    for value in (b"1", b"2"):
        store.append("t", value)
    write(writer_of(store), b"lost")
    journal_aborted_at_the_next_sync(disk)
    with pytest.raises(errors.IOFailed):
        roll_by(store)
    nothing_is_shown(disk, b"lost")


# -- the order in which a segment gets its name


def test_a_segment_that_could_not_be_made_leaves_nothing_on_a_full_disk() -> None:
    disk, _ = one_record()
    store = opened(disk)
    disk.fail("fsync", error=errno.ENOSPC, name="roll.tmp")
    with pytest.raises((errors.IOFailed, OSError)):
        roll_by(store)
    assert f"{PARTITION}/roll.tmp" not in disk.tree()
    store.append("t", b"after")


def test_random_orders_of_three_writers_and_a_failing_sync_lose_nothing() -> None:
    for seed in range(6):
        rng = Random(seed)
        disk, ledger = one_record()
        stores = [opened(disk.process()) for _ in range(3)]
        fault = disk.fail("fdatasync", rng.randrange(4), lies="clean", name=".log")
        for number in range(8):
            store = rng.choice(stores)
            try:
                ledger.append(store, f"w{number}")
            except errors.Error:
                pass
        assert fault.hits
        with opened(disk.process()) as newcomer:
            found = read_all(newcomer, "t", 1)
            ledger.check(found)
        after_power_cuts(disk, deep(ledger), 10)


def deep(ledger: Ledger) -> Ledger:
    from copy import deepcopy

    return deepcopy(ledger)
