"""Each step of recovery, healing, quarantine and repair, alone: what goes wrong without it.

As `test_steps_of_appending.py`, for what happens behind a stop. On the simulated disk.
"""

import errno
import os
from collections.abc import Callable, Iterator

import pytest

from pspf import errors
from pspf.disk.real import WRITE
from pspf.format.encode import encode_records
from pspf.format.slots import newest_commit
from pspf.log.quarantine import quarantine
from pspf.model import TopicConfig
from pspf.store.open import open_store
from pspf.store.store import Store
from pspf.testing import Killed, SimDisk
from pspf.testing.ledger import read_all
from pspf.testing.scenarios import STORE
from tests.test_crash_states import after_power_cuts, ended, one_record, same_every_time
from tests.test_steps_of_appending import (
    PARTITION,
    SEGMENT,
    opened,
    plain_topic,
    poisoned_by,
    values,
    writer_of,
)

TORN = b"\xaa" * 3_000


@pytest.fixture(autouse=True)
def _same_every_time(monkeypatch: pytest.MonkeyPatch) -> None:
    same_every_time(monkeypatch)


def overwrite(disk: SimDisk, path: str, position: int, data: bytes) -> None:
    """Bytes that somebody else put there, on the medium."""
    fd = disk.open(path, WRITE, disk.open_dir("/"))
    disk.pwrite(fd, data, position)
    disk.fsync(fd)
    disk.close(fd)


def all_states(disk: SimDisk, limit: int = 30) -> Iterator[SimDisk]:
    for model in ("strict", "ordered"):
        yield from disk.crash_states(1, limit, model)


def generation_of(disk: SimDisk) -> int:
    raw = disk.tree()[f"{PARTITION}/commit"] or b""
    commit = newest_commit(
        raw, int.from_bytes(raw[52:56], "little") or int.from_bytes(raw[564:568], "little")
    )
    assert commit is not None
    return commit.generation


# -- a torn end


def with_a_torn_end() -> SimDisk:
    disk, _ = one_record()
    size = len(disk.tree()[SEGMENT] or b"")
    overwrite(disk, SEGMENT, size, TORN)
    return disk


def end_of(disk: SimDisk) -> int:
    """Where the valid batches end."""
    return (disk.tree()[SEGMENT] or b"").index(TORN)


def quarantined(disk: SimDisk) -> list[bytes]:
    found = disk.tree()
    return [data for path, data in found.items() if path.startswith(f"{STORE}/quarantine/") and data]


def test_a_torn_end_is_cut_once_it_is_kept_whatever_happens_next() -> None:
    reached = 0
    for changes in range(40):
        disk = with_a_torn_end()
        store = open_store(STORE, disk=disk)
        disk.stop_after(changes)
        try:
            writer_of(store)
        except Killed:
            pass
        for state in all_states(disk, 10):
            log = state.tree()[SEGMENT] or b""
            if TORN in log:
                continue
            reached += 1
            assert TORN in quarantined(state), f"cut and not kept, change {changes}: {state.story}"
    assert reached > 10


def test_a_torn_end_is_out_of_the_log_before_anything_is_appended() -> None:
    disk = with_a_torn_end()
    with opened(disk) as store:
        assert TORN[:100] not in (disk.tree()[SEGMENT] or b"")
        store.append("t", b"after")


def test_without_room_to_keep_it_nothing_is_cut() -> None:
    disk = with_a_torn_end()
    disk.fail("pwrite", error=errno.ENOSPC, name=f".{end_of(disk)}", times=5)
    with pytest.raises(errors.IOFailed):
        opened(disk)
    assert TORN in (disk.tree()[SEGMENT] or b"")


def test_the_reserve_makes_room_for_what_is_cut_on_a_full_disk() -> None:
    disk = with_a_torn_end()
    disk.plant(f"{STORE}/reserve", bytes(4096))
    disk.fail("pwrite", error=errno.ENOSPC, name=f".{end_of(disk)}")
    with opened(disk) as store:
        assert quarantined(disk) == [TORN]
        assert f"{STORE}/reserve" not in disk.tree()
        store.append("t", b"after")


def test_the_first_quarantine_of_a_store_outlives_a_power_cut() -> None:
    disk = with_a_torn_end()
    opened(disk)
    for state in all_states(disk):
        assert quarantined(state) == [TORN], state.story


def test_what_is_kept_in_quarantine_is_synced_with_its_name() -> None:
    disk = SimDisk()
    with open_store(STORE, disk=disk) as store:
        store.create_topic("t")
        store.append("t", b"x" * 5_000)
        writer = writer_of(store)
        assert quarantine(writer.files, writer.end.segment, 0, 9_000)
    for state in all_states(disk, 60):
        assert len(quarantined(state)) == 1 and len(quarantined(state)[0]) == 9_000, state.story


# -- evidence


def test_a_log_shorter_than_what_commit_knows_is_never_taken_for_its_end() -> None:
    disk = plain_topic()
    with opened(disk) as store:
        for number in range(3):
            store.append("t", b"%d" % number)
    size = len(disk.tree()[SEGMENT] or b"")
    fd = disk.open(SEGMENT, WRITE, disk.open_dir("/"))
    disk.truncate(fd, size - 200)
    disk.fsync(fd)
    told: list[str] = []
    with open_store(STORE, disk=disk, tell=told.append) as store:
        end = store.append("t", b"after").first
        assert end == 4, "an offset that was acknowledged before is given again"
    assert any("damaged or missing" in line for line in told)


def test_a_stray_file_behind_a_torn_end_is_not_followed_for_its_name() -> None:
    disk = with_a_torn_end()
    disk.plant(f"{PARTITION}/{50:020d}.log", b"\xbb" * 5_000)
    with opened(disk) as store:
        assert store.append("t", b"after").first == 1


def test_a_segment_that_holds_nothing_but_its_name_and_was_damaged_is_kept_before_it_is_replaced() -> None:
    disk = SimDisk()
    with open_store(STORE, disk=disk) as store:
        store.create_topic("t")
        writer_of(store)
    disk.sync_all()
    overwrite(disk, SEGMENT, 0, b"\xcc" * 4096)
    with opened(disk) as store:
        store.append("t", b"x")
        assert any(b"\xcc" * 4096 in data for data in quarantined(disk))
        assert values(store) == [b"x"]


def test_a_successor_of_damage_is_looked_for_after_a_death_before_it_was_published() -> None:
    for changes in range(1, 40):
        disk = plain_topic()
        with opened(disk) as store:
            for number in range(3):
                store.append("t", b"%d" % number)
        disk.sync_all()
        size = len(disk.tree()[SEGMENT] or b"")
        overwrite(disk, SEGMENT, size - 60, b"\xff" * 8)
        store = open_store(STORE, disk=disk)
        disk.stop_after(changes)
        try:
            writer_of(store)
        except Killed:
            pass
        for state in all_states(disk, 8):
            with open_store(STORE, disk=state) as again:
                assert again.append("t", b"after").first == 4, f"change {changes}: {state.story}"


# -- visible records that a power cut took (durability `os`)


def lost_visible_records(size: int = 0) -> SimDisk:
    """`commit` reached the disk and names records that the log has not."""
    disk = plain_topic(durability="os")
    with opened(disk) as store:
        store.append("t", bytes(size))
    disk.sync_all()
    store = opened(disk)
    store.append("t", b"1")
    store.append("t", b"2")
    commit, log = f"{PARTITION}/commit", SEGMENT
    for state in disk.crash_states(1, 300, "strict"):
        if state.tree()[commit] == disk.tree()[commit] and state.tree()[log] != disk.tree()[log]:
            with open_store(STORE, disk=state.copy(), read_only=True) as check:
                try:
                    found = values(check)
                except errors.Damaged:
                    found = []
            if len(found) < 4:
                return state
    raise AssertionError("no such state")


@pytest.mark.parametrize("reader_first", [False, True])
def test_a_cut_of_visible_records_begins_a_new_epoch_that_stays(reader_first: bool) -> None:
    disk = lost_visible_records()
    before = generation_of(disk)
    if reader_first:
        with open_store(STORE, disk=disk) as store:
            values(store)
    store = opened(disk)
    assert generation_of(disk) > before, "who has read what is gone would not be told"
    store.append("t", b"after", durability="sync")
    assert writer_of(store).end.epoch == 1
    for state in all_states(disk, 30):
        told: list[str] = []
        with open_store(STORE, disk=state, tell=told.append) as again:
            assert values(again)[-1] == b"after"
            assert writer_of(again).end.epoch >= 1
        assert not [line for line in told if "damage" in line], (told, state.story)


def test_the_batch_of_a_new_epoch_is_durable_before_it_is_published() -> None:
    for changes in range(1, 30):
        disk = lost_visible_records()
        store = open_store(STORE, disk=disk)
        disk.stop_after(changes)
        try:
            writer_of(store)
        except Killed:
            pass
        for state in all_states(disk, 8):
            told: list[str] = []
            with open_store(STORE, disk=state, tell=told.append) as again:
                again.append("t", b"after", durability="sync")
                assert values(again)[-1] == b"after"
            assert not [line for line in told if "damage" in line], (changes, told, state.story)


def test_the_batch_of_a_new_epoch_is_vouched_for_by_who_wrote_it() -> None:
    # It crosses from one page into the next: an append behind it does not bring all of it back.
    for size in range(3_780, 3_980, 20):
        disk = lost_visible_records(size)
        fault = disk.fail("pwritev", lies="writeback", keep_size=True, name=".log")
        store = open_store(STORE, disk=disk)
        try:
            writer_of(store)
        except errors.IOFailed:
            continue
        assert fault.hits
        disk.kill()
        other = disk.process()
        with open_store(STORE, disk=other) as newcomer:
            newcomer.append("t", b"acknowledged", durability="sync")
        for state in all_states(other, 5):
            with open_store(STORE, disk=state) as again:
                assert values(again)[-1] == b"acknowledged", (size, state.story)


# -- a `commit` that cannot be read


def test_a_commit_that_was_derived_is_durable_before_anything_relies_on_it() -> None:
    disk = plain_topic()
    overwrite(disk, f"{PARTITION}/commit", 0, b"\xee" * 1024)
    store = opened(disk)
    store.append("t", b"acknowledged")
    writer_of(store).write(encode_records([b"x" * 5_000], None, 1, None, False))
    for state in all_states(disk, 60):
        with open_store(STORE, disk=state) as again:
            again.append("t", b"after")
            assert values(again)[1] == b"acknowledged"


def test_a_damaged_last_header_is_not_taken_for_the_end() -> None:
    disk = plain_topic()
    with opened(disk) as store:
        store.append("t", b"1")
    raw = disk.tree()[SEGMENT] or b""
    last = raw.rindex(raw[4096:4100])
    overwrite(disk, SEGMENT, last + 20, b"\xff" * 4)
    told: list[str] = []
    with open_store(STORE, disk=disk, tell=told.append) as store:
        assert store.append("t", b"after").first == 2
    assert any("damaged or missing" in line for line in told)


# -- healing


def test_what_a_failed_sync_left_unacknowledged_is_kept_by_the_heal() -> None:
    disk, _ = one_record()
    failing = opened(disk)
    poisoned_by(disk, failing, lies="")
    failing.close()
    with opened(disk.process()) as healer:
        healer.append("t", b"after")
    assert any(b"lost" in data for data in quarantined(disk))


def test_a_healed_partition_goes_on_though_the_header_of_its_new_segment_is_damaged() -> None:
    disk, ledger = one_record()
    failing = opened(disk)
    poisoned_by(disk, failing)
    failing.close()
    healing = disk.process()
    store = open_store(STORE, disk=healing)
    healing.stop_behind("rename", ".log")
    with pytest.raises(Killed):
        writer_of(store)
    overwrite(disk.process(), f"{PARTITION}/{1:020d}.log", 100, b"\xff" * 8)
    with open_store(STORE, disk=disk.process()) as newcomer:
        ledger.append(newcomer, "newcomer")
        ledger.append(newcomer, "newcomer")


def test_what_a_recovery_shows_outlives_a_power_cut() -> None:
    disk = plain_topic()
    dying = opened(disk)
    writer_of(dying).write(encode_records([b"x" * 9_000], None, 1, None, False))
    disk.kill()
    other = disk.process()
    store = opened(other)
    seen = values(store)
    assert len(seen) == 2
    for state in all_states(other, 20):
        with open_store(STORE, disk=state) as again:
            assert values(again) == seen, state.story


def test_a_heal_raises_the_generation_so_that_older_handles_end() -> None:
    disk, _ = one_record()
    failing = opened(disk)
    poisoned_by(disk, failing)
    before = generation_of(disk)
    opened(disk.process())
    assert generation_of(disk) > before


@pytest.mark.parametrize("call, name", [("rename", ".log"), ("pwrite", "commit")])
def test_a_heal_that_died_is_not_done_again_over_what_came_behind_it(call: str, name: str) -> None:
    disk, ledger = one_record()
    failing = opened(disk)
    poisoned_by(disk, failing)
    failing.close()
    healing = disk.process()
    store = open_store(STORE, disk=healing)
    healing.stop_behind(call, name)
    with pytest.raises(Killed):
        writer_of(store)
    newcomer = opened(disk.process())
    ledger.append(newcomer, "newcomer")
    after_power_cuts(newcomer.disk, ledger, 60)  # type: ignore[arg-type]


# -- readers


def test_a_reader_settles_nothing_while_a_writer_lives() -> None:
    disk, ledger = one_record()
    store = opened(disk)
    writer_of(store).write(encode_records([b"unsynced"], None, 1, None, False))
    before = disk.tree()
    with open_store(STORE, disk=disk.process()) as reader:
        assert len(values(reader)) == 1
    assert disk.tree() == before
    ledger.append(store)
    ended(disk, ledger, "pwrite", ".log")


def test_a_reader_does_not_settle_a_poisoned_partition() -> None:
    disk, _ = one_record()
    failing = opened(disk)
    poisoned_by(disk, failing)
    failing.close()
    before = disk.tree()
    with open_store(STORE, disk=disk.process()) as reader:
        assert len(values(reader)) == 1
    assert disk.tree() == before


def test_a_reader_that_looks_again_after_damage_takes_the_new_end(monkeypatch: pytest.MonkeyPatch) -> None:
    disk = plain_topic(durability="os")
    store = opened(disk)
    store.append("t", b"1")
    store.append("t", b"2")
    reading = open_store(STORE, disk=disk.process())
    reader = reading.reader("t", 0)
    assert reader.end() == 3
    # The end moves back between its look at `commit` and its look at the log.
    real = type(reader)._read_here

    def healed_meanwhile(self: object, *rest: object) -> object:
        monkeypatch.setattr(type(reader), "_read_here", real)
        disk.fail("fdatasync")
        with pytest.raises(errors.Poisoned):
            store.append("t", b"lost", durability="sync")
        opened(disk.process()).append("t", b"healed")
        return real(self, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(type(reader), "_read_here", healed_meanwhile)
    found: list[int] = []
    try:
        while True:
            batches = reader.read()
            if not batches:
                break
            found += [batch.header.base_offset for batch in batches]
    except errors.RecordsTakenBack:
        pass
    except errors.Damaged as error:
        raise AssertionError("an end that moved was told as damage") from error


# -- shared segments


class Linked(SimDisk):
    """A disk on which every open file has a second name."""

    __slots__ = ()

    def stat(self, fd: int) -> os.stat_result:
        found = list(super().stat(fd))
        found[3] = 2
        return os.stat_result(found)


def test_a_segment_that_a_snapshot_shares_is_not_written() -> None:
    disk, _ = one_record()
    with pytest.raises(errors.IOFailed, match="shared"):
        opened(Linked(machine=disk.machine))


# -- repair of an end in doubt


def in_doubt() -> SimDisk:
    disk = plain_topic()
    with opened(disk) as store:
        store.append("t", b"1")
    size = len(disk.tree()[SEGMENT] or b"")
    overwrite(disk, SEGMENT, size, b"\xaa" * 500)
    overwrite(disk, f"{PARTITION}/commit", 0, b"\xee" * 1024)
    with pytest.raises(errors.Damaged), open_store(STORE, disk=disk) as store:
        store.append("t", b"x")
    disk.sync_all()
    return disk


def test_nothing_is_appended_while_the_end_is_in_doubt() -> None:
    disk = in_doubt()
    before = disk.tree()[SEGMENT]
    with open_store(STORE, disk=disk) as store, pytest.raises(errors.Damaged):
        store.append("t", b"x")
    assert disk.tree()[SEGMENT] == before


def test_repair_waits_for_no_writer_it_refuses() -> None:
    disk = in_doubt()
    other = disk.process()
    fd = other.open("commit", WRITE, other.open_dir(PARTITION))
    other.lock_shared(fd)
    with open_store(STORE, disk=disk) as store, pytest.raises(errors.Busy):
        store.repair("t", 0)


def test_a_repair_that_dies_or_loses_power_anywhere_can_be_done_again() -> None:
    for changes in range(1, 40):
        disk = in_doubt()
        store = open_store(STORE, disk=disk)
        disk.stop_after(changes)
        try:
            store.repair("t", 0)
        except Killed:
            pass
        for state in [disk.copy(), *all_states(disk, 8)]:
            story = f"change {changes}: {state.story}"
            with open_store(STORE, disk=state) as again:
                again.repair("t", 0)
                assert again.append("t", b"after").first == 2, story
                assert values(again) == [b"before", b"1", b"after"], story
                assert b"\xaa" * 500 in (state.tree()[SEGMENT] or b""), story
            assert any(b"\xaa" * 500 in data for data in quarantined(state)), story


def test_a_repair_makes_what_it_builds_on_durable() -> None:
    # The valid tail was written by one who died, and is in the cache only.
    disk = plain_topic()
    store = opened(disk)
    store.append("t", b"1")
    writer_of(store).write(encode_records([b"2"], None, 1, None, False))
    disk.kill()
    disk = disk.process()
    size = len((disk.tree()[SEGMENT] or b"").rstrip(b"\0"))
    fd = disk.open(SEGMENT, WRITE, disk.open_dir("/"))
    disk.pwrite(fd, b"\xaa" * 500, size)
    fd = disk.open(f"{PARTITION}/commit", WRITE, disk.open_dir("/"))
    disk.pwrite(fd, b"\xee" * 1024, 0)
    with open_store(STORE, disk=disk) as again:
        again.repair("t", 0)
        seen = values(again)
        assert seen[:2] == [b"before", b"1"]
        for state in all_states(disk, 20):
            with open_store(STORE, disk=state) as after:
                assert values(after) == seen, state.story


def test_repair_of_a_deleted_topic_is_refused() -> None:
    disk = in_doubt()
    store = open_store(STORE, disk=disk)
    other = disk.process()
    with open_store(STORE, disk=other) as deleter:
        other.stop_behind("pwrite", "lock")
        with pytest.raises((Killed, errors.Error)):
            deleter.delete_topic("t")
    with pytest.raises(errors.Error):
        store.repair("t", 0)


# -- stores and topics


def made_then_cut(make: Callable[[Store], object], check: Callable[[Store], object]) -> None:
    """What was told done is there after each power cut."""
    disk, _ = one_record()
    store = open_store(STORE, disk=disk)
    make(store)
    for state in all_states(disk, 40):
        with open_store(STORE, create=False, disk=state) as again:
            check(again)


def test_a_topic_that_was_made_is_there_with_its_settings() -> None:
    def check(store: Store) -> None:
        assert store.topic("u").config.partitions == 3

    made_then_cut(lambda store: store.create_topic("u", TopicConfig(partitions=3)), check)


def test_a_topic_that_was_altered_stays_so() -> None:
    def check(store: Store) -> None:
        assert store.topic("t").config.interval_ms == 777

    made_then_cut(lambda store: store.alter_topic("t", interval_ms=777), check)


def test_a_topic_that_was_renamed_stays_so() -> None:
    def check(store: Store) -> None:
        assert store.topics() == ["u"]
        assert len(read_all(store, "u", 1)[0]) == 1

    made_then_cut(lambda store: store.rename_topic("t", "u"), check)


def test_a_topic_that_was_deleted_is_gone() -> None:
    made_then_cut(lambda store: store.delete_topic("t"), lambda store: _none(store.topics()))


def _none(found: list[str]) -> None:
    assert not found


def test_a_store_that_was_made_is_there_with_the_directories_above_it() -> None:
    disk = SimDisk()
    open_store("/a/b/store", disk=disk).close()
    for state in all_states(disk, 40):
        open_store("/a/b/store", create=False, disk=state).close()


def test_a_deletion_waits_for_an_append_that_is_under_way() -> None:
    disk, ledger = one_record()
    store = opened(disk)
    with open_store(STORE, disk=disk.process()) as deleter:
        deleter.delete_topic("t")
    with pytest.raises(errors.TopicDeleted):
        ledger.append(store)
