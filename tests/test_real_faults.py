"""Real file systems whose disk fails, loses power or runs full under running writers.

The simulated disk does the same faster and at every place; here the kernel itself says what a failing disk
looks like to a program. The disk is a loop device on a drive of ours (``support_faults.py``), which fails
when a test says so; its file systems are ext4 and xfs as they are.
"""

import errno
import mmap
import os
import random
import sys
import time
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import pspf
from pspf.format.segment import segment_name
from pspf.model import TopicConfig
from pspf.store.open import open_store
from pspf.testing.ledger import Found, read_all
from tests.conftest import script
from tests.support_failing_disk import (
    LOST,
    MAKE,
    SELDOM,
    FaultyDisk,
    Interrupted,
    Log,
    break_the_journal,
    fail_a_write_back,
    lies_to_a_later_descriptor,
    made,
    refused_by_sync,
    segments,
)
from tests.support_figures import Figure
from tests.support_processes import (
    WORKER,
    Acknowledged,
    Feeder,
    Running,
    acknowledged,
    append_to_each,
    check_follower,
    check_records,
    check_store,
    nothing_left_running,  # noqa: F401
)

WRITERS = ("single", "single", "batch", "gather", "sequence", "pipe")
FORMAT = r"%p %o %s\n"
ENOUGH_RECORDS = 8_000

if TYPE_CHECKING:
    from tests.soak import Slice, Work


class PowerCuts:
    """Rounds on one disk: start writers and readers, take the power away, mount again, check."""

    def __init__(self, disk: FaultyDisk, seed: int) -> None:
        self.disk = disk
        self.rng = random.Random(seed)
        self.number = 0
        self.topic = ""
        self.partitions = 1
        self.sync = True
        self.acked: list[Acknowledged] = []
        self.total_acked = 0
        self.total_seen = 0
        self.records = 0
        self.story = ""
        self.store = disk.path / "store"
        self.outside = disk.outside / "store"

    def new_topic(self) -> None:
        rng = self.rng
        self.topic = f"t{self.number}"
        self.partitions = rng.choice((1, 1, 3))
        durability = (
            rng.choice(("sync", "sync", "sync", "interval", "os")) if self.partitions == 1 else "sync"
        )
        self.sync = durability == "sync"
        self.acked = []
        self.records = 0
        config = TopicConfig(
            partitions=self.partitions,
            segment_bytes=65536,
            durability=durability,
            preallocate=rng.random() < 0.6,
            compression=rng.choice(("none", "none", "zstd")),
        )
        with pspf.open(str(self.outside)) as store:
            store.create_topic(self.topic, config)

    def run(self) -> None:
        rng = self.rng
        self.number += 1
        if not self.topic or self.records > ENOUGH_RECORDS or rng.random() < 0.3:
            self.new_topic()
        kinds = rng.sample(WRITERS, rng.choice((1, 2, 3)))
        writers = [self.start(kind, f"r{self.number}w{i}") for i, kind in enumerate(kinds)]
        follower = self.worker("follow", f"r{self.number}f")
        how = rng.choice(("power", "power", "shutdown"))
        self.story = f"{self.disk.kind}, {how}, {', '.join(kinds)}, {'sync' if self.sync else 'not sync'}"
        if rng.random() < 0.8:  # else while they open and recover
            writers[0].wait_for_lines(rng.randrange(1, 60))
        for _ in range(rng.randrange(4)):
            time.sleep(rng.uniform(0, 0.06))
            self.disk.write_back()
        if how == "power":
            self.story += "; " + self.disk.drive.ask("off", rng.randrange(1 << 32))
        else:
            self.disk.shut_down()
        for writer in writers:
            code = writer.wait()
            assert code == pspf.errors.IOFailed.exit_code, f"{writer.name}: {code}, {writer.errors()}"
        follower.kill()
        self.disk.remount()
        self.check(writers, follower)

    def worker(self, mode: str, name: str) -> Running:
        return self.disk.start(name, [sys.executable, str(WORKER), mode, str(self.store), self.topic, name])

    def start(self, kind: str, name: str) -> Running:
        if kind != "pipe":
            return self.worker(kind, name)
        argv = [script(), "-s", str(self.store), "append", "--ack", "--no-create", self.topic]
        return Feeder(name, self.rng).started_for(lambda descriptor: self.disk.start(name, argv, descriptor))

    def check(self, writers: list[Running], follower: Running) -> None:
        rng = self.rng
        new = [acknowledged(writer) for writer in writers]
        if self.sync:
            self.acked += new
            self.total_acked += sum(each.records for each in new)
        before: Found | None = None
        if rng.random() < 0.5:  # a reader comes first
            # One that may not write stops at the end that ``commit`` on the disk names. That may be old; and
            # when a sync was not waited for, it may name records that had not reached the disk.
            read_only = self.sync and rng.random() < 0.5
            with pspf.open(str(self.outside), read_only=read_only) as store:
                before = read_all(store, self.topic, self.partitions)
            check_records(before, [] if read_only else self.acked, settled=False)
        with pspf.open(str(self.outside)) as store:
            self.acked.append(append_to_each(store, self.topic, self.partitions, self.number))
            found = check_store(store, self.topic, self.partitions)
        # What was not acknowledged may be lost in one partition and there in the next.
        self.records = check_records(found, self.acked, settled=self.partitions == 1)
        if before is not None:
            for partition, records in before.items():
                assert found[partition][: len(records)] == records, "what a reader saw is gone"
        if self.sync:
            self.total_seen += check_follower(follower, found)


def power_cuts(scratch: Path, kind: str, rounds: int, seed: "int | None" = None) -> None:
    if seed is None:
        seed = int(os.environ.get("PSPF_KILL_SEED") or random.SystemRandom().randrange(1 << 32))
    with FaultyDisk(scratch, kind) as disk:
        cuts = PowerCuts(disk, seed)
        try:
            for _ in range(rounds):
                cuts.run()
        except BaseException as error:
            error.add_note(f"round {cuts.number}, topic {cuts.topic}, {cuts.story}; PSPF_KILL_SEED={seed}")
            raise
    print(
        f"power cuts on {kind}: {rounds}, {cuts.total_acked} records acknowledged, 0 lost, 0 twice, "
        f"{cuts.total_seen} seen by followers, seed {seed}"
    )


@pytest.mark.parametrize("kind", MAKE)
def test_power_cuts_under_writers_lose_nothing(scratch_dir: Path, kind: str) -> None:
    power_cuts(scratch_dir, kind, 2)


@pytest.mark.faults
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("kind", MAKE)
def test_20_power_cuts_under_writers_lose_nothing(scratch_dir: Path, kind: str, figure: Figure) -> None:
    power_cuts(scratch_dir, kind, 20)
    figure("power cuts of ext4 and xfs", 20)


def soak_power_cuts(part: "Slice") -> int:
    kinds = list(MAKE)
    power_cuts(part.scratch, kinds[part.number % len(kinds)], 20, part.seed)
    return 20


SOAK: "dict[str, Work]" = {"power cuts of ext4 and xfs": soak_power_cuts}


# -- syncs that lie
#
# Each test first shows with plain calls that this kernel does lie so: it could not fail otherwise.


@pytest.mark.parametrize("kind", MAKE)
def test_plain_files_after_a_failed_sync(scratch_dir: Path, kind: str) -> None:
    """The lies themselves: where zeros were written, where room was allocated, and where a file grew."""
    with FaultyDisk(scratch_dir, kind) as disk:
        path = disk.outside / "plain"
        fd = os.open(path, os.O_RDWR | os.O_CREAT)
        try:
            os.pwrite(fd, bytes(16384), 0)
            os.posix_fallocate(fd, 16384, 16384)
            os.fsync(fd)
            places = (0, 8192, 16384, 24576, 32768)
            disk.drive.ask("fail", LOST.encode().hex())
            for place in places:
                os.pwrite(fd, LOST.encode() * 1024, place)
            assert refused_by_sync(fd)
            disk.drive.ask("works")
            assert not refused_by_sync(fd), "repeated, it succeeds"
            assert lies_to_a_later_descriptor(disk, path)
            assert all(os.pread(fd, 4096, place) == LOST.encode() * 1024 for place in places)
        finally:
            os.close(fd)
        disk.remount()
        assert LOST.encode() not in path.read_bytes()


@pytest.mark.parametrize("lasting", [False, True], ids=["once", "for good"])
@pytest.mark.parametrize("fault", ["fail", "full"])
@pytest.mark.parametrize("kind", MAKE)
def test_a_failed_sync_and_writers_opened_before_and_after_it(
    scratch_dir: Path, kind: str, fault: str, lasting: bool
) -> None:
    """``fail`` is an I/O error, ``full`` a thin volume without room, which shows at the sync only."""
    log = Log()
    with FaultyDisk(scratch_dir, kind) as disk:
        store = made(disk)
        first, before = disk.hand(store, "first"), disk.hand(store, "before")
        for hand in (first, before, first, before):
            log.append(hand, f"base {len(log.acked)}")
        (segment,) = segments(disk)
        disk.drive.ask(fault, LOST.encode().hex())
        assert log.try_append(first, "lost 1") == "Poisoned"
        if not lasting:
            disk.drive.ask("works")
            assert lies_to_a_later_descriptor(disk, segment)
        assert log.try_append(before, "before 1") == "Poisoned"
        after = disk.hand(store, "after")
        if lasting:  # the heal moves the lost record to quarantine, and that fails, too
            assert log.try_append(after, "after 1") == "IOFailed"
            assert log.try_append(before, "before 2") == "IOFailed"
            assert segments(disk) == [segment]
            disk.drive.ask("works")
        log.append(after, "after 2")
        assert len(segments(disk)) == 2, "nothing was healed"
        for hand in (before, first, after):
            log.append(hand, f"healed, {hand.name}")
        for hand in (before, first, after):
            hand.kill()
        assert not any(LOST in value for value in log.check_remounted(disk)), "behind the cut of the heal"


@pytest.mark.parametrize("lasting", [False, True], ids=["once", "for good"])
@pytest.mark.parametrize("beside", [False, True], ids=["alone", "beside a living writer"])
@pytest.mark.parametrize("kind", MAKE)
def test_a_failed_write_back_into_zeros_of_which_no_writer_was_told(
    scratch_dir: Path, kind: str, beside: bool, lasting: bool
) -> None:
    log = Log()
    with FaultyDisk(scratch_dir, kind) as disk:
        store = made(disk)
        killed = disk.hand(store, "killed")
        for number in range(3):  # the second one writes zeros ahead
            log.append(killed, f"base {number}")
        before = disk.hand(store, "before")
        if beside:
            log.append(before, "base 3")
        (segment,) = segments(disk)
        size = segment.stat().st_size
        disk.drive.ask("fail", LOST.encode().hex())
        assert killed.ask("write", "lost 1").startswith("ok")
        assert segment.stat().st_size == size, "it was not written into zeros"
        fail_a_write_back(disk, segment)
        killed.kill()
        assert lies_to_a_later_descriptor(disk, segment)
        if not lasting:
            disk.drive.ask("works")
        after = disk.hand(store, "after")
        said = log.try_append(after, "after 1")
        if lasting:
            assert said == ("Poisoned" if beside else "IOFailed")
            disk.drive.ask("works")
        else:
            assert said == "ok"
        # ``before`` had its descriptor open at the failure: it is told, and poisons; that reaches ``after``.
        log.try_append(before, "before 1")
        log.append(before, "before 2")
        log.try_append(after, "after 2")
        log.append(after, "after 3")
        for hand in (before, after):
            hand.kill()
        values = log.check_remounted(disk)
        if not lasting:
            assert "lost 1" in values, "a reader was shown it"


@pytest.mark.parametrize("failed", [False, True], ids=["written", "write-back failed"])
@pytest.mark.parametrize("kind", MAKE)
def test_a_power_cut_behind_the_adoption_of_what_a_killed_writer_left(
    scratch_dir: Path, kind: str, failed: bool
) -> None:
    """Whoever opens the partition next publishes the record: from then on it is durable."""
    log = Log()
    with FaultyDisk(scratch_dir, kind, SELDOM if kind == "ext4" else "") as disk:
        store = made(disk, preallocate=failed)
        killed = disk.hand(store, "killed")
        for number in range(3):
            log.append(killed, f"base {number}")
        if failed:
            disk.drive.ask("fail", LOST.encode().hex())
        assert killed.ask("write", "lost 1") == "ok 3"
        if failed:
            fail_a_write_back(disk, segments(disk)[0])
            disk.drive.ask("works")
        killed.kill()
        after = disk.hand(store, "after")
        assert after.ask("open") == "ok 4"
        disk.drive.ask("off", 1, "nothing")
        after.kill()
        disk.remount()
        log.acknowledged(3, "lost 1")
        log.check_remounted(disk)


@pytest.mark.parametrize("kept", [False, True], ids=["", "the cache cannot be dropped"])
@pytest.mark.parametrize("beside", [False, True], ids=["alone", "beside a living writer"])
@pytest.mark.parametrize("kind", MAKE)
def test_a_disk_that_cannot_be_read_when_a_write_back_failed(
    scratch_dir: Path, kind: str, beside: bool, kept: bool
) -> None:
    """Bytes of others are read back from the disk: when that fails, the cache is no proof of them."""
    log = Log()
    with FaultyDisk(scratch_dir, kind) as disk:
        store = made(disk)
        killed = disk.hand(store, "killed")
        for number in range(3):
            log.append(killed, f"base {number}")
        before = disk.hand(store, "before")
        if beside:
            log.append(before, "base 3")
        (segment,) = segments(disk)
        after = disk.hand(store, "after")
        disk.drive.ask("fail", LOST.encode().hex())
        assert killed.ask("write", "lost 1").startswith("ok")
        fail_a_write_back(disk, segment)
        killed.kill()
        assert lies_to_a_later_descriptor(disk, segment)
        disk.drive.ask("works")
        disk.drive.ask("mute")
        with open(segment, "rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as mapped:
            if kept:  # as by a backup that has the file mapped
                assert LOST.encode() in mapped[:]
            assert log.try_append(after, "after 1") == ("Poisoned" if beside else "IOFailed")
        disk.drive.ask("works")
        for hand in (before, after):
            log.try_append(hand, f"{hand.name} 2")
            log.append(hand, f"{hand.name} 3")
        for hand in (before, after):
            hand.kill()
        log.check_remounted(disk)


def test_an_aborted_journal_of_which_a_sync_says_nothing(scratch_dir: Path) -> None:
    """ext4 never wrote the new size of the file; a descriptor syncs with success, its next write fails."""
    log = Log()
    with FaultyDisk(scratch_dir, "ext4", SELDOM) as disk:
        store = made(disk, preallocate=False)
        writer = disk.hand(store, "writer")
        log.append(writer, "base 0")
        (segment,) = segments(disk)
        size = segment.stat().st_size
        plain = os.open(segment, os.O_RDWR)
        other = os.open(disk.outside / "other", os.O_RDWR | os.O_CREAT)
        try:
            os.fsync(other)
            assert writer.ask("write", "lost 1").startswith("ok")
            break_the_journal(disk, other, segment)
            assert not refused_by_sync(plain), "a descriptor opened before is told the truth by this kernel"
            time.sleep(0.05)  # so that the next write changes a file's time; see the next test
            assert writer.ask("sync").startswith("OutcomeUnknown 74")
            assert log.try_append(writer, "lost 2") != "ok"
        finally:
            os.close(plain)
            os.close(other)
        writer.kill()
        disk.remount()
        assert segment.stat().st_size == size, "nothing was lost"
        assert not any(LOST in value for value in log.check_remounted(disk))


def test_an_aborted_journal_and_writes_in_one_tick_of_the_clock(scratch_dir: Path) -> None:
    """ext4 looks at its journal when a write changes the file's time, which is once in some milliseconds.

    What was appended before the journal broke must not hide from the next append that it did.
    """
    with FaultyDisk(scratch_dir, "ext4", SELDOM) as disk:
        made(disk, preallocate=False)
        for number in range(12):
            values = [b"%d: %d" % (number, step) for step in range(3)]
            (segment,) = segments(disk)[-1:] or [disk.outside / "store/topics/t/0" / segment_name(0)]
            interrupted = Interrupted()
            other = os.open(disk.outside / "other", os.O_RDWR | os.O_CREAT)
            store = open_store(str(disk.outside / "store"), create=False, disk=interrupted)
            try:
                for value in values[:2]:
                    acked = store.append("t", value).first
                interrupted.before_sync = partial(break_the_journal, disk, other, segment)
                with suppress(pspf.errors.OutcomeUnknown):
                    acked = store.append("t", values[2]).first
            finally:
                with suppress(pspf.errors.IOFailed, OSError):
                    store.close()
                os.close(other)
            disk.remount()
            with pspf.open(str(disk.outside / "store")) as again:
                (records,) = check_store(again, "t", 1).values()
            assert acked < len(records), f"try {number}: acknowledged at {acked}, {len(records)} records left"


# -- a file system that becomes read-only, or full


def started_writers(disk: FaultyDisk, store: Path, number: int = 0) -> list[Running]:
    """The command at a pipe, and a program with one record a call; both have something acknowledged."""
    argv = [script(), "-s", str(store), "append", "--ack", "--no-create", "t"]
    feeder = Feeder(f"pipe{number}", random.Random(number))
    pipe = feeder.started_for(lambda descriptor: disk.start(f"pipe{number}", argv, descriptor))
    name = f"single{number}"
    worker = disk.start(name, [sys.executable, str(WORKER), "single", str(store), "t", name])
    for running in (pipe, worker):
        running.wait_for_lines(5)
    return [pipe, worker]


def ended_with(writers: list[Running], *texts: str) -> list[Acknowledged]:
    """What they had acknowledged, when each has ended with 74 and one of ``texts``."""
    for writer in writers:
        assert writer.wait() == pspf.errors.IOFailed.exit_code, f"{writer.name}: {writer.errors()}"
        assert any(text in writer.errors() for text in texts), f"{writer.name}: {writer.errors()}"
    return [acknowledged(writer) for writer in writers]


def check_acked(disk: FaultyDisk, acked: list[Acknowledged], number: int) -> None:
    with pspf.open(str(disk.outside / "store")) as store:
        acked.append(append_to_each(store, "t", 1, number))
        check_records(check_store(store, "t", 1), acked)


def test_a_file_system_that_becomes_read_only_under_writers(scratch_dir: Path) -> None:
    with FaultyDisk(scratch_dir, "ext4", "errors=remount-ro") as disk:
        store = made(disk, segment_bytes=65536)
        writers = started_writers(disk, store)
        disk.break_off()
        # EROFS or EIO, at whatever call comes next.
        acked = ended_with(writers, "cannot append", "cannot acknowledge")
        with pspf.open(str(disk.outside / "store")) as reading:
            check_records(read_all(reading, "t", 1), acked)
        disk.remount()
        check_acked(disk, acked, 0)


@pytest.mark.parametrize("kind", MAKE)
def test_a_disk_that_runs_full_under_writers(scratch_dir: Path, kind: str) -> None:
    with FaultyDisk(scratch_dir, kind) as disk:
        store = made(disk, segment_bytes=1 << 20)
        writers = started_writers(disk, store)
        filler = disk.outside / "filler"
        with open(filler, "wb", buffering=0) as file:
            for size in (1 << 20, 4096):
                try:
                    while True:
                        file.write(bytes(size))
                except OSError as error:
                    assert error.errno == errno.ENOSPC
        acked = ended_with(writers, "no space left on the disk")
        with pspf.open(str(disk.outside / "store")) as full:
            check_records(check_store(full, "t", 1), acked)
            for number in range(3):
                try:
                    acked.append(append_to_each(full, "t", 1, number))
                except pspf.errors.IOFailed as error:
                    assert "no space left on the disk" in str(error)
            check_records(check_store(full, "t", 1), acked)
        filler.unlink()
        for running in started_writers(disk, store, 1):
            running.kill()
            acked.append(acknowledged(running))
        check_acked(disk, acked, 10)
        disk.remount()
        check_acked(disk, acked, 11)
