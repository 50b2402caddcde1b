"""What looks at a store without changing it: verify, inspect, describe, stats and usage."""

import errno
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest

import pspf
from pspf import errors
from pspf.disk.real import Disk
from pspf.format.batch import HEADER_BYTES
from pspf.format.segment import SEGMENT_HEADER_BYTES, segment_name
from pspf.model import TopicConfig
from pspf.store.open import open_store
from pspf.store.verify import DAMAGE, Finding
from tests.conftest import ROOT
from tests.support_damage import (
    SMALL_SEGMENTS,
    TOPIC,
    all_but,
    append,
    base,
    batches,
    crashed,
    filled,
    flip,
    many_segments,
    overwrite,
    partition,
    read_all,
    reopened,
    segments,
    snapshot,
    tear,
    value,
)

# -- verify


def test_a_whole_store_has_no_findings_and_is_counted(store_dir: Path) -> None:
    found = many_segments(store_dir)
    with reopened(store_dir) as store:
        store.append_many("u", [b"line %d" % n for n in range(1000)], keys=[b"k"] * 1000)
        store.append("u", None, key=b"k", headers=[("h", b"v"), ("n", None)])
    before = snapshot(store_dir)
    with reopened(store_dir) as store:
        report = store.verify()
        assert (report.ok, report.findings) == (True, [])
        assert (report.records, report.partitions, report.segments) == (1701, 2, len(found) + 1)
        assert report.batches == 702
        assert report.bytes == sum(b.size for s in [*found, *segments(store_dir, "u")] for b in batches(s))
    assert snapshot(store_dir) == before


def test_an_empty_store_and_a_topic_without_records(store_dir: Path) -> None:
    with pspf.open(str(store_dir)) as store:
        store.create_topic("nothing", TopicConfig(partitions=5))
        report = store.verify()
        assert (report.ok, report.findings, report.partitions) == (True, [], 0)


def test_topics_are_verified_by_name_and_a_missing_one_is_an_error(store_dir: Path) -> None:
    filled(store_dir, 3)
    filled(store_dir, 3, topic="u")
    flip(segments(store_dir, "u")[0], SEGMENT_HEADER_BYTES + 10)
    with reopened(store_dir) as store:
        assert store.verify([TOPIC]).ok
        assert not store.verify(["u"]).ok
        with pytest.raises(errors.NoSuchTopic):
            store.verify(["missing"])


def test_progress_goes_up_to_all_the_bytes(store_dir: Path) -> None:
    with pspf.open(str(store_dir)) as store:
        for _ in range(8):
            store.append_many(TOPIC, [b"x" * 1000] * 1500, partition=0)
        told: list[tuple[int, int]] = []
        store.verify(on_progress=lambda done, total: told.append((done, total)))
    totals = {total for _, total in told}
    assert len(totals) == 1 and told[0][0] == 0 and told[-1][0] == told[-1][1] >= 12_000_000
    assert [done for done, _ in told] == sorted(done for done, _ in told)


def test_findings_are_told_as_they_come_and_are_all_in_the_report(store_dir: Path) -> None:
    many = many_segments(store_dir)
    for segment in many[:3]:
        flip(segment, batches(segment)[1].position + HEADER_BYTES + 30)
    told: list[Finding] = []
    with reopened(store_dir) as store:
        report = store.verify(on_finding=told.append)
    assert told == report.findings
    assert [(f.path, f.first_offset) for f in told] == [(str(s), base(s) + 1) for s in many[:3]]


def test_neighbouring_damage_of_one_kind_is_one_finding(store_dir: Path) -> None:
    filled(store_dir, 10)
    (segment,) = segments(store_dir)
    hit = batches(segment)[3:7]
    for batch in hit:
        flip(segment, batch.position + HEADER_BYTES + 30)
    with reopened(store_dir) as store:
        (found,) = store.verify().findings
    assert (found.kind, found.first_offset, found.last_offset) == ("batch-body", 3, 6)
    assert (found.position, found.length) == (hit[0].position, sum(b.size for b in hit))


def test_verify_beside_writers_that_append_and_roll_finds_nothing(store_dir: Path) -> None:
    program = (
        "import sys, time, pspf\n"
        "store = pspf.open(sys.argv[1])\n"
        "print('ready', flush=True)\n"
        "while True:\n"  # some twenty rolls a second; without a pause the log outgrows who reads all of it
        "    store.append('t', b'v' * 700)\n"
        "    time.sleep(0.001)\n"
    )
    with pspf.open(str(store_dir)) as store:
        store.create_topic(TOPIC, TopicConfig(segment_bytes=64 << 10, durability="os"))
        append(store, 1)
        writers = [
            subprocess.Popen(
                [sys.executable, "-c", program, str(store_dir)],
                stdout=subprocess.PIPE,
                env={**os.environ, "PYTHONPATH": str(ROOT)},
            )
            for _ in range(2)
        ]
        try:
            for writer in writers:
                assert writer.stdout is not None and writer.stdout.readline() == b"ready\n"
            checked = rounds = 0
            while rounds < 25 or (checked <= 500 and rounds < 1000):  # however slow the machine is
                rounds += 1
                report = store.verify()
                assert [f for f in report.findings if f.severity == DAMAGE] == []
                assert report.records >= checked
                checked = report.records
                list(store.inspect(TOPIC))
                info = store.describe(TOPIC).partitions[0]
                assert info.state == "ok" and info.written >= info.end >= checked
        finally:
            for writer in writers:
                writer.kill()
                writer.wait()
        assert checked > 500  # some five rolls


def test_a_topic_deleted_while_it_is_verified_is_no_damage(store_dir: Path) -> None:
    filled(store_dir, 3)
    with reopened(store_dir) as other:

        class Deleting(Disk):
            """Deletes the topic when its segment is opened."""

            def open(self, name: str, flags: int = 0, dir_fd: "int | None" = None) -> int:
                if name.endswith(".log") and TOPIC in other.topics():
                    other.delete_topic(TOPIC)
                return super().open(name, flags, dir_fd)

        with open_store(str(store_dir), create=False, disk=Deleting()) as store:
            report = store.verify()
        assert other.topics() == []
    assert report.findings == []


def test_damage_seen_while_the_log_is_healed_is_looked_at_again(store_dir: Path) -> None:
    from pspf.format.segment import parse_segment
    from pspf.format.slots import fold, newest_commit

    filled(store_dir, 10)
    (segment,) = segments(store_dir)
    whole = segment.read_bytes()
    flip(segment, batches(segment)[4].position + HEADER_BYTES + 30)
    commit = partition(store_dir) / "commit"
    slot = newest_commit(commit.read_bytes(), fold(parse_segment(whole).topic_id))
    assert slot is not None
    slot.generation += 1
    slot.sequence += 1
    place, healed_slot = slot.place, slot.encode()

    class Healing(Disk):
        """Heals the log when verify is done with its segment for the first time."""

        walked = -1
        healed = False

        def pread(self, fd: int, length: int, position: int) -> bytes:
            data = super().pread(fd, length, position)
            if position >= SEGMENT_HEADER_BYTES and data[:4] == b"PBAT":
                Healing.walked = fd
            return data

        def close(self, fd: int) -> None:
            super().close(fd)
            if fd == Healing.walked and not Healing.healed:
                Healing.healed = True
                segment.write_bytes(whole)
                overwrite(commit, place, healed_slot)

    with open_store(str(store_dir), create=False, disk=Healing()) as store:
        report = store.verify()
    assert Healing.healed
    assert (report.findings, report.records, report.batches, report.partitions) == ([], 10, 10, 1)


def test_an_unreadable_sector_is_a_finding_and_the_rest_is_checked(store_dir: Path) -> None:
    found = many_segments(store_dir)

    class Failing(Disk):
        bad = -1

        def open(self, name: str, flags: int = 0, dir_fd: "int | None" = None) -> int:
            fd = super().open(name, flags, dir_fd)
            if name == found[1].name:
                Failing.bad = fd
            elif fd == Failing.bad:
                Failing.bad = -1
            return fd

        def pread(self, fd: int, length: int, position: int) -> bytes:
            if fd == Failing.bad and position > 0:
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            return super().pread(fd, length, position)

    with open_store(str(store_dir), create=False, disk=Failing()) as store:
        report = store.verify()
    (finding,) = report.findings
    assert (finding.kind, finding.severity, finding.path) == ("unreadable", DAMAGE, str(found[1]))
    assert (finding.first_offset, finding.last_offset) == (base(found[1]), base(found[2]) - 1)
    assert report.records == 700 - (base(found[2]) - base(found[1]))


def test_the_directory_of_a_topics_producers_is_not_foreign(store_dir: Path) -> None:
    filled(store_dir, 3)
    (store_dir / "topics" / TOPIC / "producers").mkdir(exist_ok=True)
    with reopened(store_dir) as store:
        assert store.verify().findings == []


def test_a_partition_beyond_the_count_is_named(store_dir: Path) -> None:
    filled(store_dir, 3)
    shutil.copytree(partition(store_dir), partition(store_dir).with_name("7"))
    with reopened(store_dir) as store:
        kinds = {f.kind for f in store.verify().findings if f.partition == 7}
    assert kinds == {"partition", "segment-misplaced"}


def test_a_batch_that_was_written_wrong_is_named(store_dir: Path) -> None:
    """The CRCs hold, and the body makes no sense: nobody but a defect writes that."""
    from pspf.format.batch import Encoded

    filled(store_dir, 2)
    with reopened(store_dir) as store:
        writer = store.partition_writer(store.topic(TOPIC), 0)
        writer.append(Encoded([b"\xff" * 40], 3, 3))
        append(store, 1)
    with reopened(store_dir) as store:
        (found,) = store.verify().findings
    assert (found.kind, found.first_offset, found.last_offset) == ("batch-columns", 2, 4)


def test_memory_for_verify_does_not_grow_with_the_log(store_dir: Path) -> None:
    with pspf.open(str(store_dir)) as store:
        for _ in range(60):
            store.append_many(TOPIC, [b"x" * 990] * 1000, durability="os")
    program = (
        "import resource, sys, pspf\n"
        "store = pspf.open(sys.argv[1])\n"
        "store.verify(['nothing'])\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "assert store.verify().records == 60001\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)\n"
    )
    with reopened(store_dir) as store:
        store.append("nothing", b"x")
    ran = subprocess.run(
        [sys.executable, "-c", program, str(store_dir)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.stderr == ""
    assert int(ran.stdout) < 16 << 10  # KiB


@pytest.mark.parametrize("place", [30, HEADER_BYTES])
def test_a_damaged_control_batch_at_the_end_is_named_and_costs_no_record(store_dir: Path, place: int) -> None:
    from pspf.format.batch import FLAG_CONTROL, KIND_TABLE, Encoded

    filled(store_dir, 3)
    with reopened(store_dir) as store:
        table = Encoded([b"\0"], 0, 0, FLAG_CONTROL, KIND_TABLE)
        store.partition_writer(store.topic(TOPIC), 0).append(table)
    with reopened(store_dir) as store:
        store.partition_writer(
            store.topic(TOPIC), 0
        )  # adopts and publishes it: nobody acknowledges a table alone
    (segment,) = segments(store_dir)
    last = batches(segment)[-1]
    assert last.size < 200
    flip(segment, last.position + place)
    with reopened(store_dir) as store:
        (found,) = store.verify().findings
        assert (found.severity, found.position, found.length) == (DAMAGE, last.position, last.size)
        assert found.first_offset == -1
        assert read_all(store) == (all_but(3), [])
        assert store.append(TOPIC, value(3)).first == 3
        assert read_all(store) == (all_but(4), [])


# -- inspect


def test_inspect_shows_the_header_and_every_batch(store_dir: Path) -> None:
    filled(store_dir, 3, TopicConfig(compression="none"))
    with reopened(store_dir) as store:
        store.append(TOPIC, None, key=b"k", headers=[("h", b"v")], timestamp_ms=5)
        rows = list(store.inspect(TOPIC))
        assert rows == list(store.inspect(str(segments(store_dir)[0])))
    header, *found = rows
    assert (header["type"], header["header"], header["base_offset"]) == ("segment", "ok", 0)
    kept = [row for row in found if row["type"] == "batch"]
    assert [row["position"] for row in kept] == [b.position for b in batches(segments(store_dir)[0])]
    assert {row["crc"] for row in kept} == {row["chain"] for row in kept} == {"ok"}
    last = kept[-1]
    assert (last["first_offset"], last["count"], last["kind"], last["codec"]) == (3, 1, "columns", "none")
    assert last["flags"] == ["keys", "headers"] and last["base_timestamp_ms"] == 5


def test_inspect_shows_what_is_damaged_and_goes_on(store_dir: Path) -> None:
    filled(store_dir, 6)
    (segment,) = segments(store_dir)
    found = batches(segment)
    flip(segment, 50)
    flip(segment, found[1].position + HEADER_BYTES + 5)
    flip(segment, found[3].position + 5)
    with segment.open("ab") as file:
        file.write(b"torn")
    rows = [*reopened(store_dir).inspect(TOPIC)]
    assert [row["type"] for row in rows] == [
        *["segment", "batch", "batch", "batch", "damage", "batch", "batch", "tail"]
    ]
    assert rows[0]["header"] == "segment header CRC mismatch"
    assert [row.get("crc") for row in rows[1:4]] == ["ok", "bad", "ok"]
    assert (rows[4]["position"], rows[4]["bytes"], rows[4]["offset"]) == (found[3].position, found[3].size, 3)
    assert rows[5]["chain"] == "unknown" and rows[6]["chain"] == "ok"
    assert rows[7]["bytes"] == 4


def test_inspect_takes_one_segment_by_an_offset_in_it(store_dir: Path) -> None:
    found = many_segments(store_dir)
    with reopened(store_dir) as store:
        rows = list(store.inspect(TOPIC, 0, base(found[2]) + 3))
        assert [row["path"] for row in rows if row["type"] == "segment"] == [str(found[2])]
        with pytest.raises(errors.NoSuchPartition):
            list(store.inspect(TOPIC, 1))
        with pytest.raises(errors.NoSuchTopic):
            list(store.inspect("missing"))
        with pytest.raises(errors.Error) as refused:
            list(store.inspect(str(store_dir / segment_name(5))))
        assert refused.value.exit_code == 66


def test_inspect_of_any_file_shows_that_it_is_no_segment(store_dir: Path) -> None:
    filled(store_dir, 1)
    with reopened(store_dir) as store:
        for content in (b"", b"x", os.urandom(10_000)):
            path = store_dir.with_name("file")
            path.write_bytes(content)
            rows = list(store.inspect(str(path)))
            assert rows[0]["header"] != "ok"


# -- describe, stats, usage


def test_describe_tells_each_partition(store_dir: Path) -> None:
    with pspf.open(str(store_dir)) as store:
        store.create_topic(TOPIC, TopicConfig(partitions=3))
        for at, partition_ in ((50, 0), (20, 0), (90, 2)):
            store.append(TOPIC, b"x", timestamp_ms=at, partition=partition_)
        info = store.describe(TOPIC)
        assert (info.name, len(info.topic_id), info.config.partitions) == (TOPIC, 32, 3)
        rows = [(p.partition, p.start, p.end, p.records, p.first_ms, p.last_ms) for p in info.partitions]
        assert rows == [(0, 0, 2, 2, 50, 20), (1, 0, 0, 0, None, None), (2, 0, 1, 1, 90, 90)]
        assert [(p.state, p.segments) for p in info.partitions] == [("ok", 1), ("empty", 0), ("ok", 1)]
        row = store.stats(TOPIC)
        assert (row.name, row.partitions, row.records, row.first_ms, row.last_ms) == (TOPIC, 3, 3, 50, 90)
        assert row.bytes == sum(p.bytes for p in info.partitions)


def test_written_is_ahead_of_the_end_while_records_are_not_durable(store_dir: Path) -> None:
    from pspf.format.encode import encode_records

    with pspf.open(str(store_dir)) as store:
        store.append_many(TOPIC, [b"x", b"y"])
        store.partition_writer(store.topic(TOPIC), 0).write(encode_records([b"x"], None, 7))
        info = store.describe(TOPIC).partitions[0]
        assert (info.end, info.written, info.records) == (2, 3, 2)


def test_bytes_are_those_of_the_log_without_zeros_written_ahead(store_dir: Path) -> None:
    copy = crashed(store_dir, 10)
    (segment,) = segments(copy)
    last = batches(segment)[-1]
    with pspf.open(str(copy), read_only=True) as store:
        assert store.describe(TOPIC).partitions[0].bytes == last.position + last.size
        (row,) = store.usage()
        assert row.log_bytes == last.position + last.size < segment.stat().st_size
        assert row.allocated_bytes >= segment.stat().st_size
        assert (row.topic, row.partition, row.segments, row.index_bytes) == (TOPIC, 0, 1, 40)


def test_what_a_crash_left_behind_the_published_end_is_settled_before_it_is_told(store_dir: Path) -> None:
    filled(store_dir, 5)
    old = (partition(store_dir) / "commit").read_bytes()
    with reopened(store_dir) as store:
        append(store, 5)
    (partition(store_dir) / "commit").write_bytes(old)
    with pspf.open(str(store_dir), read_only=True) as store:
        assert store.stats(TOPIC).records == 5
    with reopened(store_dir) as store:
        assert store.stats(TOPIC).records == 10


def test_last_time_is_found_behind_a_new_segment_without_records(store_dir: Path) -> None:
    filled(store_dir, 10)
    (segment,) = segments(store_dir)
    tear(segment, batches(segment)[7].position)
    with reopened(store_dir) as store:
        store.partition_writer(store.topic(TOPIC), 0)  # a gap: the log goes on in an empty segment
        info = store.describe(TOPIC).partitions[0]
        assert (info.end, info.segments, info.first_ms, info.last_ms) == (10, 2, 1_000_000, 1_000_006)


@pytest.mark.parametrize("fault", ["commit", "segment"])
def test_a_damaged_partition_shows_in_describe_and_fails_the_row_of_its_topic(
    store_dir: Path, fault: str
) -> None:
    filled(store_dir, 3)
    if fault == "commit":
        overwrite(partition(store_dir) / "commit", 0, bytes(1024))
    else:
        segments(store_dir)[0].unlink()
    with pspf.open(str(store_dir), read_only=True) as store:
        assert store.describe(TOPIC).partitions[0].state == "damaged"
        with pytest.raises(errors.Damaged):
            store.stats(TOPIC)
        assert len(store.usage()) == 1


class Counting(Disk):
    """Counts the calls that cost something."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: dict[str, int] = {}

    def count(self, name: str) -> None:
        self.calls[name] = self.calls.get(name, 0) + 1

    def open(self, name: str, flags: int = 0, dir_fd: "int | None" = None) -> int:
        self.count("open")
        return super().open(name, flags, dir_fd)

    def pread(self, fd: int, length: int, position: int) -> bytes:
        self.count("pread")
        assert length <= 256 << 10
        return super().pread(fd, length, position)


def test_a_row_of_ls_costs_the_same_however_many_records_there_are(store_dir: Path) -> None:
    costs = []
    for count in (1, 200):
        path = store_dir / str(count)
        filled(path, count)
        disk = Counting()
        with open_store(str(path), create=False, disk=disk) as store:
            disk.calls.clear()
            assert store.stats(TOPIC).records == count
        costs.append(dict(disk.calls))
    assert costs[0] == costs[1]
    assert costs[0]["open"] <= 8 and costs[0]["pread"] <= 10


def test_rows_of_thousands_of_topics_keep_no_descriptors(store_dir: Path) -> None:
    import resource

    with pspf.open(str(store_dir)) as store:
        for number in range(40):
            store.append(f"t{number}", b"x", durability="os")
    held = len(os.listdir("/proc/self/fd"))
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with reopened(store_dir) as store:
        resource.setrlimit(resource.RLIMIT_NOFILE, (held + 20, hard))
        try:
            assert sum(store.stats(name).records for name in store.topics()) == 40
            assert len(store.usage()) == 40
            assert store.verify().ok
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_threads_may_look_at_one_store_at_once(store_dir: Path) -> None:
    filled(store_dir, 50)
    failures: list[BaseException] = []
    with reopened(store_dir) as store:

        def look() -> None:
            try:
                for _ in range(20):
                    assert store.verify().records == 50
                    assert store.stats(TOPIC).records == 50
                    assert store.describe(TOPIC).partitions[0].end == 50
            except BaseException as error:
                failures.append(error)

        threads = [threading.Thread(target=look) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert failures == []


def test_nothing_that_looks_writes_to_a_read_only_store(store_dir: Path) -> None:
    filled(store_dir, 60, SMALL_SEGMENTS)
    flip(segments(store_dir)[0], 5000)
    before = snapshot(store_dir)
    with pspf.open(str(store_dir), read_only=True) as store:
        store.verify()
        store.describe(TOPIC)
        store.stats(TOPIC)
        store.usage()
        list(store.inspect(TOPIC))
        store.repair(TOPIC, 0, dry_run=True)
        with pytest.raises(errors.Denied):
            store.repair(TOPIC, 0)
    assert snapshot(store_dir) == before
    assert value(0) in before[f"topics/{TOPIC}/0/{segment_name(0)}"]
