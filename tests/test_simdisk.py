"""Processes, locks, power cuts and faults of the simulated disk, against the list in testing/crashes.py."""

import errno
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pspf.disk.real import CREATE, WRITE
from pspf.testing import Killed, PowerCut, SimDisk, WouldDeadlock
from pspf.testing.crashes import digest_of

# -- processes and locks


def test_a_killed_process_frees_its_locks_and_keeps_what_it_wrote() -> None:
    disk = SimDisk()
    other = disk.process()
    fd = disk.open("a", CREATE)
    assert disk.lock(fd)
    disk.pwrite(fd, b"written", 0)
    theirs = other.open("a")
    assert not other.lock(theirs, wait=False)
    disk.kill()
    assert other.lock(theirs, wait=False)
    assert other.pread(theirs, 10, 0) == b"written"
    with pytest.raises(Killed):
        disk.pread(fd, 1, 0)
    disk.close(fd)


def test_two_descriptors_of_one_process_exclude_each_other() -> None:
    disk = SimDisk()
    first, second = disk.open("a", CREATE), disk.open("a", CREATE)
    assert disk.lock(first)
    assert not disk.lock_shared(second)
    with pytest.raises(WouldDeadlock):
        disk.lock(second)
    disk.close(first)
    assert disk.lock(second)


def test_a_lock_that_cannot_be_converted_is_lost() -> None:
    disk = SimDisk()
    first, second, third = (disk.open("a", CREATE) for _ in range(3))
    assert disk.lock_shared(first) and disk.lock_shared(second)
    assert not disk.lock(first, wait=False)
    disk.unlock(second)
    assert disk.lock(third, wait=False)


def test_a_waiting_process_goes_on_when_the_lock_is_free() -> None:
    disk = SimDisk()
    other = disk.process()
    fd, theirs = disk.open("a", CREATE), other.open("a", CREATE)
    disk.lock(fd)
    other.when_blocked = lambda: disk.unlock(fd)
    assert other.lock(theirs)


def test_the_clock_is_set_and_goes_back() -> None:
    disk = SimDisk(clock_ns=1_000_000, tick_ns=1)
    assert disk.now_ns() == 1_000_001
    disk.advance(-500_000)
    assert disk.process().now_ns() == 500_002
    disk.set_time(7)
    assert disk.now_ns() == 8


# -- ends of a process


def test_a_stop_comes_behind_the_change_it_names_and_no_handler_goes_on() -> None:
    disk = SimDisk()
    fd = disk.open("a", CREATE)
    disk.stop_after(2)
    disk.pwrite(fd, b"one", 0)
    disk.pread(fd, 3, 0)
    with pytest.raises(Killed):
        try:
            disk.pwrite(fd, b"two", 0)
        except Exception:
            pytest.fail("SIGKILL was handled")
        finally:
            with pytest.raises(Killed):
                disk.pwrite(fd, b"end", 0)
    assert disk.tree() == {"/a": b"two"}


def test_a_stop_inside_a_write_leaves_whole_pages_of_it() -> None:
    disk = SimDisk()
    fd = disk.open("a", CREATE)
    disk.pwrite(fd, b"x" * 100, 0)
    disk.stop_after(1, torn=5_000)
    with pytest.raises(Killed):
        disk.pwrite(fd, b"y" * 10_000, 100)
    assert disk.tree() == {"/a": b"x" * 100 + b"y" * 3996}


def test_a_power_cut_ends_every_process() -> None:
    disk = SimDisk()
    other = disk.process()
    disk.stop_after(0, PowerCut)
    with pytest.raises(PowerCut):
        disk.open("a", CREATE)
    with pytest.raises(PowerCut):
        other.listdir(0)


# -- power cuts


def states(
    disk: SimDisk, model: str = "strict", limit: int = 10_000, seed: int = 1
) -> list[dict[str, bytes | None]]:
    return [state.tree() for state in disk.crash_states(seed, limit, model)]


def contents(disk: SimDisk, path: str, model: str = "strict") -> set[bytes | None]:
    return {tree.get(path) for tree in states(disk, model)}


def planted(size: int = 0) -> tuple[SimDisk, int]:
    disk = SimDisk()
    disk.plant("/a", b"-" * size)
    return disk, disk.open("a", WRITE)


BOTH = pytest.mark.parametrize("model", ["strict", "ordered"])


@BOTH
def test_what_was_synced_survives(model: str) -> None:
    disk, fd = planted(10)
    disk.pwrite(fd, b"synced", 0)
    disk.fdatasync(fd)
    assert states(disk, model) == [{"/a": b"synced----"}]


@BOTH
def test_a_sector_holds_any_moment_since_the_last_sync(model: str) -> None:
    disk, fd = planted(4)
    for data in (b"1", b"2", b"3"):
        disk.pwrite(fd, data, 0)
    assert contents(disk, "/a", model) == {b"----", b"1---", b"2---", b"3---"}


@BOTH
def test_two_writes_in_one_sector_are_not_reordered(model: str) -> None:
    disk, fd = planted(4)
    disk.pwrite(fd, b"1", 0)
    disk.pwrite(fd, b"2", 3)
    assert contents(disk, "/a", model) == {b"----", b"1---", b"1--2"}


@BOTH
def test_a_write_is_torn_between_sectors_and_never_within(model: str) -> None:
    disk, fd = planted(1024)
    disk.pwrite(fd, b"n" * 1024, 0)
    old, new = b"-" * 512, b"n" * 512
    assert contents(disk, "/a", model) == {old + old, old + new, new + old, new + new}


def test_strict_a_size_comes_without_data_and_data_without_size() -> None:
    disk, fd = planted(2)
    disk.pwrite(fd, b"nn", 2)
    disk.pwrite(fd, b"mm", 4)
    assert contents(disk, "/a") == {
        b"--", b"--\0\0", b"--nn", b"--\0\0\0\0", b"--nn\0\0", b"--nnmm",
    }  # fmt: skip


def test_ordered_a_new_page_comes_with_its_data() -> None:
    disk, fd = planted(4096)
    disk.pwrite(fd, b"n" * 100, 4096)
    assert contents(disk, "/a", "ordered") == {b"-" * 4096, b"-" * 4096 + b"n" * 100}
    assert b"-" * 4096 + b"\0" * 100 in contents(disk, "/a", "strict")


def test_ordered_within_an_old_page_the_size_may_come_alone() -> None:
    disk, fd = planted(10)
    disk.pwrite(fd, b"n", 10)
    assert b"-" * 10 + b"\0" in contents(disk, "/a", "ordered")


def test_a_long_write_may_stop_at_a_page_with_zeros_behind() -> None:
    disk, fd = planted()
    disk.pwrite(fd, b"n" * 3 * 4096, 0)
    found = {bytes(tree["/a"] or b"") for tree in states(disk, limit=400)}
    assert b"n" * 4096 + bytes(8192) in found
    assert b"n" * 4096 in found
    assert all(set(content) <= {0, ord("n")} for content in found)


@BOTH
def test_a_cut_that_was_not_synced_may_be_undone(model: str) -> None:
    disk, fd = planted(600)
    disk.truncate(fd, 10)
    assert {b"-" * 600, b"-" * 10} <= contents(disk, "/a", model)
    disk.fsync(fd)
    assert contents(disk, "/a", model) == {b"-" * 10}


def test_ordered_a_cut_file_that_grows_again_shows_nothing_of_the_old() -> None:
    disk, fd = planted(600)
    disk.truncate(fd, 10)
    disk.truncate(fd, 20)
    grown = {content for content in contents(disk, "/a", "ordered") if content and len(content) == 20}
    assert grown == {b"-" * 10 + bytes(10)}


def test_strict_a_synced_file_without_a_synced_directory_may_vanish() -> None:
    disk = SimDisk()
    fd = disk.open("a", CREATE)
    disk.pwrite(fd, b"data", 0)
    disk.fsync(fd)
    assert states(disk) == [{}, {"/a": b"data"}]
    assert states(disk, "ordered") == [{"/a": b"data"}]
    disk.fsync(disk.open_dir("/"))
    assert states(disk) == [{"/a": b"data"}]


@BOTH
def test_a_name_may_come_without_its_data(model: str) -> None:
    disk = SimDisk()
    disk.pwrite(disk.open("a", CREATE), b"data", 0)
    disk.fsync(disk.open_dir("/"))
    assert contents(disk, "/a", model) >= {b"", b"data"}


@BOTH
def test_a_rename_of_a_synced_file_leaves_the_old_or_the_new(model: str) -> None:
    disk = SimDisk()
    disk.plant("/a", b"old")
    root = disk.open_dir("/")
    fd = disk.open("a.tmp", CREATE, root)
    disk.pwrite(fd, b"new", 0)
    disk.fsync(fd)
    disk.rename("a.tmp", "a", root)
    assert contents(disk, "/a", model) == {b"old", b"new"}
    disk.fsync(root)
    assert states(disk, model) == [{"/a": b"new"}]


@BOTH
def test_a_rename_of_an_unsynced_file_may_leave_an_empty_one(model: str) -> None:
    disk = SimDisk()
    disk.plant("/a", b"old")
    root = disk.open_dir("/")
    disk.pwrite(disk.open("a.tmp", CREATE, root), b"new", 0)
    disk.rename("a.tmp", "a", root)
    assert contents(disk, "/a", model) >= {b"old", b"", b"new"}


def test_strict_names_are_lost_in_any_order_and_ordered_from_the_end() -> None:
    disk = SimDisk()
    for name in "abc":
        disk.open(name, CREATE)
    assert len(states(disk)) == 8
    assert [sorted(tree) for tree in states(disk, "ordered")] == [
        [],
        ["/a"],
        ["/a", "/b"],
        ["/a", "/b", "/c"],
    ]


@BOTH
def test_a_removed_name_may_come_back_with_its_content(model: str) -> None:
    disk, _ = planted(3)
    disk.unlink("a", disk.open_dir("/"))
    assert states(disk, model) == [{"/a": b"---"}, {}]


@BOTH
def test_a_lost_directory_takes_what_was_synced_in_it(model: str) -> None:
    disk = SimDisk()
    disk.mkdir("d")
    inner = disk.open_dir("d")
    disk.open("a", CREATE, inner)
    if model == "strict":
        disk.fsync(inner)
    assert {tuple(sorted(tree)) for tree in states(disk, model)} >= {(), ("/d", "/d/a")}


def test_a_file_has_one_name_whichever_renames_were_lost() -> None:
    disk, _ = planted(1)
    disk.mkdir("d")
    root, inner = disk.open_dir("/"), disk.open_dir("d")
    disk.fsync(root)
    disk.rename("a", "b", root)
    disk.rename("b", "c", root, inner)
    disk.rename("c", "e", inner)
    found = [sorted(name for name in tree if name != "/d") for tree in states(disk)]
    assert sorted(found) == [["/a"], ["/b"], ["/d/c"], ["/d/e"]]
    disk.fsync(inner)  # the two renames that concern it; the first one stays open, and is overtaken
    assert states(disk) == [{"/d": None, "/d/e": b"-"}, {"/b": b"-", "/d": None}] or states(disk) == [
        {"/d": None, "/d/e": b"-"}
    ]


def test_a_crashed_disk_is_stable_and_leaves_the_first_alone() -> None:
    disk, fd = planted(3)
    disk.pwrite(fd, b"new", 0)
    before = disk.tree()
    for state in disk.crash_states(1, 10):
        again = state.open("a", WRITE)
        assert states(state) == [state.tree()]
        state.pwrite(again, b"more", 0)
        assert len(states(state)) > 1
    assert disk.tree() == before and len(states(disk)) == 2


def opened(disk: SimDisk, root: int, n: int) -> int:
    return disk.open(f"f{n % 3}", CREATE, root)


CHANGES: list[Callable[[SimDisk, int, int], object]] = [
    opened,
    lambda d, root, n: d.pwrite(opened(d, root, n), bytes([n % 255 + 1]) * (n * 37 % 9000), n * 91 % 9000),
    lambda d, root, n: d.truncate(opened(d, root, n), n * 53 % 9000),
    lambda d, root, n: d.fdatasync(opened(d, root, n)),
    lambda d, root, n: d.fsync(opened(d, root, n)),
    lambda d, root, n: d.rename(f"f{n % 3}", f"f{n // 3 % 3}", root),
    lambda d, root, n: d.unlink(f"f{n % 3}", root),
    lambda d, root, n: d.fsync(root),
]


def changed(steps: list[tuple[int, int]]) -> SimDisk:
    disk = SimDisk()
    root = disk.open_dir("/")
    for which, n in steps:
        try:
            CHANGES[which](disk, root, n)
        except FileNotFoundError:
            pass
    return disk


STEPS = st.lists(st.tuples(st.integers(0, len(CHANGES) - 1), st.integers(0, 250)), max_size=12)


@given(steps=STEPS)
def test_every_state_differs_and_a_seed_gives_the_same_ones(steps: list[tuple[int, int]]) -> None:
    for model in ("strict", "ordered"):
        first = [
            (state.story, digest_of(state.machine.root))
            for state in changed(steps).crash_states(3, 40, model)
        ]
        again = [
            (state.story, digest_of(state.machine.root))
            for state in changed(steps).crash_states(3, 40, model)
        ]
        assert first == again
        assert len({digest for _, digest in first}) == len(first) >= 1


@given(steps=STEPS)
def test_synced_wholly_nothing_can_be_lost(steps: list[tuple[int, int]]) -> None:
    disk = changed(steps)
    disk.sync_all()
    for model in ("strict", "ordered"):
        assert states(disk, model) == [disk.tree()]


@given(steps=STEPS, n=st.integers(0, 250))
def test_a_file_synced_with_its_directory_survives_all_else(steps: list[tuple[int, int]], n: int) -> None:
    disk = changed(steps)
    root = disk.open_dir("/")
    fd = disk.open("kept", CREATE, root)
    disk.pwrite(fd, b"k" * n, 0)
    disk.fdatasync(fd)
    disk.fsync(root)
    CHANGES[1](disk, root, n)
    for model in ("strict", "ordered"):
        assert {tree["/kept"] for tree in states(disk, model, limit=30)} == {b"k" * n}


# -- calls that fail


def raises(number: int) -> "pytest.RaisesExc[OSError]":
    return pytest.raises(OSError, check=lambda error: error.errno == number)


def test_the_nth_call_of_a_kind_fails_and_the_next_does_not() -> None:
    disk, fd = planted()
    fault = disk.fail("pwrite", index=1, error=errno.ENOSPC)
    disk.pwrite(fd, b"1", 0)
    with raises(errno.ENOSPC):
        disk.pwrite(fd, b"2", 0)
    disk.pwrite(fd, b"3", 0)
    assert disk.tree() == {"/a": b"3"} and fault.hits == 1


def test_no_descriptor_is_left_at_open() -> None:
    disk, _ = planted()
    disk.fail("open", error=errno.EMFILE, times=2)
    with pytest.raises(OSError, match="Too many open files: 'a'"):
        disk.open("a")
    with raises(errno.EMFILE):
        disk.open("new", CREATE)
    assert "/new" not in disk.tree()


def test_a_full_disk_takes_part_of_a_write() -> None:
    disk, fd = planted()
    disk.fail("pwrite", error=errno.ENOSPC, short=3)
    with raises(errno.ENOSPC):
        disk.pwrite(fd, b"12345", 0)
    assert disk.tree() == {"/a": b"123"}


def test_a_fault_may_be_for_one_file_only() -> None:
    disk, fd = planted()
    other = disk.process().open("b.log", CREATE)
    assert other != fd
    disk.fail("*", name=".log", times=99)
    disk.pwrite(fd, b"1", 0)
    with raises(errno.EIO):
        disk.open("b.log")


def test_a_failed_sync_leaves_the_pages_dirty_unless_it_lies() -> None:
    disk, fd = planted()
    disk.pwrite(fd, b"data", 0)
    disk.fail("fdatasync")
    with raises(errno.EIO):
        disk.fdatasync(fd)
    disk.fdatasync(fd)
    assert states(disk) == [{"/a": b"data"}]


def test_lie_1_a_file_opened_after_the_failure_syncs_over_the_hole() -> None:
    disk, fd = planted(4)
    other, later = disk.process(), disk.process()
    theirs = other.open("a", WRITE)
    disk.pwrite(fd, b"lost", 0)
    disk.fail("fdatasync", lies="clean")
    with raises(errno.EIO):
        disk.fdatasync(fd)
    opened_later = later.open("a", WRITE)
    later.fdatasync(opened_later)
    assert later.pread(opened_later, 4, 0) == b"lost"
    assert states(disk) == [{"/a": b"----"}]
    with raises(errno.EIO):  # who had it open is told, once
        other.fdatasync(theirs)
    other.fdatasync(theirs)
    assert later.read_stable(opened_later, "a", later.open_dir("/"), 4, 0) == b"----"
    assert later.pread(opened_later, 4, 0) == b"----", "the cache was dropped"


def test_lie_2_a_sync_succeeds_over_an_aborted_journal_and_what_needs_it_fails() -> None:
    disk, fd = planted(4)
    disk.pwrite(fd, b"lost", 0)
    disk.fail("fdatasync", error=errno.EROFS, lies="aborted")
    disk.fdatasync(fd)
    assert states(disk) == [{"/a": b"----"}]
    disk.pwrite(fd, b"more", 0)  # no size, no name, and the clock has not ticked
    disk.fdatasync(fd)
    assert states(disk) == [{"/a": b"----"}]
    with raises(errno.EROFS):
        disk.pwrite(fd, b"longer than it was", 0)
    with raises(errno.EROFS):
        disk.update_times(fd)
    with raises(errno.EROFS):
        disk.open("new", CREATE)
    assert states(disk) == [{"/a": b"----"}]


def test_lie_3_a_failed_write_back_reads_right_and_holds_zeros() -> None:
    disk, fd = planted()
    later = disk.process()
    disk.fail("pwrite", lies="writeback", keep_size=True)
    disk.pwrite(fd, b"lost", 0)
    assert disk.pread(fd, 4, 0) == b"lost"
    assert states(disk) == [{"/a": bytes(4)}]
    with raises(errno.EIO):
        disk.fdatasync(fd)
    opened_later = later.open("a", WRITE)
    later.fdatasync(opened_later)
    assert states(disk) == [{"/a": bytes(4)}]
    later.pwrite(opened_later, b"lost", 0)
    later.fdatasync(opened_later)
    assert states(disk) == [{"/a": b"lost"}]


def test_a_failed_sync_may_have_written_some_pages() -> None:
    disk, fd = planted()
    disk.pwrite(fd, b"n" * 8192, 0)
    disk.fail("fdatasync", lies="clean", short=1)
    with raises(errno.EIO):
        disk.fdatasync(fd)
    assert states(disk) == [{"/a": b"n" * 4096}]


def test_a_small_write_brings_its_lost_page_with_it() -> None:
    disk, fd = planted(8)
    disk.pwrite(fd, b"lost", 0)
    disk.fail("fdatasync", lies="clean")
    with raises(errno.EIO):
        disk.fdatasync(fd)
    disk.pwrite(fd, b"x", 7)
    disk.fdatasync(fd)
    assert states(disk) == [{"/a": b"lost---x"}]


def test_a_read_only_disk_reads_and_refuses_to_change() -> None:
    disk, fd = planted(2)
    disk.make_read_only()
    assert disk.pread(fd, 2, 0) == b"--"
    for change in (
        lambda: disk.pwrite(fd, b"1", 0),
        lambda: disk.open("a", WRITE),
        lambda: disk.open("new", CREATE),
        lambda: disk.mkdir("d"),
        lambda: disk.unlink("a", disk.open_dir("/")),
    ):
        with raises(errno.EROFS):
            change()
    disk.heal()
    disk.pwrite(fd, b"1", 0)


def test_bit_rot_is_on_the_medium_and_in_a_clean_cache() -> None:
    disk, fd = planted(4)
    disk.flip("/a", 1, 0xFF)
    assert disk.tree() == {"/a": bytes([45, 45 ^ 0xFF, 45, 45])}
    disk.pwrite(fd, b"n", 0)
    disk.flip("/a", 2, 1)
    assert disk.pread(fd, 4, 0)[2] == 45


def test_a_disk_is_exported_to_look_at(scratch_dir: Path) -> None:
    disk = SimDisk()
    disk.plant("/d/a", b"content")
    disk.export(str(scratch_dir))
    assert (scratch_dir / "d" / "a").read_bytes() == b"content"
