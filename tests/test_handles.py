"""One open handle, and what meets it: its own threads, an interrupt, a fork, a failure between two steps."""

import errno
import os
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import FrameType

import pytest

import pspf
from pspf import errors
from pspf.format.encode import encode_records
from pspf.log.timer import _run
from pspf.log.writer import PartitionWriter
from pspf.model import TopicConfig
from pspf.store.open import open_store
from pspf.store.store import Store
from pspf.testing import SimDisk
from pspf.testing.medium import Machine

STORE = "/store"


def topic_on(disk: SimDisk, **settings: object) -> Store:
    store = open_store(STORE, disk=disk)
    store.create_topic("t", TopicConfig(**settings))  # type: ignore[arg-type]
    store.append("t", b"first")
    return store


def writer_of(store: Store, durability: "str | None" = None) -> PartitionWriter:
    return store.partition_writer(store.topic("t"), 0, durability)


def write(writer: PartitionWriter, value: bytes) -> int:
    return writer.write(encode_records([value], None, 1, None, False)).end


def values(disk: SimDisk) -> list[bytes | None]:
    with open_store(STORE, disk=disk.process(), read_only=True) as store:
        return [record.value for record in store.read("t")]


class Meeting(SimDisk):
    """A disk on which another thread has its turn at the end of one sync; it notes what is closed."""

    __slots__ = ("closed", "then")

    def __init__(self, *, machine: "Machine | None" = None) -> None:
        super().__init__(machine=machine)
        self.then: Callable[[], None] | None = None
        self.closed: list[int] = []

    def fdatasync(self, fd: int) -> None:
        try:
            super().fdatasync(fd)
        finally:
            then, self.then = self.then, None
            if then is not None:
                then()

    def close(self, fd: int) -> None:
        self.closed.append(fd)
        super().close(fd)


def test_a_roll_beside_a_sync_that_fails_publishes_nothing_that_is_lost() -> None:
    # The kernel tells of a failed write-back once for each descriptor, so to one of two syncs.
    disk = Meeting()
    store = topic_on(disk, segment_bytes=65536, preallocate=False)
    writer = writer_of(store)
    disk.fail("pwrite", lies="writeback", name=".log")
    end = write(writer, b"lost" * 3000)
    told: list[str] = []

    def rolls() -> None:
        try:
            write(writer, b"x" * 60_000)
            told.append("written")
        except errors.Error as error:
            told.append(type(error).__name__)

    thread = threading.Thread(target=rolls)

    def other_thread() -> None:
        thread.start()
        thread.join(0.3)

    disk.then = other_thread
    with pytest.raises(errors.Poisoned):
        writer.sync(end)
    thread.join()
    assert told == ["Poisoned"]
    assert values(disk) == [b"first"]


def test_a_failed_sync_poisons_though_nothing_more_can_be_opened(monkeypatch: pytest.MonkeyPatch) -> None:
    disk = SimDisk()
    store = topic_on(disk)
    writer = writer_of(store)
    end = write(writer, b"lost")
    disk.fail("fdatasync", lies="clean")
    for name in [name for name in sys.modules if name in ("pspf.log.others", "pspf.errors")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr("builtins.open", _no_descriptors)
    monkeypatch.setattr(sys, "meta_path", [])
    with pytest.raises(Exception):  # noqa: B017  (whatever comes, the handle is dead)
        writer.sync(end)
    monkeypatch.undo()
    assert writer.poisoned
    with open_store(STORE, disk=disk.process()) as other:
        assert writer_of(other).generation == 2, "the next opener did not learn that a sync had failed"


def _no_descriptors(*_: object) -> None:
    raise OSError(errno.EMFILE, "Too many open files")


@pytest.mark.parametrize("durability", ["os", "interval"])
def test_what_was_written_and_could_not_be_shown_is_of_unknown_outcome(durability: str) -> None:
    disk = SimDisk()
    store = topic_on(disk, durability=durability, interval_ms=3_600_000)
    disk.fail("pwrite", name="commit")
    with pytest.raises(errors.OutcomeUnknown):
        store.append("t", b"x")
    store.append("t", b"after")
    assert values(disk) == [b"first", b"x", b"after"]


class Interrupted(KeyboardInterrupt):
    pass


def append_interrupted(store: Store, value: bytes, place: int) -> bool:
    """Whether the append was interrupted at the nth call or return inside the engine."""
    seen = 0

    def interrupt(frame: FrameType, event: str, _: object) -> None:
        nonlocal seen
        here, caller = frame.f_code.co_filename, frame.f_back
        inside = event in ("call", "c_return") and "/pspf/log/" in here
        behind = event == "return" and "/testing/simdisk" in here
        if inside or (behind and caller is not None and "/pspf/log/" in caller.f_code.co_filename):
            seen += 1
            if seen == place:
                sys.setprofile(None)
                raise Interrupted

    sys.setprofile(interrupt)
    try:
        store.append("t", value)
    except Interrupted:
        return True
    finally:
        sys.setprofile(None)
    return False


@pytest.mark.parametrize("durability, size", [("sync", 100), ("os", 100), ("sync", 60_000)])
def test_an_interrupt_anywhere_in_an_append_leaves_a_handle_that_goes_on(durability: str, size: int) -> None:
    place = 1
    while True:
        disk = SimDisk()
        store = topic_on(disk, durability=durability, segment_bytes=65536)
        store.append("t", b"y" * 30_000)
        expected = [b"first", b"y" * 30_000]
        middle = b"m" * size
        if not append_interrupted(store, middle, place):
            break
        for value in (b"after", b"again"):
            store.append("t", value)
            expected.append(value)
        found = values(disk)
        assert [value for value in found if value != middle] == expected, f"interrupted at call {place}"
        place += 1
    assert place > 20


def test_a_forked_child_is_refused_though_a_thread_was_inside_the_handle(store_dir: Path) -> None:
    with pspf.open(str(store_dir)) as store:
        store.append("t", b"x")
        writer = writer_of(store)
        with writer.mutex:
            pid = os.fork()
            if pid == 0:
                signal.alarm(10)
                status = 1
                try:
                    for use in (lambda: write(writer, b"y"), lambda: writer.sync(9)):
                        try:
                            use()
                        except errors.UseAfterFork:
                            status = 0
                finally:
                    os._exit(status)
            assert os.waitpid(pid, 0)[1] == 0


def test_the_timer_of_an_interval_tries_again_after_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pspf.log.timer.start_timer", lambda writer: None)
    disk = SimDisk()
    store = topic_on(disk, durability="interval", interval_ms=10)
    writer = writer_of(store)
    write(writer, b"x")
    disk.fail("pwrite", name="commit")
    rounds = iter((None, None))

    def sleep(_: float) -> None:
        if next(rounds, "over") == "over":
            writer._closed = True

    monkeypatch.setattr("pspf.log.timer.sleep", sleep)
    _run(writer, 0.01)
    assert writer.durable_end == 2
    writer._closed = False


def test_a_poisoned_handle_can_be_closed() -> None:
    disk = SimDisk()
    store = topic_on(disk)
    store.append("t", b"zeros ahead")
    write(writer_of(store), b"x")
    disk.fail("fdatasync", lies="clean")
    with pytest.raises(errors.Poisoned):
        store.append("t", b"y")
    store.close()


def test_two_threads_close_a_handle_once() -> None:
    disk = Meeting()
    store = topic_on(disk, durability="os")
    writer = writer_of(store)
    write(writer, b"x")
    disk.closed.clear()
    thread = threading.Thread(target=writer.close)

    def other_thread() -> None:  # it comes while this one syncs
        thread.start()
        thread.join(0.2)

    disk.then = other_thread
    writer.close()
    thread.join()
    assert disk.closed and len(disk.closed) == len(set(disk.closed))


def test_a_close_by_another_thread_waits_for_the_sync_that_is_under_way() -> None:
    disk = Meeting()
    store = topic_on(disk)
    writer = writer_of(store)
    end = write(writer, b"x")
    disk.closed.clear()
    thread = threading.Thread(target=writer.close)

    def another_process_poisoned() -> None:
        writer.poisoned = "seen by another process"  # so the close has nothing to sync
        thread.start()
        thread.join(0.2)
        assert not disk.closed, "a descriptor was closed under its sync"
        writer.poisoned = ""

    disk.then = another_process_poisoned
    try:
        writer.sync(end)
    except errors.Closed:
        pass
    thread.join()
    assert disk.closed


def test_the_last_to_close_gives_back_zeros_that_others_wrote_behind_it() -> None:
    disk = SimDisk()
    first = topic_on(disk)
    first.append("t", b"1")
    second = open_store(STORE, disk=disk.process())
    second.append("t", b"2")
    second.append("t", b"3")
    second.close()
    first.close()
    log = disk.tree()[f"{STORE}/topics/t/0/{0:020d}.log"]
    assert log is not None and log.rstrip(b"\0") != b"" and len(log) < 8192


def test_a_close_after_much_syncs_commit_also_without_zeros(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pspf.log.writer.CLOSE_SYNC_BYTES", 5_000)
    disk = SimDisk()
    store = topic_on(disk, preallocate=False)
    for _ in range(4):
        store.append("t", bytes(2_000))
    store.close()
    for state in disk.crash_states(1, 5):
        report = writer_of(open_store(STORE, disk=state)).report
        assert report is None or report.adopted == 0


@pytest.mark.parametrize("now_ns", [-1, -(10**18), 1 << 64])
def test_a_clock_out_of_range_does_no_harm(
    now_ns: int, store_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pspf.open(str(store_dir)) as store:
        store.append("t", b"before")
    monkeypatch.setattr("pspf.disk.real.time_ns", lambda: now_ns, raising=False)
    monkeypatch.setattr("time.time_ns", lambda: now_ns)
    with pspf.open(str(store_dir)) as store:
        store.append("t", b"x", timestamp_ms=1)
        store.create_topic("u")
        store.append("u", b"x", timestamp_ms=1)
    monkeypatch.undo()
    with pspf.open(str(store_dir)) as store:
        store.append("t", b"after")
        assert [record.value for record in store.read("t")] == [b"before", b"x", b"after"]


def test_a_disk_that_answers_nothing_any_more_is_an_error_of_ours() -> None:
    disk = SimDisk()
    topic_on(disk).close()
    store = open_store(STORE, disk=disk)
    topic = store.topic("t")
    disk.fail("*", times=1_000)
    with pytest.raises(errors.IOFailed):
        store.partition_writer(topic, 0)
