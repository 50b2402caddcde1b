"""`pspf bench` works, and its baselines do what they say. Nothing here looks at how long anything takes.

The budget of system calls, which is what the figures rest on, is counted here too.
"""

import json
import os
import shutil
import sqlite3
import sys
from pathlib import Path

import pytest

import pspf as library
from pspf import errors
from pspf.bench import events, machine, raw, report, run, sqlite
from pspf.bench.context import Context
from pspf.bench.disks import CountingDisk
from pspf.bench.processes import Helper, environment, timed
from pspf.store.open import open_store
from tests.conftest import Pspf

LINUX = sys.platform.startswith("linux")
TINY_RECORDS = 1000

# The goals of the table in docs/performance.md that a tiny run can tell, by workload.
GOALS = {
    "W1": ["≥ 0.22", "≥ 5", "≥ 0.6", "≥ 4"],
    "W2": ["≤ 1.25", "≤ 0.85", "≤ 1.3"],
    "W3": ["≥ 0.6", "≥ 0.6", "≥ 1", "≥ 0.4"],
    "W4": ["≤ 3", "≤ 1.5"],
    "W5": ["≤ 1.4"],
    "W6": ["≥ 0.5", "≥ 0.2", "≥ 0.75", "≥ 1.5", "= 0"],
    "W8": ["≤ 1.06", "≤ 1.15"],
    "W9": ["= 1", "= 1", "≤ 1"],
    "W10": ["≤ 64", "≤ 64", "≤ 64"],
    "W11": ["= 1", "≤ 1.5"],
}
# Those of them that are counts: the same on every machine.
COUNTS = {
    ("W6", "lost, twice or out of order"),
    ("W9", "open and append, 20 segments"),
    ("W11", "append to one of 12 topics, 120 partitions"),
}
LINUX_ONLY = {"W4", "W10"}


def tiny(directory: Path, said: list[str] | None = None) -> Context:
    heard = said if said is not None else []
    return Context(str(directory), TINY_RECORDS, True, environment(str(directory)), heard.append, tiny=True)


# -- each workload


@pytest.mark.parametrize("name", run.WORKLOADS)
def test_a_workload_measures_every_goal_of_the_table(name: str, scratch_dir: Path) -> None:
    if name in LINUX_ONLY and not LINUX:
        pytest.skip("its baseline is inotify or /proc")
    rows = [row for row in run.measure(tiny(scratch_dir), [name]) if row["workload"] != "disk"]
    assert {row["workload"] for row in rows} == {name}
    for row in rows:
        assert isinstance(row["value"], float | int) and row["value"] >= 0, row
        assert row["unit"] and row["metric"], row
        assert (row["ratio"] is None) == (row["ratio_to"] is None), row
        assert (row["goal"] is None) == (row["met"] is None), row
        if (name, row["metric"]) in COUNTS and row["goal"]:
            assert row["met"], row
    assert [row["goal"] for row in rows if row["goal"]] == GOALS[name]
    assert os.listdir(scratch_dir) == [], "a workload left something behind"


def test_the_disk_and_the_sync_in_force_are_always_told(scratch_dir: Path) -> None:
    said: list[str] = []
    rows = run.measure(tiny(scratch_dir, said), [])
    assert [row["metric"] for row in rows] == ["written and synced", "pwrite + fdatasync into zeros"]
    assert all(row["value"] > 0 for row in rows)
    assert any("fdatasync" in line and "MB/s" in line for line in said)
    assert any(line.startswith("disk: ") for line in said)


def test_the_command_prints_the_rows_and_leaves_nothing(pspf: Pspf, scratch_dir: Path) -> None:
    where = scratch_dir / "there"
    where.mkdir()
    ran = pspf("bench", "--only", "w8", "--quick", "--records", "1000", "--json", "--dir", where)
    assert ran.returncode == 0, ran.stderr.decode()
    rows = [json.loads(line) for line in ran.stdout.splitlines()]
    assert {row["workload"] for row in rows} == {"disk", "W8"}
    assert os.listdir(where) == []


# -- where it refuses


@pytest.mark.skipif(not LINUX, reason="/proc tells the type of a file system")
def test_memory_is_not_measured(scratch_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "mount_of", lambda path: ("tmpfs", "tmpfs"))
    with pytest.raises(errors.BadConfig, match="memory") as caught:
        run.run(str(scratch_dir))
    assert "--dir" in caught.value.hint
    assert os.listdir(scratch_dir) == []


@pytest.mark.skipif(not LINUX, reason="/proc tells the type of a file system")
def test_the_file_system_of_a_path_is_known(scratch_dir: Path) -> None:
    kind, device = machine.mount_of(str(scratch_dir))
    assert kind and device
    if os.path.ismount("/dev/shm"):
        assert machine.mount_of("/dev/shm")[0] == "tmpfs"


def test_an_unknown_workload_is_named(scratch_dir: Path) -> None:
    with pytest.raises(errors.Usage, match="W12") as caught:
        run.run(str(scratch_dir), ["W1", "W12"])
    assert "W11" in caught.value.hint


def test_too_few_records_to_mean_anything_are_refused(scratch_dir: Path) -> None:
    with pytest.raises(errors.Usage, match="too few"):
        run.run(str(scratch_dir), records=0)


def test_a_directory_that_is_not_there(scratch_dir: Path) -> None:
    with pytest.raises(errors.IOFailed):
        run.run(str(scratch_dir / "missing"))


def test_a_full_disk_is_seen_before_anything_is_written(scratch_dir: Path) -> None:
    with pytest.raises(errors.IOFailed, match="MiB are free"):
        run.run(str(scratch_dir), records=10**12)
    assert os.listdir(scratch_dir) == []


def test_nothing_stays_when_a_workload_fails(scratch_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(context: Context) -> list[dict[str, object]]:
        context.store("left")
        raise errors.IOFailed("cannot measure")

    monkeypatch.setitem(run.WORKLOADS, "W2", ("fails", (fail,)))
    with pytest.raises(errors.IOFailed):
        run.run(str(scratch_dir), ["W2"], quick=True)
    assert os.listdir(scratch_dir) == []


def test_a_process_that_fails_is_an_error_with_its_last_words(scratch_dir: Path) -> None:
    env = environment(str(scratch_dir))
    with pytest.raises(errors.IOFailed, match="out of milk"):
        timed([sys.executable, "-c", "import sys; sys.exit('out of milk')"], env)
    with pytest.raises(errors.IOFailed, match="no_such_function"):
        Helper("writers", "no_such_function", env)


# -- the events


def test_events_are_lines_of_a_hundred_bytes_a_millisecond_apart() -> None:
    values = events.values(25_000)
    assert len(values) == 25_000 and {len(value) for value in values} == {events.LINE_BYTES - 1}
    parsed = [json.loads(value) for value in values]
    assert [event["ts"] for event in parsed] == list(range(events.FIRST_MS, events.FIRST_MS + 25_000))
    assert len({event["key"] for event in parsed}) == events.KEYS


def test_events_are_the_same_in_every_run(scratch_dir: Path) -> None:
    path = scratch_dir / "lines"
    assert events.write_file(str(path), 12_345) == 1_234_500
    assert path.read_bytes().split(b"\n") == [*events.values(12_345), b""]
    assert events.values(3) == events.values(12_345)[:3]


# -- the arithmetic


def test_steps_are_interleaved_and_the_first_round_is_thrown_away() -> None:
    order: list[str] = []

    def step(name: str) -> int:
        order.append(name)
        return len(order)

    results = report.interleave(2, {"a": lambda: step("a"), "b": lambda: step("b")})
    assert "".join(order) == "ababab"
    assert results == {"a": [3, 5], "b": [4, 6]}


def test_a_ratio_is_the_median_of_the_ratios_within_each_repeat() -> None:
    row = report.row("W0", "x", [10.0, 2.0, 30.0], "s", ("y", [5.0, 2.0, 10.0]), (report.AT_MOST, 2))
    assert (row["value"], row["ratio"], row["met"]) == (10.0, 2.0, True)
    assert (row["spread"], row["ratio_spread"], row["goal"]) == ("2–30", "1–3", "≤ 2")


@pytest.mark.parametrize(
    ("sign", "limit", "met"),
    [("≥", 4, True), ("≥", 4.1, False), ("≤", 4, True), ("≤", 3.9, False), ("=", 4, True), ("=", 5, False)],
)
def test_a_goal_without_a_ratio_is_one_for_the_value(sign: str, limit: float, met: bool) -> None:
    assert report.row("W0", "x", [4.0], "MiB", goal=(sign, limit))["met"] is met


def test_percentiles_and_medians() -> None:
    samples = list(range(1, 101))
    assert [report.percentile(samples, p) for p in (1, 50, 99, 100)] == [1, 50, 99, 100]
    assert (report.median([3, 1, 2]), report.median([4, 1, 2, 3])) == (2, 2.5)


def test_the_table_for_the_documents_has_a_line_for_each_row() -> None:
    rows = [
        report.row("W3", "cat | wc -l", [1234.5], "lines/s"),
        report.row("W3", "pspf", [1.0, 2.0], "lines/s", ("cat | wc -l", [1.0, 4.0]), (report.AT_LEAST, 1)),
    ]
    lines = report.markdown(rows).splitlines()
    assert lines[2].startswith("| W3 | cat \\| wc -l | 1,234 lines/s |")
    assert "0.750 (0.500–1)" in lines[3] and "**missed**" in lines[3]


# -- the baselines


def test_what_was_framed_by_hand_is_what_the_scan_reads(scratch_dir: Path) -> None:
    path = str(scratch_dir / "framed")
    values = events.values(5000)
    raw.frame(path, values, 700)
    found = list(raw.batches(path))
    assert [first for first, _ in found] == list(range(0, 5000, 700))
    assert [value for _, batch in found for value in batch] == values


def test_the_scan_by_hand_checks_what_it_reads(scratch_dir: Path) -> None:
    path = scratch_dir / "framed"
    raw.frame(str(path), events.values(100), 10)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(ValueError, match="batch"):
        list(raw.batches(str(path)))


def test_the_plain_append_writes_and_syncs_each_line(
    scratch_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    syncs: list[int] = []
    real = os.fdatasync

    def sync(fd: int) -> None:
        syncs.append(fd)
        real(fd)

    monkeypatch.setattr(os, "fdatasync", sync)
    path = scratch_dir / "zeros"
    values = events.values(7)
    fd = raw.zeroed(str(path), 10 * events.LINE_BYTES)
    assert len(raw.appends(fd, values, 0)) == len(syncs) == 7
    os.close(fd)
    assert path.read_bytes() == b"\n".join(values) + b"\n" + bytes(3 * events.LINE_BYTES)


def test_sqlite_is_as_durable_as_it_is_said_to_be(scratch_dir: Path) -> None:
    path = str(scratch_dir / "log.db")
    connection = sqlite.connect(path)
    assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    assert connection.execute("PRAGMA synchronous").fetchone() == (2,), "FULL"
    values = events.values(5)
    assert len(sqlite.inserts(connection, values, 1)) == 5
    assert not connection.in_transaction
    connection.close()
    sqlite.insert_all(path, values, 1)
    assert sqlite.select_all(path)[1] == 10
    sqlite.remove(path)
    assert os.listdir(scratch_dir) == []


@pytest.mark.parametrize("with_command", [True, False])
def test_the_import_into_sqlite_takes_each_line_as_it_is(
    with_command: bool, scratch_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if with_command and not shutil.which("sqlite3"):
        pytest.skip("no sqlite3 command")
    if not with_command:
        monkeypatch.setattr(shutil, "which", lambda name: None)
    lines = scratch_dir / "lines"
    lines.write_bytes(b'{"a":"b, \\"c\\""}\n"quoted\'\nlast|one\n')
    path = str(scratch_dir / "log.db")
    sqlite.import_lines(path, str(lines), environment(str(scratch_dir)))
    connection = sqlite3.connect(path)
    found = [value for (value,) in connection.execute("SELECT value FROM lines ORDER BY rowid")]
    assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    connection.close()
    assert found == lines.read_text().split("\n")[:-1]
    assert ("no sqlite3" in sqlite.importer()) is not with_command


# -- the budget of system calls

# A durable append: the batch, the record of the written end and the durable end are written; the record and
# the durable end are read, each under the append lock; data is synced once.
BUDGET = {"pwrite": 3, "pread": 2, "lock": 2, "unlock": 2, "fdatasync": 1}


def calls_of(disk: CountingDisk) -> dict[str, int]:
    calls = dict(disk.calls)
    calls["pwrite"] = calls.pop("pwrite", 0) + calls.pop("pwritev", 0)
    return {name: count for name, count in calls.items() if count}


def test_a_single_durable_append_keeps_to_its_budget(store_dir: Path) -> None:
    disk = CountingDisk()
    with open_store(str(store_dir), disk=disk) as store:
        store.append("orders", b"opens everything")
        store.append("orders", b"makes room ahead")
        for number in range(20):
            disk.clear()
            store.append("orders", b"%d" % number)
            assert calls_of(disk) == BUDGET


def test_a_keyed_append_costs_no_more(store_dir: Path) -> None:
    disk = CountingDisk()
    with open_store(str(store_dir), disk=disk) as store:
        store.create_topic("orders", library.TopicConfig(partitions=3))
        for partition in range(3):
            store.append("orders", b"opens", partition=partition)
            store.append("orders", b"makes room ahead", partition=partition)
        disk.clear()
        store.append("orders", b"value", key=b"key", headers=[("name", b"value")], timestamp_ms=1)
        assert calls_of(disk) == BUDGET


def test_an_append_that_needs_not_be_durable_syncs_nothing(store_dir: Path) -> None:
    disk = CountingDisk()
    with open_store(str(store_dir), disk=disk) as store:
        store.create_topic("orders", library.TopicConfig(durability="os"))
        store.append("orders", b"opens everything")
        disk.clear()
        store.append("orders", b"value")
        calls = calls_of(disk)
    assert "fdatasync" not in calls and "fsync" not in calls
    assert calls["pwrite"] <= 3 and calls["pread"] <= 2 and calls["lock"] == 1


def test_many_records_in_one_call_are_one_write_and_one_sync(store_dir: Path) -> None:
    disk = CountingDisk()
    with open_store(str(store_dir), disk=disk) as store:
        store.append("orders", b"opens everything")
        disk.clear()
        store.append_many("orders", events.values(500))
        assert calls_of(disk) == BUDGET


def test_gathered_appends_share_a_sync(store_dir: Path) -> None:
    disk = CountingDisk()
    with open_store(str(store_dir), disk=disk) as store:
        store.append("orders", b"opens everything")
        disk.clear()
        with store.writer("orders", linger_ms=60_000) as writer:
            for value in events.values(500):
                writer.append(value)
            assert "fdatasync" not in disk.calls
            writer.flush()
        assert calls_of(disk) == BUDGET
