"""Each step by which a partition or a segment comes to be, alone: what goes wrong without it.

As `test_steps_of_appending.py`, for new files. On the simulated disk.
"""

import pytest

from pspf import errors
from pspf.model import TopicConfig
from pspf.store.open import open_store
from pspf.store.verify import DAMAGE
from pspf.testing import Killed, SimDisk
from pspf.testing.scenarios import STORE
from tests.test_crash_states import one_record, same_every_time
from tests.test_steps_of_appending import (
    PARTITION,
    SEGMENT,
    journal_aborted_at_the_next_sync,
    nothing_is_shown,
    opened,
    plain_topic,
    roll_by,
    values,
    write,
    writer_of,
)
from tests.test_steps_of_recovery import all_states


@pytest.fixture(autouse=True)
def _same_every_time(monkeypatch: pytest.MonkeyPatch) -> None:
    same_every_time(monkeypatch)


def whole(disk: SimDisk, at_least: int) -> None:
    """After each power cut everything opens without a word about damage, and appends go on."""
    for state in all_states(disk, 40):
        told: list[str] = []
        with open_store(STORE, disk=state, tell=told.append) as store:
            store.append("t", b"after")
            assert len(values(store)) > at_least, state.story
            findings = [found.kind for found in store.verify().findings if found.severity == DAMAGE]
        assert not findings and not told, (findings, told, state.story)


def test_a_partition_that_was_made_is_there_as_a_whole() -> None:
    disk = SimDisk()
    with open_store(STORE, disk=disk) as store:
        store.create_topic("t")
        disk.sync_all()
        writer_of(store)
        whole(disk, 0)


def test_a_segment_that_was_made_is_there_as_a_whole() -> None:
    disk, _ = one_record()
    store = opened(disk)
    for stop in range(1, 12):
        twin = disk.copy()
        rolling = opened(twin)
        twin.stop_after(stop)
        try:
            roll_by(rolling)
        except Killed:
            pass
        whole(twin, 1)
    roll_by(store)
    store.append("t", b"x")
    whole(disk, 2)


def test_what_a_roll_publishes_is_durable() -> None:
    disk = plain_topic(durability="os")
    store = opened(disk)
    store.append("t", b"x" * 9_000)
    roll_by(store)
    for state in all_states(disk, 20):
        with open_store(STORE, disk=state) as again:
            assert len(values(again)) == 2, state.story


def test_a_roll_whose_sync_did_nothing_publishes_nothing_where_no_zeros_are_cut() -> None:
    disk = plain_topic(preallocate=False)
    store = opened(disk)
    write(writer_of(store), b"lost")
    journal_aborted_at_the_next_sync(disk)
    with pytest.raises(errors.IOFailed):
        roll_by(store)
    nothing_is_shown(disk, b"lost")


def test_a_segment_that_is_left_keeps_no_zeros() -> None:
    disk, _ = one_record()
    store = opened(disk)
    for value in (b"1", b"2"):
        store.append("t", value)
    end = writer_of(store).end.position
    assert len(disk.tree()[SEGMENT] or b"") > end
    roll_by(store)
    store.append("t", b"3")
    for state in [disk, *all_states(disk, 20)]:
        assert len(state.tree()[SEGMENT] or b"") == end, state.story


def test_after_a_roll_commit_names_the_new_segment_whatever_happens() -> None:
    # Otherwise recovery would walk every segment since the one that it names.
    disk, _ = one_record()
    store = opened(disk)
    for _ in range(3):
        store.append("t", b"x" * 5_000)
        roll_by(store)
    base = writer_of(store).end.segment.base
    for state in all_states(disk, 20):
        raw = state.tree()[f"{PARTITION}/commit"] or b""
        assert base.to_bytes(8, "little") in (raw[16:24], raw[528:536]), state.story


def test_a_roll_that_poisons_behind_its_rename_is_healed_without_losing_what_was_shown() -> None:
    disk = plain_topic(durability="os")
    store = opened(disk)
    store.append("t", b"x")
    disk.fail("fsync", lies="clean", name="0")
    with pytest.raises(errors.Poisoned):
        roll_by(store)
    store.close()
    with opened(disk.process()) as healer:
        healer.append("t", b"after")
        assert values(healer) == [b"before", b"x", b"after"]
        assert not [found for found in healer.verify().findings if found.severity == DAMAGE]


def test_a_successor_that_nobody_published_is_found_after_a_clean_end() -> None:
    disk = SimDisk()
    with open_store(STORE, disk=disk) as store:
        store.create_topic("t", TopicConfig(preallocate=False))
        store.append("t", b"1")
    disk.sync_all()
    dying = opened(disk)
    disk.stop_behind("rename", ".log")
    with pytest.raises(Killed):
        roll_by(dying)
    other = disk.process()
    with opened(other) as store:
        for value in (b"2", b"3"):
            store.append("t", value)
            roll_by(store)
        store.append("t", b"4")
        assert values(store) == [b"1", b"2", b"3", b"4"]


def test_a_deletion_that_another_process_finishes_is_never_undone_by_half() -> None:
    disk = plain_topic()
    killed = disk.process()
    killed.stop_behind("rename", "")
    with pytest.raises(Killed):
        open_store(STORE, disk=killed).delete_topic("t")
    for changes in range(1, 30):
        twin = disk.copy()
        twin.stop_after(changes)
        try:
            open_store(STORE, disk=twin).create_topic("another")
        except Killed:
            pass
        for state in all_states(twin, 20):
            with open_store(STORE, create=False, disk=state) as again:
                assert "t" not in again.topics() or values(again) == [b"before"], state.story
