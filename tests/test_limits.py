"""What is bounded whatever the amount of data: memory, open files, and the work of making a topic."""

import os
import resource
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import pspf as library
from pspf.model import TopicConfig
from tests.conftest import Pspf
from tests.support_figures import FIGURES, Figure
from tests.support_processes import (
    Running,
    nothing_left_running,  # noqa: F401
    start_command,
    wait_until,
)

if TYPE_CHECKING:
    from tests.soak import Slice, Work

MIB = 1 << 20

# Prints the peak of its resident memory when the process it became has ended.
MEASURE = """
import os, resource, sys
pid = os.spawnvp(os.P_NOWAIT, sys.argv[1], sys.argv[1:])
_, status, usage = os.wait4(pid, 0)
print(usage.ru_maxrss, file=sys.stderr)
sys.exit(os.waitstatus_to_exitcode(status))
"""

# 512 bytes a line, so many MiB of them.
LINES = """
import os, sys
block = b"".join(b"%0511d\\n" % n for n in range(2048))
for _ in range(int(sys.argv[1])):
    view = memoryview(block)
    while view:
        view = view[os.write(1, view):]
"""

RECORDS_PER_MIB = 2048


def peak_of(pspf: Pspf, *words: "str | Path", mib_in: int = 0) -> int:
    """Peak of the resident memory of the command, in bytes, while ``mib_in`` MiB of lines go into it."""
    feeder = subprocess.Popen([sys.executable, "-c", LINES, str(mib_in)], stdout=subprocess.PIPE)
    ran = subprocess.run(
        [sys.executable, "-c", MEASURE, *pspf.argv(*words)],
        stdin=feeder.stdout,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env=pspf.environment(),
        check=False,
    )
    assert feeder.stdout is not None
    feeder.stdout.close()
    assert feeder.wait() == 0
    assert ran.returncode == 0, ran.stderr
    return int(ran.stderr.split()[-1]) * 1024


def memory_over_start(pspf: Pspf, store_dir: Path, mib: int) -> int:
    """A pipe through append, then out again by every way there is: at most 64 MiB over what a start takes."""
    at_start = peak_of(pspf, "-s", store_dir, "append", "t")
    peaks = {"append": peak_of(pspf, "-s", store_dir, "append", "t", mib_in=mib)}
    peaks["cat"] = peak_of(pspf, "-s", store_dir, "cat", "t")
    peaks["verify"] = peak_of(pspf, "-s", store_dir, "verify")
    peaks["append -K"] = peak_of(
        pspf, "-s", store_dir, "append", "keyed", "-K", "1", "--no-key-ok", mib_in=mib // 8
    )
    peaks["cat --json"] = peak_of(pspf, "-s", store_dir, "cat", "--json", "keyed")
    with library.open(str(store_dir)) as store:
        assert store.stats("t").records == mib * RECORDS_PER_MIB
    over = {name: (peak - at_start) / MIB for name, peak in peaks.items()}
    print(
        f"{mib} MiB, memory over start: " + ", ".join(f"{name} {used:.1f} MiB" for name, used in over.items())
    )
    assert max(over.values()) <= 64, over
    return mib


def test_64_mib_through_a_pipe_need_little_memory(pspf: Pspf, store_dir: Path) -> None:
    memory_over_start(pspf, store_dir, 64)


@pytest.mark.faults
@pytest.mark.timeout(600)
def test_512_mib_through_a_pipe_need_little_memory(pspf: Pspf, store_dir: Path, figure: Figure) -> None:
    figure("memory of a pipe", memory_over_start(pspf, store_dir, 512))


def soak_memory(part: "Slice") -> int:
    # All at once: what grows with the amount of data shows only so.
    return memory_over_start(Pspf(part.scratch), part.scratch / "store", FIGURES["memory of a pipe"].soak)


SOAK: "dict[str, Work]" = {"memory of a pipe": soak_memory}


def test_append_under_a_limit_of_its_address_space(pspf: Pspf, store_dir: Path) -> None:
    """64 MiB over what an empty append needs; a command that gathers its input would fail."""

    def limited(to: int) -> "subprocess.CompletedProcess[bytes]":
        feeder = subprocess.Popen([sys.executable, "-c", LINES, "96"], stdout=subprocess.PIPE)
        ran = subprocess.run(
            pspf.argv("-s", store_dir, "append", "t"),
            stdin=feeder.stdout,
            capture_output=True,
            env=pspf.environment(),
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (to, to)),
            check=False,
        )
        assert feeder.stdout is not None
        feeder.stdout.close()
        feeder.wait()
        return ran

    def starts(size: int) -> bool:
        ran = pspf(
            "-s", store_dir, "append", "t",
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (size, size)),
        )  # fmt: skip
        return ran.returncode == 0

    least = next(size for size in range(8 * MIB, 1024 * MIB, 8 * MIB) if starts(size))
    ran = limited(least + 64 * MIB)
    assert ran.returncode == 0, ran.stderr
    with library.open(str(store_dir)) as store:
        assert store.stats("t").records == 96 * RECORDS_PER_MIB


def memory_of(running: Running) -> int:
    """Peak of the resident memory of a process that runs, in bytes."""
    for line in Path(f"/proc/{running.process.pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise AssertionError("no VmHWM")


@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="needs /proc")
def test_a_follower_needs_little_memory(pspf: Pspf, store_dir: Path) -> None:
    with library.open(str(store_dir)) as store:
        store.create_topic("t", TopicConfig(partitions=4, durability="os"))
        store.append("t", b"first", partition=0)
        follower = start_command("f", store_dir, "tail", "-f", "-n", "1", "t")
        follower.wait_for_lines(1)
        before = memory_of(follower)
        for number in range(48):
            values: list[bytes | None] = [b"%0511d" % n for n in range(2048)]
            store.append_many("t", values, partition=number % 4)
    wait_until(lambda: follower.out.stat().st_size == 48 * MIB + len("first\n"), "the follower")
    used = memory_of(follower) - before
    assert follower.process.poll() is None
    follower.kill()
    print(f"48 MiB followed with {used / MIB:.1f} MiB over start")
    assert used <= 64 * MIB


def entries_below(path: Path) -> int:
    return sum(1 for _ in path.rglob("*"))


def test_ten_thousand_partitions_are_one_directory(pspf: Pspf, store_dir: Path) -> None:
    with library.open(str(store_dir)):
        pass
    before = entries_below(store_dir)
    assert pspf("-s", store_dir, "topic", "create", "-n", "10000", "t").returncode == 0
    assert entries_below(store_dir) == before + 2, "the topic's directory and its settings"
    for partition in (9999, 0, 5000):
        ran = pspf("-s", store_dir, "append", "t", "-p", str(partition), input=b"%d\n" % partition)
        assert ran.returncode == 0, ran.stderr
    assert sorted(path.name for path in (store_dir / "topics/t").iterdir()) == [
        "0",
        "5000",
        "9999",
        "topic.toml",
    ]
    ran = pspf("-s", store_dir, "cat", "t")
    assert (ran.returncode, ran.stderr) == (0, b"") and sorted(ran.stdout.split()) == [b"0", b"5000", b"9999"]
    assert pspf("-s", store_dir, "verify").returncode == 0
    with library.open(str(store_dir)) as store:
        assert store.stats("t").records == 3
        assert len(store.describe("t").partitions) == 10_000
        store.delete_topic("t")
    assert entries_below(store_dir) == before


def test_more_than_ten_thousand_partitions_are_refused(pspf: Pspf, store_dir: Path) -> None:
    for number in ("10001", "0", "99999999999999999999"):
        ran = pspf("-s", store_dir, "topic", "create", "-n", number, "t")
        assert ran.returncode in (2, 78), ran.stderr
    with library.open(str(store_dir)) as store:
        assert store.topics() == []


@pytest.fixture
def without_syncs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hundreds of partitions in a moment; what is counted here has nothing to do with the disk."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    monkeypatch.setattr(os, "fdatasync", lambda descriptor: None)


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


@pytest.mark.skipif(not os.path.exists("/proc/self/fd"), reason="needs /proc")
def test_open_files_of_a_writer_are_bounded(store_dir: Path, without_syncs: None) -> None:
    before = open_files()
    with library.open(str(store_dir)) as store:
        store.create_topic("t", TopicConfig(partitions=220, durability="os", segment_bytes=65536))
        most = 0
        for number in range(220):
            store.append("t", b"v", partition=number)
            most = max(most, open_files())
        for _ in range(30):
            store.append("t", bytes(20_000), partition=7)  # rolls
            most = max(most, open_files())
        for number in range(20):
            store.append(f"topic{number}", b"v", durability="os")
            most = max(most, open_files())
        assert most - before < 900, "close to what most systems allow a process (1024)"
        assert sum(1 for _ in store.read("t")) == 250
    assert open_files() == before


@pytest.mark.skipif(not os.path.exists("/proc/self/fd"), reason="needs /proc")
def test_a_reader_of_many_partitions_can_open_them(pspf: Pspf, store_dir: Path, without_syncs: None) -> None:
    """As many as a process may open by default, and the error that helps where that is too little."""
    with library.open(str(store_dir)) as store:
        store.create_topic("t", TopicConfig(partitions=150, durability="os"))
        for number in range(150):
            store.append("t", b"%d" % number, partition=number)

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (1024, 1024))

    for words in (["cat", "t"], ["tail", "-n", "150", "t"], ["verify"], ["ls"], ["topic", "describe", "t"]):
        ran = pspf("-s", store_dir, *words, preexec_fn=limit)
        assert ran.returncode == 0, ran.stderr
        if words[0] in ("cat", "tail"):
            assert len(ran.stdout.split()) == 150


@pytest.mark.skipif(not os.path.exists("/proc/self/fd"), reason="needs /proc")
def test_open_files_of_readers_are_given_back(store_dir: Path) -> None:
    with library.open(str(store_dir)) as store:
        store.create_topic("t", TopicConfig(partitions=10, segment_bytes=65536))
        for number in range(50):
            store.append("t", bytes(5_000), partition=number % 10)
        before = open_files()
        for _ in range(5):
            assert sum(1 for _ in store.read("t")) == 50
            assert sum(1 for _ in store.tail("t", last=20, follow=False)) == 20
            store.describe("t")
            store.usage()
            store.verify()
        assert open_files() == before


@pytest.mark.skipif(not os.path.exists("/proc/self/fd"), reason="needs /proc")
def test_topics_that_come_and_go_leave_no_open_file(store_dir: Path, without_syncs: None) -> None:
    with library.open(str(store_dir)) as store:
        store.append("t", b"v")
        before = open_files()
        for _ in range(20):
            store.append("u", b"v")
            list(store.read("u"))
            store.rename_topic("u", "w")
            store.append("w", b"v")
            store.delete_topic("w")
        assert open_files() == before
        assert store.topics() == ["t"]
