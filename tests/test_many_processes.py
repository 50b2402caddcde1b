"""Many processes on one store at once, without a daemon.

Writers, followers, and those who make, change, delete and copy things meanwhile.
"""

import os
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import pspf
from pspf import errors
from pspf.log.others import end_now
from pspf.log.roll import roll
from pspf.model import TopicConfig
from pspf.store.open import open_store
from pspf.store.store import Store
from pspf.store.verify import Finding
from pspf.testing.ledger import Found
from tests.conftest import Pspf
from tests.support_figures import Figure
from tests.support_processes import (
    Acknowledged,
    Running,
    acknowledged,
    append_to_each,
    check_follower,
    check_records,
    check_store,
    nothing_left_running,  # noqa: F401
    start_command,
    start_worker,
    wait_until,
)
from tests.support_worker import value_of

if TYPE_CHECKING:
    from tests.soak import Slice, Work

FORMAT = r"%p %o %s\n"
MANY = 8


def made(store_dir: Path, topic: str = "t", **settings: "int | str | bool") -> None:
    with pspf.open(str(store_dir)) as store:
        store.create_topic(topic, TopicConfig(**settings))  # type: ignore[arg-type]


def at_once(start: "list[tuple[str, str, str]]", store_dir: Path, topic: str = "t") -> list[Running]:
    """Workers (mode, name, option) that wait for each other, let go together; ended."""
    read_end, write_end = os.pipe()
    started = [
        start_worker(mode, store_dir, topic, name, *([option] if option else []), stdin=read_end)
        for mode, name, option in start
    ]
    os.close(read_end)
    time.sleep(0.1)
    os.close(write_end)
    for running in started:
        running.wait()
    return started


# -- writers and followers


def writers_and_followers(store_dir: Path, seconds: float) -> None:
    partitions = 4
    made(store_dir, partitions=partitions, segment_bytes=65536)
    modes = ("single", "single", "batch", "batch", "gather", "gather", "sequence", "sequence")
    followers = [
        start_worker("follow", store_dir, "t", f"f{number}")
        if number % 2
        else start_command(f"f{number}", store_dir, "tail", "-f", "-o", "start", "--format", FORMAT, "t")
        for number in range(MANY)
    ]
    writers = [
        start_worker(
            mode, store_dir, "t", f"w{number}", f"seconds={seconds}", *(["keyed=1"] if number else [])
        )
        for number, mode in enumerate(modes)
    ]
    for writer in writers:
        assert writer.process.wait(seconds + 60) == 0, writer.errors()
    acked = [acknowledged(writer) for writer in writers]
    with pspf.open(str(store_dir)) as store:
        found = check_store(store, "t", partitions)
    total = check_records(found, acked)
    assert total == sum(each.records for each in acked)
    for follower in followers:
        follower.wait_for_lines(total)
    for follower in followers:
        follower.kill()
        assert follower.killed(), follower.errors()
        assert check_follower(follower, found) == total
    segments = sum(len(list((store_dir / "topics/t" / str(n)).glob("*.log"))) for n in range(partitions))
    assert segments > partitions, "nothing was rolled"
    print(
        f"{MANY} writers, {MANY} followers: {total} records, {segments} segments, 0 lost, 0 twice, in order"
    )


def test_eight_writers_and_eight_followers(store_dir: Path) -> None:
    writers_and_followers(store_dir, 2)


@pytest.mark.faults
@pytest.mark.timeout(600)
def test_eight_writers_and_eight_followers_for_a_minute(store_dir: Path, figure: Figure) -> None:
    writers_and_followers(store_dir, 60)
    figure("eight writers and eight followers", 60)


def test_two_writers_with_different_durability(store_dir: Path) -> None:
    made(store_dir, segment_bytes=65536)
    levels = ("sync", "os", "interval")
    writers = [
        start_worker(mode, store_dir, "t", f"{mode}-{level}", "total=600", f"durability={level}")
        for level in levels
        for mode in ("single", "batch")
    ]
    assert [writer.wait() for writer in writers] == [0] * len(writers)
    with pspf.open(str(store_dir)) as store:
        found = check_store(store, "t", 1)
    assert check_records(found, map(acknowledged, writers)) == 600 * len(writers)


def test_a_writer_that_is_alive_goes_on_when_another_is_killed(store_dir: Path) -> None:
    made(store_dir, segment_bytes=65536)
    lasting = start_worker("single", store_dir, "t", "lasting", "seconds=2")
    lasting.wait_for_lines(1)
    dead: list[Running] = []
    while lasting.process.poll() is None and len(dead) < 12:
        other = start_worker("batch", store_dir, "t", f"dead{len(dead)}")
        other.wait_for_lines(1 + len(dead) * 20)
        other.kill()
        dead.append(other)
    assert lasting.wait() == 0, lasting.errors()
    with pspf.open(str(store_dir)) as store:
        acked = [*map(acknowledged, [lasting, *dead]), append_to_each(store, "t", 1, 0)]
        check_records(check_store(store, "t", 1), acked)


# -- races


def test_partitions_added_in_a_race(store_dir: Path) -> None:
    made(store_dir)
    totals = [2, 3, 4, 5, 6, 7, 8, 8]
    ended = at_once(
        [("add_partitions", f"a{n}", f"partitions={total}") for n, total in enumerate(totals)], store_dir
    )
    grown = []
    for running, total in zip(ended, totals, strict=True):
        if running.process.returncode == 0:
            assert running.lines() == [str(total)]
            grown.append(total)
        else:
            assert running.process.returncode == errors.Usage.exit_code, running.errors()
            assert "can only be added" in running.errors()
    assert grown.count(8) == 1
    with pspf.open(str(store_dir)) as store:
        assert store.partition_count("t") == 8
        assert store.verify().ok
        for partition in range(8):
            store.append("t", b"v", partition=partition)


def test_partitions_added_under_writers_and_followers(store_dir: Path) -> None:
    made(store_dir, segment_bytes=65536)
    follower = start_worker("follow", store_dir, "t", "f")
    writers = [start_worker("single", store_dir, "t", f"w{number}", "seconds=3") for number in range(2)]
    for writer in writers:
        writer.wait_for_lines(20)
    with pspf.open(str(store_dir)) as store:
        assert store.add_partitions("t", 3) == 3
    assert [writer.wait() for writer in writers] == [0, 0], writers[0].errors()
    with pspf.open(str(store_dir)) as store:
        found = check_store(store, "t", 3)
    total = check_records(found, map(acknowledged, writers))
    assert all(found.values()), "a writer that was running never used the new partitions"
    follower.wait_for_lines(total)
    follower.kill()
    assert check_follower(follower, found) == total


def test_one_of_many_creates_the_topic(store_dir: Path) -> None:
    with pspf.open(str(store_dir)):
        pass
    ended = at_once([("create_topic", f"c{n}", "") for n in range(MANY)], store_dir)
    codes = sorted(running.process.returncode for running in ended)
    assert codes == [0] + [errors.Exists.exit_code] * (MANY - 1)
    (made_id,) = [running.lines()[0] for running in ended if running.process.returncode == 0]
    with pspf.open(str(store_dir)) as store:
        assert store.topics() == ["t"] and store.describe("t").topic_id == made_id
        assert store.verify().ok


def test_one_of_many_creates_the_store(scratch_dir: Path) -> None:
    store_dir = scratch_dir / "store"
    read_end, write_end = os.pipe()
    started = [start_worker("create_store", store_dir, "t", f"c{n}", stdin=read_end) for n in range(MANY)]
    os.close(read_end)
    time.sleep(0.1)
    os.close(write_end)
    assert [running.wait() for running in started] == [0] * MANY, [running.errors() for running in started]
    told = [running.lines()[0].split() for running in started]
    assert len({store_id for store_id, _ in told}) == 1
    assert [created for _, created in told].count("True") == 1


def test_the_first_appends_of_many_commands_make_store_and_topic_once(store_dir: Path) -> None:
    store_dir.rmdir()
    for number in range(MANY):
        (store_dir.parent / f"c{number}.txt").write_bytes(
            b"".join(value_of(f"c{number}", n) + b"\n" for n in range(50))
        )
    started = [
        start_command(f"c{n}", store_dir, "append", "--ack", "t", str(store_dir.parent / f"c{n}.txt"))
        for n in range(MANY)
    ]
    assert [running.wait() for running in started] == [0] * MANY, [running.errors() for running in started]
    with pspf.open(str(store_dir)) as store:
        found = check_store(store, "t", 1)
        assert store.topics() == ["t"]
    assert check_records(found, map(acknowledged, started)) == 50 * MANY


# -- a topic deleted meanwhile


def test_a_topic_deleted_while_it_is_followed(store_dir: Path) -> None:
    made(store_dir, partitions=2)
    with pspf.open(str(store_dir)) as store:
        store.append("t", b"one", partition=0)
    followers = [
        start_worker("follow", store_dir, "t", "library"),
        start_command("command", store_dir, "tail", "-f", "-o", "start", "t"),
    ]
    for follower in followers:
        follower.wait_for_lines(1)
    with pspf.open(str(store_dir)) as store:
        store.delete_topic("t")
    for follower in followers:
        assert follower.wait() == 66, follower.errors()
        assert "the topic was deleted" in follower.errors()
        assert len(follower.lines()) == 1


def test_a_topic_deleted_while_it_is_written(store_dir: Path) -> None:
    made(store_dir)
    read_end, write_end = os.pipe()
    command = start_command("command", store_dir, "append", "--ack", "t", stdin=read_end)
    os.close(read_end)
    os.write(write_end, b"one\n")
    command.wait_for_lines(1)
    worker = start_worker("single", store_dir, "t", "worker")
    worker.wait_for_lines(5)
    with pspf.open(str(store_dir)) as store:
        store.delete_topic("t")
    os.write(write_end, b"two\n")
    assert worker.wait() == 66, worker.errors()
    assert command.wait() == 66, command.errors()
    os.close(write_end)
    with pspf.open(str(store_dir)) as store:
        assert store.topics() == []
        assert store.append("t", b"new").first == 0


def test_a_topic_deleted_and_made_again_is_another_topic(store_dir: Path) -> None:
    made(store_dir)
    with pspf.open(str(store_dir)) as store, pspf.open(str(store_dir)) as other:
        store.append("t", b"old")
        other.delete_topic("t")
        other.create_topic("t")
        assert other.append("t", b"new").first == 0
        with pytest.raises(errors.NoSuchTopic):
            store.append("t", b"for the old one", create=False)
        assert [record.value for record in other.read("t")] == [b"new"]


def test_a_topic_renamed_while_it_is_written(store_dir: Path) -> None:
    made(store_dir)
    read_end, write_end = os.pipe()
    command = start_command("command", store_dir, "append", "--ack", "t", stdin=read_end)
    os.close(read_end)
    os.write(write_end, b"one\n")
    command.wait_for_lines(1)
    with pspf.open(str(store_dir)) as store:
        store.rename_topic("t", "u")
    os.write(write_end, b"two\n")
    os.close(write_end)
    assert command.wait() == 0, command.errors()
    with pspf.open(str(store_dir)) as store:
        assert store.topics() == ["u"]
        assert [record.value for record in store.read("u")] == [b"one", b"two"]


# -- a live store copied


def copies(store_dir: Path, count: int, segment_bytes: int) -> None:
    partitions = 2
    made(store_dir, partitions=partitions, segment_bytes=segment_bytes)
    modes = ("single", "batch", "gather")
    writers = [start_worker(mode, store_dir, "t", f"w-{mode}") for mode in modes]
    seen = torn = 0
    try:
        for writer in writers:
            writer.wait_for_lines(10)
        for number in range(count):
            time.sleep(0.1)
            before = [acknowledged(writer) for writer in writers]
            copy = store_dir.parent / "copy"
            copied_live(store_dir, copy)
            # They rest while the copy is looked at, or each look would take longer than the one before.
            for writer in writers:
                writer.process.send_signal(signal.SIGSTOP)
            with pspf.open(str(copy)) as store:
                after = append_to_each(store, "t", partitions, number)
                damage = [finding for finding in store.verify().findings if finding.severity == "damage"]
                seen = check_copy(store, partitions, before, damage)
                torn += bool(damage)
                for partition, first, mine, _ in after.rows:
                    (record,) = store.read("t", partitions=[partition], ranges=[f"{first}:"])
                    assert record.value == value_of(after.name, mine)
            for writer in writers:
                writer.process.send_signal(signal.SIGCONT)
            shutil.rmtree(copy)
    finally:
        for writer in writers:
            writer.kill()
    assert all(writer.killed() for writer in writers), [writer.errors() for writer in writers]
    with pspf.open(str(store_dir)) as store:
        total = check_records(check_store(store, "t", partitions), map(acknowledged, writers))
    print(
        f"{count} copies of a live store with segments of {segment_bytes} bytes, {seen} records in the last, "
        f"{total} in the store at the end, 0 lost; {torn} copies name records that came while they were made"
    )


def copied_live(store_dir: Path, copy: Path) -> None:
    """``cp -a``, which complains when a file goes away between its listing and its copy, and goes on."""
    ran = subprocess.run(["cp", "-a", str(store_dir), str(copy)], capture_output=True, text=True, check=False)
    assert all(".tmp'" in line for line in ran.stderr.splitlines()), ran.stderr


def check_copy(store: Store, partitions: int, acked: list[Acknowledged], damage: list[Finding]) -> int:
    """What was acknowledged before is there, and nothing of it is named damaged; how many records there are.

    ``cp`` does not copy all bytes at one instant: ``commit`` may know of records that came behind what was
    copied of the log, or of segments that began after the directory was listed, and a segment may have its
    end from later than its middle. Then the copy names what it lacks, all of which came while it was made.
    """
    found: Found = {partition: [] for partition in range(partitions)}
    for record in store.read("t", skip_damaged=True):
        found[record.partition].append((record.offset, record.value))
    ends = dict.fromkeys(found, 0)
    for writer in acked:
        for partition, first, _, size in writer.rows:
            ends[partition] = max(ends[partition], first + size)
    for finding in damage:
        assert finding.first_offset >= ends[finding.partition], (finding, ends)
    by_offset = {partition: dict(records) for partition, records in found.items()}
    for writer in acked:
        for partition, first, number, size in writer.rows:
            records = by_offset[partition]
            for step in range(size):
                assert records.get(first + step) == value_of(writer.name, number + step), (
                    f"lost: {writer.name} at {partition}/{first + step}; named: {damage}"
                )
    return sum(map(len, found.values()))


@pytest.mark.parametrize("segment_bytes", [65536, 64 << 20])
def test_a_live_store_copied_with_cp_and_opened_at_once(store_dir: Path, segment_bytes: int) -> None:
    copies(store_dir, 2, segment_bytes)


@pytest.mark.faults
@pytest.mark.parametrize("segment_bytes", [65536, 64 << 20])
def test_a_live_store_copied_20_times_with_cp_and_opened_at_once(
    store_dir: Path, segment_bytes: int, figure: Figure
) -> None:
    copies(store_dir, 20, segment_bytes)
    figure("a live store copied with cp", 20)


def soak_pairs(part: "Slice") -> int:
    store_dir = part.scratch / "store"
    store_dir.mkdir()
    writers_and_followers(store_dir, 60)
    return 60


def soak_copies(part: "Slice") -> int:
    store_dir = part.scratch / "store"
    store_dir.mkdir()
    copies(store_dir, 20, (65536, 64 << 20)[part.number % 2])
    return 20


SOAK: "dict[str, Work]" = {
    "eight writers and eight followers": soak_pairs,
    "a live store copied with cp": soak_copies,
}


# -- waiting


def test_a_follower_that_waits_for_its_topic(store_dir: Path, pspf: Pspf) -> None:
    with open_store(str(store_dir)):
        pass
    follower = start_command("f", store_dir, "tail", "-f", "-o", "start", "t")
    wait_until(lambda: "waiting for it" in follower.errors(), "the follower to wait")
    assert pspf("-s", store_dir, "append", "t", input=b"one\ntwo\n").returncode == 0
    assert follower.wait_for_lines(2) == ["one", "two"]
    follower.kill()


def test_a_large_batch_behind_a_producer_table_does_not_replace_the_segment(store_dir: Path) -> None:
    """Rolling a segment with nothing but its table made a new file of the same name; others that had the
    old one open synced that one instead, and called durable what was not.
    """
    path = str(store_dir / "store")
    with pspf.open(path) as first, pspf.open(path) as second:
        first.create_topic("t", TopicConfig(segment_bytes=65536))
        first.append("t", b"known", producer="p", sequence=0)
        second.append("t", b"seen")
        writer, other = (store.partition_writer(store.topic("t"), 0) for store in (first, second))
        end_now(writer)
        writer.files.disk.lock(writer.files.lock_fd)
        roll(writer)  # and the process that wanted to append behind it was killed
        writer.files.disk.unlock(writer.files.lock_fd)
        end_now(other)
        first.append("t", b"large" * 20_000, producer="p", sequence=1)
        inodes = [each.files.disk.stat(each.end.segment.fd).st_ino for each in (writer, other)]
        assert inodes[0] == inodes[1]
        second.append("t", b"small")
        values = [record.value for record in first.read("t")]
        assert values == [b"known", b"seen", b"large" * 20_000, b"small"]
        assert first.verify().ok
