"""Faults that were found where processes meet, each shown by the shortest way to it; see ``docs/bugs.md``.

The sweeps that found them are the rows of :data:`pspf.testing.scenarios_together.TOGETHER`, and run in
``tests/test_crash_states.py``.
"""

from collections.abc import Callable
from contextlib import suppress

import pytest

from pspf import errors
from pspf.disk.atomic import remove_tree
from pspf.format.encode import encode_records
from pspf.format.slots import SECOND_SLOT
from pspf.store.open import open_store
from pspf.testing import Killed, SimDisk
from pspf.testing.faults import WouldDeadlock
from pspf.testing.ledger import read_all
from pspf.testing.scenarios import STORE, FirstTopic, Roll
from pspf.testing.scenarios_names import (
    CreatedAndDeleted,
    DeletedAndMadeByAppends,
    DeletedBesideReaders,
    DeletedBesideWriters,
    Doomed,
    NeverUsed,
)
from pspf.testing.together import new_records
from tests.test_crash_states import one_record, same_every_time


@pytest.fixture(autouse=True)
def _same_every_time(monkeypatch: pytest.MonkeyPatch) -> None:
    same_every_time(monkeypatch)


def test_a_heal_begun_for_a_flag_in_lock_alone_ends_the_handles_from_before() -> None:
    # The flag had reached `lock` and not `commit` when its process died; the first heal died behind its
    # rename; the second kept the generation, and a handle from before took another's record for its own.
    disk, ledger = one_record()
    alive = open_store(STORE, disk=disk.process())
    writer = alive.partition_writer(alive.topic("t"), 0)
    poisons = disk.process()
    with pytest.raises(Killed), open_store(STORE, disk=poisons) as store:
        store.partition_writer(store.topic("t"), 0)
        placed = writer.write(encode_records([b"cut by the heal"], None, 1, None, False))
        batch = ledger.begin("alive", 0, [b"cut by the heal"])
        poisons.fail("fdatasync", name=".log")
        poisons.stop_behind("pwrite", "lock", 1)
        ledger.append(store, "poisons")
    heals = disk.process()
    heals.stop_behind("rename", ".log")
    with pytest.raises(Killed), open_store(STORE, disk=heals) as store:
        ledger.append(store, "heals")
    with open_store(STORE, disk=disk.process()) as store:
        ledger.append(store, "newcomer")
        with pytest.raises(errors.Poisoned) as failed:
            writer.sync(placed.end)
        ledger.failed(batch, failed.value)
        ledger.check(read_all(store, "t", 1))


def test_a_handle_is_told_when_another_process_finishes_a_delete() -> None:
    # Who was killed behind the rename had flagged nothing, and who removed the rest flagged nothing either:
    # a writer went on in files without a name.
    disk, _ = one_record()
    alive = open_store(STORE, disk=disk.process())
    writer = alive.partition_writer(alive.topic("t"), 0)
    deletes = disk.process()
    deletes.stop_behind("rename")
    with pytest.raises(Killed), open_store(STORE, disk=deletes) as store:
        store.delete_topic("t")
    with open_store(STORE, disk=disk.process()) as store:
        store.create_topic("another")
    with pytest.raises(errors.TopicDeleted):
        writer.append(encode_records([b"too late"], None, 1, None, False))


def test_a_partition_made_in_a_topic_that_is_gone_takes_no_records() -> None:
    # Made behind the look of the one that deletes; a new topic of that name let its directories be synced.
    disk = SimDisk()
    store = open_store(STORE, disk=disk)
    store.create_topic("t")
    late = open_store(STORE, disk=disk.process())
    topic = late.topic("t")
    topic.stamp = (0, 0)
    renamed = store.disk.open_dir("topics", store.dir_fd)
    store.disk.rename("t", ".del-0123", renamed)
    store.create_topic("u")  # removes what is left of it
    assert ".del-0123" not in store.disk.listdir(renamed)
    store.create_topic("t")
    with pytest.raises(errors.TopicDeleted):
        late.append("t", b"nowhere")
    assert late.append("t", b"here").first == 0
    assert read_all(store, "t", 1) == {0: [(0, b"here")]}


@pytest.mark.parametrize(
    "scenario",
    [CreatedAndDeleted, DeletedBesideWriters, DeletedAndMadeByAppends, DeletedBesideReaders, NeverUsed],
)
def test_a_delete_beside_others_succeeds_and_they_are_told(scenario: type[Doomed]) -> None:
    # The delete failed when somebody made a file meanwhile, appends and reads failed with what they missed.
    for seed in range(30):
        met = scenario(seed)
        met.run(met.prepare())


def at_call(disk: SimDisk, index: int, act: Callable[[], None]) -> Callable[[], bool]:
    """Somebody else acts before a process's call of that number; the function says whether it came so far."""
    left = index

    def before(call: str) -> None:
        nonlocal left
        left -= 1
        if left == -1:
            act()

    disk.before_call = before
    return lambda: left < 0


def delete(disk: SimDisk) -> None:
    """In another process; where that would wait for the one that is stopped here, it goes no further."""
    with suppress(WouldDeadlock), open_store(STORE, disk=disk.process()) as store:
        store.delete_topic("t")


def test_a_topic_that_is_deleted_at_any_call_of_a_reader_is_whole_or_gone() -> None:
    scenario = Roll()
    made = scenario.prepare()
    with open_store(STORE, disk=made) as store:
        for _ in range(6):
            scenario.ledger.append(store, size=25_000)
        whole = read_all(store, "t", 1)
    for index in range(1000):
        disk = made.copy()
        came = at_call(disk, index, lambda disk=disk: delete(disk))  # type: ignore[misc]
        try:
            with open_store(STORE, disk=disk) as store:
                assert read_all(store, "t", 1) == whole, index
        except errors.NoSuchTopic:
            assert came()
        if not came():
            break
    assert 20 < index < 999


def test_a_topic_that_is_deleted_at_any_call_of_an_append_is_told_or_made_anew() -> None:
    for made in (one_record()[0], FirstTopic().prepare()):
        with open_store(STORE, disk=made) as store:
            store.ensure_topic("t")
        for index in range(1000):
            disk = made.copy()
            came = at_call(disk, index, lambda disk=disk: delete(disk))  # type: ignore[misc]
            with suppress(errors.NoSuchTopic), open_store(STORE, disk=disk) as store:
                first = store.append("t", b"appended").first
                if "t" in store.topics() and first == 0:
                    assert read_all(store, "t", 1) == {0: [(0, b"appended")]}, index
            if not came():
                break
            with open_store(STORE, disk=disk) as store:
                store.append("t", b"and again")
        assert 20 < index < 999


def test_a_reader_that_knew_a_topic_says_that_it_was_deleted() -> None:
    disk, _ = one_record()
    with open_store(STORE, disk=disk) as store:
        assert store.topic("t")
        delete(disk)
        with pytest.raises(errors.TopicDeleted):
            read_all(store, "t", 1)
        with pytest.raises(errors.NoSuchTopic):
            store.topic("t")


def test_a_partition_whose_topic_was_made_anew_meanwhile_takes_no_records() -> None:
    # Made behind the look of the one that deletes, linked when there was a new topic of that name.
    disk = SimDisk()
    with open_store(STORE, disk=disk) as store:
        store.create_topic("t")
        late = disk.process()

        def meanwhile(call: str) -> None:
            if call == "mkdir":
                disk.rename("t", ".del-0123", store.topics_fd)
            elif call == "lock_shared":
                remove_tree(disk, store.topics_fd, ".del-0123")
                store.append("t", b"in the new one")

        with open_store(STORE, disk=late) as slow:
            assert slow.topic("t")
            late.before_call = meanwhile
            with pytest.raises(errors.TopicDeleted):
                slow.append("t", b"nowhere")
            late.before_call = None
            assert slow.append("t", b"and here").first == 1


def test_a_rename_does_not_take_back_settings_that_another_process_changed() -> None:
    # The settings were written again as they had been seen up to a second ago.
    disk, ledger = one_record()
    with open_store(STORE, disk=disk) as store, open_store(STORE, disk=disk.process()) as other:
        ledger.append(store)
        other.add_partitions("t", 2)
        other.append("t", b"in the second", partition=1)
        store.rename_topic("t", "u")
        assert store.partition_count("u") == 2


@pytest.mark.parametrize("there_and_back", [False, True])
def test_a_name_that_somebody_relied_on_outlives_a_power_cut(there_and_back: bool) -> None:
    # Who renamed the topic was killed before the sync, and records were acknowledged under the new name.
    disk, _ = one_record()
    for old, new in [("t", "u"), ("u", "t")][: 1 + there_and_back]:
        renames = disk.process()
        store = open_store(STORE, disk=renames)
        renames.stop_behind("rename", new)
        with pytest.raises(Killed):
            store.rename_topic(old, new)
    with open_store(STORE, disk=disk.process()) as store:
        store.append(new, b"acknowledged")
        for state in store.disk.crash_states(1, 20):  # type: ignore[attr-defined]
            with open_store(STORE, create=False, disk=state) as again:
                assert again.topics() == [new], state.story


def test_closing_does_not_tell_again_that_the_topic_was_deleted() -> None:
    disk, _ = one_record()
    with open_store(STORE, disk=disk.process()) as store:
        writer = store.partition_writer(store.topic("t"), 0)
        placed = writer.write(encode_records([b"too late"], None, 1, None, False))
        with open_store(STORE, disk=disk) as other:
            other.delete_topic("t")
        with pytest.raises(errors.TopicDeleted):
            writer.sync(placed.end)


def test_a_reader_finds_what_was_appended_behind_a_repair_that_was_killed() -> None:
    # The slot that was still in doubt was on the disk, the one behind the repair was not: a reader that came
    # first took it at its word, and did not look for the segment that the repair had begun.
    begun_anew = 0
    for stop in range(4, 16):
        scenario = Roll()
        disk = scenario.prepare()
        ledger = scenario.ledger
        with pytest.raises(Killed), open_store(STORE, disk=disk) as store:
            ledger.append(store, size=40_000)
            disk.stop_after(stop, torn=4096)
            for _ in range(3):
                ledger.append(store, size=40_000)
        disk.sync_all()
        for position in (0, SECOND_SLOT):
            disk.flip(f"{STORE}/topics/t/0/commit", position + 20)
        before = disk.tree()
        repairs = disk.process()
        with pytest.raises(Killed), open_store(STORE, disk=repairs) as store:
            repairs.before_call = lambda call, disk=repairs: (
                disk.stop_behind("pwrite", "commit") if "rename" in disk.counts else None
            )
            store.repair("t", 0)
            repairs.kill()
            store.topics()
        last = max(name for name in before if name.endswith(".log"))
        # Where nothing valid was in it, the new segment takes the name of the old one.
        begun_anew += (before[last] or b"")[:4096] != (disk.tree()[last] or b"")[:4096]
        follower = open_store(STORE, disk=disk.process())
        reader = follower.reader("t", 0)
        seen = new_records(reader)
        with open_store(STORE, disk=disk.process()) as store:
            ledger.check(read_all(store, "t", 1))
            ledger.append(store, "after", size=20_000)
            seen += new_records(reader)
            ledger.check({0: seen})
            for state in store.disk.crash_states(stop, 10):  # type: ignore[attr-defined]
                with open_store(STORE, create=False, disk=state) as again:
                    ledger.check(read_all(again, "t", 1))
    assert begun_anew
