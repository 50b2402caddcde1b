"""W9: what it costs to open a partition, by the number of its segments, and after a crash."""

from __future__ import annotations

import os
import signal
from time import perf_counter

import pspf
from pspf import errors
from pspf.bench import events
from pspf.bench.disks import CountingDisk, UnsyncedDisk
from pspf.bench.processes import Helper
from pspf.bench.report import AT_MOST, EQUAL, interleave, row
from pspf.store.open import open_store

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from pspf.bench.context import Context
    from pspf.bench.report import Row

TOPIC = "bench"
SEGMENT_BYTES = 64 << 10
FEW = 10


def opening(context: Context) -> list[Row]:
    """W9."""
    return [*by_segments(context), *after_a_crash(context)]


def by_segments(context: Context) -> list[Row]:
    """Opening and one append, with 10 segments and with 1,000."""
    many = context.size(1000, 200, 20)
    for count in (FEW, many):
        made = make_segments(context.path(f"w9-{count}"), count)
        if made < count:
            raise errors.IOFailed("cannot measure", f"{made} segments instead of {count}")
    costs = {count: cost_of_open(context.path(f"w9-{count}")) for count in (FEW, many)}
    took = interleave(
        context.size(20, 10, 1),
        {
            "few": lambda: seconds_to_open(context.path(f"w9-{FEW}")),
            "many": lambda: seconds_to_open(context.path(f"w9-{many}")),
        },
    )
    context.remove(f"w9-{FEW}", f"w9-{many}")
    to = f"with {FEW} segments"
    calls, few_calls = float(costs[many].total), float(costs[FEW].total)
    read, few_read = float(costs[many].bytes_read), float(costs[FEW].bytes_read)
    us = {name: [second * 1e6 for second in seconds] for name, seconds in took.items()}
    name = f"open and append, {many} segments"
    return [
        row("W9", name, [calls], "system calls", (to, [few_calls]), (EQUAL, 1)),
        row("W9", name, [read], "bytes read", (to, [few_read]), (EQUAL, 1)),
        row("W9", name, us["many"], "µs", (to, us["few"])),
    ]


def make_segments(path: str, count: int) -> int:
    """A partition of ``count`` segments, closed; how many there are."""
    values = events.values((SEGMENT_BYTES - 8192) // (events.LINE_BYTES + 4))
    with open_store(path, disk=UnsyncedDisk()) as store:
        store.create_topic(TOPIC, pspf.TopicConfig(segment_bytes=SEGMENT_BYTES))
        for _ in range(count):
            store.append_many(TOPIC, values)
    return sum(name.endswith(".log") for name in os.listdir(os.path.join(path, "topics", TOPIC, "0")))


def cost_of_open(path: str) -> CountingDisk:
    """What opening the store and one append ask of the disk; the second time, as anybody's later ones."""
    for _ in range(2):
        disk = CountingDisk()
        with open_store(path, disk=disk) as store:
            store.append(TOPIC, b"one")
    return disk


def seconds_to_open(path: str) -> float:
    """Opening the store and one append."""
    start = perf_counter()
    with pspf.open(path) as store:
        store.append(TOPIC, b"one")
        return perf_counter() - start


def after_a_crash(context: Context) -> list[Row]:
    """A writer is killed with a tail that nobody has synced; what the next opener reads."""
    records = context.size(30_000, 30_000, 1_000)
    path = context.path("w9-crash")
    with pspf.open(path) as store:
        store.create_topic(TOPIC, pspf.TopicConfig(durability="os"))
        store.append_many(TOPIC, events.values(context.size(300_000, 100_000, 1_000)))
    clean = cost_of_open(path).bytes_read
    before = log_bytes(path)
    try:
        Helper("segments", "write_and_die", context.env, path=path, records=records).kill()
    except errors.IOFailed:
        pass  # it is gone
    tail = log_bytes(path) - before
    disk = CountingDisk()
    start = perf_counter()
    with open_store(path, disk=disk) as store:
        end = store.append(TOPIC, b"one").first
        took = perf_counter() - start
    if tail < records * (events.LINE_BYTES - 1):
        raise errors.IOFailed("cannot measure", f"the crash left a tail of {tail} bytes only, end {end}")
    cold = by_hand_us(path, before, tail)
    context.remove("w9-crash")
    return [
        row("W9", "the tail", [tail], "bytes"),
        row("W9", "read, checked and synced by hand", [cold], "µs"),
        row(
            "W9",
            "open and append after a crash",
            [disk.bytes_read - clean],
            "bytes read",
            ("the tail", [tail]),
            (AT_MOST, 1),
        ),
        row("W9", "open and append after a crash", [took * 1e6], "µs", ("by hand", [cold])),
    ]


def segment_path(path: str) -> str:
    """The only segment's file."""
    directory = os.path.join(path, "topics", TOPIC, "0")
    (name,) = [name for name in os.listdir(directory) if name.endswith(".log")]
    return os.path.join(directory, name)


def log_bytes(path: str) -> int:
    """Size of the only segment."""
    return os.path.getsize(segment_path(path))


def by_hand_us(path: str, start: int, length: int) -> float:
    """Microseconds to read the tail, CRC it, and sync it once."""
    from pspf.bench.raw import crc32

    began = perf_counter()
    fd = os.open(segment_path(path), os.O_RDWR | os.O_CLOEXEC)
    crc = 0
    for at in range(start, start + length, 1 << 20):
        crc = crc32(os.pread(fd, 1 << 20, at), crc)
    os.fdatasync(fd)
    os.close(fd)
    return (perf_counter() - began) * 1e6


def write_and_die(path: str, records: int) -> Callable[[], None]:
    """The process that is killed: everything written, nothing synced."""
    store = pspf.open(path)
    store.append_many(TOPIC, events.values(records))
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError("killed itself")
